#include "lib/codec/loop.h"

#include <cblas.h>
#include <string.h>

uint8_t loop_frame_by_rule(uint32_t reference, uint32_t group_log2, uint32_t t)
{
    if (reference == REFERENCE_NONE)
        return FRAME_INTRA;
    if (reference != REFERENCE_TEMPORAL)
        return FRAME_PREDICTED;
    return t % (1u << group_log2) ? FRAME_PREDICTED : FRAME_KEY;
}

void loop_count_predicted(struct loop_unit *u)
{
    u->n_predicted = 0;
    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        u->n_predicted += loop_is_predicted(u, t);
}

static void decode_tree(const struct kern *k, const struct loop_unit *u, uint32_t m,
                        enum plane plane, enum tree_index which, const uint8_t *code, float *ret_y)
{
    const struct profile_tree *tree = &u->stream->tree[which];
    uint32_t dsub = u->stream->dsub;
    size_t n_words = plane == PLANE_FINE ? KERN_WORDS * KERN_WORDS : KERN_WORDS;
    const int8_t *book = plane == PLANE_FINE ? tree->fine : tree->base;

    k->decode(code, dsub, book + m * n_words * dsub, n_words, tree->scale[m], u->gain, ret_y);
}

void loop_decode_plane(const struct kern *k, const struct loop_unit *u, uint32_t m,
                       enum plane plane, const uint8_t *code, float *ret_y)
{
    float other[4 * KERN_TOKENS];

    decode_tree(k, u, m, plane, u->n_predicted ? TREE_DELTA : TREE_INTRA, code, ret_y);
    if (!u->n_predicted || u->n_predicted == KERN_TOKENS)
        return;
    decode_tree(k, u, m, plane, TREE_INTRA, code, other);
    for (uint32_t i = 0; i < u->stream->dsub; i++)
        for (uint32_t t = 0; t < KERN_TOKENS; t++)
            if (!loop_is_predicted(u, t))
                ret_y[i * KERN_TOKENS + t] = other[i * KERN_TOKENS + t];
}

void loop_leaks(const struct profile_stream *stream, size_t n_subspaces, float *ret_leak)
{
    for (size_t m = 0; m < n_subspaces; m++)
        ret_leak[m] = (float)stream->leak[m] * LOOP_LEAK_UNIT;
}

void loop_decode_rows(struct dpq_codec *codec, const struct loop_unit *u, const uint8_t *base_panel,
                      const uint8_t *fine_panel, bool base_wanted)
{
    float leak[KERN_MAX_SUBSPACES];
    struct kern_panel panel = {
        .base = base_panel,
        .fine = fine_panel,
        .n_subspaces = codec->profile->geometry.head_dim / u->stream->dsub,
        .dsub = u->stream->dsub,
        .gain = u->gain,
        .intra = loop_tree(u->stream, TREE_INTRA),
        .delta = loop_tree(u->stream, TREE_DELTA),
    };

    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        panel.predicted.bits[t / 64] |= (uint64_t)loop_is_predicted(u, t) << t % 64;
    if (u->reference == REFERENCE_TEMPORAL) {
        loop_leaks(u->stream, panel.n_subspaces, leak);
        panel.leak = leak;
    }
    codec->kern.decode_rows(&panel, base_wanted || !fine_panel ? codec->rows[PLANE_BASE] : NULL,
                            fine_panel ? codec->rows[PLANE_FINE] : NULL);
}

/* K and V of the layer below, K and V of this one: [128][n_kv_heads * head_dim] each. What is this
 * layer's is where the next one looks for what is below it. */
static float *below(struct dpq_codec *codec, uint32_t layer, uint32_t which)
{
    const struct dpq_geometry *g = &codec->profile->geometry;

    return codec->below +
           (size_t)((which + 2 * layer) % 4) * KERN_TOKENS * g->n_kv_heads * g->head_dim;
}

void loop_predict_depth(struct dpq_codec *codec, const struct loop_unit *u)
{
    const struct dpq_geometry *g = &codec->profile->geometry;
    const struct profile_stream *s = u->stream;
    bool all_heads = s->reference == REFERENCE_DEPTH;
    int width = (int)(g->n_kv_heads * g->head_dim), n = (int)g->head_dim;
    int n_columns = all_heads ? width : n;
    struct profile_below vectors = profile_below(u->layer, u->kind);
    const float *w = s->weight;

    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        memcpy(codec->p + (size_t)t * g->head_dim, s->bias, g->head_dim * sizeof(float));
    for (uint32_t which = vectors.first; which < vectors.end; which++, w += n_columns)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, KERN_TOKENS, n, n_columns, 1,
                    below(codec, u->layer, which) + (all_heads ? 0 : u->head * g->head_dim), width,
                    w, (int)s->n_inputs, 1, codec->p, n);
}

/* To rows of which each begins width numbers after the one before. */
static void reconstruct(struct dpq_codec *codec, const struct loop_unit *u, enum plane plane,
                        float *to, size_t width)
{
    uint32_t dim = codec->profile->geometry.head_dim;
    bool turned = !u->stream->is_orthogonal;
    int n = (int)dim;

    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        memcpy(to + t * width, u->stream->mean, dim * sizeof(float));
        if (u->reference >= REFERENCE_DEPTH_HEAD && loop_is_predicted(u, t))
            codec->kern.add(to + t * width, 1, dim, codec->p + (size_t)t * dim, 1);
    }
    /* the same product, but BLAS is faster where neither side is turned */
    cblas_sgemm(CblasRowMajor, CblasNoTrans, turned ? CblasTrans : CblasNoTrans, KERN_TOKENS, n, n,
                1, codec->rows[plane], n, turned ? u->stream->decode : u->stream->encode, n, 1, to,
                (int)width);
}

void loop_reconstruct(struct dpq_codec *codec, const struct loop_unit *u, enum plane plane)
{
    reconstruct(codec, u, plane, codec->x, codec->profile->geometry.head_dim);
}

static size_t below_width(const struct dpq_codec *codec)
{
    return (size_t)codec->profile->geometry.n_kv_heads * codec->profile->geometry.head_dim;
}

static float *kept(struct dpq_codec *codec, const struct loop_unit *u)
{
    return below(codec, u->layer, u->kind == DPQ_K ? 2 : 3) +
           (size_t)u->head * codec->profile->geometry.head_dim;
}

void loop_keep(struct dpq_codec *codec, const struct loop_unit *u, enum plane plane)
{
    reconstruct(codec, u, plane, kept(codec, u), below_width(codec));
}

void loop_recall(struct dpq_codec *codec, const struct loop_unit *u)
{
    uint32_t dim = codec->profile->geometry.head_dim;
    const float *from = kept(codec, u);

    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        memcpy(codec->x + (size_t)t * dim, from + t * below_width(codec), dim * sizeof(float));
}

void loop_deliver(struct dpq_codec *codec, const struct loop_unit *u, uint32_t first, uint32_t n,
                  uint32_t layer, const struct dpq_tensor *tensor, void *memory)
{
    const struct dpq_geometry *g = &codec->profile->geometry;
    struct kern_turn turn = { 0 };
    int64_t to = (int64_t)tensor->offset + layer * tensor->stride_layer +
                 u->kind * tensor->stride_kind + u->head * tensor->stride_head;

    if (u->kind == DPQ_K)
        turn = rope_turn(&codec->rope, g, first);
    codec->kern.give[tensor->dtype](codec->x + (size_t)first * g->head_dim, n, g->head_dim, &turn,
                                    (char *)memory + to, tensor->stride_token);
}
