/*
 * What a stream's loop showed, token by token
 *
 * The loop is watched even where it was not used: whether it has become well again is the question
 * then. What a prediction leaves is known for every token; what a code would have made of that is
 * not, but is taken to be in proportion.
 */

#include <float.h>
#include <string.h>

#include "lib/codec/encode_unit.h"

/* What a temporal reference would have left, had it been used. Of the vectors themselves: what is
 * here of the token before is intra, which the loop would have done better than. */
static void sum_differences(const struct dpq_codec *c, const struct profile_stream *s,
                            float ret_sum[KERN_TOKENS])
{
    memset(ret_sum, 0, KERN_TOKENS * sizeof(float));
    for (size_t i = 0; i < c->profile->geometry.head_dim; i++) {
        const float *y = c->y + i * KERN_TOKENS;
        float a = (float)s->leak[i / s->dsub] * LOOP_LEAK_UNIT;

        for (size_t t = 1; t < KERN_TOKENS; t++) {
            float v = y[t] - a * y[t - 1];

            ret_sum[t] += v * v;
        }
    }
}

/* Most are coded; what else there is, masks and the grid say. */
static void note_parts(const struct encode_input *in, const struct encode_unit *u,
                       uint8_t ret_part[KERN_TOKENS])
{
    memset(ret_part, TILE_TOKEN_CODED, KERN_TOKENS);
    if (u->loop.stream->reference == REFERENCE_TEMPORAL) {
        for (uint32_t t = 0; t < KERN_TOKENS; t++)
            ret_part[t] = u->loop.frame[t] == FRAME_KEY ? TILE_TOKEN_KEY : TILE_TOKEN_CODED;
        ret_part[0] = TILE_TOKEN_KEY;
    }
    for (uint32_t i = 0; i < KERN_TOKENS / 64 && in->verdict.mode != TILE_VERDICT_RAW; i++) {
        uint64_t raw = u->raw[RAW_INPUT][i] | u->raw[RAW_F16][i] | u->raw[RAW_INT8][i];

        for (; raw; raw &= raw - 1)
            ret_part[64 * i + (uint32_t)__builtin_ctzll(raw)] = TILE_TOKEN_ESCAPED;
    }
    memset(ret_part, TILE_TOKEN_SINK, in->n_sink);
}

/* Not a number, or beyond: as large as there is. */
static float limited(float v)
{
    return v < FLT_MAX ? v : FLT_MAX;
}

/* What a token of the other kind would have had, in proportion: of predicted ones as they are, of
 * the others as predicted. Both 1 where there is nothing to divide by. */
struct factors {
    float back[KERN_TOKENS]; /* own / rest if predicted, else 1 */
    float on[KERN_TOKENS];   /* rest / own if not, else 1 */
};

/* In many loops because gcc 12 folds a choice of 1 into the arithmetic behind it, in the same loop,
 * and what is left is a branch. */
static void divide(const struct encode_unit *u, const float *own, const float *rest,
                   int32_t ret_is_predicted[KERN_TOKENS], struct factors *ret)
{
    float by[KERN_TOKENS], over[KERN_TOKENS];

    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        ret_is_predicted[t] = loop_is_predicted(&u->loop, t);
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        float below = ret_is_predicted[t] ? rest[t] : own[t];
        float above = ret_is_predicted[t] ? own[t] : rest[t];

        by[t] = below > 0 ? above : 1;
        over[t] = below > 0 ? below : 1;
    }
    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        by[t] /= over[t];
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        ret->back[t] = ret_is_predicted[t] ? by[t] : 1;
        ret->on[t] = ret_is_predicted[t] ? 1 : by[t];
    }
}

static void note_temporal(const struct encode_unit *u, const float *own, const float *rest,
                          struct tile_energies *ret)
{
    int32_t is_predicted[KERN_TOKENS];
    struct factors factors;

    divide(u, own, rest, is_predicted, &factors);
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        float left = is_predicted[t] ? rest[t] : own[t];

        ret->x2[t] = limited(own[t]);
        ret->d2[t] = limited(left * factors.on[t]);
        ret->e2[t] = limited(u->error[PLANE_BASE][t] * factors.on[t]);
    }
}

static void note_depth(const struct encode_unit *u, struct tile_energies *ret)
{
    int32_t is_predicted[KERN_TOKENS];
    struct factors factors;

    divide(u, u->own, u->rest, is_predicted, &factors);
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        ret->x2[t] = limited(u->coded[t] * factors.back[t]);
        ret->d2[t] = limited(u->coded[t] * factors.on[t]);
        ret->e2[t] = limited(u->error[PLANE_BASE][t] * factors.on[t]);
    }
}

/* Loops without a branch, which a compiler widens. */
void encode_energy(const struct dpq_codec *c, const struct encode_input *in,
                   const struct encode_unit *u, struct tile_energies *ret)
{
    const struct profile_stream *s = u->loop.stream;
    bool is_coded_in_time = u->loop.reference == REFERENCE_TEMPORAL;
    float differences[KERN_TOKENS];

    note_parts(in, u, ret->part);
    if (s->reference == REFERENCE_TEMPORAL && !is_coded_in_time) {
        sum_differences(c, s, differences);
        note_temporal(u, u->coded, differences, ret);
    } else if (s->reference == REFERENCE_TEMPORAL) {
        note_temporal(u, u->own, u->rest, ret);
    } else if (s->reference != REFERENCE_NONE) {
        note_depth(u, ret);
    } else {
        for (uint32_t t = 0; t < KERN_TOKENS; t++) {
            ret->x2[t] = ret->d2[t] = limited(u->coded[t]);
            ret->e2[t] = limited(u->error[PLANE_BASE][t]);
        }
    }
}
