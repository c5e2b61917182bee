#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/session_verbs.h"
#include "deltapq/v1/kv_cache.pb-c.h"

struct pin_state {
    struct session_pin op;
    struct rpc_call *call;
};

static void rpc_pin_done(struct session_pin *op)
{
    struct rpc_call *call = ((struct pin_state *)op)->call;
    Deltapq__V1__PinReply reply = DELTAPQ__V1__PIN_REPLY__INIT;

    if (op->error.code == SESSION_OK) {
        reply.left_ms = op->left_ms;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_fail(call, &op->error);
    }
    rpc_call_unref(call);
}

void rpc_pin(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__PinRequest *request = message;
    struct pin_state *state;

    if (!request->ttl_ms) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "TTL", "ttl_ms 0 is not in 1 ... %d",
                        SESSION_MAX_PIN_MS);
        return;
    }
    state = rpc_call_state(call, sizeof(*state));
    if (!state)
        return;
    state->op.tenant = call->tenant;
    state->op.sequence_id = request->sequence_id;
    state->op.ttl_ms = request->ttl_ms;
    state->op.done = rpc_pin_done;
    state->call = rpc_call_ref(call);
    session_pin(call->server->options.session, &state->op);
}
