#include "daemon/rpc/rpc_append.h"

#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"

struct append_state {
    struct session_append op;
    struct rpc_call *call;
};

Deltapq__V1__AppendReply rpc_append_reply(const struct session_append *op)
{
    Deltapq__V1__AppendReply reply = DELTAPQ__V1__APPEND_REPLY__INIT;

    reply.n_tokens = op->n_total_tokens;
    reply.n_shared_tokens = op->n_shared_tokens;
    reply.n_tile_tokens = op->n_tile_tokens;
    reply.generation = op->generation;
    return reply;
}

static void rpc_append_done(struct session_append *op)
{
    struct rpc_call *call = ((struct append_state *)op)->call;
    Deltapq__V1__AppendReply reply = rpc_append_reply(op);

    if (op->error.code == SESSION_OK)
        rpc_call_reply(call, &reply.base);
    else
        rpc_call_fail(call, &op->error);
    rpc_call_unref(call);
}

int rpc_append_fill(struct session_append *op, const Deltapq__V1__AppendRequest *request)
{
    op->sequence_id = request->sequence_id;
    op->first_token = request->first_token;
    op->n_tokens = request->n_tokens;
    op->token_ids = request->token_ids; /* the call keeps the request */
    op->n_token_ids = request->n_token_ids;
    if (op->n_tokens == 0) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "LIMIT",
                          "n_tokens is 0: 1 at least");
        return 1;
    }
    if (op->n_token_ids && op->n_token_ids != op->n_tokens) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "TOKEN_IDS",
                          "%zu token ids for %u tokens: give one each, or none", op->n_token_ids,
                          op->n_tokens);
        return 1;
    }
    return rpc_check_numbers(request->tensor, request->client_id, &request->inline_data, &op->from,
                             &op->error);
}

void rpc_append(struct rpc_call *call, const void *message)
{
    struct append_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return;
    state->op.tenant = call->tenant;
    state->op.done = rpc_append_done;
    if (rpc_append_fill(&state->op, message)) {
        rpc_call_fail(call, &state->op.error);
        return;
    }
    state->call = rpc_call_ref(call);
    session_append(call->server->options.session, &state->op);
}
