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

static uint8_t part_of(const struct encode_input *in, const struct encode_unit *u, uint32_t t)
{
    bool is_temporal = u->loop.stream->reference == REFERENCE_TEMPORAL;

    if (t < in->n_sink)
        return TILE_TOKEN_SINK;
    if (encode_is_raw(u, t) && in->verdict.mode != TILE_VERDICT_RAW)
        return TILE_TOKEN_ESCAPED;
    return is_temporal && (!t || u->loop.frame[t] == FRAME_KEY) ? TILE_TOKEN_KEY : TILE_TOKEN_CODED;
}

/* Not a number, or beyond: as large as there is. */
static float limited(float v)
{
    return v < FLT_MAX ? v : FLT_MAX;
}

static float scaled(float v, float by, float over)
{
    return over > 0 ? limited(v * (by / over)) : limited(v);
}

void encode_energy(const struct dpq_codec *c, const struct encode_input *in,
                   const struct encode_unit *u, struct tile_energies *ret)
{
    const struct profile_stream *s = u->loop.stream;
    bool is_temporal = s->reference == REFERENCE_TEMPORAL;
    const float *coded = u->loop.reference == REFERENCE_TEMPORAL ? u->own : u->coded;
    float rest[KERN_TOKENS];

    memcpy(rest, u->rest, sizeof(rest));
    if (is_temporal && u->loop.reference == REFERENCE_NONE)
        sum_differences(c, s, rest);
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        bool is_predicted = loop_is_predicted(&u->loop, t);
        float own = is_temporal ? coded[t] : u->own[t];

        ret->part[t] = part_of(in, u, t);
        ret->x2[t] = ret->d2[t] = limited(coded[t]);
        ret->e2[t] = limited(u->error[PLANE_BASE][t]);
        if (s->reference == REFERENCE_NONE)
            continue;
        if (is_predicted && is_temporal) {
            ret->d2[t] = limited(rest[t]);
        } else if (is_predicted) {
            ret->x2[t] = scaled(coded[t], own, rest[t]);
        } else {
            ret->d2[t] = scaled(coded[t], rest[t], own);
            ret->e2[t] = scaled(u->error[PLANE_BASE][t], rest[t], own);
        }
    }
}
