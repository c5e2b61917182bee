/*
 * The audit, while a profile is learned
 *
 * The trainer shows each candidate for each stream once, on whatever thread tried it; it is
 * measured there and then, because its arrays are gone afterwards. In the end the trainer says what
 * it chose. The audit compares that with what it would have chosen itself, to find the reason, and
 * writes all into a section of the profile.
 *
 * Candidates are measured with codebooks of little effort, which are fair to each other; the chosen
 * one's errors are then replaced by those of its final codebooks, which are what a cache will have.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/session_internal.h"
#include "lib/base/error.h"
#include "lib/risk/risk_audit.h"

enum { N_BASE_WORDS = 16 };

struct audit {
    struct dpq_geometry geometry;
    bool is_limited;
    bool failed;                 /* atomic: no memory for a measurement */
    struct risk_audit_row *rows; /* all streams, by (layer, kind, head) */
    size_t n_rows;
};

int audit_new(const struct dpq_geometry *geometry, bool is_limited, struct audit **ret_audit)
{
    struct audit *audit = calloc(1, sizeof(*audit));

    if (!audit)
        return error_origin(-ENOMEM);
    audit->geometry = *geometry;
    audit->is_limited = is_limited;
    audit->n_rows = (size_t)geometry->n_layers * 2 * geometry->n_kv_heads;
    audit->rows = calloc(audit->n_rows, sizeof(*audit->rows));
    if (!audit->rows) {
        free(audit);
        return error_origin(-ENOMEM);
    }
    *ret_audit = audit;
    return 0;
}

struct audit *audit_free(struct audit *audit)
{
    if (audit)
        free(audit->rows);
    free(audit);
    return NULL;
}

static struct risk_audit_row *row_of(struct audit *audit, uint32_t layer, uint32_t kind,
                                     uint32_t head)
{
    return &audit->rows[((size_t)layer * 2 + kind) * audit->geometry.n_kv_heads + head];
}

/* Rows of one stream are touched for different candidates at once: each has an entry of its own. */
static void measure(void *user, const struct dpq_candidate_view *view)
{
    struct audit *audit = user;
    const struct risk_audit_budget budget = RISK_AUDIT_BUDGET;
    const struct risk_audit_input input = {
        .reference = view->candidate,
        .head_dim = view->head_dim,
        .dsub = view->dsub,
        .n_words = N_BASE_WORDS,
        .n_tokens = view->n_tokens,
        .x = view->x,
        .d = view->candidate == RISK_REFERENCE_NONE ? NULL : view->d,
        .e = view->e,
        .loop_gain = view->loop_gain,
    };
    struct risk_audit_row *row = row_of(audit, view->layer, view->kind, view->head);
    double *scratch = malloc(risk_audit_scratch(&input, &budget) * sizeof(*scratch));

    if (scratch)
        risk_audit_measure(&input, &budget, scratch, &row->entry[view->candidate]);
    else
        __atomic_store_n(&audit->failed, true, __ATOMIC_RELAXED);
    free(scratch);
}

/* The trainer's choice stands; which reason fits it? */
static void explain(const struct audit *audit, const struct dpq_choice *choice,
                    struct risk_audit_row *row)
{
    risk_audit_choose(row, ~0u & ~(1u << RISK_REFERENCE_DELTA));
    if (choice->forced)
        row->reason = RISK_REASON_FORCED;
    else if (row->reference == choice->candidate)
        ; /* as the audit would have it */
    else if (audit->is_limited && row->reference != RISK_REFERENCE_NONE)
        row->reason = RISK_REASON_COST;
    else
        row->reason =
            choice->candidate == RISK_REFERENCE_NONE ? RISK_REASON_NO_GAIN : RISK_REASON_BEST;
    row->reference = (uint8_t)choice->candidate;
}

static void take_choice(struct audit *audit, const struct dpq_choice *choice)
{
    struct risk_audit_row *row = row_of(audit, choice->layer, choice->kind, choice->head);
    struct risk_audit_entry *entry = &row->entry[choice->candidate];

    explain(audit, choice, row);
    if (!entry->flags)
        return;
    entry->error_fine = (float)choice->error_fine;
    entry->flags |= RISK_AUDIT_FINE;
    if (entry->flags & RISK_AUDIT_CERTIFIED)
        entry->error_base = (float)choice->error_base;
}

static int finish(void *user, const struct dpq_choice *choices, uint32_t n_choices,
                  uint8_t **ret_bytes, size_t *ret_n_bytes)
{
    struct audit *audit = user;
    const struct dpq_geometry *g = &audit->geometry;
    uint8_t *bytes;

    if (__atomic_load_n(&audit->failed, __ATOMIC_RELAXED))
        return error_origin(-ENOMEM);
    for (size_t i = 0; i < audit->n_rows; i++) {
        audit->rows[i].head = (uint16_t)(i % g->n_kv_heads);
        audit->rows[i].kind = (uint16_t)(i / g->n_kv_heads % 2);
        audit->rows[i].layer = (uint16_t)(i / g->n_kv_heads / 2);
    }
    for (uint32_t i = 0; i < n_choices; i++)
        take_choice(audit, &choices[i]);
    bytes = malloc(risk_audit_bytes(audit->n_rows));
    if (!bytes)
        return error_origin(-ENOMEM);
    risk_audit_write(audit->rows, audit->n_rows, bytes);
    *ret_bytes = bytes;
    *ret_n_bytes = risk_audit_bytes(audit->n_rows);
    return 0;
}

struct dpq_audit_hooks audit_hooks(struct audit *audit)
{
    return (struct dpq_audit_hooks){ .user = audit, .measure = measure, .finish = finish };
}
