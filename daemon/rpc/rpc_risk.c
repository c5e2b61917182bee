#include <stdlib.h>

#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/session_risk.h"
#include "deltapq/v1/monitor.pb-c.h"

struct risk_state {
    struct rpc_work work;
    struct session_risk op;
};

void rpc_risk_deinit(void *argument)
{
    struct risk_state *state = argument;

    free(state->op.cells);
}

static void fill_counts(const struct monitor_counts *counts, Deltapq__V1__Risk *reply)
{
    reply->green = counts->n_streams[RISK_GREEN];
    reply->yellow = counts->n_streams[RISK_YELLOW];
    reply->red = counts->n_streams[RISK_RED];
    reply->yellow_entries = counts->yellow_entries;
    reply->red_entries = counts->red_entries;
    reply->resets = counts->resets;
    reply->tiles_dropped = counts->tiles_dropped;
    reply->sequences_untracked = counts->sequences_untracked;
}

static void reply_with(struct rpc_call *call, const struct session_risk *op)
{
    Deltapq__V1__Risk reply = DELTAPQ__V1__RISK__INIT;
    Deltapq__V1__RiskCell *cells = calloc(op->n_cells + 1, sizeof(*cells));
    Deltapq__V1__RiskCell **pointers = calloc(op->n_cells + 1, sizeof(Deltapq__V1__RiskCell *));

    if (cells && pointers) {
        for (uint32_t i = 0; i < op->n_cells; i++) {
            cells[i] = (Deltapq__V1__RiskCell)DELTAPQ__V1__RISK_CELL__INIT;
            cells[i].zone = (Deltapq__V1__Zone)op->cells[i].zone;
            cells[i].mu = op->cells[i].mu;
            cells[i].cause = (Deltapq__V1__RiskCause)op->cells[i].cause;
            cells[i].sequence_id = op->cells[i].sequence_id;
            cells[i].first_token = op->cells[i].first_token;
            pointers[i] = &cells[i];
        }
        fill_counts(&op->counts, &reply);
        reply.n_kv_heads = op->n_kv_heads;
        reply.n_layers = op->n_kv_heads ? op->n_cells / (2 * op->n_kv_heads) : 0;
        reply.n_sequences = op->n_sequences;
        reply.n_streams = op->n_cells;
        reply.streams = pointers;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_no_memory(call);
    }
    free(cells);
    free(pointers);
}

static void risk(struct rpc_call *call)
{
    struct risk_state *state = call->state;

    session_risk(call->server->options.session, &state->op);
    if (state->op.error.code == SESSION_OK)
        reply_with(call, &state->op);
    else
        rpc_call_fail(call, &state->op.error);
}

void rpc_risk(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__GetRiskRequest *request = message;
    struct risk_state *state = rpc_call_state(call, sizeof(*state));
    struct session_error error;

    if (!state)
        return;
    if (request->profile_id.len) {
        state->op.has_profile = true;
        if (rpc_check_profile_id(&request->profile_id, state->op.profile_id, &error)) {
            rpc_call_fail(call, &error);
            return;
        }
    }
    state->op.tenant = call->tenant;
    state->op.is_fresh = true;
    state->op.sequence_id = request->sequence_id;
    rpc_call_work(call, &state->work, risk);
}
