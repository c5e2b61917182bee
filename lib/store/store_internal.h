#pragma once

/* What the store's files share: places, entries, strips, room. */

#include <pthread.h>

#include "lib/base/hash.h"
#include "lib/store/arena.h"
#include "lib/store/evict.h"
#include "lib/store/extent.h"
#include "lib/store/index.h"
#include "lib/store/map.h"
#include "lib/store/store.h"

#define SLOT_NONE UINT64_MAX /* in what is handed out */
#define SLOT_NIL  UINT32_MAX /* in here */

/* Where one object lies, as the daemon knows it: this, not the arena, is what it trusts. */
struct place {
    uint32_t slot;                /* SLOT_NIL: there is no such object */
    uint32_t first_page, n_pages; /* of the extent; n_pages 0: none */
    uint32_t n_bytes;             /* committed */
};
#define PLACE_NULL \
    { \
        .slot = SLOT_NIL \
    }

enum entry_role {
    ENTRY_NONE = 0, /* free, or somebody's second slot */
    ENTRY_TILE,     /* the slot is a tile's base object */
    ENTRY_FINE,     /* its fine object, if that may be dropped */
    ENTRY_GRAVE,
};

enum {
    TILE_UNCHECKED = 1, /* not looked at since the store was attached */
    TILE_CONDEMNED = 2, /* not in the index, freed with the last reference: corrupt, or … */
    TILE_EVICTED = 4,   /* … its objects have gone already, and what is left is a name */
    TILE_KEEPS_FINE = 8,
};

/* The number of a tile is its base object's slot, also in the policy for eviction. */
struct tile {
    uint8_t role; /* enum entry_role, of whatever is here */
    uint8_t flags;
    uint16_t let_go_s; /* when the last reference went: seconds, the low bits */
    uint32_t n_numbers;
    struct store *store;
    uint8_t key[32];
    struct place base, fine;
    uint64_t lease_until_ns;
    uint32_t n_refs, n_readers;
    uint32_t n_drop_offers, n_evict_offers; /* references whose owners would do without */
};

/* In the slot of a fine object that may be dropped; a list, those first that were let go first. */
struct fine {
    uint8_t role;
    uint32_t tile;         /* its number */
    uint32_t older, newer; /* slots; SLOT_NIL: none */
};

/* A slot that is BURIED in the arena until a lease has expired. */
struct grave {
    uint8_t role;
    uint32_t next; /* expires at the same time or later; SLOT_NIL: none */
    uint64_t until_ns;
    uint32_t first_page, n_pages;
};

/* Private, one a slot: only those in use are ever touched. */
union slot_entry {
    struct tile tile;
    struct fine fine;
    struct grave grave;
};

struct strip;

struct store {
    pthread_mutex_t mutex;
    pthread_cond_t scrubbed; /* something is not being read by the scrubber any more */
    struct map map;
    int ro_fd;
    bool verify_reads;
    uint64_t grace_until_ns;
    struct arena arena;
    struct extent_map extents;
    struct index index;
    union slot_entry *entries; /* [n_slots] */
    uint32_t *free_slots;      /* a stack */
    uint64_t n_free_slots, n_retired_slots;
    struct evict evict; /* who goes next of those that nobody refers to */
    uint64_t n_unreferenced_pages;
    uint32_t oldest_fine, newest_fine;
    uint64_t cold_ns; /* a fine object may be dropped when its tile was let go so long ago */
    uint32_t limbo, limbo_last; /* graves, by expiry */
    struct strip *strips;       /* all tails and records */
    uint64_t scrub_slot;        /* the scrubber's next slot; behind the last: it is at strips */
    bool in_strips;
    struct strip *scrub_strip; /* its next strip; NULL: none is left */
    store_gone_fn evicted, dropped;
    void *user;
    struct store_stats stats; /* used_bytes is computed */
};

static inline void store_lock(struct store *store)
{
    pthread_mutex_lock(&store->mutex);
}

static inline void store_unlock(struct store *store)
{
    pthread_mutex_unlock(&store->mutex);
}

/* --- space.c: slots and extents; the mutex is held ------------------------------------------- */

/**
 * space_take() - a slot and an extent for n_bytes
 * Evicts unreferenced, unleased tiles as long as it is short of either.
 * Return: 0; STORE_E_FULL, and nothing was evicted if that could not have been enough.
 */
int space_take(struct store *store, uint64_t n_bytes, uint64_t now_ns,
               struct place *ret_place) _must_check_;

/** space_take_slot() - a slot alone */
int space_take_slot(struct store *store, uint64_t now_ns, uint32_t *ret_slot) _must_check_;

/** space_give_slot() - one that is FREE in the arena, or worn out */
void space_give_slot(struct store *store, uint32_t slot);

/** space_give() - slot FREE in the arena, extent free; place becomes PLACE_NULL */
void space_give(struct store *store, struct place *place);

/** space_bury() - the same when the lease has expired; until then BURIED. Works on PLACE_NULL */
void space_bury(struct store *store, struct place *place, uint64_t lease_until_ns, uint64_t now_ns);

/** space_reap() - what has waited long enough; all of it at UINT64_MAX */
void space_reap(struct store *store, uint64_t now_ns);

/** space_wait() - a slot that is BURIED in the arena waits. For space_bury(), and what an earlier
 *  process buried */
void space_wait(struct store *store, const struct place *place, uint64_t until_ns);

static inline uint8_t *place_bytes(const struct store *store, const struct place *place)
{
    return arena_extent(&store->arena, place->first_page);
}

static inline uint32_t pages_of(uint64_t n_bytes)
{
    return (uint32_t)(n_bytes / ARENA_PAGE + !!(n_bytes % ARENA_PAGE));
}

static inline uint64_t place_cost(const struct place *place)
{
    return place->slot == SLOT_NIL ? 0 : (uint64_t)place->n_pages * ARENA_PAGE + ARENA_LINE_BYTES;
}

/** place_intact() - line and bytes match their checksums; the mutex need not be held by who keeps
 *  the object from being freed */
bool place_intact(const struct store *store, const struct place *place);

/** place_matches() - the same by a copy of the line */
bool place_matches(const struct store *store, const struct place *place,
                   const struct arena_line *line);

struct store_object place_object(const struct store *store, const struct place *place,
                                 uint64_t generation);

/* --- store_tile.c; the mutex is held ------------------------------------------------------------
 */

static inline uint32_t tile_number(const struct tile *tile)
{
    return (uint32_t)((const union slot_entry *)tile - tile->store->entries);
}

static inline struct tile *tile_of(struct store *store, uint32_t number)
{
    return &store->entries[number].tile;
}

/** tile_destroy() - one without references. Return: freed bytes */
uint64_t tile_destroy(struct tile *tile, uint64_t now_ns);

/** tile_void() - one with references, and no lease: its objects go now, its slot with the last
 *  reference. Return: freed bytes */
uint64_t tile_void(struct tile *tile);

/** tile_forget_fine() - free the fine object, which there is. Return: freed bytes */
uint64_t tile_forget_fine(struct tile *tile, uint64_t now_ns);

/** tile_condemn() - what was found corrupt is not found by its key any more */
void tile_condemn(struct tile *tile);

static inline void tile_count(struct store *store, const struct tile *tile)
{
    store->stats.n_tiles++;
    store->stats.tile_bytes += place_cost(&tile->base) + place_cost(&tile->fine);
    store->stats.tile_numbers += tile->n_numbers;
}

/* --- relief.c: what goes when room is short; the mutex is held ----------------------------------
 */

/** fine_list_add() - of a tile that nobody refers to: from now on it may be dropped */
void fine_list_add(struct tile *tile);

/** fine_list_remove() - works as well when it is not in the list, or there is no fine object */
void fine_list_remove(struct tile *tile);

/**
 * relief_free_cached() - free a fine object or a tile that nobody refers to, and tell of it
 * What its owners offer stays: see store_relieve().
 * Return: false, there is none that may go.
 */
bool relief_free_cached(struct store *store, uint64_t now_ns);

/** relief_evict_corrupt() - a condemned tile that nobody refers to */
void relief_evict_corrupt(struct tile *tile, uint64_t now_ns);

/* --- strip.c: what grows ------------------------------------------------------------------------
 */

/* A tail or a record: one extent, and two slots that are committed in turn. */
struct strip {
    struct store *store;
    struct strip *prev, *next; /* of all in the store */
    uint32_t slots[2];         /* SLOT_NIL: has to be taken yet (after a recovery) */
    int at;                    /* which is committed; -1: none yet */
    uint64_t generation;       /* of that slot */
    uint32_t first_page, n_pages;
    uint64_t n_bytes, room_bytes;
    uint64_t lease_until_ns;
    struct arena_line line;   /* what both slots say, but for the length */
    struct hash_stream *hash; /* over n_bytes; NULL: recovered, and has not grown since */
    bool unchecked;           /* recovered, and not looked at since */
    bool corrupt;             /* was found to be so, and counted */
    uint32_t n_readers;       /* that verify it: it is freed when there are none */
};

/**
 * strip_init() - room for room_bytes
 * @line: kind and what else does not change
 * Return: 0; STORE_E_FULL; -ENOMEM.
 */
int strip_init(struct strip *strip, struct store *store, const struct arena_line *line,
               uint64_t room_bytes, uint64_t now_ns) _must_check_;

/** strip_recover() - one that is committed in a slot already; the store is not shared yet */
void strip_recover(struct strip *strip, struct store *store, const struct arena_line *line,
                   uint32_t slot);

/** strip_complete() - a recovered one takes its second slot, if one is free; not shared yet */
void strip_complete(struct strip *strip);

/** strip_verify() - by line and checksum, now. Thread: any. Return: 0; STORE_E_CORRUPT */
int strip_verify(struct strip *strip, uint64_t *ret_n_bytes) _must_check_;

/** strip_check() - the same, if nobody has looked since it was recovered */
int strip_check(struct strip *strip) _must_check_;

/** strip_grow() - see tail_grow(). @n_tokens: what the line says from now on */
int strip_grow(struct strip *strip, const void *bytes, uint64_t n_bytes,
               uint32_t n_tokens) _must_check_;
struct store_object strip_object(struct strip *strip);
void strip_lease(struct strip *strip, uint64_t until_ns);

/** strip_deinit() - frees slots and extent in the arena. Return: freed bytes */
uint64_t strip_deinit(struct strip *strip, uint64_t now_ns);

/** strip_forget() - frees memory alone */
void strip_forget(struct strip *strip);

/* The first of the given kind, from strip on. */
struct strip *strip_of_kind(struct strip *strip, uint32_t kind);

/* --- tail.c, store_record.c ------------------------------------------------------------------- */

/** tail_recover(), record_recover() - memory for what a line names; then strip_recover() */
int tail_recover(struct store *store, const struct arena_line *line, uint32_t slot) _must_check_;
int record_recover(struct store *store, const struct arena_line *line, uint32_t slot) _must_check_;

/* --- store.c ---------------------------------------------------------------------------------- */

/** store_note_lease() - in the header, before the lease is given: the next process is to know how
 *  long it must wait. The mutex is held */
void store_note_lease(struct store *store, uint64_t until_ns);

/* --- store_recover.c -------------------------------------------------------------------------- */

/** recover_slots() - from the arena's lines all that is private. The store is not shared yet */
int recover_slots(struct store *store, struct store_recovery *ret_recovery) _must_check_;
