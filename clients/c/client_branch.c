/* Sequences: fork, trim, forget, pin. */
#include "clients/c/client_call.h"
#include "deltapq/v1/kv_cache.pb-c.h"

int dpq_client_fork(struct dpq_client *client, uint64_t sequence_id, uint64_t n_tokens,
                    uint64_t fork_key, uint64_t *ret_sequence_id, uint64_t *ret_n_tokens,
                    struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__ForkRequest request = DELTAPQ__V1__FORK_REQUEST__INIT;
    const Deltapq__V1__ForkReply *reply;
    int r;

    request.sequence_id = sequence_id;
    request.n_tokens = n_tokens;
    request.fork_key = fork_key;
    r = client_call(client, "/deltapq.v1.KvCache/Fork", &request.base,
                    &deltapq__v1__fork_reply__descriptor, &message, ret_error);
    if (r)
        return r;
    reply = (const Deltapq__V1__ForkReply *)message;
    *ret_sequence_id = reply->sequence_id;
    if (ret_n_tokens)
        *ret_n_tokens = reply->n_tokens;
    return 0;
}

int dpq_client_trim(struct dpq_client *client, uint64_t sequence_id, uint64_t n_tokens,
                    struct dpq_client_trimmed *ret_trimmed, struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__TrimRequest request = DELTAPQ__V1__TRIM_REQUEST__INIT;
    const Deltapq__V1__TrimReply *reply;
    int r;

    request.sequence_id = sequence_id;
    request.n_tokens = n_tokens;
    r = client_call(client, "/deltapq.v1.KvCache/Trim", &request.base,
                    &deltapq__v1__trim_reply__descriptor, &message, ret_error);
    if (r)
        return r;
    reply = (const Deltapq__V1__TrimReply *)message;
    if (ret_trimmed)
        *ret_trimmed = (struct dpq_client_trimmed){
            .n_tokens = reply->n_tokens,
            .n_tile_tokens = reply->n_tile_tokens,
            .n_lossy_tokens = reply->n_lossy_tokens,
            .generation = reply->generation,
            .freed_bytes = reply->freed_bytes,
        };
    return 0;
}

int dpq_client_delete(struct dpq_client *client, uint64_t sequence_id, uint64_t *ret_freed_bytes,
                      struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__DeleteRequest request = DELTAPQ__V1__DELETE_REQUEST__INIT;
    int r;

    request.sequence_id = sequence_id;
    r = client_call(client, "/deltapq.v1.KvCache/Delete", &request.base,
                    &deltapq__v1__delete_reply__descriptor, &message, ret_error);
    if (!r && ret_freed_bytes)
        *ret_freed_bytes = ((const Deltapq__V1__DeleteReply *)message)->freed_bytes;
    return r;
}

int dpq_client_pin(struct dpq_client *client, uint64_t sequence_id, uint64_t ttl_ms,
                   uint64_t *ret_left_ms, struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__PinRequest request = DELTAPQ__V1__PIN_REQUEST__INIT;
    int r;

    request.sequence_id = sequence_id;
    request.ttl_ms = ttl_ms;
    r = client_call(client, "/deltapq.v1.KvCache/Pin", &request.base,
                    &deltapq__v1__pin_reply__descriptor, &message, ret_error);
    if (!r && ret_left_ms)
        *ret_left_ms = ((const Deltapq__V1__PinReply *)message)->left_ms;
    return r;
}

int dpq_client_unpin(struct dpq_client *client, uint64_t sequence_id, bool *ret_was_pinned,
                     struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__UnpinRequest request = DELTAPQ__V1__UNPIN_REQUEST__INIT;
    int r;

    request.sequence_id = sequence_id;
    r = client_call(client, "/deltapq.v1.KvCache/Unpin", &request.base,
                    &deltapq__v1__unpin_reply__descriptor, &message, ret_error);
    if (!r && ret_was_pinned)
        *ret_was_pinned = ((const Deltapq__V1__UnpinReply *)message)->was_pinned;
    return r;
}
