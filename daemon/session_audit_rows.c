/*
 * The audit, told: a profile's section as rows with names and sentences, and a summary
 *
 * The section came with a file that anybody may have installed: it is judged as a whole by lib/risk
 * before anything of it is believed.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session_internal.h"
#include "lib/base/error.h"
#include "lib/risk/risk_audit.h"

_Static_assert((int)RISK_N_REFERENCES == SESSION_AUDIT_CANDIDATES, "one column each");
_Static_assert((int)RISK_AUDIT_TEXT_BYTES <= SESSION_AUDIT_TEXT_BYTES, "sentences fit");

/* --- rows --------------------------------------------------------------------------------------
 */

static void fill_candidate(const struct risk_audit_entry *entry, uint32_t reference,
                           struct session_audit_candidate *ret)
{
    static const char *const TIERS[RISK_N_SHAPE_TIERS] = { "unknown", "kNN", "proxy", "direct" };

    *ret = (struct session_audit_candidate){
        .reference = risk_audit_reference_name(reference),
        .n_tokens = entry->n_tokens,
        .is_predicted = entry->flags & RISK_AUDIT_PREDICTED,
        .is_looped = entry->flags & RISK_AUDIT_CERTIFIED,
        .is_compared = entry->flags & RISK_AUDIT_COMPARED,
        .has_fine = entry->flags & RISK_AUDIT_FINE,
        .is_certified = risk_audit_is_certified(entry),
        .tier = entry->flags ? TIERS[entry->tier < RISK_N_SHAPE_TIERS ? entry->tier : 0] : "",
        .residual_ratio = entry->residual_ratio,
        .domination = entry->domination,
        .predicted_bits = entry->predicted_bits,
        .ln_eta = entry->ln_eta,
        .eta_u = entry->eta_u,
        .loop_gain = entry->loop_gain,
        .kappa_plus = entry->kappa_plus,
        .kappa_l_plus = entry->kappa_l_plus,
        .margin = entry->margin,
        .error_base = entry->error_base,
        .error_fine = entry->error_fine,
        .measured_bits = entry->measured_bits,
        .energy = entry->energy,
        .moment_ratio = entry->moment_ratio,
    };
}

static void fill_row(const struct risk_audit_row *row, struct session_audit_row *ret)
{
    static const char *const REASONS[RISK_N_REASONS] = { "UNKNOWN", "FORCED",   "BEST",
                                                         "NO_GAIN", "UNSTABLE", "COST" };

    ret->layer = row->layer;
    ret->kind = row->kind;
    ret->head = row->head;
    ret->reference = risk_audit_reference_name(row->reference);
    ret->reason = REASONS[row->reason];
    risk_audit_reason_text(row, ret->text);
    for (uint32_t i = 0; i < RISK_N_REFERENCES; i++)
        fill_candidate(&row->entry[i], i, &ret->candidates[i]);
}

/* --- the summary -------------------------------------------------------------------------------
 */

static void add_row(const struct risk_audit_row *row, struct session_audit_summary *sum)
{
    const struct risk_audit_entry *chosen = &row->entry[row->reference];
    const struct risk_audit_entry *delta = &row->entry[RISK_REFERENCE_DELTA];

    sum->n_chosen[row->reference]++;
    if (row->reference != RISK_REFERENCE_NONE) {
        sum->measured_bits += (double)chosen->measured_bits;
        sum->predicted_bits += (double)chosen->predicted_bits;
    }
    for (int i = 1; i < RISK_N_REFERENCES; i++) {
        const struct risk_audit_entry *e = &row->entry[i];

        if (!(e->flags & RISK_AUDIT_COMPARED) || !(e->flags & RISK_AUDIT_PREDICTED))
            continue;
        sum->prediction_error += fabs((double)e->predicted_bits - (double)e->measured_bits);
        sum->n_compared++;
    }
    if (delta->flags & RISK_AUDIT_COMPARED) {
        sum->n_delta++;
        sum->delta_bits += (double)delta->measured_bits;
        sum->n_delta_loses += delta->measured_bits < 0;
        sum->n_delta_foretold += delta->measured_bits < 0 && delta->predicted_bits < 0;
    }
}

static void summary_text(struct session_audit_summary *sum)
{
    size_t n = 0;

    for (int i = 0; i < SESSION_AUDIT_CANDIDATES; i++)
        if (sum->n_chosen[i])
            n += (size_t)snprintf(sum->text + n, sizeof(sum->text) - n, "%s%s for %u",
                                  n ? ", " : "", sum->names[i], sum->n_chosen[i]);
    n += (size_t)snprintf(sum->text + n, sizeof(sum->text) - n, " of %u streams", sum->n_streams);
    if (sum->n_chosen[RISK_REFERENCE_NONE] < sum->n_streams)
        n += (size_t)snprintf(sum->text + n, sizeof(sum->text) - n,
                              "; references gain %.2f bits a number over all streams, predicted "
                              "%.2f",
                              sum->measured_bits, sum->predicted_bits);
    if (sum->n_delta)
        snprintf(
            sum->text + n, sizeof(sum->text) - n,
            "; temporal a=1 would %s %.2f bits: worse than none for %u of %u streams, foretold "
            "for %u of these",
            sum->delta_bits < 0 ? "lose" : "gain", fabs(sum->delta_bits), sum->n_delta_loses,
            sum->n_delta, sum->n_delta_foretold);
}

static void summarize(const struct risk_audit_row *rows, size_t n_rows,
                      struct session_audit_summary *ret)
{
    *ret = (struct session_audit_summary){ .n_streams = (uint32_t)n_rows };
    for (uint32_t i = 0; i < RISK_N_REFERENCES; i++)
        ret->names[i] = risk_audit_reference_name(i);
    for (size_t i = 0; i < n_rows; i++)
        add_row(&rows[i], ret);
    if (n_rows) {
        ret->measured_bits /= (double)n_rows;
        ret->predicted_bits /= (double)n_rows;
    }
    if (ret->n_compared)
        ret->prediction_error /= ret->n_compared;
    if (ret->n_delta)
        ret->delta_bits /= ret->n_delta;
    summary_text(ret);
}

/* --- the request -------------------------------------------------------------------------------
 */

/* The rows of a section, malloc'ed. 0; 1 with the error set. */
static int parse(const void *bytes, size_t n_bytes, struct risk_audit_row **ret_rows,
                 size_t *ret_n_rows, struct session_error *ret_error)
{
    size_t max_rows = n_bytes / (risk_audit_bytes(1) - risk_audit_bytes(0)) + 1;
    struct risk_audit_row *rows = malloc(max_rows * sizeof(*rows));
    int r;

    if (!rows) {
        session_error_fault(ret_error, error_origin(-ENOMEM), "Audit");
        return 1;
    }
    r = risk_audit_parse(bytes, n_bytes, max_rows, rows, ret_n_rows);
    if (r) {
        free(rows);
        session_error_set(ret_error, SESSION_FAILED_PRECONDITION,
                          r == RISK_AUDIT_E_VERSION ? "AUDIT_VERSION" : "AUDIT_CORRUPT",
                          r == RISK_AUDIT_E_VERSION
                              ? "the profile's audit is of a version that this daemon can't read"
                              : "the profile's audit is damaged: it is not used for anything else");
        return 1;
    }
    *ret_rows = rows;
    return 0;
}

static int find_section(const struct profile_entry *entry, const void **ret_bytes,
                        size_t *ret_n_bytes, struct session_error *ret_error)
{
    if (!entry) {
        session_error_set(ret_error, SESSION_NOT_FOUND, "PROFILE",
                          "profile_id names no installed profile");
        return 1;
    }
    *ret_bytes = dpq_profile_audit(entry->profile, ret_n_bytes);
    if (!*ret_bytes || !*ret_n_bytes) {
        session_error_set(
            ret_error, SESSION_NOT_FOUND, "NO_AUDIT",
            "the profile has no audit: it was not learned by a daemon that makes one");
        return 1;
    }
    return 0;
}

static int fill_rows(const struct risk_audit_row *rows, size_t n_rows, struct session_audit *op)
{
    size_t n = op->max_rows && op->max_rows < SESSION_AUDIT_MAX_ROWS ? op->max_rows
                                                                     : SESSION_AUDIT_MAX_ROWS;

    if (op->first_row > n_rows) {
        session_error_set(&op->error, SESSION_OUT_OF_RANGE, "ROW",
                          "first_row %u is past the end: the audit has %zu rows", op->first_row,
                          n_rows);
        return 1;
    }
    if (n > n_rows - op->first_row)
        n = n_rows - op->first_row;
    op->rows = calloc(n + 1, sizeof(*op->rows));
    if (!op->rows) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Audit");
        return 1;
    }
    for (size_t i = 0; i < n; i++)
        fill_row(&rows[op->first_row + i], &op->rows[i]);
    op->n_rows = n;
    return 0;
}

void session_audit(struct session *session, struct session_audit *op)
{
    struct risk_audit_row *rows = NULL;
    struct profile_entry *entry = profile_get(session, op->profile_id);
    const void *bytes;
    size_t n_bytes, n_rows;
    int r;

    session_error_clear(&op->error);
    r = find_section(entry, &bytes, &n_bytes, &op->error);
    if (!r)
        r = parse(bytes, n_bytes, &rows, &n_rows, &op->error);
    profile_put(session, entry);
    if (!r && !fill_rows(rows, n_rows, op))
        summarize(rows, n_rows, &op->summary);
    free(rows);
}
