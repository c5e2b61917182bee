/*
 * Slots and extents, given and taken
 *
 * What is freed under a lease is BURIED in the arena, too: a process that takes the arena over does
 * not use that room either before its clients' leases have expired.
 */
#include "lib/store/store_internal.h"

/* --- waiting for leases ----------------------------------------------------------------------- */

void space_reap(struct store *store, uint64_t now_ns)
{
    while (store->limbo != SLOT_NIL) {
        uint32_t slot = store->limbo;
        struct grave *g = &store->entries[slot].grave;

        if (g->until_ns > now_ns)
            break;
        arena_release(&store->arena, slot);
        extent_give(&store->extents, g->first_page, g->n_pages);
        store->limbo = g->next;
        if (store->limbo == SLOT_NIL)
            store->limbo_last = SLOT_NIL;
        g->role = ENTRY_NONE;
        space_give_slot(store, slot);
    }
}

/* In the order of expiry; leases are granted for about the same time, so the end is near. */
void space_wait(struct store *store, const struct place *place, uint64_t until_ns)
{
    uint32_t *at = &store->limbo;
    struct grave *g = &store->entries[place->slot].grave, *last;

    if (store->limbo_last != SLOT_NIL) {
        last = &store->entries[store->limbo_last].grave;
        if (last->until_ns <= until_ns)
            at = &last->next;
    }
    while (*at != SLOT_NIL && store->entries[*at].grave.until_ns <= until_ns)
        at = &store->entries[*at].grave.next;
    *g = (struct grave){ .role = ENTRY_GRAVE,
                         .next = *at,
                         .until_ns = until_ns,
                         .first_page = place->first_page,
                         .n_pages = place->n_pages };
    *at = place->slot;
    if (g->next == SLOT_NIL)
        store->limbo_last = place->slot;
}

void space_bury(struct store *store, struct place *place, uint64_t lease_until_ns, uint64_t now_ns)
{
    if (place->slot == SLOT_NIL)
        return;
    if (lease_until_ns <= now_ns) {
        space_give(store, place);
        return;
    }
    arena_bury(&store->arena, place->slot);
    space_wait(store, place, lease_until_ns);
    *place = (struct place)PLACE_NULL;
}

/* --- taking ----------------------------------------------------------------------------------- */

int space_take_slot(struct store *store, uint64_t now_ns, uint32_t *ret_slot)
{
    while (!store->n_free_slots)
        if (!relief_free_cached(store, now_ns))
            return STORE_E_FULL;
    *ret_slot = store->free_slots[--store->n_free_slots];
    return 0;
}

void space_give_slot(struct store *store, uint32_t slot)
{
    if (store->arena.generations[slot] >= ARENA_MAX_GENERATION)
        store->n_retired_slots++;
    else
        store->free_slots[store->n_free_slots++] = slot;
}

int space_take(struct store *store, uint64_t n_bytes, uint64_t now_ns, struct place *ret_place)
{
    uint64_t n_pages = n_bytes / ARENA_PAGE + !!(n_bytes % ARENA_PAGE);
    struct place p = { .n_bytes = (uint32_t)n_bytes };
    int r;

    space_reap(store, now_ns);
    /* hopeless: then the cache is worth more than the attempt */
    if (n_bytes > UINT32_MAX ||
        n_pages > store->extents.n_pages - store->extents.n_used + store->n_unreferenced_pages)
        return STORE_E_FULL;
    p.n_pages = (uint32_t)n_pages;
    r = space_take_slot(store, now_ns, &p.slot);
    if (r)
        return r;
    while ((p.first_page = extent_take(&store->extents, p.n_pages)) == EXTENT_NONE) {
        if (!relief_free_cached(store, now_ns)) {
            space_give_slot(store, p.slot);
            return STORE_E_FULL;
        }
    }
    *ret_place = p;
    return 0;
}

void space_give(struct store *store, struct place *place)
{
    if (place->slot == SLOT_NIL)
        return;
    arena_release(&store->arena, place->slot);
    space_give_slot(store, place->slot);
    extent_give(&store->extents, place->first_page, place->n_pages);
    *place = (struct place)PLACE_NULL;
}
