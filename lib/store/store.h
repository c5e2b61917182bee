#pragma once

/*
 * The store: immutable objects in one shared-memory arena, found by key
 *
 * An arena belongs to one tenant: a memfd, or a file on a tmpfs, of fixed size with a header, a
 * slot table and extents. A slot names one object: a tile's base or fine object, a sequence's raw
 * tail, or its record. A tile is a base object with an optional fine one. Tiles are found by their
 * 32-byte key, are reference-counted, and never change between commit and free, but for the fine
 * object, which may be dropped.
 *
 *     FREE,g --put--> WRITING,g+1 --commit--> COMMITTED,g+1 --free--> FREE,g+2
 *                                                  `--lease left--> BURIED,g+1 --expired--^
 *
 * The arena outlives its process: whatever a call committed before it returned is there after a
 * kill -9, bit for bit, when store_attach() takes the same arena over.
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
    STORE_E_FULL = 1,    /* no room, even after eviction of what nobody refers to */
    STORE_E_EXISTS = 2,  /* the key is there: use that one (first writer wins) */
    STORE_E_NONE = 3,    /* no such key */
    STORE_E_SIZE = 4,    /* an arena of this size can't be made: too small, or memory is short */
    STORE_E_CORRUPT = 5, /* stored bytes do not match their checksum */
    STORE_E_BUSY = 6,    /* somebody reads it */

    /* store_attach() alone, in the order of its checks: why this arena is not opened */
    STORE_E_HEADER = 16,   /* no valid copy of the header */
    STORE_E_SCHEMA = 17,   /* another major version */
    STORE_E_GEOMETRY = 18, /* the header does not describe this memory */
    STORE_E_FORMAT = 19,   /* keys or tiles are made in another way */
    STORE_E_TENANT = 20,   /* another tenant's */
    STORE_E_SECRET = 21,   /* its keys were made with another secret */
    STORE_E_FAULTS = 22,   /* too many runs with it ended by their own fault */
    STORE_E_UNREADY = 23,  /* too many runs in a row ended before they were ready */
};

/** store_outcome_name() - "SCHEMA" for STORE_E_SCHEMA; "UNKNOWN" */
const char *store_outcome_name(int outcome);

struct map;
struct store;  /* one arena and its index */
struct tile;   /* one stored tile; valid while the caller holds a reference */
struct tail;   /* one growing raw tail; owned by its sequence */
struct record; /* what one sequence is; owned by it */

struct store_stats {
    uint64_t arena_bytes;
    uint64_t used_bytes; /* extents in use, waiting ones included */
    uint64_t n_tiles;
    uint64_t tile_bytes;   /* stored bytes of these tiles: slot lines and padding counted */
    uint64_t tile_numbers; /* sum of the numbers given to store_put() */
    uint64_t tail_bytes;   /* committed rows */
    uint64_t n_evicted;    /* tiles, since the start */
    uint64_t n_corrupt;    /* objects that did not match their checksum, since the start */
    uint64_t n_fine_dropped;
    uint64_t n_scrubbed_bytes; /* since the start */
};

/* Called for each tile that is evicted, or loses its fine object, while nobody refers to it;
 * store's mutex is held: do not call back. */
typedef void (*store_gone_fn)(void *user, const uint8_t key[32], uint64_t freed_bytes);

/**
 * struct store_options - what an arena is for
 * @secret_id:      names the secret that the keys are made with
 * @n_slots:        store_create(): 0 for one to 16 KiB
 * @grace_until_ns: store_attach(): until then at most clients may read by leases that an earlier
 *                  process gave (the header says how long indeed); what could be under one is
 *                  neither evicted nor written over
 * @verify_reads:   tile_check() looks at the bytes each time
 * @cold_ns:        when room is short, what was let go so long ago loses its fine object before
 *                  anything is evicted
 * @evicted, @dropped, @user: may be NULL
 */
struct store_options {
    const char *tenant;
    uint8_t secret_id[16];
    uint64_t n_slots;
    uint64_t grace_until_ns;
    bool verify_reads;
    uint64_t cold_ns;
    store_gone_fn evicted, dropped;
    void *user;
};

/**
 * store_create() - a new arena in zeroed memory
 * @map: taken over when 0 is returned
 * One slot for every 16 KiB of it, 64 at least: an object takes a slot and whole pages of 4 KiB; a
 * tail or record takes two slots.
 * Return: 0; STORE_E_SIZE; a fault.
 */
int store_create(struct map *map, const struct store_options *options,
                 struct store **ret_store) _must_check_;

/* What store_attach() found. Freed means: the slot is free, its extent, too. */
struct store_recovery {
    uint64_t n_tiles, n_tails, n_records;
    uint64_t n_half_written; /* freed: a put or growth that was cut short */
    uint64_t n_orphans; /* freed: a fine object, or an older line, whose other half is missing */
    uint64_t n_buried;  /* wait for the end of the grace time */
    uint64_t n_damaged; /* freed: lines that make no sense. Never a crash's doing */
    uint64_t n_retired; /* slots that are not used any more */
    uint32_t faults, unready; /* runs before this one, see enum store_outcome */
    bool clean;               /* the last run closed it in good order */
};

/**
 * store_attach() - open the arena that an earlier process left, however that ended
 * @map: taken over when 0 is returned; else as it was, and so is what is in it
 *
 * Slots that were half written are freed; index, free slots and extents are made anew from the
 * slot table; generations go on; the epoch grows by one. No payload is read: objects are checked
 * when they are first used (tile_check(), and whatever grows or reads tails and records). May be
 * killed at any moment, and repeated.
 * Return: 0; one of STORE_E_HEADER … STORE_E_UNREADY; a fault.
 */
int store_attach(struct map *map, const struct store_options *options,
                 struct store_recovery *ret_recovery, struct store **ret_store) _must_check_;

/** store_new() - map_create() and store_create(): an arena that ends with this process. At least
 *  1 MiB. Return: 0; STORE_E_SIZE; a fault. */
int store_new(uint64_t arena_bytes, const char *tenant, store_gone_fn evicted, void *user,
              struct store **ret_store) _must_check_;

/** store_free() - unmaps and closes; what is in the arena stays. Tiles, tails and records need not
 *  be let go, but are not to be touched any more. Accepts NULL, returns NULL */
struct store *store_free(struct store *store);
DEFINE_CLEANUP(struct store *, store_free);

/** store_set_cold() - options.cold_ns, from now on */
void store_set_cold(struct store *store, uint64_t cold_ns);

/** store_ready() - requests are served from here on: the run does not count as one that failed to
 *  start */
void store_ready(struct store *store);

/** store_healthy() - and have been for a while: earlier runs' faults are forgiven */
void store_healthy(struct store *store);

/** store_fault_word() - where a handler of fatal signals stores 1; in the mapping */
_Atomic uint64_t *store_fault_word(struct store *store);

/** store_fd() - the arena's descriptor, to be kept by somebody while the daemon is away; the store
 *  owns it */
int store_fd(const struct store *store);

/** store_ro_fd() - a read-only descriptor, to be handed to clients; the store owns it */
int store_ro_fd(const struct store *store);

/** store_epoch() - random for each new arena, one more at each attach: slots of one are never taken
 *  for another's */
uint64_t store_epoch(const struct store *store);
void store_get_stats(struct store *store, struct store_stats *ret_stats);

/** store_count_profile() - tiles and tails of a profile; 32-byte digest
 *  In slices of 65,536 slots: what comes or goes meanwhile is counted or not. */
uint64_t store_count_profile(struct store *store, const uint8_t profile[32]);

struct store_scrubbed {
    uint64_t n_bytes;
    uint32_t n_objects, n_corrupt; /* tiles count as one */
    bool wrapped;                  /* all of the arena has been seen since it was last so */
};

/**
 * store_scrub() - verify the next objects, about max_bytes of them, and remember where it stopped
 * A tile that is corrupt is not found any more; of tails and records the owner is told at next use.
 * Bounded: reads one object more than max_bytes at most, and looks at 65,536 slots.
 * Thread: one at a time; any.
 */
void store_scrub(struct store *store, uint64_t max_bytes, uint64_t now_ns,
                 struct store_scrubbed *ret_scrubbed);

/* Where an object lies; the bytes are stable while the caller holds its reference (of a fine
 * object: while the caller holds the tile, tile_hold()). */
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
    bool keeps_fine; /* it is not dropped to make room, nor by tile_drop_fine() */
};

/**
 * store_put() - store a tile; makes room by what nobody refers to: fine objects that are cold, then
 * tiles, those first that are worth least (evict.h)
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
 * Accepts NULL, returns NULL. @ret_freed_bytes may be NULL.
 */
struct tile *tile_unref(struct tile *tile, bool discard, uint64_t now_ns,
                        uint64_t *ret_freed_bytes);

const uint8_t *tile_key(const struct tile *tile);
void tile_objects(const struct tile *tile, struct store_object *ret_base,
                  struct store_object *ret_fine);

/** tile_lease() - keep the tile's extents from being reused before until_ns, come what may */
void tile_lease(struct tile *tile, uint64_t until_ns);

/** tile_hold(), tile_let_go() - while somebody reads it, the fine object is not dropped. Counted.
 */
void tile_hold(struct tile *tile);
void tile_let_go(struct tile *tile);

/**
 * tile_drop_fine() - free the fine object; the tile decodes from its base alone from then on
 * When it returns, the fine object is gone for good, also after a crash.
 * @ret_freed_bytes: may be NULL
 * Return: 0; STORE_E_NONE, it has none; STORE_E_BUSY, somebody holds the tile, or it
 * was stored so that it keeps it.
 */
int tile_drop_fine(struct tile *tile, uint64_t now_ns, uint64_t *ret_freed_bytes) _must_check_;

/*
 * Room from what is referred to: an owner of references says which of them it would do without,
 * store_relieve() takes what all owners of a tile have offered, and the offers end. A fine object
 * that is dropped so is like one dropped by tile_drop_fine(); a tile that is evicted so is a name
 * without objects, which its owners have to let go: tile_is_evicted(). A leased tile, or one that
 * is being read, is not touched.
 */

/** store_offer() - @tiles: one reference to each is the caller's, and stays. Each is useless
 * without the one before it, and is evicted first */
void store_offer(struct store *store, struct tile *const *tiles, size_t n, bool may_drop,
                 bool may_evict);

/** store_withdraw() - all offers of these tiles end, whoever made them */
void store_withdraw(struct store *store, struct tile *const *tiles, size_t n);

struct store_change {
    struct tile *tile; /* NULL: nobody referred to it, and options.evicted or .dropped was called */
    bool is_evicted;   /* or its fine object is gone */
    uint64_t freed_bytes;
};

/**
 * store_relieve() - free extents until no more than used_bytes of them are in use
 * First what may be dropped is, of tiles that are cold; then tiles go that nobody refers to, or
 * that are offered, in the order of the policy. Return: how many changes of tiles that are referred
 * to; at most n_max, then it stopped there.
 */
size_t store_relieve(struct store *store, uint64_t used_bytes, uint64_t now_ns,
                     struct store_change *changes, size_t n_max);

/** tile_is_evicted() - nothing but its key is left of it */
bool tile_is_evicted(const struct tile *tile);

/**
 * tile_verify() - do the stored bytes match their checksums?
 * A tile that does not is not found by its key any more, and freed with its last reference.
 * Return: 0; STORE_E_CORRUPT.
 */
int tile_verify(struct tile *tile) _must_check_;

/** tile_check() - tile_verify(), if the tile has not been looked at since the store was attached,
 * or if every read is to be verified */
int tile_check(struct tile *tile) _must_check_;

/**
 * tail_new() - room for a raw tail of up to 128 tokens
 * @row_bytes: of one canonical row
 * Nothing is visible to readers before the first tail_grow().
 * Return: 0; STORE_E_FULL.
 */
int tail_new(struct store *store, uint64_t sequence_id, const uint8_t profile[32], uint32_t dtype,
             uint64_t row_bytes, uint64_t first_index, uint64_t first_position, uint64_t now_ns,
             struct tail **ret_tail) _must_check_;

/** tail_set_version() - before the first growth: tells tails of one sequence that begin at the same
 *  token apart. 0 else */
void tail_set_version(struct tail *tail, uint32_t version);

/**
 * tail_grow() - append rows behind the committed ones and commit them
 * Acknowledged bytes are never touched; the old slot line is freed after the new one is committed.
 * @n_tokens: ≥ 1, committed + n_tokens ≤ 128
 * Thread: one at a time; others may call tail_object() and tail_lease() meanwhile.
 * Return: 0, which it always is for a tail that this process made. For a recovered one, the first
 * time: STORE_E_CORRUPT, its rows do not match their checksum; STORE_E_FULL, no slot; -ENOMEM.
 */
int tail_grow(struct tail *tail, const void *rows, uint32_t n_tokens) _must_check_;

uint32_t tail_n_tokens(const struct tail *tail);
uint32_t tail_dtype(const struct tail *tail);
uint64_t tail_sequence_id(const struct tail *tail);
uint64_t tail_first_index(const struct tail *tail);
uint32_t tail_version(const struct tail *tail);
void tail_object(const struct tail *tail, struct store_object *ret_object);
void tail_lease(struct tail *tail, uint64_t until_ns);

/** tail_check() - as tile_check(). Thread: any. Return: 0; STORE_E_CORRUPT */
int tail_check(struct tail *tail) _must_check_;

/** tail_next() - tails in some order, NULL before the first and after the last: for those that
 *  store_attach() found */
struct tail *tail_next(struct store *store, struct tail *tail);

/** tail_free() - free slot and extent; accepts NULL, returns NULL */
struct tail *tail_free(struct tail *tail, uint64_t now_ns, uint64_t *ret_freed_bytes);

/*
 * A record is a sequence's own bytes, one to each: what is needed beside tiles and tail to serve it
 * after a restart. It grows as a tail does, each growth one commit. When it has no room left, it is
 * written anew, shorter or larger, under the next version; of two versions the later one counts.
 */

/**
 * record_new() - with its first bytes, committed
 * @room_bytes: what it can grow to; ≥ n_bytes ≥ 1
 * @old:        the version that it replaces, freed after the commit; NULL: none
 * Return: 0; STORE_E_FULL; -ENOMEM. Then @old is as it was.
 */
int record_new(struct store *store, uint64_t sequence_id, const void *bytes, uint64_t n_bytes,
               uint64_t room_bytes, struct record *old, uint64_t now_ns,
               struct record **ret_record) _must_check_;

/** record_grow() - append bytes and commit. Thread: one at a time.
 *  Return: 0; STORE_E_FULL, no room; as tail_grow(). */
int record_grow(struct record *record, const void *bytes, uint64_t n_bytes) _must_check_;

uint64_t record_sequence_id(const struct record *record);

/** record_bytes() - all of them, verified on the first call; stable until record_free()
 *  Return: 0; STORE_E_CORRUPT. */
int record_bytes(struct record *record, const uint8_t **ret_bytes, uint64_t *ret_n_bytes,
                 uint64_t *ret_room_bytes) _must_check_;

struct record *record_next(struct store *store, struct record *record);
struct record *record_free(struct record *record, uint64_t now_ns);
