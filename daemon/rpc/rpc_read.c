#include <stdlib.h>

#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_message.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/kv_cache.pb-c.h"

struct read_state {
    struct session_read op;
    struct rpc_call *call;
    void *inline_bytes; /* owned; where an inline reply's numbers go */
};

enum {
    INLINE_DATA = 1,            /* the field's number in ReadReply */
    INLINE_ENVELOPE_BYTES = 64, /* the others, at most */
};

void rpc_read_deinit(void *argument)
{
    struct read_state *state = argument;

    free(state->inline_bytes);
}

static void rpc_read_done(struct session_read *op)
{
    struct read_state *state = (struct read_state *)op;
    struct rpc_call *call = state->call;
    Deltapq__V1__ReadReply reply = DELTAPQ__V1__READ_REPLY__INIT;

    reply.generation = op->generation;
    reply.n_dropped_tokens = op->n_dropped_tokens;
    reply.n_coded_tokens = op->n_coded_tokens;
    if (op->error.code != SESSION_OK)
        rpc_call_fail(call, &op->error);
    else if (state->inline_bytes)
        rpc_call_reply_buffer(call, rpc_message_pack_with(&reply.base, INLINE_DATA,
                                                          steal_ptr(state->inline_bytes),
                                                          op->to.n_inline_bytes));
    else
        rpc_call_reply(call, &reply.base);
    rpc_call_unref(call);
}

/* Zeroed: what lies between the elements is sent, too. */
static int make_inline(struct rpc_call *call, struct read_state *state)
{
    struct session_read *op = &state->op;
    uint64_t n_bytes = 0;

    if (session_read_size(call->server->options.session, op, &n_bytes)) {
        rpc_call_fail(call, &op->error);
        return 1;
    }
    if (n_bytes > SESSION_MAX_INLINE_BYTES) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "INLINE_SIZE",
                        "the reply would have %llu bytes: %d are possible, more goes through "
                        "staging",
                        (unsigned long long)n_bytes, SESSION_MAX_INLINE_BYTES);
        return 1;
    }
    if (n_bytes == 0)
        return 0;
    if (rpc_call_hold(call, n_bytes + INLINE_ENVELOPE_BYTES))
        return 1;
    state->inline_bytes = calloc(1, n_bytes);
    if (!state->inline_bytes) {
        rpc_call_no_memory(call);
        return 1;
    }
    op->to.inline_bytes = state->inline_bytes;
    op->to.n_inline_bytes = n_bytes;
    return 0;
}

void rpc_read(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__ReadRequest *request = message;
    struct read_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return;
    state->op = (struct session_read){ .tenant = call->tenant,
                                       .sequence_id = request->sequence_id,
                                       .first_token = request->first_token,
                                       .n_tokens = request->n_tokens,
                                       .first_layer = request->first_layer,
                                       .n_layers = request->n_layers,
                                       .base_only = request->base_only,
                                       .done = rpc_read_done };
    if (rpc_check_numbers(request->tensor, request->client_id, NULL, &state->op.to,
                          &state->op.error)) {
        rpc_call_fail(call, &state->op.error);
        return;
    }
    if (!request->client_id && make_inline(call, state))
        return;
    state->call = rpc_call_ref(call);
    session_read(call->server->options.session, &state->op);
}
