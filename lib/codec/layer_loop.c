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

/* A layer on its way to whoever asked for it. */
struct delivery {
    struct dpq_layer_loop *loop;
    struct dpq_codec *codec;
    const struct dpq_tensor *tensor;
    void *memory;
};

static void place(void *user, bool has_fine, struct encode_unit *u)
{
    struct delivery *d = user;

    u->base_panel = d->loop->base_panel;
    u->fine_panel = has_fine ? d->loop->fine_panel : NULL;
}

static void deliver(void *user, const struct encode_input *in, const struct encode_unit *u)
{
    const struct delivery *d = user;
    struct dpq_codec *c = d->codec;
    const struct dpq_geometry *g = &c->profile->geometry;
    const struct dpq_tensor *to = d->tensor;
    uint8_t row[DPQ_MAX_HEAD_DIM * sizeof(float)];
    float value[DPQ_MAX_HEAD_DIM];

    if (u->fine_panel || !in->is_reference) { /* else it has been kept */
        loop_decode_rows(c, &u->loop, u->base_panel, u->fine_panel, false);
        loop_reconstruct(c, &u->loop, u->fine_panel ? PLANE_FINE : PLANE_BASE);
    } else {
        loop_recall(c, &u->loop);
    }
    loop_deliver(c, &u->loop, 0, KERN_TOKENS, 0, to, d->memory);
    for (uint32_t type = 0; type < N_RAW_TYPES; type++)
        for (uint32_t t = 0; t < KERN_TOKENS; t++) {
            if (!encode_has_token(u->raw[type], t))
                continue;
            encode_raw_row(&c->kern, in->rows + t * in->row_bytes, in->dtype, g->head_dim,
                           (enum raw_type)type, row, value);
            rows_put(g, value, DPQ_F32, to, d->memory, 0, u->loop.kind, u->loop.head, t);
        }
}

/* The codec's own "below" makes room for the loop's while a layer is coded. */
static void swap_below(struct dpq_layer_loop *loop, struct dpq_codec *c)
{
    float *below = c->below;

    c->below = loop->below;
    loop->below = below;
}

int dpq_layer_loop_next(struct dpq_layer_loop *loop, struct dpq_codec *codec,
                        const struct dpq_tensor *from, const void *from_memory,
                        const struct dpq_tensor *to, void *to_memory, struct dpq_fault *ret_fault)
{
    struct dpq_geometry one = codec->profile->geometry;
    struct delivery delivery = { loop, codec, to, to_memory };
    struct encode_layer layer = {
        .layer = loop->layer,
        .rate = loop->rate,
        .dtype = from->dtype,
        .starts_sequence = !loop->first_index,
        .user = &delivery,
        .place = place,
        .take = deliver,
    };
    uint8_t *rows;
    int r;

    if (codec->profile != loop->profile || loop->layer >= one.n_layers)
        return fault_set(ret_fault, DPQ_E_INVALID, "layer %u: the profile has %u", loop->layer,
                         one.n_layers);
    one.n_layers = 1;
    layer.row_bytes = dpq_row_bytes(&one, from->dtype);
    layer.rows = rows = malloc(layer.row_bytes * KERN_TOKENS);
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
    encode_layer(codec, &layer);
    swap_below(loop, codec);
    loop->layer++;
    free(rows);
    return 0;
}
