#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/kv_cache.pb-c.h"

struct delete_state {
    struct session_release op;
    struct rpc_call *call;
};

static void rpc_delete_done(struct session_release *op)
{
    struct rpc_call *call = ((struct delete_state *)op)->call;
    Deltapq__V1__DeleteReply reply = DELTAPQ__V1__DELETE_REPLY__INIT;

    if (op->error.code == SESSION_OK) {
        reply.freed_bytes = op->freed_bytes;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_fail(call, &op->error);
    }
    rpc_call_unref(call);
}

void rpc_delete(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__DeleteRequest *request = message;
    struct delete_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return;
    state->op.tenant = call->tenant;
    state->op.sequence_id = request->sequence_id;
    state->op.discard = DISCARD_PRIVATE_TILES;
    state->op.done = rpc_delete_done;
    state->call = rpc_call_ref(call);
    session_release(call->server->options.session, &state->op);
}
