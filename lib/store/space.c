/*
 * Slots and extents, and making room by evicting what nobody refers to
 *
 * The oldest goes first. Leased tiles are passed over: to evict them would give no room now. They
 * are few at the old end, because a tile is leased while somebody refers to it and joins the list
 * after that: a walk passes at most what was let go within the length of one lease.
 */
#include <stdlib.h>

#include "lib/store/store_internal.h"

/* --- waiting for leases ----------------------------------------------------------------------- */

void space_reap(struct store *store, uint64_t now_ns)
{
    while (store->limbo && store->limbo->until_ns <= now_ns) {
        struct limbo *l = store->limbo;

        for (size_t i = 0; i < ARRAY_SIZE(l->extents); i++)
            if (l->extents[i].n_pages)
                extent_give(&store->extents, l->extents[i].first_page, l->extents[i].n_pages);
        store->limbo = l->next;
        if (!store->limbo)
            store->limbo_last = NULL;
        free(l);
    }
}

/* In the order of expiry; leases are granted for about the same time, so the end is near. */
static void wait_for_lease(struct store *store, struct limbo *l)
{
    struct limbo **at = &store->limbo;

    if (store->limbo_last && store->limbo_last->until_ns <= l->until_ns)
        at = &store->limbo_last->next;
    while (*at && (*at)->until_ns <= l->until_ns)
        at = &(*at)->next;
    l->next = *at;
    *at = l;
    if (!l->next)
        store->limbo_last = l;
}

void space_bury(struct store *store, struct limbo *owner, struct place *first, struct place *second,
                uint64_t lease_until_ns, uint64_t now_ns)
{
    struct place *places[2] = { first, second };

    *owner = (struct limbo){ .until_ns = lease_until_ns };
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        struct place *p = places[i];

        if (!p || p->slot == SLOT_NONE)
            continue;
        arena_release(&store->arena, p->slot);
        space_give_slot(store, p->slot);
        owner->extents[i].first_page = p->first_page;
        owner->extents[i].n_pages = p->n_pages;
    }
    wait_for_lease(store, owner);
    space_reap(store, now_ns);
}

/* --- taking ----------------------------------------------------------------------------------- */

static bool evict_one(struct store *store, uint64_t now_ns)
{
    struct tile *t = store->oldest;

    while (t && t->lease_until_ns > now_ns)
        t = t->newer;
    if (!t)
        return false;
    tile_evict(t, now_ns);
    return true;
}

int space_take_slot(struct store *store, uint64_t now_ns, uint64_t *ret_slot)
{
    while (!store->n_free_slots)
        if (!evict_one(store, now_ns))
            return STORE_E_FULL;
    *ret_slot = store->free_slots[--store->n_free_slots];
    return 0;
}

void space_give_slot(struct store *store, uint64_t slot)
{
    store->free_slots[store->n_free_slots++] = slot;
}

int space_take(struct store *store, uint64_t n_bytes, uint64_t now_ns, struct place *ret_place)
{
    uint64_t n_pages = n_bytes / ARENA_PAGE + !!(n_bytes % ARENA_PAGE);
    struct place p = { .n_bytes = n_bytes };
    int r;

    space_reap(store, now_ns);
    /* hopeless: then the cache is worth more than the attempt */
    if (n_pages > store->extents.n_pages - store->extents.n_used + store->n_unreferenced_pages)
        return STORE_E_FULL;
    p.n_pages = (uint32_t)n_pages;
    r = space_take_slot(store, now_ns, &p.slot);
    if (r)
        return r;
    while ((p.first_page = extent_take(&store->extents, p.n_pages)) == EXTENT_NONE) {
        if (!evict_one(store, now_ns)) {
            space_give_slot(store, p.slot);
            return STORE_E_FULL;
        }
    }
    *ret_place = p;
    return 0;
}

void space_give(struct store *store, struct place *place)
{
    if (place->slot == SLOT_NONE)
        return;
    arena_release(&store->arena, place->slot);
    space_give_slot(store, place->slot);
    extent_give(&store->extents, place->first_page, place->n_pages);
    *place = (struct place)PLACE_NULL;
}
