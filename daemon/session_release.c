/*
 * Release and Delete: the end of a sequence, in its turn
 *
 * Appends that were asked for before are finished first; those that come after find it gone. Its
 * record goes first, so that a process that is killed at any later step leaves a sequence that is
 * not found, and tiles that are cached.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/session_internal.h"
#include "lib/base/error.h"

struct release {
    struct turn turn;
    struct session *session;
    struct sequence *sequence;
    struct session_release *op;
};

static bool release_begin(struct turn *turn)
{
    struct release *release = (struct release *)turn;
    struct session *session = release->session;
    struct sequence *sequence = release->sequence;
    struct session_release *op = release->op;
    bool was_released;

    session_lock(session);
    was_released = sequence->released;
    if (!was_released)
        sequence_unlink(session, sequence);
    session_unlock(session);
    if (was_released)
        session_error_set(&op->error, SESSION_NOT_FOUND, "SEQUENCE",
                          "sequence %llu was released meanwhile",
                          (unsigned long long)sequence->entry.id);
    else
        op->freed_bytes = sequence_empty(session, sequence, op->discard);
    free(release);
    op->done(op);
    return true;
}

void session_release(struct session *session, struct session_release *op)
{
    struct release *release = calloc(1, sizeof(*release));
    struct sequence *sequence = NULL;
    bool begin = false;
    int r = 1;

    session_error_clear(&op->error);
    if (!release) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Release");
        op->done(op);
        return;
    }
    session_lock(session);
    sequence = sequence_find(session, op->tenant, op->sequence_id);
    if (!sequence)
        session_error_no_sequence(&op->error, op->sequence_id);
    else
        r = sequence_enter(sequence, &release->turn, &begin, &op->error);
    if (!r) {
        release->turn.begin = release_begin;
        release->session = session;
        release->sequence = sequence;
        release->op = op;
    }
    session_unlock(session);
    if (r) {
        free(release);
        op->done(op);
    } else if (begin) {
        release_begin(&release->turn);
        sequence_leave(session, sequence);
    }
}
