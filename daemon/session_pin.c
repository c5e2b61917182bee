/*
 * Pins: a sequence's tiles stay, and so does the sequence, until a time that its record knows
 *
 * The time is that of CLOCK_MONOTONIC, which goes on while no daemon runs: so does an arena, in
 * memory, and not longer than the clock. Nothing has to be written when a pin ends.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/session_errand.h"
#include "daemon/session_keep.h"
#include "daemon/session_verbs.h"
#include "lib/base/error.h"

struct pinning {
    struct errand errand;
    struct session_pin *op;
};

static void pin(struct errand *errand, uint32_t worker)
{
    struct session_pin *op = ((struct pinning *)errand)->op;
    struct sequence *sequence = errand->sequence;
    uint64_t now_ns = session_now_ns(), until_ns = now_ns + op->ttl_ms * UINT64_C(1000000);
    struct record_change change = { .has_pin = true };
    int r = 0;

    (void)worker;
    op->was_pinned = sequence_pinned(sequence, now_ns);
    if (op->was_pinned && op->ttl_ms && until_ns < sequence->pinned_until_ns)
        until_ns = sequence->pinned_until_ns;
    change.pinned_until_ns = op->ttl_ms ? until_ns : 0;
    if (op->ttl_ms || op->was_pinned)
        r = sequence_write(sequence, &change, now_ns);
    if (r) {
        errand_fail(errand, r, sequence->n_token_ids * sizeof(uint32_t), "Pin");
        return;
    }
    session_lock(errand->session);
    sequence_set_pin(sequence, change.pinned_until_ns);
    session_unlock(errand->session);
    op->left_ms = op->ttl_ms ? (until_ns - now_ns) / 1000000 : 0;
}

static void answer(struct errand *errand)
{
    struct session_pin *op = ((struct pinning *)errand)->op;

    free(errand);
    op->done(op);
}

void session_pin(struct session *session, struct session_pin *op)
{
    struct pinning *pinning;

    session_error_clear(&op->error);
    op->was_pinned = false;
    op->left_ms = 0;
    if (op->ttl_ms > SESSION_MAX_PIN_MS) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "TTL",
                          "ttl_ms %llu is not in 1 ... %d", (unsigned long long)op->ttl_ms,
                          SESSION_MAX_PIN_MS);
        op->done(op);
        return;
    }
    pinning = calloc(1, sizeof(*pinning));
    if (!pinning) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Pin");
        op->done(op);
        return;
    }
    pinning->errand = (struct errand){ .error = &op->error, .work = pin, .answer = answer };
    pinning->op = op;
    errand_start(session, op->tenant, op->sequence_id, &pinning->errand);
}
