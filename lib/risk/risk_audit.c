/*
 * The choice and its sentence
 *
 * A reference must gain more than noise and be certified; of those, the largest measured gain wins
 * (the predicted one where nothing was coded). What a limit on cost ruled out and what was unstable
 * is remembered only when it would have been the choice.
 */

#include "lib/risk/risk_audit.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "lib/base/defs.h"
#include "lib/risk/risk_certificate.h"

const char *risk_audit_reference_name(uint32_t reference)
{
    static const char *const NAMES[RISK_N_REFERENCES] = { "none", "temporal", "depth-head", "depth",
                                                          "temporal a=1" };

    return reference < RISK_N_REFERENCES ? NAMES[reference] : "unknown";
}

double risk_audit_bits(const struct risk_audit_entry *entry)
{
    if (entry->flags & RISK_AUDIT_COMPARED)
        return (double)entry->measured_bits;
    return entry->flags & RISK_AUDIT_PREDICTED ? (double)entry->predicted_bits : 0;
}

bool risk_audit_is_certified(const struct risk_audit_entry *entry)
{
    return entry->flags & RISK_AUDIT_CERTIFIED && entry->n_tokens >= RISK_CERTIFICATE_MIN &&
           (double)entry->margin >= RISK_AUDIT_MIN_MARGIN;
}

static void compare(struct risk_audit_row *row)
{
    const struct risk_audit_entry *none = &row->entry[RISK_REFERENCE_NONE];

    for (int i = 0; i < RISK_N_REFERENCES; i++) {
        struct risk_audit_entry *entry = &row->entry[i];

        if (!(entry->flags & none->flags & RISK_AUDIT_CERTIFIED) || !(none->error_base > 0) ||
            !(entry->error_base > 0))
            continue;
        entry->flags |= RISK_AUDIT_COMPARED;
        entry->measured_bits =
            (float)(-.5 * log2((double)entry->error_base / (double)none->error_base));
    }
}

/* the reference with the largest gain of those that a rule admits; none when there is no such */
static uint32_t best(const struct risk_audit_row *row, uint32_t allowed, bool certified)
{
    uint32_t chosen = RISK_REFERENCE_NONE;
    double most = RISK_AUDIT_MIN_BITS;

    for (uint32_t i = RISK_REFERENCE_NONE + 1; i < RISK_N_REFERENCES; i++) {
        const struct risk_audit_entry *entry = &row->entry[i];

        if (!(allowed >> i & 1) || !(risk_audit_bits(entry) > most) ||
            (certified && !risk_audit_is_certified(entry)))
            continue;
        chosen = i;
        most = risk_audit_bits(entry);
    }
    return chosen;
}

void risk_audit_choose(struct risk_audit_row *row, uint32_t allowed)
{
    uint32_t all = (1u << RISK_REFERENCE_DELTA) - 1, measured = 0, chosen, without_limit;

    compare(row);
    for (int i = 1; i < RISK_N_REFERENCES; i++)
        measured += row->entry[i].flags != 0;
    chosen = best(row, allowed, true);
    without_limit = best(row, allowed | all, true);
    row->reference = (uint8_t)chosen;
    if (!measured)
        row->reason = RISK_REASON_UNKNOWN;
    else if (without_limit != chosen)
        row->reason = RISK_REASON_COST;
    else if (chosen != RISK_REFERENCE_NONE)
        row->reason = RISK_REASON_BEST;
    else
        row->reason = best(row, allowed | all, false) == RISK_REFERENCE_NONE ? RISK_REASON_NO_GAIN
                                                                             : RISK_REASON_UNSTABLE;
}

struct text {
    char *at;
    size_t left;
};

static void say(struct text *t, const char *format, ...) _printf_(2, 3);

static void say(struct text *t, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(t->at, t->left, format, args);
    va_end(args);
    if (n < 0)
        return;
    if ((size_t)n >= t->left)
        n = (int)t->left - 1;
    t->at += n;
    t->left -= (size_t)n;
}

/* of the axis: what the margin was made of */
static double loop_gain(const struct risk_audit_entry *entry)
{
    return exp(-2 * (double)entry->margin);
}

static void say_gain(struct text *t, const struct risk_audit_entry *entry)
{
    const char *comma = "";

    if (entry->flags & RISK_AUDIT_PREDICTED) {
        say(t, "predicted %.2f bits", (double)entry->predicted_bits);
        if (isfinite(entry->eta_u))
            say(t, " (± %.2f)", .5 * M_LOG2E * (double)entry->eta_u);
        comma = ", ";
    }
    if (entry->flags & RISK_AUDIT_COMPARED)
        say(t, "%smeasured %.2f", comma, (double)entry->measured_bits);
}

/* what another reference would have done, and what speaks against it */
static void say_other(struct text *t, const struct risk_audit_entry *entry, uint32_t reference,
                      double chosen_bits)
{
    double bits = risk_audit_bits(entry);

    say(t, "; %s would ", risk_audit_reference_name(reference));
    if (bits < 0)
        say(t, "lose %.2f bits against none", -bits);
    else if (bits <= chosen_bits)
        say(t, "cost %.2f bits more", chosen_bits - bits);
    else
        say(t, "save %.2f bits more", bits - chosen_bits);
    if (reference == RISK_REFERENCE_NONE)
        return;
    if (entry->flags & RISK_AUDIT_PREDICTED && entry->domination >= 1)
        say(t, ", domination fails (%.2f)", (double)entry->domination);
    if (entry->flags & RISK_AUDIT_CERTIFIED && !risk_audit_is_certified(entry))
        say(t, ", not certified (loop gain %.2f)", loop_gain(entry));
}

void risk_audit_reason_text(const struct risk_audit_row *row, char ret_text[RISK_AUDIT_TEXT_BYTES])
{
    static const char *const REASONS[RISK_N_REASONS] = {
        "for want of measurements",
        "as told",
        "gains most",
        "as no reference gains enough",
        "as the gain of others is not certified",
        "as a better one was not allowed",
    };
    struct text t = { ret_text, RISK_AUDIT_TEXT_BYTES };
    uint32_t chosen = row->reference < RISK_N_REFERENCES ? row->reference : 0;
    const struct risk_audit_entry *entry = &row->entry[chosen];

    ret_text[0] = 0;
    say(&t, "%s %s", risk_audit_reference_name(chosen),
        REASONS[row->reason < RISK_N_REASONS ? row->reason : 0]);
    if (chosen != RISK_REFERENCE_NONE && entry->flags) {
        say(&t, ": ");
        say_gain(&t, entry);
        if (risk_audit_is_certified(entry))
            say(&t, ", loop gain %.2f", loop_gain(entry));
    }
    for (uint32_t i = 0; i < RISK_N_REFERENCES; i++)
        if (i != chosen && (row->entry[i].flags || (i == RISK_REFERENCE_NONE && entry->flags)))
            say_other(&t, &row->entry[i], i, risk_audit_bits(entry));
}
