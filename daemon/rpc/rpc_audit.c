#include <stdlib.h>

#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/profiles.pb-c.h"

enum { N = SESSION_AUDIT_CANDIDATES };

struct audit_state {
    struct rpc_work work;
    struct session_audit op;
};

/* A row and what it consists of. */
struct row {
    Deltapq__V1__AuditRow row;
    Deltapq__V1__AuditCandidate candidates[N];
    Deltapq__V1__AuditCandidate *pointers[N];
};

void rpc_audit_deinit(void *argument)
{
    struct audit_state *state = argument;

    free(state->op.rows);
}

/* --- the reply -------------------------------------------------------------------------------- */

static void fill_candidate(const struct session_audit_candidate *from,
                           Deltapq__V1__AuditCandidate *to)
{
    *to = (Deltapq__V1__AuditCandidate)DELTAPQ__V1__AUDIT_CANDIDATE__INIT;
    to->reference = (char *)from->reference;
    to->n_tokens = from->n_tokens;
    to->is_predicted = from->is_predicted;
    to->tier = (char *)from->tier;
    to->residual_ratio = from->residual_ratio;
    to->domination = from->domination;
    to->predicted_bits = from->predicted_bits;
    to->ln_eta = from->ln_eta;
    to->eta_u = from->eta_u;
    to->energy = from->energy;
    to->moment_ratio = from->moment_ratio;
    to->is_looped = from->is_looped;
    to->is_certified = from->is_certified;
    to->loop_gain = from->loop_gain;
    to->kappa_plus = from->kappa_plus;
    to->kappa_l_plus = from->kappa_l_plus;
    to->margin = from->margin;
    to->error_base = from->error_base;
    to->has_fine = from->has_fine;
    to->error_fine = from->error_fine;
    to->is_compared = from->is_compared;
    to->measured_bits = from->measured_bits;
}

static void fill_row(const struct session_audit_row *from, struct row *to)
{
    to->row = (Deltapq__V1__AuditRow)DELTAPQ__V1__AUDIT_ROW__INIT;
    to->row.layer = from->layer;
    to->row.kind = from->kind;
    to->row.head = from->head;
    to->row.reference = (char *)from->reference;
    to->row.reason = (char *)from->reason;
    to->row.text = (char *)from->text;
    for (int i = 0; i < N; i++) {
        if (!from->candidates[i].n_tokens)
            continue;
        fill_candidate(&from->candidates[i], &to->candidates[i]);
        to->pointers[to->row.n_candidates++] = &to->candidates[i];
    }
    to->row.candidates = to->pointers;
}

static void fill_summary(const struct session_audit_summary *from, Deltapq__V1__AuditSummary *to,
                         Deltapq__V1__AuditCount counts[N], Deltapq__V1__AuditCount *pointers[N])
{
    for (int i = 0; i < N; i++) {
        counts[i] = (Deltapq__V1__AuditCount)DELTAPQ__V1__AUDIT_COUNT__INIT;
        counts[i].reference = (char *)from->names[i];
        counts[i].n_streams = from->n_chosen[i];
        pointers[i] = &counts[i];
    }
    to->n_streams = from->n_streams;
    to->n_chosen = N;
    to->chosen = pointers;
    to->measured_bits = from->measured_bits;
    to->predicted_bits = from->predicted_bits;
    to->prediction_error = from->prediction_error;
    to->n_delta = from->n_delta;
    to->n_delta_loses = from->n_delta_loses;
    to->n_delta_foretold = from->n_delta_foretold;
    to->delta_bits = from->delta_bits;
    to->text = (char *)from->text;
}

static void reply_with(struct rpc_call *call, const struct session_audit *op)
{
    Deltapq__V1__AuditReply reply = DELTAPQ__V1__AUDIT_REPLY__INIT;
    Deltapq__V1__AuditSummary summary = DELTAPQ__V1__AUDIT_SUMMARY__INIT;
    Deltapq__V1__AuditCount counts[N], *pointers[N];
    Deltapq__V1__AuditRow **rows = calloc(op->n_rows + 1, sizeof(*rows));
    struct row *storage = calloc(op->n_rows + 1, sizeof(*storage));

    if (rows && storage) {
        for (size_t i = 0; i < op->n_rows; i++) {
            fill_row(&op->rows[i], &storage[i]);
            rows[i] = &storage[i].row;
        }
        fill_summary(&op->summary, &summary, counts, pointers);
        reply.n_rows = op->n_rows;
        reply.rows = rows;
        reply.n_all_rows = op->summary.n_streams;
        reply.summary = &summary;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_no_memory(call);
    }
    free(rows);
    free(storage);
}

/* --- the request ------------------------------------------------------------------------------ */

static void audit(struct rpc_call *call)
{
    struct audit_state *state = call->state;

    session_audit(call->server->options.session, &state->op);
    if (state->op.error.code == SESSION_OK)
        reply_with(call, &state->op);
    else
        rpc_call_fail(call, &state->op.error);
}

void rpc_audit(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__AuditRequest *request = message;
    struct audit_state *state = rpc_call_state(call, sizeof(*state));
    struct session_error error;

    if (!state)
        return;
    if (rpc_check_profile_id(&request->profile_id, state->op.profile_id, &error)) {
        rpc_call_fail(call, &error);
        return;
    }
    state->op.first_row = request->first_row;
    state->op.max_rows = request->max_rows;
    rpc_call_work(call, &state->work, audit);
}
