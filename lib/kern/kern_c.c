/* The portable table: the definitions, and half floats by bits. */

#include <math.h>

#include "lib/kern/kern_body.h"
#include "lib/kern/kern_loop.h"

static DECL_KERN_LOAD(load_f16)
{
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;

        for (size_t i = 0; i < d; i++) {
            uint16_t h;

            memcpy(&h, row + i * sizeof(h), sizeof(h));
            ret_x[t * d + i] = f32_from_f16(h);
        }
    }
}

static DECL_KERN_STORE(store_f16)
{
    for (size_t t = 0; t < n; t++) {
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;

        for (size_t i = 0; i < d; i++) {
            uint16_t h = f16_from_f32(x[t * d + i]);

            memcpy(row + i * sizeof(h), &h, sizeof(h));
        }
    }
}

KERN_TAKE_AND_GIVE(f32)
KERN_TAKE_AND_GIVE(f16)
KERN_TAKE_AND_GIVE(bf16)

static size_t slot(size_t t)
{
    return t;
}

static void words(const uint8_t *base, const uint8_t *fine, size_t n_subspaces, size_t dsub,
                  const int8_t *book, int8_t *ret_words)
{
    for (size_t t = 0; t < KERN_TOKENS; t++)
        look_up_token(base, fine, n_subspaces, dsub, book, t, ret_words + slot(t) * KERN_CHUNK);
}

static void scale_row(const int8_t *words, size_t d, const float *scale, float gain,
                      const float *from, float *ret)
{
    for (size_t i = 0; i < d; i++) {
        ret[i] = (float)words[i / KERN_CHUNK * CHUNK_BYTES + i % KERN_CHUNK] * (scale[i] * gain);
        if (from)
            ret[i] += from[i];
    }
}

static const struct kern_look_up LOOK_UP = { words, slot, scale_row };

static void scale_half_row(const int8_t *words, size_t d, const float *scale, float gain,
                           const float *from, void *ret_row, bool cold)
{
    float y[KERN_MAX_DIM];

    (void)cold;
    scale_row(words, d, scale, gain, from, y);
    store_f16(y, 1, d, ret_row, 0);
}

static void advance_half_row(const int8_t *words, size_t d, const float *scale, float gain,
                             const float *leak, float *state, void *ret_row, bool cold)
{
    float from[KERN_MAX_DIM];

    (void)cold;
    predict_row(leak, state, d, from);
    scale_row(words, d, scale, gain, from, state);
    store_f16(state, 1, d, ret_row, 0);
}

static DECL_KERN_DECODE_ROWS(decode_rows)
{
    decode_rows_by(LOOK_UP, panel, ret_base, ret_fine);
}

static DECL_KERN_DECODE_HALF(decode_half)
{
    decode_half_by(LOOK_UP, (struct kern_halves){ scale_half_row, advance_half_row }, panel,
                   ret_rows, stride, cold);
}

static DECL_KERN_SEARCH_LOOP(search_loop)
{
    const struct kern_loop_steps steps = { loop_search, loop_leave };

    if (loop->dsub == 2)
        search_loop_by(steps, loop, 2, y, ret_predicted, ret_gain, ret_code, ret_q, ret_base);
    else
        search_loop_by(steps, loop, 4, y, ret_predicted, ret_gain, ret_code, ret_q, ret_base);
}

static double halves(const double l[KERN_LANES])
{
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

static double halves_product(const double l[KERN_LANES])
{
    return ((l[0] * l[4]) * (l[2] * l[6])) * ((l[1] * l[5]) * (l[3] * l[7]));
}

static double lesser(double a, double b)
{
    return a < b ? a : b;
}

static DECL_KERN_SUM_ENERGIES(sum_energies)
{
    double sum[KERN_LANES] = { 0 };

    for (size_t t = 0; t < KERN_GROUP; t++)
        sum[t % KERN_LANES] += token[t] != KERN_TOKEN_SINK ? lesser((double)x2[t], cap) : 0;
    return halves(sum);
}

static DECL_KERN_SUM_TOKENS(sum_tokens)
{
    double d2s[KERN_LANES] = { 0 }, e2s[KERN_LANES] = { 0 }, first[KERN_LANES] = { 0 };
    double d2d2[KERN_LANES] = { 0 }, e2d2[KERN_LANES] = { 0 }, e2e2[KERN_LANES] = { 0 };
    double excess[KERN_LANES] = { 0 }, payoff[KERN_LANES] = { 1, 1, 1, 1, 1, 1, 1, 1 };

    for (size_t t = 0; t < KERN_GROUP; t++) {
        size_t i = t % KERN_LANES;
        double d = (double)d2[t], e = lesser((double)e2[t], meter->cap);
        double ratio = (double)e2[t] * meter->per_tolerance;

        if (token[t] != KERN_TOKEN_CODED)
            continue;
        d2s[i] += d;
        e2s[i] += e;
        d2d2[i] += d * d;
        e2d2[i] += e * d;
        e2e2[i] += e * e;
        first[i] += (double)sqrtf(d2[t]);
        excess[i] += lesser(ratio + ratio, meter->clip) - 2;
        payoff[i] *= 1 + meter->stake * (lesser(ratio, meter->clip) - 1);
    }
    *ret_sums = (struct kern_sums){
        .d2 = halves(d2s),
        .e2 = halves(e2s),
        .d2d2 = halves(d2d2),
        .e2d2 = halves(e2d2),
        .e2e2 = halves(e2e2),
        .first = halves(first),
        .excess = halves(excess),
        .payoff = halves_product(payoff),
    };
}

void kern_init_c(struct kern *k)
{
    *k = (struct kern){
        .load = { load_f32, load_f16, load_bf16 },
        .store = { store_f32, store_f16, store_bf16 },
        .rope = { NULL, rope_half, rope_interleaved },
        .add = add,
        .gains = gains,
        .quantize = quantize,
        .search = search,
        .search_child = search_child,
        .pack = pack,
        .unpack = unpack,
        .decode = decode,
        .take = { take_f32, take_f16, take_bf16 },
        .give = { give_f32, give_f16, give_bf16 },
        .squares = squares,
        .add_squares = add_squares,
        .sum_energies = sum_energies,
        .sum_tokens = sum_tokens,
        .decode_rows = decode_rows,
        .decode_half = decode_half,
        .search_loop = search_loop,
    };
}
