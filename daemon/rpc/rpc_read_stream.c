/*
 * KvCache.ReadStream: one chunk at a time
 *
 *     pinned -> a chunk is decoded (a job) -> sent -> taken by the transport -> the next … -> OK
 *
 * No chunk is made before the last one has been taken, so a client that does not read holds one,
 * and what the transport's window lets it have.
 */
#include <stdlib.h>

#include "daemon/rpc/rpc_message.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/session_stream.h"
#include "deltapq/v1/kv_cache.pb-c.h"

enum { INLINE_DATA = 7 }; /* the field's number in ReadStreamReply */

struct read_stream_state {
    struct session_chunk chunk; /* first, see rpc_read_stream_done() */
    struct rpc_call *call;
    struct session_read_stream *stream;
    uint64_t generation;
};

void rpc_read_stream_deinit(void *argument)
{
    struct read_stream_state *state = argument;

    session_read_close(state->stream);
}

static void rpc_read_stream_done(struct session_chunk *chunk)
{
    struct read_stream_state *state = (struct read_stream_state *)chunk;
    struct rpc_call *call = state->call;
    Deltapq__V1__ReadStreamReply reply = DELTAPQ__V1__READ_STREAM_REPLY__INIT;

    reply.first_token = chunk->first_token;
    reply.n_tokens = chunk->n_tokens;
    reply.first_layer = chunk->first_layer;
    reply.n_layers = chunk->n_layers;
    reply.is_coded = chunk->is_coded;
    reply.is_dropped = chunk->is_dropped;
    reply.generation = state->generation;
    if (chunk->error.code == SESSION_OK)
        rpc_call_send_buffer(
            call, rpc_message_pack_with(&reply.base, INLINE_DATA, chunk->bytes, chunk->n_bytes));
    else
        rpc_call_fail(call, &chunk->error);
    rpc_call_unref(call);
}

void rpc_read_stream_sent(struct rpc_call *call)
{
    struct read_stream_state *state = call->state;

    rpc_call_ref(call);
    if (!session_read_next(state->stream, &state->chunk))
        return;
    rpc_call_reply(call, NULL);
    rpc_call_unref(call);
}

void rpc_read_stream(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__ReadStreamRequest *request = message;
    struct read_stream_state *state = rpc_call_state(call, sizeof(*state));
    struct session_read_open open = { .tenant = call->tenant,
                                      .sequence_id = request->sequence_id,
                                      .first_token = request->first_token,
                                      .n_tokens = request->n_tokens,
                                      .first_layer = request->first_layer,
                                      .n_layers = request->n_layers,
                                      .dtype = (uint32_t)request->dtype,
                                      .base_only = request->base_only,
                                      .max_chunk_bytes = request->max_chunk_bytes };

    if (!state)
        return;
    state->call = call;
    state->chunk.done = rpc_read_stream_done;
    if (session_read_open(call->server->options.session, &open, &state->stream)) {
        rpc_call_fail(call, &open.error);
        return;
    }
    state->generation = open.generation;
    rpc_read_stream_sent(call);
}
