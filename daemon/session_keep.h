#pragma once

/*
 * What outlives the daemon: arenas, and the sequences in them
 *
 * session_arena.c finds each tenant's arena again, or makes one; session_restore.c makes of what is
 * in it the sequences that clients know; sequence_write() keeps a sequence's record true.
 */

#include "daemon/session_internal.h"

/**
 * arena_open() - the tenant's store: what an earlier daemon left, or a new one
 * An arena that may not be opened is kept, under another name, and its reason is logged.
 * Return: 0; 1 refused, and the log has said why; a fault.
 */
int arena_open(struct tenant *tenant) _must_check_;

/** arena_close() - what is in it stays, where it is kept */
void arena_close(struct tenant *tenant);

/**
 * restore_sequences() - of one tenant, from its arena; before anybody asks for one
 * What cannot be read by this daemon stays in the arena, and is logged.
 * Return: 0, a fault.
 */
int restore_sequences(struct tenant *tenant) _must_check_;

/**
 * sequence_note() - as sequence_write(), if there is a record and it has room
 * Neither waits nor makes room, so the session may be locked. STORE_E_FULL: also without a record.
 */
int sequence_note(struct sequence *sequence, const struct record_change *change) _must_check_;

/**
 * sequence_write() - what a change says is in the sequence's record when this returns
 * Makes the record with the first change, and writes it anew when it has no room.
 * Thread: whose turn it is.
 * Return: 0; STORE_E_FULL, STORE_E_CORRUPT: nothing changed; a fault.
 */
int sequence_write(struct sequence *sequence, const struct record_change *change,
                   uint64_t now_ns) _must_check_;

/** scrub_tick() - once a second: a worker verifies the share of a second of each arena. Loop thread
 */
void scrub_tick(struct session *session);
struct scrub *scrub_free(struct scrub *scrub); /* no job is running any more; NULL is fine */
