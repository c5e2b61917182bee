#pragma once

/*
 * An errand: a request that has a sequence's turn first, and then a worker
 *
 * First member of what a verb needs; the verb's own from answer() on.
 */

#include "daemon/session_internal.h"

struct errand {
    struct turn turn;
    struct job job;
    struct session *session;
    struct sequence *sequence;   /* found, and held by the turn */
    struct session_error *error; /* the request's, cleared */
    /* on a worker: nobody else changes the sequence. Not called when something was wrong before */
    void (*work)(struct errand *errand, uint32_t worker);
    /* once, whatever happened: frees the errand, then calls the request's done() */
    void (*answer)(struct errand *errand);
};

/**
 * errand_fail() - the errand's error, for what the sequence's tail or record could not take
 * @r:       STORE_E_FULL, STORE_E_CORRUPT, a fault
 * @n_bytes: that there was no room for
 * @what:    the verb
 */
void errand_fail(struct errand *errand, int r, uint64_t n_bytes, const char *what);

/**
 * errand_start() - find the sequence, wait for its turn, work, answer, let the next turn begin
 * @errand: error, work and answer are set
 * Thread: any; may answer before it returns.
 */
void errand_start(struct session *session, uint32_t tenant, uint64_t sequence_id,
                  struct errand *errand);
