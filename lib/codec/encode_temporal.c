/*
 * Closed loop in time
 *
 * Token t is predicted from the base reconstruction of token t - 1, in rotated coordinates, so the
 * tokens of a group come one after the other: kern->search_loop(). Key frames on the grid start
 * from nothing; between them a token is predicted unless its own energy is smaller than the
 * difference's. Children are searched when all parents are known, since nothing follows from them.
 */

#include <string.h>

#include "lib/codec/encode_unit.h"

/* [n_rows][n_columns] to [n_columns][n_rows], in blocks that stay in registers or near them */
static void transpose(const float *from, size_t n_rows, size_t n_columns, float *ret_to)
{
    enum { BLOCK = 16 };

    for (size_t r = 0; r < n_rows; r += BLOCK)
        for (size_t c = 0; c < n_columns; c += BLOCK)
            for (size_t i = r; i < r + BLOCK && i < n_rows; i++)
                for (size_t j = c; j < c + BLOCK && j < n_columns; j++)
                    ret_to[j * n_rows + i] = from[i * n_columns + j];
}

/* What predictions leave of each token, whether they are used or not. */
static void note_energies(struct dpq_codec *c, const float *y, const float *leak,
                          struct encode_unit *u)
{
    size_t d = c->profile->geometry.head_dim, dsub = u->loop.stream->dsub;
    const float *base = c->rows[PLANE_BASE];
    float spread[DPQ_MAX_HEAD_DIM];

    for (size_t i = 0; i < d; i++)
        spread[i] = leak[i / dsub];
    memset(c->p, 0, d * sizeof(float));
    for (size_t t = 1; t < KERN_TOKENS; t++)
        for (size_t i = 0; i < d; i++)
            c->p[t * d + i] = spread[i] * base[(t - 1) * d + i];
    c->kern.squares(y, NULL, KERN_TOKENS, d, u->own);
    c->kern.squares(y, c->p, KERN_TOKENS, d, u->rest);
}

/* Frames and gains, of what the loop found. */
static void note_tokens(const struct dpq_codec *c, const struct kern_mask *predicted,
                        const int32_t gain[KERN_TOKENS], uint32_t group, struct encode_unit *u)
{
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        u->loop.frame[t] = kern_mask_has(predicted, t) ? FRAME_PREDICTED : FRAME_INTRA;
        if (t % group == 0)
            u->loop.frame[t] = FRAME_KEY;
        encode_note_gain(c, u, t, gain[t]);
    }
    loop_count_predicted(&u->loop);
}

/* Base reconstruction to codec->rows, parents to ret_parent, [n_subspaces][128]. */
static void close_loop(struct dpq_codec *c, const float *y, uint32_t group, struct encode_unit *u,
                       uint8_t *ret_parent)
{
    const struct profile_stream *stream = u->loop.stream;
    float leak[KERN_MAX_SUBSPACES];
    int32_t gain[KERN_TOKENS];
    struct kern_mask predicted;
    struct kern_loop loop = {
        .n_subspaces = c->profile->geometry.head_dim / stream->dsub,
        .dsub = stream->dsub,
        .intra = loop_tree(stream, TREE_INTRA),
        .delta = loop_tree(stream, TREE_DELTA),
        .strict = stream->strict && !u->is_better,
        .leak = leak,
        .gain = c->gain,
        .inverse_gain = c->inverse_gain,
    };

    loop_leaks(stream, loop.n_subspaces, leak);
    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        loop.may_predict.bits[t / 64] |= (uint64_t)(t % group != 0) << t % 64;
    c->kern.search_loop(&loop, y, &predicted, gain, ret_parent, c->q, c->rows[PLANE_BASE]);
    note_tokens(c, &predicted, gain, group, u);
    note_energies(c, y, leak, u);
}

/* Children of one subspace, each token's in its own tree. */
static void search_children(const struct dpq_codec *c, const struct encode_unit *u, uint32_t m,
                            const uint8_t parent[KERN_TOKENS], uint8_t ret_child[KERN_TOKENS])
{
    size_t dsub = u->loop.stream->dsub, book = (size_t)m * KERN_WORDS * KERN_WORDS * dsub;
    const struct profile_tree *tree = u->loop.stream->tree;
    const int16_t *q = c->q + (size_t)m * dsub * KERN_TOKENS;
    uint8_t intra[KERN_TOKENS];

    c->kern.search_child(q, dsub, tree[TREE_INTRA].fine + book, parent, intra);
    memcpy(ret_child, intra, sizeof(intra));
    if (!u->loop.n_predicted)
        return;
    c->kern.search_child(q, dsub, tree[TREE_DELTA].fine + book, parent, ret_child);
    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        if (!loop_is_predicted(&u->loop, t))
            ret_child[t] = intra[t];
}

void encode_temporal(struct dpq_codec *codec, uint32_t group_log2, struct encode_unit *u)
{
    uint8_t parent[DPQ_MAX_HEAD_DIM / 2][KERN_TOKENS], child[KERN_TOKENS];
    size_t d = codec->profile->geometry.head_dim, n_subspaces = d / u->loop.stream->dsub;
    float *y = codec->rows[PLANE_FINE];

    transpose(codec->y, d, KERN_TOKENS, y);
    close_loop(codec, y, 1u << group_log2, u, parent[0]);
    transpose(codec->rows[PLANE_BASE], KERN_TOKENS, d, codec->y_base);
    for (uint32_t m = 0; m < n_subspaces; m++) {
        codec->kern.pack(parent[m], u->base_panel + (size_t)m * KERN_LINE);
        if (!u->fine_panel)
            continue;
        search_children(codec, u, m, parent[m], child);
        codec->kern.pack(child, u->fine_panel + (size_t)m * KERN_LINE);
    }
    if (!u->fine_panel)
        return;
    loop_decode_rows(codec, &u->loop, u->base_panel, u->fine_panel, false);
    transpose(codec->rows[PLANE_FINE], KERN_TOKENS, d, codec->y_fine);
}
