/*
 * A tile's layers coded one by one, for judging a codec while a model computes: attention wants the
 * coded keys and values of a layer before the layers above exist. The same functions in the same
 * order as in dpq_tile_encode() and dpq_tile_decode(), hence the same numbers.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/encode_unit.h"
#include "lib/codec/fault.h"

struct dpq_layer_loop {
    const struct dpq_profile *profile;
    uint64_t first_position, first_index;
    uint32_t rate, layer;
    float *below; /* as struct dpq_codec has it, between two layers; NULL without depth */
    uint8_t base_panel[DPQ_MAX_HEAD_DIM / 2 * KERN_LINE],
        fine_panel[DPQ_MAX_HEAD_DIM / 2 * KERN_LINE];
};

struct dpq_layer_loop *dpq_layer_loop_free(struct dpq_layer_loop *loop)
{
    if (!loop)
        return NULL;
    free(loop->below);
    free(loop);
    return NULL;
}

int dpq_layer_loop_new(const struct dpq_codec *codec, uint64_t first_position, uint64_t first_index,
                       uint32_t rate, struct dpq_layer_loop **ret_loop)
{
    const struct dpq_geometry *g = &codec->profile->geometry;
    struct dpq_layer_loop *loop;

    if (rate > DPQ_RATE_COMPACT || first_index % KERN_TOKENS)
        return DPQ_E_INVALID;
    loop = calloc(1, sizeof(*loop));
    if (loop && codec->below)
        loop->below = calloc(4 * (size_t)KERN_TOKENS * g->n_kv_heads * g->head_dim, sizeof(float));
    if (!loop || (codec->below && !loop->below)) {
        dpq_layer_loop_free(loop);
        return error_origin(-ENOMEM);
    }
    loop->profile = codec->profile;
    loop->first_position = first_position;
    loop->first_index = first_index;
    loop->rate = rate;
    *ret_loop = loop;
    return 0;
}

static void deliver(struct dpq_codec *c, const struct encode_input *in, const struct encode_unit *u,
                    const struct dpq_tensor *to, void *memory)
{
    const struct dpq_geometry *g = &c->profile->geometry;
    int64_t at =
        (int64_t)to->offset + u->loop.kind * to->stride_kind + u->loop.head * to->stride_head;
    uint8_t row[DPQ_MAX_HEAD_DIM * sizeof(float)];
    float value[DPQ_MAX_HEAD_DIM];

    loop_reconstruct(c, &u->loop, u->fine_panel ? c->y_fine : c->y_base);
    if (u->loop.kind == DPQ_K)
        rope_apply(&c->kern, g, &c->rope, c->x, KERN_TOKENS);
    c->kern.store[to->dtype](c->x, KERN_TOKENS, g->head_dim, (char *)memory + at, to->stride_token);
    for (uint32_t type = 0; type < N_RAW_TYPES; type++)
        for (uint32_t t = 0; t < KERN_TOKENS; t++) {
            if (!encode_has_token(u->raw[type], t))
                continue;
            encode_raw_row(&c->kern, in->rows + t * in->row_bytes, in->dtype, g->head_dim,
                           (enum raw_type)type, row, value);
            rows_put(g, value, DPQ_F32, to, memory, 0, u->loop.kind, u->loop.head, t);
        }
}

static void code_layer(struct dpq_layer_loop *loop, struct dpq_codec *c, const uint8_t *rows,
                       uint32_t dtype, const struct dpq_tensor *to, void *memory)
{
    const struct dpq_geometry *g = &c->profile->geometry;
    size_t head_bytes = g->head_dim * dpq_dtype_bytes(dtype);
    struct encode_unit u = { .loop.layer = loop->layer, .base_panel = loop->base_panel };
    struct encode_input in = {
        .row_bytes = 2 * g->n_kv_heads * head_bytes,
        .dtype = dtype,
        .group_log2 = c->profile->group_log2,
        .keeps_base = c->below,
    };

    if (!loop->first_index)
        in.n_sink = encode_sink_run(c, rows + g->n_kv_heads * head_bytes, in.row_bytes, dtype);

    for (u.loop.kind = 0; u.loop.kind < 2; u.loop.kind++)
        for (u.loop.head = 0; u.loop.head < g->n_kv_heads; u.loop.head++) {
            u.loop.index = dpq_stream_index(g, loop->layer, u.loop.kind, u.loop.head);
            u.loop.stream = &c->profile->streams[u.loop.index];
            u.loop.reference = u.loop.stream->reference;
            u.fine_panel = u.loop.stream->fine_rates >> loop->rate & 1 ? loop->fine_panel : NULL;
            in.rows = rows + (u.loop.kind * g->n_kv_heads + u.loop.head) * head_bytes;
            encode_unit(c, &in, &u);
            deliver(c, &in, &u, to, memory);
        }
    if (c->below)
        loop_next_layer(c);
}

/* The codec's own "below" makes room for the loop's while a layer is coded. */
static void swap_below(struct dpq_layer_loop *loop, struct dpq_codec *c)
{
    const struct dpq_geometry *g = &c->profile->geometry;
    float *below = c->below;

    c->below = loop->below;
    loop->below = below;
    if (c->below)
        c->next_values = c->below + 3 * (size_t)KERN_TOKENS * g->n_kv_heads * g->head_dim;
}

int dpq_layer_loop_next(struct dpq_layer_loop *loop, struct dpq_codec *codec,
                        const struct dpq_tensor *from, const void *from_memory,
                        const struct dpq_tensor *to, void *to_memory, struct dpq_fault *ret_fault)
{
    struct dpq_geometry one = codec->profile->geometry;
    uint8_t *rows;
    int r;

    if (codec->profile != loop->profile || loop->layer >= one.n_layers)
        return fault_set(ret_fault, DPQ_E_INVALID, "layer %u: the profile has %u", loop->layer,
                         one.n_layers);
    one.n_layers = 1;
    rows = malloc(dpq_row_bytes(&one, from->dtype) * KERN_TOKENS);
    if (!rows)
        return error_origin(-ENOMEM);
    r = dpq_rows_gather(&one, from, from_memory, KERN_TOKENS, rows, ret_fault);
    if (r) {
        if (ret_fault)
            ret_fault->layer = (int32_t)loop->layer;
        free(rows);
        return r;
    }
    codec_rope(codec, loop->first_position);
    swap_below(loop, codec);
    code_layer(loop, codec, rows, from->dtype, to, to_memory);
    swap_below(loop, codec);
    loop->layer++;
    free(rows);
    return 0;
}
