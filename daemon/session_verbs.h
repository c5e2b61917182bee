#pragma once

/*
 * The session layer: fork, trim, pin
 *
 * As session.h says of all requests. They have the sequence's turn, after the appends that were
 * asked for before, and one commit each: that of a record. A process that is killed leaves the
 * sequences as they were before it or as they are after it. Errors beside those named there:
 * SEQUENCE, TOKEN_RANGE, FORK_KEY, TTL, ARENA_FULL, CORRUPT.
 */

#include "daemon/session.h"

struct session_fork {
    uint32_t tenant;
    uint64_t sequence_id;
    uint64_t n_tokens; /* of its first; 0: all there are */
    uint64_t fork_key; /* not 0: asked again, it is answered with the fork that was made before */
    void (*done)(struct session_fork *op);
    /* ---- */
    struct session_error error;
    uint64_t fork_id;
    uint64_t n_total_tokens, n_tile_tokens, n_lossy_tokens;
    uint64_t generation;
};
/* The fork belongs to no client: it stays until it is released or deleted. */
void session_fork(struct session *session, struct session_fork *op);

struct session_trim {
    uint32_t tenant;
    uint64_t sequence_id;
    uint64_t n_tokens; /* that stay */
    void (*done)(struct session_trim *op);
    /* ---- */
    struct session_error error;
    uint64_t n_total_tokens, n_tile_tokens;
    uint64_t n_lossy_tokens; /* of the tail: decoded ones, of a tile that was trimmed into */
    uint64_t generation, freed_bytes;
};
/* Reads of what stays give the same numbers as before. */
void session_trim(struct session *session, struct session_trim *op);

struct session_pin {
    uint32_t tenant;
    uint64_t sequence_id;
    uint64_t ttl_ms; /* 1 ... SESSION_MAX_PIN_MS, from now on; 0: the pin ends now */
    void (*done)(struct session_pin *op);
    /* ---- */
    struct session_error error;
    bool was_pinned;
    uint64_t left_ms; /* that the sequence is pinned now */
};
/* The later end counts: a pin never makes another one shorter. */
void session_pin(struct session *session, struct session_pin *op);
