#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/session_verbs.h"
#include "deltapq/v1/kv_cache.pb-c.h"

struct fork_state {
    struct session_fork op;
    struct rpc_call *call;
};

static void rpc_fork_done(struct session_fork *op)
{
    struct rpc_call *call = ((struct fork_state *)op)->call;
    Deltapq__V1__ForkReply reply = DELTAPQ__V1__FORK_REPLY__INIT;

    if (op->error.code == SESSION_OK) {
        reply.sequence_id = op->fork_id;
        reply.n_tokens = op->n_total_tokens;
        reply.n_tile_tokens = op->n_tile_tokens;
        reply.n_lossy_tokens = op->n_lossy_tokens;
        reply.generation = op->generation;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_fail(call, &op->error);
    }
    rpc_call_unref(call);
}

void rpc_fork(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__ForkRequest *request = message;
    struct fork_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return;
    state->op.tenant = call->tenant;
    state->op.sequence_id = request->sequence_id;
    state->op.n_tokens = request->n_tokens;
    state->op.fork_key = request->fork_key;
    state->op.done = rpc_fork_done;
    state->call = rpc_call_ref(call);
    session_fork(call->server->options.session, &state->op);
}
