#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/kv_cache.pb-c.h"

struct create_state {
    struct session_create op;
    struct rpc_call *call;
};

static void rpc_create_sequence_done(struct session_create *op)
{
    struct rpc_call *call = ((struct create_state *)op)->call;
    Deltapq__V1__CreateSequenceReply reply = DELTAPQ__V1__CREATE_SEQUENCE_REPLY__INIT;

    if (op->error.code == SESSION_OK) {
        reply.sequence_id = op->sequence_id;
        reply.n_tokens = op->n_tokens;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_fail(call, &op->error);
    }
    rpc_call_unref(call);
}

void rpc_create_sequence(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__CreateSequenceRequest *request = message;
    struct create_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return;
    state->op.tenant = call->tenant;
    state->op.client_id = request->client_id;
    state->op.keep_fine = request->keep_fine;
    state->op.keep_tokens = request->keep_tokens;
    state->op.done = rpc_create_sequence_done;
    if (rpc_check_prefix(&request->profile_id, request->rate, request->adapter, request->salt,
                         request->position_base, request->token_ids, request->n_token_ids,
                         &state->op.prefix, &state->op.error)) {
        rpc_call_fail(call, &state->op.error);
        return;
    }
    state->call = rpc_call_ref(call);
    session_create(call->server->options.session, &state->op);
}
