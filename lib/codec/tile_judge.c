/*
 * A tile from elsewhere, before it is kept
 *
 * Its structure is judged by tile_view_set(), as before each decode. Beyond that it has to be the
 * tile of its place, since nobody asks it again, and to hold nothing that an append would refuse.
 */
#include "lib/codec/tile_judge.h"

#include <math.h>
#include <string.h>

#include "lib/codec/codec.h"
#include "lib/codec/fault.h"
#include "lib/codec/tile_file.h"

static bool is_finite_row(const struct tile_view *v, uint8_t type, const uint8_t *row)
{
    float scale;

    if (type != RAW_INT8)
        return rows_finite(row, v->header.head_dim, type == RAW_F16 ? DPQ_F16 : v->header.dtype);
    memcpy(&scale, row, sizeof(scale));
    return isfinite(scale * (float)INT8_MIN);
}

static int check_raw(const struct dpq_geometry *g, const struct tile_view *v, uint32_t stream,
                     const struct tile_raw_view *raw, struct dpq_fault *fault)
{
    uint32_t layer = stream / (2 * g->n_kv_heads), kind = stream / g->n_kv_heads % 2;
    const uint8_t *row = v->base + raw->rows;

    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        if (!(raw->tokens[t / 64] >> t % 64 & 1))
            continue;
        if (!is_finite_row(v, raw->type, row))
            return fault_set_at(fault, DPQ_E_NOT_FINITE, (int32_t)layer, (int32_t)kind,
                                (int32_t)(stream % g->n_kv_heads), t,
                                "a raw row of the tile has a NaN or Inf");
        row += raw_row_bytes(raw->type, v->header.head_dim, v->header.dtype);
    }
    return 0;
}

int tile_judge(struct dpq_codec *codec, const void *base, size_t n_base, const void *fine,
               size_t n_fine, uint64_t first_position, uint64_t first_index, uint32_t rate,
               struct dpq_fault *ret_fault)
{
    const struct dpq_profile *profile = codec->profile;
    struct tile_view *v = codec->view;
    int r = tile_view_set(v, profile, base, n_base, fine, n_fine, ret_fault);

    if (r)
        return r;
    if (v->header.first_position != first_position || v->header.first_index != first_index)
        return fault_set(ret_fault, DPQ_E_MISMATCH,
                         "the tile is of token %llu at position %llu, not of token %llu at %llu",
                         (unsigned long long)v->header.first_index,
                         (unsigned long long)v->header.first_position,
                         (unsigned long long)first_index, (unsigned long long)first_position);
    if (v->header.rate != rate)
        return fault_set(ret_fault, DPQ_E_MISMATCH, "the tile's rate is %u, not %u", v->header.rate,
                         rate);
    for (uint32_t stream = 0; stream < profile->n_streams && !r; stream++)
        for (uint32_t i = v->first_raw[stream]; i < v->first_raw[stream + 1] && !r; i++)
            r = check_raw(&profile->geometry, v, stream, &v->raw[i], ret_fault);
    return r;
}
