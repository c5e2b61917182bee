/*
 * Closed loop in time
 *
 * Token t is predicted from the base reconstruction of token t - 1, in rotated coordinates, so the
 * tokens of a group come one after the other; the words of a codebook are the lanes. Key frames on
 * the grid start from nothing; between them a token is predicted unless its own energy is smaller
 * than the difference's. Arithmetic is the kernels': the same quantisation, scores and ties; and
 * the same recurrence as loop_add_temporal(), operation by operation.
 */

#include <string.h>

#include "lib/codec/encode_unit.h"
#include "lib/kern/kern_rows.h"

struct step {
    struct dpq_codec *codec;
    struct encode_unit *unit;
    uint32_t d, dsub, t;
    float base[DPQ_MAX_HEAD_DIM];   /* reconstruction of the token before */
    float from[DPQ_MAX_HEAD_DIM];   /* leak * base: what is predicted */
    float target[DPQ_MAX_HEAD_DIM]; /* what is coded */
};

/* The code of the mean square, as kern->gains() has it: a panel of one token. */
static int32_t gain_code(const struct step *s)
{
    float sum = 0;

    for (uint32_t i = 0; i < s->d; i++)
        sum += s->target[i] * s->target[i];
    return kern_gain_code(sum / (float)s->d);
}

static uint32_t nearest(const int16_t *q, uint32_t dsub, const int8_t *book)
{
    int32_t score[KERN_WORDS] = { 0 }, best = INT32_MIN;

    for (uint32_t i = 0; i < dsub; i++)
        for (int32_t w = 0; w < KERN_WORDS; w++) {
            int32_t c = book[(uint32_t)w * dsub + i];

            score[w] += c * (q[i] - 8 * c);
        }
    for (int32_t w = 0; w < KERN_WORDS; w++) {
        int32_t rank = score[w] * KERN_WORDS + KERN_WORDS - 1 - w;

        best = rank > best ? rank : best;
    }
    return (uint32_t)(KERN_WORDS - 1 - (best & (KERN_WORDS - 1)));
}

static int16_t quantize(float y, float inverse_gain, float factor)
{
    float u = y * inverse_gain * factor;

    u = u > -KERN_Q_MAX ? u : -KERN_Q_MAX;
    u = u < KERN_Q_MAX ? u : KERN_Q_MAX;
    return (int16_t)(int32_t)(f32_bits(u + 0x1.8p23f) - 0x4b400000);
}

/* Codes of one subspace; what the decoder will have for it, to y_base and y_fine. */
static void code_subspace(struct step *s, uint32_t m, const struct profile_tree *tree,
                          bool predicted, uint8_t *ret_parent, uint8_t *ret_child)
{
    struct dpq_codec *c = s->codec;
    float factor = tree->scale[m] * s->unit->loop.gain[s->t];
    const int8_t *base = tree->base + (size_t)m * KERN_WORDS * s->dsub;
    const int8_t *fine = tree->fine + (size_t)m * KERN_WORDS * KERN_WORDS * s->dsub;
    uint32_t first = m * s->dsub, parent, child = 0;
    int16_t q[4];

    for (uint32_t i = 0; i < s->dsub; i++)
        q[i] = quantize(s->target[first + i], c->inverse_gain[s->unit->gain_code[s->t]],
                        16 / tree->scale[m]);
    parent = nearest(q, s->dsub, base);
    fine += (size_t)parent * KERN_WORDS * s->dsub;
    if (s->unit->fine_panel)
        child = nearest(q, s->dsub, fine);
    for (uint32_t i = 0; i < s->dsub; i++) {
        size_t at = (size_t)(first + i) * KERN_TOKENS + s->t;
        float b = (float)base[parent * s->dsub + i] * factor;
        float f = (float)fine[child * s->dsub + i] * factor;

        s->base[first + i] = c->y_base[at] = predicted ? b + s->from[first + i] : b;
        c->y_fine[at] = predicted ? f + s->from[first + i] : f;
    }
    *ret_parent = (uint8_t)parent;
    *ret_child = (uint8_t)child;
}

/* Which frame, and what is coded: the vector, or its difference to what is predicted. */
static void choose_frame(struct step *s, bool is_key)
{
    const struct profile_stream *stream = s->unit->loop.stream;
    bool is_strict = stream->strict && !s->unit->is_better;
    float own = 0, difference = 0;

    for (uint32_t i = 0; i < s->d; i++) {
        float y = s->codec->y[(size_t)i * KERN_TOKENS + s->t], v;

        s->from[i] = (float)stream->leak[i / s->dsub] * LOOP_LEAK_UNIT * s->base[i];
        v = y - s->from[i];
        s->target[i] = y;
        own += y * y;
        difference += v * v;
    }
    s->unit->own[s->t] = own;
    s->unit->rest[s->t] = difference;
    s->unit->loop.frame[s->t] = is_key                           ? FRAME_KEY
                                : is_strict || difference <= own ? FRAME_PREDICTED
                                                                 : FRAME_INTRA;
    if (loop_is_predicted(&s->unit->loop, s->t))
        for (uint32_t i = 0; i < s->d; i++)
            s->target[i] -= s->from[i];
}

static void code_token(struct step *s, bool is_key, uint8_t (*parents)[KERN_TOKENS],
                       uint8_t (*children)[KERN_TOKENS])
{
    struct encode_unit *u = s->unit;
    const struct profile_tree *tree;
    int32_t code;

    choose_frame(s, is_key);
    tree = &u->loop.stream->tree[loop_is_predicted(&u->loop, s->t) ? TREE_DELTA : TREE_INTRA];
    code = gain_code(s);
    if (code >= GAIN_CODES)
        encode_set_token(u->raw[RAW_INPUT], s->t);
    u->gain_code[s->t] = code <= 0 || code >= GAIN_CODES ? 0 : (uint8_t)code;
    u->loop.gain[s->t] = s->codec->gain[u->gain_code[s->t]];
    for (uint32_t m = 0; m < s->d / s->dsub; m++)
        code_subspace(s, m, tree, loop_is_predicted(&u->loop, s->t), &parents[m][s->t],
                      &children[m][s->t]);
}

void encode_temporal(struct dpq_codec *codec, uint32_t group_log2, struct encode_unit *u)
{
    uint8_t parents[DPQ_MAX_HEAD_DIM / 2][KERN_TOKENS], children[DPQ_MAX_HEAD_DIM / 2][KERN_TOKENS];
    struct step s = {
        .codec = codec,
        .unit = u,
        .d = codec->profile->geometry.head_dim,
        .dsub = u->loop.stream->dsub,
    };

    for (s.t = 0; s.t < KERN_TOKENS; s.t++)
        code_token(&s, !(s.t % (1u << group_log2)), parents, children);
    for (uint32_t m = 0; m < s.d / s.dsub; m++) {
        codec->kern.pack(parents[m], u->base_panel + (size_t)m * KERN_LINE);
        if (u->fine_panel)
            codec->kern.pack(children[m], u->fine_panel + (size_t)m * KERN_LINE);
    }
    loop_count_predicted(&u->loop);
}
