/* Sequences: begin, append, read, release. */
#include <string.h>

#include "clients/c/client_call.h"
#include "deltapq/v1/kv_cache.pb-c.h"

static Deltapq__V1__TensorDesc describe(const struct dpq_tensor *t)
{
    Deltapq__V1__TensorDesc d = DELTAPQ__V1__TENSOR_DESC__INIT;

    d.dtype = (Deltapq__V1__Dtype)t->dtype;
    d.offset = t->offset;
    d.stride_layer = t->stride_layer;
    d.stride_kind = t->stride_kind;
    d.stride_head = t->stride_head;
    d.stride_token = t->stride_token;
    return d;
}

static int no_staging(struct dpq_client_error *error)
{
    return client_error_set(error, DPQ_CLIENT_FAILED_PRECONDITION, "STAGING",
                            "there is no staging segment: attach with one, or give inline bytes");
}

int dpq_client_create_sequence(struct dpq_client *client, const struct dpq_client_prefix *prefix,
                               uint64_t *ret_sequence_id, uint64_t *ret_n_tokens,
                               struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__CreateSequenceRequest request = DELTAPQ__V1__CREATE_SEQUENCE_REQUEST__INIT;
    const Deltapq__V1__CreateSequenceReply *reply;
    int r;

    request.profile_id = client_data(prefix->profile_id, DPQ_DIGEST_BYTES);
    request.client_id = client->id;
    request.rate = (Deltapq__V1__Rate)prefix->rate;
    request.adapter = client_text(prefix->adapter);
    request.salt = client_text(prefix->salt);
    request.position_base = prefix->position_base;
    request.n_token_ids = prefix->n_token_ids;
    request.token_ids = (uint32_t *)(uintptr_t)prefix->token_ids;
    r = client_call(client, "/deltapq.v1.KvCache/CreateSequence", &request.base,
                    &deltapq__v1__create_sequence_reply__descriptor, &message, ret_error);
    if (r)
        return r;
    reply = (const Deltapq__V1__CreateSequenceReply *)message;
    *ret_sequence_id = reply->sequence_id;
    if (ret_n_tokens)
        *ret_n_tokens = reply->n_tokens;
    return 0;
}

int dpq_client_append(struct dpq_client *client, const struct dpq_client_append_args *args,
                      struct dpq_client_appended *ret_appended, struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__AppendRequest request = DELTAPQ__V1__APPEND_REQUEST__INIT;
    Deltapq__V1__TensorDesc tensor = describe(&args->tensor);
    const Deltapq__V1__AppendReply *reply;
    int r;

    if (!args->inline_bytes && !client->staging)
        return no_staging(ret_error);
    request.sequence_id = args->sequence_id;
    request.first_token = args->first_token;
    request.n_tokens = args->n_tokens;
    request.n_token_ids = args->token_ids ? args->n_tokens : 0;
    request.token_ids = (uint32_t *)(uintptr_t)args->token_ids;
    request.tensor = &tensor;
    if (args->inline_bytes)
        request.inline_data = client_data(args->inline_bytes, args->n_inline_bytes);
    else
        request.client_id = client->id;
    r = client_call(client, "/deltapq.v1.KvCache/Append", &request.base,
                    &deltapq__v1__append_reply__descriptor, &message, ret_error);
    if (r)
        return r;
    reply = (const Deltapq__V1__AppendReply *)message;
    if (ret_appended)
        *ret_appended = (struct dpq_client_appended){
            .n_tokens = reply->n_tokens,
            .n_shared_tokens = reply->n_shared_tokens,
            .n_tile_tokens = reply->n_tile_tokens,
            .generation = reply->generation,
        };
    return 0;
}

static int take_inline(const ProtobufCBinaryData *data, const struct dpq_client_read_args *args,
                       struct dpq_client_error *error)
{
    if (data->len > args->n_inline_bytes)
        return client_error_set(error, DPQ_CLIENT_OUT_OF_RANGE, "INLINE_BYTES",
                                "the reply has %zu bytes; there is room for %zu", data->len,
                                args->n_inline_bytes);
    if (data->len)
        memcpy(args->inline_bytes, data->data, data->len);
    return 0;
}

int dpq_client_read(struct dpq_client *client, const struct dpq_client_read_args *args,
                    struct dpq_client_was_read *ret_read, struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__ReadRequest request = DELTAPQ__V1__READ_REQUEST__INIT;
    Deltapq__V1__TensorDesc tensor = describe(&args->tensor);
    const Deltapq__V1__ReadReply *reply;
    int r;

    if (!args->inline_bytes && !client->staging)
        return no_staging(ret_error);
    request.sequence_id = args->sequence_id;
    request.first_token = args->first_token;
    request.n_tokens = args->n_tokens;
    request.first_layer = args->first_layer;
    request.n_layers = args->n_layers;
    request.tensor = &tensor;
    request.client_id = args->inline_bytes ? 0 : client->id;
    request.base_only = args->base_only;
    r = client_call(client, "/deltapq.v1.KvCache/Read", &request.base,
                    &deltapq__v1__read_reply__descriptor, &message, ret_error);
    if (r)
        return r;
    reply = (const Deltapq__V1__ReadReply *)message;
    if (args->inline_bytes) {
        r = take_inline(&reply->inline_data, args, ret_error);
        if (r)
            return r;
    }
    if (ret_read)
        *ret_read = (struct dpq_client_was_read){
            .generation = reply->generation,
            .n_coded_tokens = reply->n_coded_tokens,
            .n_dropped_tokens = reply->n_dropped_tokens,
        };
    return 0;
}

int dpq_client_release(struct dpq_client *client, uint64_t sequence_id, bool discard,
                       uint64_t *ret_freed_bytes, struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__ReleaseRequest request = DELTAPQ__V1__RELEASE_REQUEST__INIT;
    int r;

    request.sequence_id = sequence_id;
    request.discard = discard;
    r = client_call(client, "/deltapq.v1.KvCache/Release", &request.base,
                    &deltapq__v1__release_reply__descriptor, &message, ret_error);
    if (!r && ret_freed_bytes)
        *ret_freed_bytes = ((const Deltapq__V1__ReleaseReply *)message)->freed_bytes;
    return r;
}
