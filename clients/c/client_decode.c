/*
 * Local decode: the join of dpq_reader_slot(), dpq_tile_decode() and dpq_reader_check()
 *
 * Each tile of the range is looked at, decoded straight from the arena into its place of the
 * caller's tensor, and then its slots are checked again: whatever the daemon did in between, what
 * was decoded came from the tile that was meant, or the whole is thrown away.
 */
#include <string.h>

#include "clients/c/client.h"

struct job {
    const struct dpq_client_decode_args *args;
    const struct dpq_reader *reader;
    const struct dpq_geometry *geometry;
    struct dpq_codec *codec;
    uint32_t n_layers;
    struct dpq_client_error *error;
};

static int gone(struct dpq_client_error *error)
{
    return client_error_set(error, DPQ_CLIENT_ABORTED, "GONE",
                            "a slot was given to something else: look up again");
}

static int wrong(struct dpq_client_error *error, const char *what)
{
    return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "CORRUPT", "%s", what);
}

static int look(const struct job *job, const struct dpq_slot_ref *ref, uint32_t kind,
                uint64_t first_index, struct dpq_slot_view *ret_view)
{
    struct dpq_slot_view view;
    int r;

    r = dpq_reader_slot(job->reader, ref, /* verify= */ true, &view);
    if (r == DPQ_E_GONE)
        return gone(job->error);
    if (r > 0)
        return wrong(job->error, "a slot of the arena does not match its checksum");
    if (r)
        return r;
    if (view.kind != kind || view.first_index != first_index)
        return wrong(job->error, "a slot of the arena holds something else than was looked up");
    *ret_view = view;
    return 0;
}

/* Where the range of one tile, or of the tail, goes: the caller's tensor, moved along the tokens.
 */
static struct dpq_tensor shifted(const struct job *job, uint64_t token)
{
    struct dpq_tensor tensor = job->args->tensor;

    /* inside memory: dpq_tensor_check() has seen the whole */
    tensor.offset += (token - job->args->first_token) * (uint64_t)tensor.stride_token;
    return tensor;
}

static int decode_tile(const struct job *job, size_t i, const struct dpq_range *range,
                       const struct dpq_tensor *tensor)
{
    const struct dpq_client_tile *tile = &job->args->found->tiles[i];
    bool use_fine = tile->has_fine && !job->args->base_only;
    struct dpq_slot_view base, fine = { 0 };
    struct dpq_fault fault = { 0 };
    int r;

    r = look(job, &tile->base, DPQ_SLOT_BASE, i * (uint64_t)DPQ_TILE_TOKENS, &base);
    if (!r && use_fine)
        r = look(job, &tile->fine, DPQ_SLOT_FINE, i * (uint64_t)DPQ_TILE_TOKENS, &fine);
    if (r)
        return r;
    r = dpq_tile_decode(job->codec, base.bytes, base.n_bytes, fine.bytes, fine.n_bytes, range,
                        tensor, job->args->memory, &fault);
    if (r < 0)
        return r;
    if (dpq_reader_check(job->reader, &tile->base) ||
        (use_fine && dpq_reader_check(job->reader, &tile->fine)))
        return gone(job->error);
    return r ? wrong(job->error, fault.message) : 0;
}

static int copy_tail(const struct job *job, const struct dpq_range *range,
                     const struct dpq_tensor *tensor)
{
    const struct dpq_client_found *found = job->args->found;
    struct dpq_slot_view view;
    uint64_t row_bytes;
    int r;

    r = look(job, &found->tail, DPQ_SLOT_TAIL, found->n_tile_tokens, &view);
    if (r)
        return r;
    row_bytes = view.dtype <= DPQ_BF16 ? dpq_row_bytes(job->geometry, view.dtype) : 0;
    if (!row_bytes || view.n_bytes != view.n_tokens * row_bytes ||
        view.n_tokens < range->first_token + range->n_tokens)
        return wrong(job->error, "the raw tail in the arena has another size");
    dpq_rows_scatter(job->geometry, view.bytes, view.dtype, range, tensor, job->args->memory);
    return dpq_reader_check(job->reader, &found->tail) ? gone(job->error) : 0;
}

static int decode_range(const struct job *job)
{
    const struct dpq_client_decode_args *args = job->args;
    uint64_t end = args->first_token + args->n_tokens;
    uint64_t tile_end = args->found->n_tile_tokens;
    int r = 0;

    for (uint64_t at = args->first_token; at < end && !r;) {
        uint64_t part = at < tile_end ? at - at % DPQ_TILE_TOKENS : tile_end;
        uint64_t part_end = part + DPQ_TILE_TOKENS < end ? part + DPQ_TILE_TOKENS : end;
        struct dpq_range range = { .first_layer = args->first_layer,
                                   .n_layers = job->n_layers,
                                   .first_token = (uint32_t)(at - part),
                                   .n_tokens = (uint32_t)(part_end - at) };
        struct dpq_tensor tensor = shifted(job, at);

        if (at < tile_end)
            r = decode_tile(job, part / DPQ_TILE_TOKENS, &range, &tensor);
        else
            r = copy_tail(job, &range, &tensor);
        at = part_end;
    }
    return r;
}

/* What was found must be consistent before anything is indexed by it. */
static int judge(struct job *job, const struct dpq_client *client)
{
    const struct dpq_client_decode_args *args = job->args;
    const struct dpq_client_found *found = args->found;
    struct dpq_fault fault = { 0 };

    if (!client->reader)
        return client_error_set(job->error, DPQ_CLIENT_FAILED_PRECONDITION, "ATTACHED",
                                "attach before anything is decoded");
    if (found->epoch != client->epoch)
        return client_error_set(job->error, DPQ_CLIENT_ABORTED, "GONE",
                                "the daemon has another arena now: attach anew");
    if (found->n_tile_tokens != found->n_tiles * (uint64_t)DPQ_TILE_TOKENS ||
        found->n_tokens < found->n_tile_tokens ||
        found->n_tokens - found->n_tile_tokens > DPQ_TILE_TOKENS ||
        (found->n_tokens > found->n_tile_tokens && !found->has_tail))
        return client_error_set(job->error, DPQ_CLIENT_INVALID_ARGUMENT, "FOUND",
                                "this was not looked up with slots");
    if (args->n_tokens > found->n_tokens || args->first_token > found->n_tokens - args->n_tokens ||
        args->n_tokens > UINT32_MAX)
        return client_error_set(job->error, DPQ_CLIENT_OUT_OF_RANGE, "TOKEN_RANGE",
                                "tokens %llu and %llu more are not all among the %llu found",
                                (unsigned long long)args->first_token,
                                (unsigned long long)args->n_tokens,
                                (unsigned long long)found->n_tokens);
    if (args->first_layer >= job->geometry->n_layers ||
        args->n_layers > job->geometry->n_layers - args->first_layer)
        return client_error_set(job->error, DPQ_CLIENT_OUT_OF_RANGE, "LAYER_RANGE",
                                "layers %u and %u more are not all among the %u there are",
                                args->first_layer, args->n_layers, job->geometry->n_layers);
    job->n_layers = args->n_layers ? args->n_layers : job->geometry->n_layers - args->first_layer;
    if (dpq_tensor_check(&args->tensor, job->geometry, job->n_layers, (uint32_t)args->n_tokens,
                         args->n_bytes, &fault))
        return client_error_set(job->error, DPQ_CLIENT_INVALID_ARGUMENT, "TENSOR", "%s",
                                fault.message);
    return 0;
}

int dpq_client_decode(struct dpq_client *client, const struct dpq_client_decode_args *args,
                      struct dpq_client_error *ret_error)
{
    struct job job = { .args = args, .reader = client->reader, .error = ret_error };
    const struct dpq_profile *profile;
    int r;

    r = dpq_client_profile(client, args->profile_id, &profile, ret_error);
    if (r)
        return r;
    job.geometry = dpq_profile_geometry(profile);
    r = judge(&job, client);
    if (r)
        return r;
    r = dpq_codec_new(profile, ~0u, &job.codec);
    if (r)
        return r;
    r = decode_range(&job);
    dpq_codec_free(job.codec);
    return r;
}
