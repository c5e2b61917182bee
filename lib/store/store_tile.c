/*
 * Tiles: put, get, references, dropping what is fine
 *
 * A put takes its slots and extents under the mutex, copies its payload without it (the slots are
 * WRITING and nobody else knows them), and takes the mutex again to commit. If another put of the
 * same key was faster, the space goes back and that tile is the answer: the first writer wins.
 *
 * A fine object is never without its base object, for readers and after a crash: it is committed
 * first and freed last; one that is found alone was on its way in or out.
 */
#include <assert.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

/* --- references ------------------------------------------------------------------------------- */

static void take_reference(struct tile *t)
{
    if (t->n_refs++)
        return;
    t->store->n_unreferenced_pages -= t->base.n_pages + t->fine.n_pages;
    fine_list_remove(t);
}

static void leave_cached(struct tile *t, uint64_t now_ns)
{
    struct store *s = t->store;

    t->n_refs = 0;
    t->let_go_s = (uint16_t)(now_ns / 1000000000);
    s->n_unreferenced_pages += t->base.n_pages + t->fine.n_pages;
    fine_list_add(t);
    evict_let_go(&s->evict, tile_number(t));
}

/* Out of the index and all counts; its objects are as they were. Return: their bytes */
static uint64_t leave(struct tile *t)
{
    struct store *s = t->store;
    uint64_t n_bytes = place_cost(&t->base) + place_cost(&t->fine);

    fine_list_remove(t);
    if (!(t->flags & TILE_CONDEMNED))
        index_remove(&s->index, t);
    evict_remove(&s->evict, tile_number(t));
    if (!t->n_refs)
        s->n_unreferenced_pages -= t->base.n_pages + t->fine.n_pages;
    s->stats.n_tiles--;
    s->stats.tile_bytes -= n_bytes;
    s->stats.tile_numbers -= t->n_numbers;
    return n_bytes;
}

/* Base first: wherever a base object is committed, its fine one is, too. */
uint64_t tile_destroy(struct tile *tile, uint64_t now_ns)
{
    struct store *s = tile->store;
    struct place base = tile->base, fine = tile->fine; /* the tile's memory becomes a grave */
    uint64_t lease_until_ns = tile->lease_until_ns, freed;

    if (tile->flags & TILE_EVICTED) {
        tile->role = ENTRY_NONE;
        space_give_slot(s, tile_number(tile));
        return 0;
    }
    freed = leave(tile);
    tile->role = ENTRY_NONE;
    space_bury(s, &base, lease_until_ns, now_ns);
    space_bury(s, &fine, lease_until_ns, now_ns);
    space_reap(s, now_ns);
    return freed;
}

uint64_t tile_void(struct tile *tile)
{
    struct store *s = tile->store;
    uint64_t freed = leave(tile);

    arena_release(&s->arena,
                  tile->base.slot); /* which nobody gets before the last reference goes */
    extent_give(&s->extents, tile->base.first_page, tile->base.n_pages);
    space_give(s, &tile->fine);
    tile->base = (struct place)PLACE_NULL;
    tile->flags |= TILE_CONDEMNED | TILE_EVICTED;
    return freed;
}

/* --- put -------------------------------------------------------------------------------------- */

static int take_places(struct store *s, const struct store_put_args *a, uint64_t now_ns,
                       struct place *ret_base, struct place *ret_fine)
{
    int r;

    r = space_take(s, a->n_base, now_ns, ret_base);
    if (r || !a->fine)
        return r;
    r = space_take(s, a->n_fine, now_ns, ret_fine);
    if (r)
        space_give(s, ret_base);
    return r;
}

/* Without the mutex: slot and extent are this tile's alone. Return: the checksum, of the source */
static uint64_t write_object(struct store *s, const struct place *p, const void *bytes)
{
    arena_begin(&s->arena, p->slot);
    memcpy(place_bytes(s, p), bytes, p->n_bytes);
    return hash_xxh3(bytes, p->n_bytes);
}

static void commit_object(struct store *s, const struct place *p, const struct store_put_args *a,
                          uint32_t kind, uint64_t checksum)
{
    struct arena_line line = {
        .kind = (uint8_t)kind,
        .rate = (uint8_t)a->rate,
        .sequence_id = a->sequence_id,
        .first_index = a->first_index,
        .first_position = a->first_position,
        .n_tokens = DPQ_TILE_TOKENS,
        .first_page = p->first_page,
        .n_bytes = p->n_bytes,
        .n_numbers = (uint32_t)a->n_numbers,
        .dtype = kind == DPQ_SLOT_FINE && a->keeps_fine,
        .checksum = checksum,
    };

    memcpy(line.key, a->key, sizeof(line.key));
    memcpy(line.parent, a->parent, sizeof(line.parent));
    memcpy(line.profile, a->profile, sizeof(line.profile));
    arena_commit(&s->arena, p->slot, &line);
}

/* Fine first: a reader that finds the base object finds the fine one too. */
static struct tile *publish(struct store *s, const struct store_put_args *a,
                            const struct place *base, const struct place *fine,
                            const uint64_t checksums[2])
{
    struct tile *t = tile_of(s, base->slot), *parent = index_find(&s->index, a->parent);
    bool added;

    if (fine->slot != SLOT_NIL)
        commit_object(s, fine, a, DPQ_SLOT_FINE, checksums[1]);
    commit_object(s, base, a, DPQ_SLOT_BASE, checksums[0]);
    *t = (struct tile){ .role = ENTRY_TILE,
                        .flags = a->keeps_fine ? TILE_KEEPS_FINE : 0,
                        .store = s,
                        .base = *base,
                        .fine = *fine,
                        .n_numbers = (uint32_t)a->n_numbers,
                        .n_refs = 1 };
    memcpy(t->key, a->key, sizeof(t->key));
    added = index_add(&s->index, t);
    assert(added); /* it was looked for under the same lock */
    evict_add(&s->evict, base->slot, parent ? tile_number(parent) : EVICT_NONE,
              (double)a->n_numbers * evict_cost(a->first_index),
              place_cost(base) + place_cost(fine));
    tile_count(s, t);
    return t;
}

static struct tile *find_and_reference(struct store *store, const uint8_t key[32])
{
    struct tile *t = index_find(&store->index, key);

    if (t) {
        take_reference(t);
        evict_use(&store->evict, tile_number(t));
    }
    return t;
}

int store_put(struct store *store, const struct store_put_args *args, uint64_t now_ns,
              struct tile **ret_tile)
{
    struct place base = PLACE_NULL, fine = PLACE_NULL;
    uint64_t checksums[2] = { 0 };
    struct tile *t;
    int r;

    assert(args->n_base && (!args->fine || args->n_fine) && args->n_numbers <= UINT32_MAX);
    store_lock(store);
    t = find_and_reference(store, args->key);
    r = t ? STORE_E_EXISTS : take_places(store, args, now_ns, &base, &fine);
    store_unlock(store);
    if (r) {
        if (t)
            *ret_tile = t;
        return r;
    }
    checksums[0] = write_object(store, &base, args->base);
    if (args->fine)
        checksums[1] = write_object(store, &fine, args->fine);

    store_lock(store);
    t = find_and_reference(store, args->key);
    if (t) {
        space_give(store, &fine);
        space_give(store, &base);
        r = STORE_E_EXISTS;
    } else {
        t = publish(store, args, &base, &fine, checksums);
    }
    store_unlock(store);
    *ret_tile = t;
    return r;
}

/* --- get and references ----------------------------------------------------------------------- */

int store_get(struct store *store, const uint8_t key[32], struct tile **ret_tile)
{
    struct tile *t;

    store_lock(store);
    t = find_and_reference(store, key);
    store_unlock(store);
    if (!t)
        return STORE_E_NONE;
    *ret_tile = t;
    return 0;
}

void tile_ref(struct tile *tile)
{
    store_lock(tile->store);
    take_reference(tile);
    store_unlock(tile->store);
}

struct tile *tile_unref(struct tile *tile, bool discard, uint64_t now_ns, uint64_t *ret_freed_bytes)
{
    struct store *s;
    uint64_t freed = 0;

    if (tile) {
        s = tile->store;
        store_lock(s);
        assert(tile->n_refs);
        while (tile->n_refs == 1 && tile->n_readers) /* the scrubber: readers have references */
            pthread_cond_wait(&s->scrubbed, &s->mutex);
        if (tile->n_refs > 1)
            tile->n_refs--;
        else if (discard || tile->flags & TILE_CONDEMNED)
            freed = tile_destroy(tile, now_ns);
        else
            leave_cached(tile, now_ns);
        store_unlock(s);
    }
    if (ret_freed_bytes)
        *ret_freed_bytes = freed;
    return NULL;
}

const uint8_t *tile_key(const struct tile *tile)
{
    return tile->key;
}

static struct store_object object_of(const struct store *s, const struct place *p)
{
    return place_object(s, p, p->slot == SLOT_NIL ? 0 : s->arena.generations[p->slot]);
}

void tile_objects(const struct tile *tile, struct store_object *ret_base,
                  struct store_object *ret_fine)
{
    store_lock(tile->store);
    *ret_base = object_of(tile->store, &tile->base);
    *ret_fine = object_of(tile->store, &tile->fine);
    store_unlock(tile->store);
}

void tile_lease(struct tile *tile, uint64_t until_ns)
{
    store_lock(tile->store);
    store_note_lease(tile->store, until_ns);
    if (until_ns > tile->lease_until_ns)
        tile->lease_until_ns = until_ns;
    store_unlock(tile->store);
}

/* --- the fine object -------------------------------------------------------------------------- */

void tile_hold(struct tile *tile)
{
    store_lock(tile->store);
    tile->n_readers++;
    store_unlock(tile->store);
}

void tile_let_go(struct tile *tile)
{
    store_lock(tile->store);
    assert(tile->n_readers);
    tile->n_readers--;
    store_unlock(tile->store);
}

uint64_t tile_forget_fine(struct tile *tile, uint64_t now_ns)
{
    struct store *s = tile->store;
    uint64_t freed = place_cost(&tile->fine);

    fine_list_remove(tile);
    evict_resize(&s->evict, tile_number(tile), place_cost(&tile->base) + freed,
                 place_cost(&tile->base));
    if (!tile->n_refs)
        s->n_unreferenced_pages -= tile->fine.n_pages;
    s->stats.tile_bytes -= freed;
    s->stats.n_fine_dropped++;
    space_bury(s, &tile->fine, tile->lease_until_ns, now_ns);
    tile->fine = (struct place)PLACE_NULL;
    return freed;
}

int tile_drop_fine(struct tile *tile, uint64_t now_ns, uint64_t *ret_freed_bytes)
{
    struct store *s = tile->store;
    uint64_t freed = 0;
    int r = 0;

    store_lock(s);
    if (tile->fine.slot == SLOT_NIL)
        r = STORE_E_NONE;
    else if (tile->n_readers || tile->flags & TILE_KEEPS_FINE)
        r = STORE_E_BUSY;
    else
        freed = tile_forget_fine(tile, now_ns);
    store_unlock(s);
    if (ret_freed_bytes)
        *ret_freed_bytes = freed;
    return r;
}

/* --- checksums -------------------------------------------------------------------------------- */

void tile_condemn(struct tile *tile)
{
    struct store *s = tile->store;

    if (tile->flags & TILE_CONDEMNED)
        return;
    index_remove(&s->index, tile);
    tile->flags |= TILE_CONDEMNED;
    s->stats.n_corrupt++;
}

int tile_verify(struct tile *tile)
{
    struct store *s = tile->store;
    struct place base, fine;
    bool good;

    store_lock(s);
    tile->n_readers++; /* the fine object is not to go meanwhile */
    base = tile->base;
    fine = tile->fine;
    store_unlock(s);
    good = place_intact(s, &base) && place_intact(s, &fine);
    store_lock(s);
    tile->n_readers--;
    pthread_cond_broadcast(&s->scrubbed);
    if (good)
        tile->flags &= (uint8_t)~TILE_UNCHECKED;
    else
        tile_condemn(tile);
    store_unlock(s);
    return good ? 0 : STORE_E_CORRUPT;
}

int tile_check(struct tile *tile)
{
    struct store *s = tile->store;
    bool wanted, bad;

    store_lock(s);
    wanted = s->verify_reads || tile->flags & TILE_UNCHECKED;
    bad = tile->flags & TILE_CONDEMNED;
    store_unlock(s);
    if (bad)
        return STORE_E_CORRUPT;
    return wanted ? tile_verify(tile) : 0;
}
