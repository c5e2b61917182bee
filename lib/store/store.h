#pragma once

/*
 * The store: immutable objects in one shared-memory arena, found by key
 *
 * An arena belongs to one tenant: a memfd of fixed size with a header, a slot table and extents.
 * A slot names one object (a tile's base or fine object, or a sequence's raw tail). A tile is a
 * base object with an optional fine one. Tiles are found by their 32-byte key, are
 * reference-counted, and never change between commit and free.
 *
 *     FREE,g --put--> WRITING,g+1 --commit--> COMMITTED,g+1 --free--> FREE,g+2
 *
 * Order of a commit: the word WRITING (relaxed), a release fence, extent, line, the word COMMITTED
 * (release). Readers of other processes see either the old state or the whole object. What a slot
 * line holds is in lib/FORMAT.md. Nothing that a client can write is in an arena; the private index
 * here is what the daemon trusts.
 *
 * Freed extents that are under a lease stay unused until it has expired. Time is passed in.
 *
 * Thread: every function from any thread; one mutex inside, held shortly and never while copying
 * payload (put copies under its slot's WRITING state, outside the mutex).
 */

#include <stdbool.h>

#include "lib/base/defs.h"
#include "lib/deltapq.h"

enum store_outcome {
    STORE_E_FULL = 1,   /* no room, even after eviction of what nobody refers to */
    STORE_E_EXISTS = 2, /* the key is there: use that one (first writer wins) */
    STORE_E_NONE = 3,   /* no such key */
    STORE_E_SIZE = 4,   /* an arena of this size can't be made: too small, or memory is short */
};

struct store; /* one arena and its index */
struct tile;  /* one stored tile; valid while the caller holds a reference */
struct tail;  /* one growing raw tail; owned by its sequence */

struct store_stats {
    uint64_t arena_bytes;
    uint64_t used_bytes; /* extents in use, waiting ones included */
    uint64_t n_tiles;
    uint64_t tile_bytes;   /* stored bytes of these tiles: slot lines and padding counted */
    uint64_t tile_numbers; /* sum of the numbers given to store_put() */
    uint64_t tail_bytes;   /* committed rows */
    uint64_t n_evicted;    /* tiles, since the start */
};

/* Called for each tile that store_put() or tail_grow() evicts to make room; store's mutex is held:
 * do not call back. */
typedef void (*store_evicted_fn)(void *user, const uint8_t key[32], uint64_t freed_bytes);

/**
 * store_new() - make an arena: memfd 0600, sealed against resizing, every page allocated
 * @arena_bytes: of the whole memfd, rounded up to pages; at least 1 MiB. One slot for every 16 KiB
 *               of it, 64 at least: an object takes a slot and whole pages of 4 KiB
 * @tenant:      name, for the header's tenant hash
 * @evicted:     may be NULL
 * Return: 0; STORE_E_SIZE; a fault.
 */
int store_new(uint64_t arena_bytes, const char *tenant, store_evicted_fn evicted, void *user,
              struct store **ret_store) _must_check_;
/** store_free() - unmaps and closes; tails must be freed before, tiles need not be let go, but are
 *  not to be touched any more. Accepts NULL, returns NULL */
struct store *store_free(struct store *store);
DEFINE_CLEANUP(struct store *, store_free);

/** store_ro_fd() - a read-only descriptor, to be handed to clients; the store owns it */
int store_ro_fd(const struct store *store);

/** store_epoch() - random for each new arena: slots of one are never taken for another's */
uint64_t store_epoch(const struct store *store);
void store_get_stats(struct store *store, struct store_stats *ret_stats);

/* Where an object lies; the bytes are stable while the caller holds its reference. */
struct store_object {
    struct dpq_slot_ref ref;
    const void *bytes;
    uint64_t n_bytes; /* 0: there is none */
};

/**
 * struct store_put_args - a tile to be stored
 * @key, @parent: 32 bytes; parent is all zero for a first tile
 * @profile:      32-byte digest
 * @n_numbers:    how many numbers the tile stands for (true bits)
 */
struct store_put_args {
    const uint8_t *key;
    const uint8_t *parent;
    const uint8_t *profile;
    uint64_t sequence_id;
    uint64_t first_index;
    uint64_t first_position;
    uint32_t rate;
    uint64_t n_numbers;
    const void *base;
    uint64_t n_base;
    const void *fine; /* NULL when there is none */
    uint64_t n_fine;
};

/**
 * store_put() - store a tile; evicts unreferenced tiles, oldest first, when room is needed
 * @args:     borrowed during the call; n_base > 0, and n_fine > 0 when there is fine
 * @ret_tile: with one reference for the caller
 * Leased tiles are not evicted. Nothing is when even that could not give enough room.
 * Return: 0; STORE_E_EXISTS (ret_tile is then the stored one, referenced as well); STORE_E_FULL.
 */
int store_put(struct store *store, const struct store_put_args *args, uint64_t now_ns,
              struct tile **ret_tile) _must_check_;

/** store_get() - find a tile by key and take a reference. Return: 0, STORE_E_NONE. */
int store_get(struct store *store, const uint8_t key[32], struct tile **ret_tile) _must_check_;

void tile_ref(struct tile *tile);

/**
 * tile_unref() - drop a reference; the last one leaves the tile cached, or frees it with discard
 * Let the tiles of a sequence go from its last to its first: they are evicted in that order, so
 * that a chain dies from its end. Accepts NULL, returns NULL. @ret_freed_bytes may be NULL.
 */
struct tile *tile_unref(struct tile *tile, bool discard, uint64_t now_ns,
                        uint64_t *ret_freed_bytes);

const uint8_t *tile_key(const struct tile *tile);
void tile_objects(const struct tile *tile, struct store_object *ret_base,
                  struct store_object *ret_fine);

/** tile_lease() - keep the tile's extents from being reused before until_ns, come what may */
void tile_lease(struct tile *tile, uint64_t until_ns);

/**
 * tile_verify() - do the stored bytes match their checksums?
 * Return: 0; 1 when they don't.
 */
int tile_verify(const struct tile *tile) _must_check_;

/**
 * tail_new() - room for a raw tail of up to 128 tokens
 * @row_bytes: of one canonical row
 * Nothing is visible to readers before the first tail_grow().
 * Return: 0; STORE_E_FULL.
 */
int tail_new(struct store *store, uint64_t sequence_id, const uint8_t profile[32], uint32_t dtype,
             uint64_t row_bytes, uint64_t first_index, uint64_t first_position, uint64_t now_ns,
             struct tail **ret_tail) _must_check_;

/**
 * tail_grow() - append rows behind the committed ones and commit them
 * Acknowledged bytes are never touched; the old slot line is freed after the new one is committed.
 * @n_tokens: ≥ 1, committed + n_tokens ≤ 128
 * Thread: one at a time; others may call tail_object() and tail_lease() meanwhile.
 */
void tail_grow(struct tail *tail, const void *rows, uint32_t n_tokens);

uint32_t tail_n_tokens(const struct tail *tail);
uint32_t tail_dtype(const struct tail *tail);
void tail_object(const struct tail *tail, struct store_object *ret_object);
void tail_lease(struct tail *tail, uint64_t until_ns);

/** tail_free() - free slot and extent; accepts NULL, returns NULL */
struct tail *tail_free(struct tail *tail, uint64_t now_ns, uint64_t *ret_freed_bytes);
