/*
 * Room from what is there: cold fine objects first, then tiles
 *
 *     nobody refers to it        may be dropped when it is cold, and evicted
 *     all its owners offer it    the same, in store_relieve() only, which tells them what it did: a
 *                                put that comes between offer and withdrawal could not
 *     leased, or being read      stays
 *
 * To lose its fine object makes a tile worse, to be evicted makes it a miss. So everything that is
 * cold is made worse before anything is missed. Fine objects wait in a list, those first that were
 * let go first; which tile is evicted says evict.c.
 *
 * Leased tiles are passed over: to free them would give no room now. They are few at the old end,
 * because a tile is leased while somebody refers to it, and joins after that. After a restart
 * nobody knows what is leased, so nothing is touched for as long as a lease lasts.
 */
#include "lib/store/store_internal.h"

/* So much is looked at for one change, and so many changes are made in one go, at most. */
enum { MAX_PASSED = 4096, MAX_CHANGES = 256 };

static bool is_in_use(const struct tile *t, uint64_t now_ns)
{
    return t->lease_until_ns > now_ns || t->n_readers;
}

/* --- the list of fine objects ----------------------------------------------------------------- */

void fine_list_add(struct tile *tile)
{
    struct store *s = tile->store;
    uint32_t slot = tile->fine.slot;
    struct fine *f;

    if (slot == SLOT_NIL || tile->flags & TILE_KEEPS_FINE ||
        s->entries[slot].fine.role == ENTRY_FINE)
        return;
    f = &s->entries[slot].fine;
    *f = (struct fine){ ENTRY_FINE, tile_number(tile), s->newest_fine, SLOT_NIL };
    if (s->newest_fine != SLOT_NIL)
        s->entries[s->newest_fine].fine.newer = slot;
    else
        s->oldest_fine = slot;
    s->newest_fine = slot;
}

void fine_list_remove(struct tile *tile)
{
    struct store *s = tile->store;
    struct fine *f;

    if (tile->fine.slot == SLOT_NIL)
        return;
    f = &s->entries[tile->fine.slot].fine;
    if (f->role != ENTRY_FINE)
        return;
    *(f->older == SLOT_NIL ? &s->oldest_fine : &s->entries[f->older].fine.newer) = f->newer;
    *(f->newer == SLOT_NIL ? &s->newest_fine : &s->entries[f->newer].fine.older) = f->older;
    f->role = ENTRY_NONE;
}

/* --- one change ------------------------------------------------------------------------------- */

static bool is_cold(const struct store *s, const struct tile *t, uint64_t now_ns)
{
    uint16_t age_s = (uint16_t)(now_ns / 1000000000 - t->let_go_s);

    return age_s >= s->cold_ns / 1000000000;
}

static bool may_drop(const struct store *s, const struct tile *t, bool of_owners, uint64_t now_ns)
{
    if (is_in_use(t, now_ns))
        return false;
    return t->n_refs ? of_owners && t->n_drop_offers == t->n_refs : is_cold(s, t, now_ns);
}

static void tell(struct store *s, store_gone_fn fn, const struct tile *t,
                 const struct store_change *change)
{
    if (!change->tile && fn)
        fn(s->user, t->key, change->freed_bytes);
}

static bool drop_one(struct store *store, bool of_owners, uint64_t now_ns,
                     struct store_change *ret_change)
{
    uint32_t slot = store->oldest_fine;
    struct tile *t = NULL;

    if (now_ns < store->grace_until_ns)
        return false;
    for (uint32_t i = 0; slot != SLOT_NIL && i < MAX_PASSED; i++) {
        t = tile_of(store, store->entries[slot].fine.tile);
        if (may_drop(store, t, of_owners, now_ns))
            break;
        slot = store->entries[slot].fine.newer;
        t = NULL;
    }
    if (!t || slot == SLOT_NIL)
        return false;
    *ret_change = (struct store_change){ .tile = t->n_refs ? t : NULL };
    ret_change->freed_bytes = tile_forget_fine(t, now_ns);
    tell(store, store->dropped, t, ret_change);
    return true;
}

struct asking {
    struct store *store;
    bool of_owners;
    uint64_t now_ns;
};

static enum evict_answer may_go(void *user, uint32_t number)
{
    const struct asking *a = user;
    const struct tile *t = tile_of(a->store, number);

    if (t->n_refs > (a->of_owners ? t->n_evict_offers : 0))
        return EVICT_NO;
    return is_in_use(t, a->now_ns) ? EVICT_LATER : EVICT_YES;
}

/* The name is copied: its memory may become a grave. */
static void go(struct tile *t, uint64_t now_ns, struct store_change *ret_change)
{
    struct store *s = t->store;
    struct store_change change = { .tile = t->n_refs ? t : NULL, .is_evicted = true };
    struct tile name = *t;

    change.freed_bytes = t->n_refs ? tile_void(t) : tile_destroy(t, now_ns);
    s->stats.n_evicted++;
    tell(s, s->evicted, &name, &change);
    *ret_change = change;
}

static bool evict_one(struct store *store, bool of_owners, uint64_t now_ns,
                      struct store_change *ret_change)
{
    struct asking asking = { store, of_owners, now_ns };
    uint32_t number;

    if (now_ns < store->grace_until_ns)
        return false;
    number = evict_take(&store->evict, may_go, &asking);
    if (number == EVICT_NONE)
        return false;
    go(tile_of(store, number), now_ns, ret_change);
    return true;
}

/* Return: false, there is none that may go. */
static bool relieve_one(struct store *store, bool of_owners, uint64_t now_ns,
                        struct store_change *ret_change)
{
    return drop_one(store, of_owners, now_ns, ret_change) ||
           evict_one(store, of_owners, now_ns, ret_change);
}

bool relief_free_cached(struct store *store, uint64_t now_ns)
{
    struct store_change change;

    return relieve_one(store, /* of_owners= */ false, now_ns, &change);
}

void relief_evict_corrupt(struct tile *tile, uint64_t now_ns)
{
    struct store_change change;

    go(tile, now_ns, &change);
}

/* --- what owners offer ------------------------------------------------------------------------ */

void store_offer(struct store *store, struct tile *const *tiles, size_t n, bool may_drop,
                 bool may_evict)
{
    store_lock(store);
    for (size_t i = 0; i < n; i++) {
        struct tile *t = tiles[i];

        t->n_drop_offers += may_drop;
        t->n_evict_offers += may_evict;
        if (t->flags & TILE_CONDEMNED)
            continue;
        if (i && may_evict)
            evict_follow(&store->evict, tile_number(t), tile_number(tiles[i - 1]));
        if (may_drop && t->n_drop_offers == t->n_refs)
            fine_list_add(t);
        if (may_evict && t->n_evict_offers == t->n_refs)
            evict_offer(&store->evict, tile_number(t));
    }
    store_unlock(store);
}

void store_withdraw(struct store *store, struct tile *const *tiles, size_t n)
{
    store_lock(store);
    for (size_t i = 0; i < n; i++) {
        tiles[i]->n_drop_offers = tiles[i]->n_evict_offers = 0;
        if (tiles[i]->n_refs)
            fine_list_remove(tiles[i]);
    }
    store_unlock(store);
}

void store_set_cold(struct store *store, uint64_t cold_ns)
{
    store_lock(store);
    store->cold_ns = cold_ns;
    store_unlock(store);
}

bool tile_is_evicted(const struct tile *tile)
{
    bool is_evicted;

    store_lock(tile->store);
    is_evicted = tile->flags & TILE_EVICTED;
    store_unlock(tile->store);
    return is_evicted;
}

size_t store_relieve(struct store *store, uint64_t used_bytes, uint64_t now_ns,
                     struct store_change *changes, size_t n_max)
{
    size_t n = 0;

    store_lock(store);
    space_reap(store, now_ns);
    for (uint32_t i = 0; i < MAX_CHANGES && n < n_max; i++) {
        if ((uint64_t)store->extents.n_used * ARENA_PAGE <= used_bytes ||
            !relieve_one(store, /* of_owners= */ true, now_ns, &changes[n]))
            break;
        n += changes[n].tile != NULL;
    }
    store_unlock(store);
    return n;
}
