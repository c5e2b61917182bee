#pragma once

/*
 * What encoder and decoder do alike: codes become coordinates, coordinates become the vectors from
 * which the next ones are predicted
 *
 * Both sides call these functions with the same arguments in the same order, so a prediction has
 * the same bits on both. Every prediction is made from base reconstructions; but in depth from what
 * both planes give, where a profile says so (full) and the tile has both.
 */

#include "lib/codec/codec.h"
#include "lib/codec/tile_file.h"

/* One stream of the tile in work. */
struct loop_unit {
    uint32_t layer, kind, head, index;
    const struct profile_stream *stream;
    uint32_t reference; /* of this tile: the stream's, or none */
    uint32_t n_predicted;
    float gain[KERN_TOKENS];
    uint8_t frame[KERN_TOKENS]; /* enum frame_kind */
};

#define LOOP_LEAK_UNIT 0x1p-15f /* of profile_stream.leak */

static inline bool loop_is_predicted(const struct loop_unit *u, uint32_t t)
{
    return u->frame[t] == FRAME_PREDICTED || u->frame[t] == FRAME_ESCAPE;
}

static inline struct kern_tree loop_tree(const struct profile_stream *stream, enum tree_index which)
{
    const struct profile_tree *tree = &stream->tree[which];

    return (struct kern_tree){ tree->scale, tree->base, tree->fine };
}

/** loop_leaks() - a temporal stream's, of each subspace, as numbers */
void loop_leaks(const struct profile_stream *stream, size_t n_subspaces, float *ret_leak);

/** loop_frame_by_rule() - the frame kind of a token where none is stored */
uint8_t loop_frame_by_rule(uint32_t reference, uint32_t group_log2, uint32_t t);

/** loop_count_predicted() - after frame[] was filled: sets n_predicted */
void loop_count_predicted(struct loop_unit *u);

/**
 * loop_decode_plane() - codewords times gains of one subspace, by each token's tree
 * @code:  [128] parents, or with PLANE_FINE 16 * parent + child
 * @ret_y: [dsub][128]; without what a temporal reference adds
 */
void loop_decode_plane(const struct kern *k, const struct loop_unit *u, uint32_t m,
                       enum plane plane, const uint8_t *code, float *ret_y);

/**
 * loop_decode_rows() - a stream's panels to codec->rows, the recurrence of a temporal one applied
 * @fine_panel: NULL: no fine plane, or not wanted
 * @base_wanted: fill rows[PLANE_BASE]; with a fine panel, rows[PLANE_FINE] is filled in any case
 */
void loop_decode_rows(struct dpq_codec *codec, const struct loop_unit *u, const uint8_t *base_panel,
                      const uint8_t *fine_panel, bool base_wanted);

/** loop_predict_depth() - codec->p = bias + W * references; which there are: profile_n_inputs() */
void loop_predict_depth(struct dpq_codec *codec, const struct loop_unit *u);

/**
 * loop_reconstruct() - codec->x = mean (+ codec->p where predicted in depth) + F y, token-major
 * @plane: y is codec->rows[plane], of loop_decode_rows()
 */
void loop_reconstruct(struct dpq_codec *codec, const struct loop_unit *u, enum plane plane);

/** loop_keep() - the same, to where later streams, and the layer above, look for what they are
 * predicted from: mostly of the base plane */
void loop_keep(struct dpq_codec *codec, const struct loop_unit *u, enum plane plane);

/** loop_recall() - what loop_keep() left there, to codec->x */
void loop_recall(struct dpq_codec *codec, const struct loop_unit *u);

/**
 * loop_deliver() - codec->x, turned if it is keys, to element (layer, kind, head, 0) of a tensor
 * @first, @n: tokens
 */
void loop_deliver(struct dpq_codec *codec, const struct loop_unit *u, uint32_t first, uint32_t n,
                  uint32_t layer, const struct dpq_tensor *tensor, void *memory);
