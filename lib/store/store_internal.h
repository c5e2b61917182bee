#pragma once

/* What store.c, space.c and tail.c share. */

#include <pthread.h>

#include "lib/base/hash.h"
#include "lib/store/arena.h"
#include "lib/store/extent.h"
#include "lib/store/index.h"
#include "lib/store/map.h"
#include "lib/store/store.h"

#define SLOT_NONE UINT64_MAX

/* Where one object lies, as the daemon knows it: this, not the arena, is what it trusts. */
struct place {
    uint64_t slot; /* SLOT_NONE: there is no such object */
    uint64_t generation;
    uint32_t first_page, n_pages; /* of the extents; n_pages 0: none */
    uint64_t n_bytes;
    uint64_t checksum;
};
#define PLACE_NULL \
    { \
        .slot = SLOT_NONE \
    }

/* An object that is gone, but whose extents wait for a lease to expire. The first member of what
 * owns them, so that waiting takes no memory that might not be there. */
struct limbo {
    struct limbo *next; /* expires at the same time or later */
    uint64_t until_ns;
    struct {
        uint32_t first_page, n_pages;
    } extents[2];
};

struct tile {
    struct limbo limbo;
    struct store *store;
    uint8_t key[32];
    struct place base, fine;
    uint64_t n_numbers;
    uint64_t lease_until_ns;
    uint64_t n_refs;
    struct tile *older, *newer; /* among the unreferenced */
};

struct store {
    pthread_mutex_t mutex;
    struct map map;
    int ro_fd;
    struct arena arena;
    struct extent_map extents;
    struct index index;
    uint64_t *free_slots; /* a stack */
    uint64_t n_free_slots;
    struct tile *oldest, *newest; /* the unreferenced, as they lost their last reference */
    uint64_t n_unreferenced_pages;
    struct limbo *limbo, *limbo_last;
    uint64_t n_tails;
    store_evicted_fn evicted;
    void *user;
    struct store_stats stats; /* used_bytes is computed */
};

/* --- space.c: slots and extents; the mutex is held ------------------------------------------- */

/**
 * space_take() - a slot and an extent for n_bytes
 * Evicts unreferenced, unleased tiles as long as it is short of either.
 * Return: 0; STORE_E_FULL, and nothing was evicted if that could not have been enough.
 */
int space_take(struct store *store, uint64_t n_bytes, uint64_t now_ns,
               struct place *ret_place) _must_check_;

/** space_take_slot() - a slot alone */
int space_take_slot(struct store *store, uint64_t now_ns, uint64_t *ret_slot) _must_check_;

void space_give_slot(struct store *store, uint64_t slot);

/** space_give() - slot FREE in the arena, extent free; place becomes PLACE_NULL */
void space_give(struct store *store, struct place *place);

/**
 * space_bury() - slots FREE now, extents free when the lease has expired, owner freed
 * @owner:  the first member of what holds the places; malloc'ed; gone after the call, or later
 * @second: may be NULL or PLACE_NULL
 */
void space_bury(struct store *store, struct limbo *owner, struct place *first, struct place *second,
                uint64_t lease_until_ns, uint64_t now_ns);

/** space_reap() - what has waited long enough; all of it at UINT64_MAX */
void space_reap(struct store *store, uint64_t now_ns);

static inline uint8_t *place_bytes(const struct store *store, const struct place *place)
{
    return arena_extent(&store->arena, place->first_page);
}

static inline uint64_t place_cost(const struct place *place)
{
    return place->slot == SLOT_NONE ? 0 : (uint64_t)place->n_pages * ARENA_PAGE + ARENA_LINE_BYTES;
}

/* --- store.c ---------------------------------------------------------------------------------- */

/** tile_evict() - an unreferenced one. The mutex is held */
void tile_evict(struct tile *tile, uint64_t now_ns);
