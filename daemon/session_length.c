/*
 * Where a sequence ends, when everything that came before has been done
 *
 * An errand, with a turn like an append's, so that a client whose connection broke is told of what
 * was still under way for it.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/session_errand.h"
#include "daemon/session_stream.h"
#include "lib/base/error.h"

struct length {
    struct errand errand;
    struct session_length *op;
};

static void measure(struct errand *errand, uint32_t worker)
{
    const struct sequence *sequence = errand->sequence;
    struct session_length *op = ((struct length *)errand)->op;

    (void)worker;
    op->n_tokens = sequence->n_tokens; /* our turn: they stand still */
    op->n_tile_tokens = sequence->n_tiles * DPQ_TILE_TOKENS;
    op->generation = sequence->generation;
}

static void answer(struct errand *errand)
{
    struct session_length *op = ((struct length *)errand)->op;

    free(errand);
    op->done(op);
}

void session_length(struct session *session, struct session_length *op)
{
    struct length *length = calloc(1, sizeof(*length));

    session_error_clear(&op->error);
    if (!length) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "AppendStream");
        op->done(op);
        return;
    }
    length->errand = (struct errand){ .error = &op->error, .work = measure, .answer = answer };
    length->op = op;
    errand_start(session, op->tenant, op->sequence_id, &length->errand);
}
