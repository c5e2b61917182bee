/*
 * KvCache.Import: one request at a time
 *
 *     data -> its records are judged and stored -> reply -> the next data … -> half-close:
 * complete?
 */
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/session_transfer.h"
#include "deltapq/v1/kv_cache.pb-c.h"

struct import_state {
    struct session_import_data op; /* first, see rpc_import_done() */
    struct rpc_call *call;
    struct session_import *import;
    uint64_t n_bytes;
};

void rpc_import_deinit(void *argument)
{
    struct import_state *state = argument;

    session_import_free(state->import);
}

static void rpc_import_done(struct session_import_data *op)
{
    struct import_state *state = (struct import_state *)op;
    struct rpc_call *call = state->call;
    Deltapq__V1__ImportReply reply = DELTAPQ__V1__IMPORT_REPLY__INIT;

    state->n_bytes += op->n_bytes;
    reply.n_tokens = op->n_tokens;
    reply.n_shared_tokens = op->n_shared_tokens;
    reply.sequence_id = op->sequence_id;
    reply.n_bytes = state->n_bytes;
    if (op->error.code == SESSION_OK)
        rpc_call_send(call, &reply.base);
    else
        rpc_call_fail(call, &op->error);
    rpc_call_unref(call);
}

void rpc_import_end(struct rpc_call *call)
{
    struct import_state *state = call->state;
    struct session_error error;

    if (!state)
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "IMPORT_CUT", "there were no data");
    else if (session_import_end(state->import, &error))
        rpc_call_fail(call, &error);
    else
        rpc_call_reply(call, NULL);
}

static struct import_state *begin(struct rpc_call *call)
{
    struct import_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return NULL;
    state->call = call;
    state->import = session_import_new(call->server->options.session, call->tenant);
    if (state->import)
        return state;
    rpc_call_no_memory(call);
    return NULL;
}

void rpc_import(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__ImportRequest *request = message;
    struct import_state *state = call->state ? call->state : begin(call);

    if (!state)
        return;
    if (request->data.len > SESSION_MAX_INLINE_BYTES) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "INLINE_SIZE",
                        "data has %zu bytes: %d are possible, and any number of requests",
                        request->data.len, SESSION_MAX_INLINE_BYTES);
        return;
    }
    state->op = (struct session_import_data){ .bytes = request->data.data,
                                              .n_bytes = request->data.len,
                                              .done = rpc_import_done };
    rpc_call_ref(call);
    session_import_data(state->import, &state->op);
}
