#include "lib/codec/encode_unit.h"

/* Whether the stream's fine plane is missed, now that its base plane is known. */
static bool is_missed(const struct dpq_codec *codec, const struct tile_watch *watch,
                      const struct encode_input *in, const struct encode_unit *u)
{
    struct tile_energies energies;

    encode_energy(codec, in, u, &energies);
    return watch->measured(watch->user, u->loop.index, &energies) && !u->fine_panel;
}

/* Again, with both planes. The base plane's codes are the same, and with them what was measured:
 * no code depends on finer ones; in a full stream those above do, which come later. */
static void encode_finer(struct dpq_codec *codec, const struct encode_layer *layer,
                         struct encode_input *in, struct encode_unit *u)
{
    in->verdict.keeps_fine = 1;
    layer->place(layer->user, true, u);
    encode_unit(codec, in, u);
}

void encode_layer(struct dpq_codec *codec, const struct encode_layer *layer)
{
    const struct dpq_geometry *g = &codec->profile->geometry;
    size_t head_bytes = g->head_dim * dpq_dtype_bytes(layer->dtype);
    struct encode_unit u = { .loop.layer = layer->layer };
    struct encode_input in = {
        .rows = layer->rows,
        .row_bytes = layer->row_bytes,
        .dtype = layer->dtype,
        .is_reference = codec->below,
    };

    in.is_measured = layer->watch && layer->watch->measured;
    if (layer->starts_sequence)
        in.n_sink = encode_sink_run(codec, layer->rows + g->n_kv_heads * head_bytes,
                                    layer->row_bytes, layer->dtype);
    for (u.loop.kind = 0; u.loop.kind < 2; u.loop.kind++)
        for (u.loop.head = 0; u.loop.head < g->n_kv_heads; u.loop.head++) {
            u.loop.index = dpq_stream_index(g, layer->layer, u.loop.kind, u.loop.head);
            u.loop.stream = &codec->profile->streams[u.loop.index];
            in.verdict = encode_verdict(layer->watch, u.loop.stream, u.loop.index, layer->rate);
            in.group_log2 = codec->profile->group_log2;
            if (in.verdict.group_log2 && in.verdict.group_log2 < in.group_log2)
                in.group_log2 = in.verdict.group_log2;
            u.loop.reference =
                in.verdict.mode >= TILE_VERDICT_INTRA ? REFERENCE_NONE : u.loop.stream->reference;
            layer->place(layer->user, encode_keeps_fine(u.loop.stream, layer->rate, in.verdict),
                         &u);
            encode_unit(codec, &in, &u);
            if (in.is_measured && is_missed(codec, layer->watch, &in, &u))
                encode_finer(codec, layer, &in, &u);
            layer->take(layer->user, &in, &u);
            in.rows += head_bytes;
        }
}
