/*
 * Raw rows: sinks, and the hard bound (theory: enforcement by construction)
 *
 * |e|^2 of y is known when a token has been coded; what exceeds bound * tolerance of the tree and
 * planes in use is stored raw. The types are tried from the cheapest on, and judged by what they
 * decode to, in the coordinates in which the bound is given.
 */

#include <math.h>
#include <string.h>

#include "lib/base/half.h"
#include "lib/codec/encode_unit.h"

/* Raw rows of a stream that are better than a fine plane that has to stay: a tenth of its bytes,
 * and below what the monitor takes for too many. */
enum { FEW = 4 };

/* The values of all heads of two tokens are alike, head by head. */
static bool is_copy(const struct kern *k, const uint8_t *a, const uint8_t *b, uint32_t dtype,
                    uint32_t d, uint32_t n_heads)
{
    size_t head_bytes = d * dpq_dtype_bytes(dtype);
    float x[DPQ_MAX_HEAD_DIM], y[DPQ_MAX_HEAD_DIM];

    for (uint32_t head = 0; head < n_heads; head++) {
        double square = 0, difference = 0;

        k->load[dtype](a + head * head_bytes, 0, 1, d, x);
        k->load[dtype](b + head * head_bytes, 0, 1, d, y);
        for (uint32_t i = 0; i < d; i++) {
            square += (double)x[i] * (double)x[i];
            difference += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        }
        if (difference > square / 16)
            return false;
    }
    return true;
}

uint32_t encode_sink_run(const struct dpq_codec *codec, const uint8_t *values, size_t row_bytes,
                         uint32_t dtype)
{
    const struct dpq_geometry *g = &codec->profile->geometry;
    uint32_t n = g->n_sink;

    while (n && n < KERN_TOKENS &&
           is_copy(&codec->kern, values, values + n * row_bytes, dtype, g->head_dim, g->n_kv_heads))
        n++;
    return n;
}

void encode_raw_row(const struct kern *k, const void *vector, uint32_t dtype, uint32_t d,
                    enum raw_type type, uint8_t *ret_row, float *ret_value)
{
    float x[DPQ_MAX_HEAD_DIM], widest = 0, scale;

    k->load[dtype](vector, 0, 1, d, x);
    if (type == RAW_INPUT)
        memcpy(ret_row, vector, d * dpq_dtype_bytes(dtype));
    if (type == RAW_F16) {
        k->store[DPQ_F16](x, 1, d, ret_row, 0);
        k->load[DPQ_F16](ret_row, 0, 1, d, x);
    }
    if (type == RAW_INT8) {
        for (uint32_t i = 0; i < d; i++)
            widest = fmaxf(widest, fabsf(x[i]));
        scale = widest > 0 ? widest / 127 : 1;
        memcpy(ret_row, &scale, sizeof(scale));
        for (uint32_t i = 0; i < d; i++) {
            int8_t q = (int8_t)fminf(fmaxf(rintf(x[i] / scale), -127), 127);

            ret_row[sizeof(scale) + i] = (uint8_t)q;
            x[i] = scale * (float)q;
        }
    }
    if (ret_value)
        memcpy(ret_value, x, d * sizeof(float));
}

/* |E (x - value)|^2, a key's difference turned back first: raw rows hold keys as they came. */
static double coded_error(const struct dpq_codec *c, const struct encode_unit *u, uint32_t t,
                          const float *x, const float *value)
{
    const struct dpq_geometry *g = &c->profile->geometry;
    struct rope_table at = rope_table_from(&c->rope, g, t);
    float e[DPQ_MAX_HEAD_DIM];
    double sum = 0;

    for (uint32_t i = 0; i < g->head_dim; i++)
        e[i] = x[i] - value[i];
    if (u->loop.kind == DPQ_K)
        rope_undo(&c->kern, g, &at, e, 1);
    for (uint32_t i = 0; i < g->head_dim; i++) {
        double y = 0;

        for (uint32_t j = 0; j < g->head_dim; j++)
            y += (double)u->loop.stream->encode[i * g->head_dim + j] * (double)e[j];
        sum += y * y;
    }
    return sum;
}

static enum raw_type cheapest(const struct dpq_codec *c, const struct encode_input *in,
                              const struct encode_unit *u, uint32_t t, double limit)
{
    uint32_t d = c->profile->geometry.head_dim;
    const uint8_t *vector = in->rows + t * in->row_bytes;
    uint8_t row[DPQ_MAX_HEAD_DIM * sizeof(float)];
    float x[DPQ_MAX_HEAD_DIM], value[DPQ_MAX_HEAD_DIM];

    encode_raw_row(&c->kern, vector, in->dtype, d, RAW_INPUT, row, x);
    encode_raw_row(&c->kern, vector, in->dtype, d, RAW_INT8, row, value);
    if (coded_error(c, u, t, x, value) <= limit)
        return RAW_INT8;
    if (dpq_dtype_bytes(in->dtype) == 2)
        return RAW_INPUT;
    encode_raw_row(&c->kern, vector, in->dtype, d, RAW_F16, row, value);
    return coded_error(c, u, t, x, value) <= limit ? RAW_F16 : RAW_INPUT; /* Inf - x is not <= */
}

static const float *tolerance_of(const struct encode_unit *u, uint32_t t)
{
    return u->loop.stream->tolerance[loop_is_predicted(&u->loop, t) ? TREE_DELTA : TREE_INTRA];
}

/* As if no code were good enough: the limit is what the code has at its best. */
static void store_raw(struct dpq_codec *c, const struct encode_input *in, struct encode_unit *u)
{
    double limit = (double)u->loop.stream->tolerance[TREE_INTRA][PLANE_BASE];

    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        if (!encode_is_raw(u, t))
            encode_set_token(u->raw[cheapest(c, in, u, t, limit)], t);
}

/* Tokens that are within their bound only thanks to their fine codes. A few are cheaper as raw rows
 * than a plane that has to stay for them; of many, the fine codes stay. */
static void let_go(struct dpq_codec *c, const struct encode_input *in, struct encode_unit *u,
                   const uint64_t tokens[2])
{
    bool few = __builtin_popcountll(tokens[0]) + __builtin_popcountll(tokens[1]) <= FEW;

    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        double limit = (double)(c->profile->bound * tolerance_of(u, t)[PLANE_FINE]);

        if (!encode_has_token(tokens, t))
            continue;
        if (few)
            encode_set_token(u->raw[cheapest(c, in, u, t, limit)], t);
        else
            u->droppable &= ~(1u << t / TILE_GROUP_TOKENS);
    }
}

void encode_bound(struct dpq_codec *c, const struct encode_input *in, struct encode_unit *u)
{
    enum plane delivered = u->fine_panel ? PLANE_FINE : PLANE_BASE;
    uint64_t thin[2] = { 0 };

    if (in->verdict.mode == TILE_VERDICT_RAW) {
        store_raw(c, in, u);
        return;
    }
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        const float *tolerance = tolerance_of(u, t);
        float bound = c->profile->bound;

        if (encode_is_raw(u, t))
            continue;
        if (!(u->error[delivered][t] <= bound * tolerance[delivered]))
            encode_set_token(u->raw[cheapest(c, in, u, t, (double)(bound * tolerance[delivered]))],
                             t);
        else if (!(u->error[PLANE_BASE][t] <= bound * tolerance[PLANE_BASE]))
            encode_set_token(thin, t);
    }
    let_go(c, in, u, thin);
}
