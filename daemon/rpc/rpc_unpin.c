#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/session_verbs.h"
#include "deltapq/v1/kv_cache.pb-c.h"

struct unpin_state {
    struct session_pin op;
    struct rpc_call *call;
};

static void rpc_unpin_done(struct session_pin *op)
{
    struct rpc_call *call = ((struct unpin_state *)op)->call;
    Deltapq__V1__UnpinReply reply = DELTAPQ__V1__UNPIN_REPLY__INIT;

    if (op->error.code == SESSION_OK) {
        reply.was_pinned = op->was_pinned;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_fail(call, &op->error);
    }
    rpc_call_unref(call);
}

void rpc_unpin(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__UnpinRequest *request = message;
    struct unpin_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return;
    state->op.tenant = call->tenant;
    state->op.sequence_id = request->sequence_id;
    state->op.done = rpc_unpin_done;
    state->call = rpc_call_ref(call);
    session_pin(call->server->options.session, &state->op);
}
