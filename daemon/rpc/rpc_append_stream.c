/*
 * KvCache.AppendStream: one request at a time
 *
 *     request -> appended and committed -> reply -> taken by the transport -> the next request -> …
 *     -> half-close -> OK
 *
 * A bidirectional stream, not one answer at the end: a client need not keep what was acknowledged,
 * and after a broken connection it knows nearly where to go on. What it sends ahead waits in the
 * transport, whose window is small; here is one request. One that has been taken is appended even
 * if the client goes away meanwhile: nobody hears of it, but whoever asks where the sequence ends.
 */
#include "daemon/rpc/rpc_append.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/session_stream.h"

struct append_stream_state {
    union { /* first, see the two done() */
        struct session_append append;
        struct session_length length;
    };
    struct rpc_call *call;
    uint64_t sequence_id; /* the first request's */
};

static void answer(struct rpc_call *call, const struct session_error *error,
                   const Deltapq__V1__AppendReply *reply)
{
    if (error->code == SESSION_OK)
        rpc_call_send(call, &reply->base);
    else
        rpc_call_fail(call, error);
    rpc_call_unref(call);
}

static void rpc_append_stream_done(struct session_append *op)
{
    struct append_stream_state *state = (struct append_stream_state *)(void *)op;
    Deltapq__V1__AppendReply reply = rpc_append_reply(op);

    answer(state->call, &op->error, &reply);
}

static void rpc_append_stream_length(struct session_length *op)
{
    struct append_stream_state *state = (struct append_stream_state *)(void *)op;
    Deltapq__V1__AppendReply reply = DELTAPQ__V1__APPEND_REPLY__INIT;

    reply.n_tokens = op->n_tokens;
    reply.n_tile_tokens = op->n_tile_tokens;
    reply.generation = op->generation;
    answer(state->call, &op->error, &reply);
}

static int check(struct rpc_call *call, struct append_stream_state *state,
                 const Deltapq__V1__AppendRequest *request)
{
    if (!state->sequence_id)
        state->sequence_id = request->sequence_id;
    if (request->sequence_id && request->sequence_id != state->sequence_id) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "SEQUENCE",
                        "sequence_id %llu: the stream began with %llu, and has one sequence only",
                        (unsigned long long)request->sequence_id,
                        (unsigned long long)state->sequence_id);
        return 1;
    }
    if (request->client_id) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "CLIENT",
                        "client_id is %llu: a stream's numbers are inline",
                        (unsigned long long)request->client_id);
        return 1;
    }
    return 0;
}

void rpc_append_stream(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__AppendRequest *request = message;
    struct session *session = call->server->options.session;
    struct append_stream_state *state = call->state;

    if (!state)
        state = rpc_call_state(call, sizeof(*state));
    if (!state || check(call, state, request))
        return;
    state->call = call;
    if (request->n_tokens == 0) {
        state->length = (struct session_length){ .tenant = call->tenant,
                                                 .sequence_id = state->sequence_id,
                                                 .done = rpc_append_stream_length };
        rpc_call_ref(call);
        session_length(session, &state->length);
        return;
    }
    state->append =
        (struct session_append){ .tenant = call->tenant, .done = rpc_append_stream_done };
    if (rpc_append_fill(&state->append, request)) {
        rpc_call_fail(call, &state->append.error);
        return;
    }
    state->append.sequence_id = state->sequence_id;
    rpc_call_ref(call);
    session_append(session, &state->append);
}
