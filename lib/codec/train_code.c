/* Samples, coded as the codec codes them: encode_centred() on a tile of rows. */

#include <cblas.h>
#include <string.h>

#include "lib/codec/train.h"

static void add_sums(const struct train_stream *s, size_t tile, const struct encode_unit *u,
                     struct train_sums *sums)
{
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        enum tree_index tree = loop_is_predicted(&u->loop, t) ? TREE_DELTA : TREE_INTRA;

        if (!s->run->plan.valid[tile * KERN_TOKENS + t])
            continue;
        sums->n[tree]++;
        for (int plane = 0; plane < N_PLANES; plane++)
            if (plane == PLANE_BASE || u->fine_panel)
                sums->error[tree][plane] += (double)u->error[plane][t];
    }
}

void train_code_tile(const struct train_stream *s, struct train_worker *w, size_t tile, bool fine,
                     struct train_sums *sums, float *to, size_t stride, struct encode_unit *u)
{
    uint8_t base[DPQ_MAX_HEAD_DIM / 2 * KERN_LINE], children[DPQ_MAX_HEAD_DIM / 2 * KERN_LINE];
    size_t d = s->run->geometry->head_dim, at = tile * KERN_TOKENS * d;
    struct dpq_codec *c = w->codec;

    *u = (struct encode_unit){
        .loop = { .kind = s->kind, .stream = &s->stream, .reference = s->reference },
        .base_panel = base,
        .fine_panel = fine ? children : NULL,
    };
    memcpy(c->x, s->x + at, KERN_TOKENS * d * sizeof(float));
    if (s->p)
        memcpy(c->p, s->p + at, KERN_TOKENS * d * sizeof(float));
    encode_centred(c, s->run->stub.group_log2, u);
    if (sums)
        add_sums(s, tile, u, sums);
    if (!to)
        return;
    loop_decode_rows(c, &u->loop, base, encode_is_full(u) ? children : NULL, false);
    loop_reconstruct(c, &u->loop, encode_is_full(u) ? PLANE_FINE : PLANE_BASE);
    for (size_t t = 0; t < KERN_TOKENS; t++)
        if (s->run->plan.valid[tile * KERN_TOKENS + t])
            memcpy(to + t * stride, c->x + t * d, d * sizeof(float));
        else
            memset(to + t * stride, 0, d * sizeof(float));
}

/* |y|^2 of a tile of x itself */
static double power_of(const struct train_stream *s, struct train_worker *w, size_t tile)
{
    int d = (int)s->run->geometry->head_dim;
    float *y = w->codec->y;
    double sum = 0;

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, KERN_TOKENS, d, d, 1,
                s->x + tile * KERN_TOKENS * (size_t)d, d, s->stream.encode, d, 0, y, d);
    for (size_t i = 0; i < KERN_TOKENS * (size_t)d; i++)
        sum += (double)y[i] * (double)y[i];
    return sum;
}

double train_power(const struct train_stream *s, struct train_worker *w)
{
    double sum = 0;

    for (size_t tile = s->run->plan.n_learn_tiles; tile < s->run->plan.n_tiles; tile++)
        sum += power_of(s, w, tile);
    return sum;
}

void train_held_out(const struct train_stream *s, struct train_worker *w, bool fine,
                    train_visit_fn visit, void *user, struct train_sums *ret_sums)
{
    struct encode_unit u;

    memset(ret_sums, 0, sizeof(*ret_sums));
    for (size_t tile = s->run->plan.n_learn_tiles; tile < s->run->plan.n_tiles; tile++) {
        train_code_tile(s, w, tile, fine, ret_sums, NULL, 0, &u);
        if (visit)
            visit(user, tile, &u);
    }
}

void train_close_loop(struct train_stream *s, struct train_worker *w)
{
    size_t d = s->run->geometry->head_dim, column = 0;
    const struct dpq_codec *c = w->codec;
    struct encode_unit u;

    for (size_t i = 0; i < s->n_rows / KERN_TOKENS; i++) {
        train_code_tile(s, w, train_row_tile(s, i), false, NULL, NULL, 0, &u);
        for (size_t t = 1; t < KERN_TOKENS; t++) {
            if (!loop_is_predicted(&u.loop, (uint32_t)t) || !u.gain_code[t])
                continue;
            for (size_t k = 0; k < d; k++) {
                float a = (float)s->stream.leak[k / s->dsub] * LOOP_LEAK_UNIT;

                s->samples[TREE_DELTA][k * s->n_rows + column] =
                    (c->y[k * KERN_TOKENS + t] - a * c->y_base[k * KERN_TOKENS + t - 1]) *
                    c->inverse_gain[u.gain_code[t]];
            }
            column++;
        }
    }
    s->n_samples[TREE_DELTA] = column;
}
