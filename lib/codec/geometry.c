/*
 * Geometry and tensors from outside, judged
 *
 * A tensor is a base offset and four strides. Its lowest and highest touched byte are found by
 * taking, per axis, stride * (count - 1) where the stride is negative, or positive, in 128-bit
 * arithmetic: no sum of four such products can overflow it.
 */

#include <math.h>

#include "lib/codec/fault.h"
#include "lib/deltapq.h"

static bool head_dim_known(uint32_t d)
{
    return d == 32 || d == 64 || d == 80 || d == 96 || d == 128 || d == 256;
}

static int check_rope(const struct dpq_geometry *g, struct dpq_fault *ret_fault)
{
    if (g->rope_pairing > DPQ_ROPE_INTERLEAVED)
        return fault_set(ret_fault, DPQ_E_INVALID, "rope_pairing %u is not 0, 1 or 2",
                         g->rope_pairing);
    if (g->rotary_dim % 2 || g->rotary_dim > g->head_dim)
        return fault_set(ret_fault, DPQ_E_INVALID,
                         "rotary_dim %u is not an even number up to head_dim %u", g->rotary_dim,
                         g->head_dim);
    if (g->rope_pairing != DPQ_ROPE_NONE && !g->rotary_dim)
        return fault_set(ret_fault, DPQ_E_INVALID, "rotary_dim is 0 although there is a pairing");
    if (!isfinite(g->attention_scaling) || g->attention_scaling < 1e-3f ||
        g->attention_scaling > 1e3f)
        return fault_set(ret_fault, DPQ_E_INVALID, "attention_scaling is not within 0.001 … 1000");
    for (uint32_t i = 0; i < g->rotary_dim / 2; i++)
        if (!isfinite(g->inv_freq[i]) || fabsf(g->inv_freq[i]) > 1e3f)
            return fault_set(ret_fault, DPQ_E_INVALID, "inv_freq[%u] is not within -1000 … 1000",
                             i);
    for (uint32_t i = g->rotary_dim / 2; i < ARRAY_SIZE(g->inv_freq); i++)
        if (g->inv_freq[i] != 0)
            return fault_set(ret_fault, DPQ_E_INVALID,
                             "inv_freq[%u] is not 0 although rotary_dim is %u", i, g->rotary_dim);
    return 0;
}

int dpq_geometry_check(const struct dpq_geometry *g, struct dpq_fault *ret_fault)
{
    if (!g->n_layers || g->n_layers > DPQ_MAX_LAYERS)
        return fault_set(ret_fault, DPQ_E_INVALID, "n_layers %u is not within 1 … %d", g->n_layers,
                         DPQ_MAX_LAYERS);
    if (!g->n_kv_heads || g->n_kv_heads > DPQ_MAX_KV_HEADS)
        return fault_set(ret_fault, DPQ_E_INVALID, "n_kv_heads %u is not within 1 … %d",
                         g->n_kv_heads, DPQ_MAX_KV_HEADS);
    if (g->n_layers * 2 * g->n_kv_heads > DPQ_MAX_STREAMS)
        return fault_set(ret_fault, DPQ_E_INVALID,
                         "%u layers of %u KV heads are more than %d streams", g->n_layers,
                         g->n_kv_heads, DPQ_MAX_STREAMS);
    if (!g->n_q_heads || g->n_q_heads % g->n_kv_heads)
        return fault_set(ret_fault, DPQ_E_INVALID,
                         "n_q_heads %u is not a multiple of n_kv_heads %u", g->n_q_heads,
                         g->n_kv_heads);
    if (!head_dim_known(g->head_dim))
        return fault_set(ret_fault, DPQ_E_INVALID,
                         "head_dim %u is not one of 32, 64, 80, 96, 128, 256", g->head_dim);
    if (g->n_sink > DPQ_TILE_TOKENS)
        return fault_set(ret_fault, DPQ_E_INVALID, "n_sink %u is not within 0 … %d", g->n_sink,
                         DPQ_TILE_TOKENS);
    return check_rope(g, ret_fault);
}

struct extent {
    __int128 low, high;
};

/* For messages only: a number of 128 bits, cut to 64. */
static long long shown(__int128 x)
{
    return x < INT64_MIN ? INT64_MIN : x > INT64_MAX ? INT64_MAX : (long long)x;
}

static void reach(struct extent *e, int64_t stride, uint32_t count)
{
    __int128 far = (__int128)stride * (count - 1);

    if (far < 0)
        e->low += far;
    else
        e->high += far;
}

int dpq_tensor_check(const struct dpq_tensor *t, const struct dpq_geometry *g, uint32_t n_layers,
                     uint32_t n_tokens, uint64_t n_bytes, struct dpq_fault *ret_fault)
{
    const int64_t strides[] = { t->stride_layer, t->stride_kind, t->stride_head, t->stride_token };
    static const char *const NAMES[] = { "layer", "kind", "head", "token" };
    size_t element = dpq_dtype_bytes(t->dtype);
    struct extent e = { t->offset, t->offset };

    if (!element)
        return fault_set(ret_fault, DPQ_E_INVALID, "dtype %u is not 0, 1 or 2", t->dtype);
    if (t->offset % element)
        return fault_set(ret_fault, DPQ_E_INVALID,
                         "offset %llu is not a multiple of the element size %zu",
                         (unsigned long long)t->offset, element);
    for (size_t i = 0; i < ARRAY_SIZE(strides); i++)
        if (strides[i] % (int64_t)element)
            return fault_set(ret_fault, DPQ_E_INVALID,
                             "stride_%s %lld is not a multiple of the element size %zu", NAMES[i],
                             (long long)strides[i], element);
    if (!n_layers || !n_tokens)
        return 0;
    reach(&e, t->stride_layer, n_layers);
    reach(&e, t->stride_kind, 2);
    reach(&e, t->stride_head, g->n_kv_heads);
    reach(&e, t->stride_token, n_tokens);
    e.high += (__int128)element * g->head_dim;
    if (e.low < 0 || e.high > n_bytes)
        return fault_set(ret_fault, DPQ_E_INVALID,
                         "the tensor reaches from byte %lld to %lld, outside the %llu bytes given",
                         shown(e.low), shown(e.high), (unsigned long long)n_bytes);
    return 0;
}

size_t dpq_row_bytes(const struct dpq_geometry *g, uint32_t dtype)
{
    return (size_t)g->n_layers * 2 * g->n_kv_heads * g->head_dim * dpq_dtype_bytes(dtype);
}
