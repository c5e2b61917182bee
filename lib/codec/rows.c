/*
 * Canonical rows: [token][layer][kind][head][dim]
 *
 * Gathering copies a head vector at a time and then judges the copy: the source may be shared
 * memory that its owner still writes. A number is finite when its exponent is not all ones.
 */

#include <string.h>

#include "lib/base/half.h"
#include "lib/codec/codec.h"
#include "lib/codec/fault.h"
#include "lib/deltapq.h"

static int64_t element_offset(const struct dpq_tensor *t, uint32_t layer, uint32_t kind,
                              uint32_t head, uint32_t token)
{
    return (int64_t)t->offset + layer * t->stride_layer + kind * t->stride_kind +
           head * t->stride_head + token * t->stride_token;
}

static bool finite_32(const uint8_t *bytes, size_t n)
{
    uint32_t bad = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t u;

        memcpy(&u, bytes + 4 * i, 4);
        bad |= (u & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

static bool finite_16(const uint8_t *bytes, size_t n, uint16_t exponent)
{
    uint16_t bad = 0;

    for (size_t i = 0; i < n; i++) {
        uint16_t u;

        memcpy(&u, bytes + 2 * i, 2);
        bad |= (u & exponent) == exponent;
    }
    return !bad;
}

bool rows_finite(const void *bytes, size_t n, uint32_t dtype)
{
    if (dtype == DPQ_F32)
        return finite_32(bytes, n);
    return finite_16(bytes, n, dtype == DPQ_F16 ? 0x7c00 : 0x7f80);
}

int dpq_rows_gather(const struct dpq_geometry *g, const struct dpq_tensor *tensor,
                    const void *memory, uint32_t n_tokens, void *rows, struct dpq_fault *ret_fault)
{
    size_t row_bytes = dpq_row_bytes(g, tensor->dtype);
    size_t head_bytes = g->head_dim * dpq_dtype_bytes(tensor->dtype);

    for (uint32_t layer = 0; layer < g->n_layers; layer++)
        for (uint32_t kind = 0; kind < 2; kind++)
            for (uint32_t head = 0; head < g->n_kv_heads; head++) {
                uint8_t *to = (uint8_t *)rows + dpq_stream_index(g, layer, kind, head) * head_bytes;

                for (uint32_t t = 0; t < n_tokens; t++, to += row_bytes) {
                    memcpy(to, (const char *)memory + element_offset(tensor, layer, kind, head, t),
                           head_bytes);
                    if (!rows_finite(to, g->head_dim, tensor->dtype))
                        return fault_set_at(ret_fault, DPQ_E_NOT_FINITE, (int32_t)layer,
                                            (int32_t)kind, (int32_t)head, t,
                                            "NaN or Inf in %c of layer %u, head %u, token %u",
                                            kind ? 'V' : 'K', layer, head, t);
                }
            }
    return 0;
}

/* One head vector from one dtype to another. Only finite values come here. */
static void convert(const uint8_t *from, uint32_t from_dtype, uint8_t *to, uint32_t to_dtype,
                    size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        float f;

        if (from_dtype == DPQ_F32) {
            memcpy(&f, from + 4 * i, 4);
        } else {
            memcpy(&h, from + 2 * i, 2);
            f = from_dtype == DPQ_F16 ? f32_from_f16(h) : f32_from_bf16(h);
        }
        if (to_dtype == DPQ_F32) {
            memcpy(to + 4 * i, &f, 4);
        } else {
            h = to_dtype == DPQ_F16 ? f16_from_f32(f) : bf16_from_f32(f);
            memcpy(to + 2 * i, &h, 2);
        }
    }
}

void rows_put(const struct dpq_geometry *g, const void *vector, uint32_t dtype,
              const struct dpq_tensor *tensor, void *memory, uint32_t layer, uint32_t kind,
              uint32_t head, uint32_t token)
{
    uint8_t *to = (uint8_t *)memory + element_offset(tensor, layer, kind, head, token);

    if (dtype == tensor->dtype)
        memcpy(to, vector, g->head_dim * dpq_dtype_bytes(dtype));
    else
        convert(vector, dtype, to, tensor->dtype, g->head_dim);
}

void dpq_rows_scatter(const struct dpq_geometry *g, const void *rows, uint32_t dtype,
                      const struct dpq_range *range, const struct dpq_tensor *tensor, void *memory)
{
    size_t row_bytes = dpq_row_bytes(g, dtype), head_bytes = g->head_dim * dpq_dtype_bytes(dtype);

    for (uint32_t layer = 0; layer < range->n_layers; layer++)
        for (uint32_t kind = 0; kind < 2; kind++)
            for (uint32_t head = 0; head < g->n_kv_heads; head++) {
                const uint8_t *from =
                    (const uint8_t *)rows + range->first_token * row_bytes +
                    dpq_stream_index(g, range->first_layer + layer, kind, head) * head_bytes;

                for (uint32_t t = 0; t < range->n_tokens; t++, from += row_bytes)
                    rows_put(g, from, dtype, tensor, memory, layer, kind, head, t);
            }
}
