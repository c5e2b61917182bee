#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/kv_cache.pb-c.h"

struct release_state {
    struct session_release op;
    struct rpc_call *call;
};

static void rpc_release_done(struct session_release *op)
{
    struct rpc_call *call = ((struct release_state *)op)->call;
    Deltapq__V1__ReleaseReply reply = DELTAPQ__V1__RELEASE_REPLY__INIT;

    if (op->error.code == SESSION_OK) {
        reply.freed_bytes = op->freed_bytes;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_fail(call, &op->error);
    }
    rpc_call_unref(call);
}

void rpc_release(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__ReleaseRequest *request = message;
    struct release_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return;
    state->op.tenant = call->tenant;
    state->op.sequence_id = request->sequence_id;
    state->op.discard = request->discard ? DISCARD_TILES : DISCARD_NOTHING;
    state->op.done = rpc_release_done;
    state->call = rpc_call_ref(call);
    session_release(call->server->options.session, &state->op);
}
