#include "lib/codec/encode_unit.h"

#include <cblas.h>
#include <string.h>

enum { PARTS = 8 }; /* partial sums: what a compiler needs to widen a sum */

float encode_square_sum(const float *a, const float *b, size_t n)
{
    float part[PARTS] = { 0 }, sum = 0;

    for (size_t i = 0; i < n; i += PARTS)
        for (size_t j = 0; j < PARTS; j++) {
            float v = b ? a[i + j] - b[i + j] : a[i + j];

            part[j] += v * v;
        }
    for (size_t j = 0; j < PARTS; j++)
        sum += part[j];
    return sum;
}

/* A token is predicted unless its mean is closer: a rule of the encoder's own, decided before
 * anything is coded. What is predicted leaves codec->x less its prediction. */
static void subtract_prediction(struct dpq_codec *c, struct encode_unit *u)
{
    uint32_t d = c->profile->geometry.head_dim;

    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        float *x = c->x + (size_t)t * d;
        const float *p = c->p + (size_t)t * d;
        bool pays;

        u->own[t] = encode_square_sum(x, NULL, d);
        u->rest[t] = encode_square_sum(x, p, d);
        pays = (u->loop.stream->strict && !u->is_better) || u->rest[t] <= u->own[t];
        u->loop.frame[t] = pays ? FRAME_PREDICTED : FRAME_INTRA;
        if (pays)
            c->kern.add(x, 1, d, p, -1);
    }
}

/* What a prediction would have left, where none is used. */
static void compare_prediction(struct dpq_codec *c, struct encode_unit *u)
{
    uint32_t d = c->profile->geometry.head_dim;

    loop_predict_depth(c, &u->loop);
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        u->own[t] = encode_square_sum(c->x + (size_t)t * d, NULL, d);
        u->rest[t] = encode_square_sum(c->x + (size_t)t * d, c->p + (size_t)t * d, d);
    }
}

static void encode_gains(struct dpq_codec *c, struct encode_unit *u, float inverse[KERN_TOKENS])
{
    int32_t code[KERN_TOKENS];

    c->kern.gains(c->y, c->profile->geometry.head_dim, u->coded, code);
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        encode_note_gain(c, u, t, code[t]);
        inverse[t] = c->inverse_gain[u->gain_code[t]];
    }
}

/* Parents, and children if ret_child is not NULL, in one of a subspace's trees. */
static void search(struct dpq_codec *c, const struct encode_unit *u, uint32_t m,
                   enum tree_index which, const float inverse[KERN_TOKENS], uint8_t *ret_parent,
                   uint8_t *ret_child)
{
    const struct profile_tree *tree = &u->loop.stream->tree[which];
    size_t dsub = u->loop.stream->dsub;

    c->kern.quantize(c->y + m * dsub * KERN_TOKENS, dsub, inverse, 16 / tree->scale[m], c->q);
    c->kern.search(c->q, dsub, tree->base + m * KERN_WORDS * dsub, ret_parent);
    if (ret_child)
        c->kern.search_child(c->q, dsub, tree->fine + m * KERN_WORDS * KERN_WORDS * dsub,
                             ret_parent, ret_child);
}

static void search_by_frame(struct dpq_codec *c, const struct encode_unit *u, uint32_t m,
                            const float inverse[KERN_TOKENS], uint8_t *ret_parent,
                            uint8_t *ret_child)
{
    uint8_t parent[KERN_TOKENS], child[KERN_TOKENS];

    search(c, u, m, u->loop.n_predicted ? TREE_DELTA : TREE_INTRA, inverse, ret_parent, ret_child);
    if (!u->loop.n_predicted || u->loop.n_predicted == KERN_TOKENS)
        return;
    search(c, u, m, TREE_INTRA, inverse, parent, ret_child ? child : NULL);
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        if (loop_is_predicted(&u->loop, t))
            continue;
        ret_parent[t] = parent[t];
        if (ret_child)
            ret_child[t] = child[t];
    }
}

static void encode_panels(struct dpq_codec *c, struct encode_unit *u,
                          const float inverse[KERN_TOKENS])
{
    uint32_t dsub = u->loop.stream->dsub, n_subspaces = c->profile->geometry.head_dim / dsub;

    for (uint32_t m = 0; m < n_subspaces; m++) {
        size_t at = (size_t)m * dsub * KERN_TOKENS;
        uint8_t parent[KERN_TOKENS], child[KERN_TOKENS];

        search_by_frame(c, u, m, inverse, parent, u->fine_panel ? child : NULL);
        c->kern.pack(parent, u->base_panel + (size_t)m * KERN_LINE);
        loop_decode_plane(&c->kern, &u->loop, m, PLANE_BASE, parent, c->y_base + at);
        c->kern.add_squares(c->y + at, c->y_base + at, dsub, u->error[PLANE_BASE]);
        if (!u->fine_panel)
            continue;
        c->kern.pack(child, u->fine_panel + (size_t)m * KERN_LINE);
        for (uint32_t t = 0; t < KERN_TOKENS; t++)
            child[t] = (uint8_t)(child[t] | parent[t] << 4);
        loop_decode_plane(&c->kern, &u->loop, m, PLANE_FINE, child, c->y_fine + at);
        c->kern.add_squares(c->y + at, c->y_fine + at, dsub, u->error[PLANE_FINE]);
    }
}

void encode_centred(struct dpq_codec *codec, uint32_t group_log2, struct encode_unit *u)
{
    int d = (int)codec->profile->geometry.head_dim;
    float inverse[KERN_TOKENS];

    memset(u->raw, 0, sizeof(u->raw));
    u->droppable = 0xffff;
    memset(u->loop.frame, FRAME_INTRA, sizeof(u->loop.frame));
    if (u->loop.reference >= REFERENCE_DEPTH_HEAD)
        subtract_prediction(codec, u);
    /* adding to zeroes is faster than BLAS' way of overwriting */
    memset(codec->y, 0, (size_t)KERN_TOKENS * (size_t)d * sizeof(float));
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, d, KERN_TOKENS, d, 1,
                u->loop.stream->encode, d, codec->x, d, 1, codec->y, KERN_TOKENS);
    memset(u->error, 0, sizeof(u->error));
    if (u->loop.reference == REFERENCE_TEMPORAL) {
        encode_temporal(codec, group_log2, u);
        codec->kern.add_squares(codec->y, codec->y_base, (size_t)d, u->error[PLANE_BASE]);
        if (u->fine_panel)
            codec->kern.add_squares(codec->y, codec->y_fine, (size_t)d, u->error[PLANE_FINE]);
    } else {
        loop_count_predicted(&u->loop);
        encode_gains(codec, u, inverse);
        encode_panels(codec, u, inverse);
    }
}

void encode_unit(struct dpq_codec *c, const struct encode_input *in, struct encode_unit *u)
{
    const struct dpq_geometry *g = &c->profile->geometry;
    struct kern_turn turn = { 0 };

    if (u->loop.kind == DPQ_K)
        turn = rope_turn_back(&c->rope, g);
    c->kern.take[in->dtype](in->rows, (ptrdiff_t)in->row_bytes, KERN_TOKENS, g->head_dim, &turn,
                            u->loop.stream->mean, c->x);
    if (u->loop.reference >= REFERENCE_DEPTH_HEAD)
        loop_predict_depth(c, &u->loop);
    else if (in->is_measured && u->loop.stream->reference >= REFERENCE_DEPTH_HEAD)
        compare_prediction(c, u);
    u->is_better = in->verdict.mode == TILE_VERDICT_BETTER;
    encode_centred(c, in->group_log2, u);
    for (uint32_t t = 0; t < in->n_sink; t++)
        encode_set_token(u->raw[RAW_INPUT], t);
    if (c->profile->bound > 0 || in->verdict.mode == TILE_VERDICT_RAW)
        encode_bound(c, in, u);
    if (in->verdict.keeps_fine)
        u->droppable = 0;
    if (in->is_reference) {
        loop_decode_rows(c, &u->loop, u->base_panel, encode_is_full(u) ? u->fine_panel : NULL,
                         false);
        loop_keep(c, &u->loop, encode_is_full(u) ? PLANE_FINE : PLANE_BASE);
        if (encode_is_full(u))
            u->droppable = 0;
    }
}
