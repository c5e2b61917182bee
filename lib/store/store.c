/*
 * Tiles: put, get, references
 *
 * A put takes its slots and extents under the mutex, copies its payload without it (the slots are
 * WRITING and nobody else knows them), and takes the mutex again to commit. If another put of the
 * same key was faster, the space goes back and that tile is the answer: the first writer wins.
 */

#include "lib/store/store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

static void lock(struct store *store)
{
    pthread_mutex_lock(&store->mutex);
}

static void unlock(struct store *store)
{
    pthread_mutex_unlock(&store->mutex);
}

static int open_arena(struct store *s, uint64_t arena_bytes, const char *tenant)
{
    uint64_t epoch;
    uint8_t hash[32];
    int r;

    r = map_create("deltapq-arena", arena_bytes, &s->map);
    if (r == MAP_E_MEMORY)
        return STORE_E_SIZE;
    if (r)
        return error_fold(r);
    r = hash_sha256(tenant, strlen(tenant), hash);
    if (r)
        return error_fold(r);
    r = hash_random(&epoch, sizeof(epoch));
    if (r)
        return error_fold(r);
    r = arena_format(s->map.bytes, s->map.n_bytes, hash, epoch >> 1 | 1, &s->arena);
    if (r)
        return r > 0 ? STORE_E_SIZE : error_fold(r);
    r = map_reopen_ro(&s->map, &s->ro_fd);
    return r ? error_fold(r) : 0;
}

static int make_private(struct store *s)
{
    const struct arena_header *h = &s->arena.header;
    uint64_t n_pages = arena_n_pages(&s->arena);
    int r;

    if (n_pages > EXTENT_MAX_PAGES)
        return STORE_E_SIZE;
    r = extent_map_init(&s->extents, (uint32_t)n_pages);
    if (r)
        return error_fold(r);
    r = index_init(&s->index, h->n_slots);
    if (r)
        return error_fold(r);
    s->free_slots = malloc(h->n_slots * sizeof(*s->free_slots));
    if (!s->free_slots)
        return error_origin(-ENOMEM);
    while (s->n_free_slots < h->n_slots) { /* slot 0 on top */
        s->free_slots[s->n_free_slots] = h->n_slots - 1 - s->n_free_slots;
        s->n_free_slots++;
    }
    s->stats.arena_bytes = h->n_bytes;
    return 0;
}

int store_new(uint64_t arena_bytes, const char *tenant, store_evicted_fn evicted, void *user,
              struct store **ret_store)
{
    _cleanup_(store_freep) struct store *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return error_origin(-ENOMEM);
    pthread_mutex_init(&s->mutex, NULL);
    s->map = (struct map)MAP_NULL;
    s->ro_fd = -1;
    s->evicted = evicted;
    s->user = user;
    if (arena_bytes < 1 << 20)
        return STORE_E_SIZE;
    r = open_arena(s, arena_bytes, tenant);
    if (r)
        return r;
    r = make_private(s);
    if (r)
        return r;
    *ret_store = steal_ptr(s);
    return 0;
}

struct store *store_free(struct store *store)
{
    if (!store)
        return NULL;
    assert(!store->n_tails); /* they belong to sequences, which are gone by now */
    if (store->index.cells)
        for (uint64_t i = 0; i <= store->index.mask; i++)
            free(store->index.cells[i]);
    if (store->limbo)
        space_reap(store, UINT64_MAX);
    free(store->free_slots);
    index_deinit(&store->index);
    extent_map_deinit(&store->extents);
    if (store->ro_fd >= 0)
        close(store->ro_fd);
    arena_deinit(&store->arena);
    map_close(&store->map);
    pthread_mutex_destroy(&store->mutex);
    free(store);
    return NULL;
}

int store_ro_fd(const struct store *store)
{
    return store->ro_fd;
}

uint64_t store_epoch(const struct store *store)
{
    return store->arena.header.epoch;
}

void store_get_stats(struct store *store, struct store_stats *ret_stats)
{
    lock(store);
    *ret_stats = store->stats;
    ret_stats->used_bytes = (uint64_t)store->extents.n_used * ARENA_PAGE;
    unlock(store);
}

/* --- the list of the unreferenced ------------------------------------------------------------- */

static void list_append(struct tile *t)
{
    struct store *s = t->store;

    t->older = s->newest;
    t->newer = NULL;
    if (s->newest)
        s->newest->newer = t;
    else
        s->oldest = t;
    s->newest = t;
    s->n_unreferenced_pages += t->base.n_pages + t->fine.n_pages;
}

static void list_remove(struct tile *tile)
{
    struct store *s = tile->store;

    if (tile->older)
        tile->older->newer = tile->newer;
    else
        s->oldest = tile->newer;
    if (tile->newer)
        tile->newer->older = tile->older;
    else
        s->newest = tile->older;
    tile->older = tile->newer = NULL;
    s->n_unreferenced_pages -= tile->base.n_pages + tile->fine.n_pages;
}

static void take_reference(struct tile *t)
{
    if (!t->n_refs++)
        list_remove(t);
}

/* Base first: wherever a base object is committed, its fine one is, too. */
static uint64_t destroy(struct tile *tile, uint64_t now_ns)
{
    struct store *s = tile->store;
    uint64_t freed = place_cost(&tile->base) + place_cost(&tile->fine);

    index_remove(&s->index, tile);
    s->stats.n_tiles--;
    s->stats.tile_bytes -= freed;
    s->stats.tile_numbers -= tile->n_numbers;
    space_bury(s, &tile->limbo, &tile->base, &tile->fine, tile->lease_until_ns, now_ns);
    return freed;
}

void tile_evict(struct tile *tile, uint64_t now_ns)
{
    struct store *s = tile->store;
    uint8_t key[32];
    uint64_t freed;

    memcpy(key, tile->key, sizeof(key));
    list_remove(tile);
    freed = destroy(tile, now_ns);
    s->stats.n_evicted++;
    if (s->evicted)
        s->evicted(s->user, key, freed);
}

/* --- put -------------------------------------------------------------------------------------- */

static int take_places(struct tile *t, const struct store_put_args *a, uint64_t now_ns)
{
    int r;

    r = space_take(t->store, a->n_base, now_ns, &t->base);
    if (!r && a->fine)
        r = space_take(t->store, a->n_fine, now_ns, &t->fine);
    if (r)
        space_give(t->store, &t->base);
    return r;
}

/* Without the mutex: slot and extent are this tile's alone. */
static void write_object(struct tile *t, struct place *p, const void *bytes)
{
    p->generation = arena_begin(&t->store->arena, p->slot);
    memcpy(place_bytes(t->store, p), bytes, p->n_bytes);
    p->checksum = hash_xxh3(bytes, p->n_bytes);
}

static void commit_object(struct tile *t, const struct place *p, const struct store_put_args *a,
                          uint32_t kind)
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
        .checksum = p->checksum,
    };

    if (p->slot == SLOT_NONE)
        return;
    memcpy(line.key, a->key, sizeof(line.key));
    memcpy(line.parent, a->parent, sizeof(line.parent));
    memcpy(line.profile, a->profile, sizeof(line.profile));
    arena_commit(&t->store->arena, p->slot, &line);
}

/* Fine first: a reader that finds the base object finds the fine one too. */
static void publish(struct tile *t, const struct store_put_args *a)
{
    struct store *s = t->store;

    commit_object(t, &t->fine, a, DPQ_SLOT_FINE);
    commit_object(t, &t->base, a, DPQ_SLOT_BASE);
    t->n_refs = 1;
    index_add(&s->index, t);
    s->stats.n_tiles++;
    s->stats.tile_bytes += place_cost(&t->base) + place_cost(&t->fine);
    s->stats.tile_numbers += t->n_numbers;
}

static struct tile *find_and_reference(struct store *store, const uint8_t key[32])
{
    struct tile *t = index_find(&store->index, key);

    if (t)
        take_reference(t);
    return t;
}

int store_put(struct store *store, const struct store_put_args *args, uint64_t now_ns,
              struct tile **ret_tile)
{
    struct tile *t = calloc(1, sizeof(*t)), *stored;
    int r;

    if (!t)
        return error_origin(-ENOMEM);
    assert(args->n_base && (!args->fine || args->n_fine));
    t->store = store;
    t->base = t->fine = (struct place)PLACE_NULL;
    t->n_numbers = args->n_numbers;
    memcpy(t->key, args->key, 32);

    lock(store);
    stored = find_and_reference(store, args->key);
    r = stored ? STORE_E_EXISTS : take_places(t, args, now_ns);
    unlock(store);
    if (r) {
        free(t);
        if (stored)
            *ret_tile = stored;
        return r;
    }
    write_object(t, &t->base, args->base);
    if (args->fine)
        write_object(t, &t->fine, args->fine);

    lock(store);
    stored = find_and_reference(store, args->key);
    if (stored) {
        space_give(store, &t->fine);
        space_give(store, &t->base);
    } else {
        publish(t, args);
    }
    unlock(store);
    if (stored)
        free(t);
    *ret_tile = stored ? stored : t;
    return stored ? STORE_E_EXISTS : 0;
}

/* --- get and references ----------------------------------------------------------------------- */

int store_get(struct store *store, const uint8_t key[32], struct tile **ret_tile)
{
    struct tile *t;

    lock(store);
    t = find_and_reference(store, key);
    unlock(store);
    if (!t)
        return STORE_E_NONE;
    *ret_tile = t;
    return 0;
}

void tile_ref(struct tile *tile)
{
    lock(tile->store);
    take_reference(tile);
    unlock(tile->store);
}

struct tile *tile_unref(struct tile *tile, bool discard, uint64_t now_ns, uint64_t *ret_freed_bytes)
{
    struct store *s;
    uint64_t freed = 0;

    if (tile) {
        s = tile->store;
        lock(s);
        assert(tile->n_refs);
        if (!--tile->n_refs) {
            if (discard)
                freed = destroy(tile, now_ns);
            else
                list_append(tile);
        }
        unlock(s);
    }
    if (ret_freed_bytes)
        *ret_freed_bytes = freed;
    return NULL;
}

const uint8_t *tile_key(const struct tile *tile)
{
    return tile->key;
}

static struct store_object object_at(const struct store *store, const struct place *p)
{
    if (p->slot == SLOT_NONE)
        return (struct store_object){ .ref = { .slot = SLOT_NONE } };
    return (struct store_object){
        .ref = { .slot = p->slot, .generation = p->generation },
        .bytes = place_bytes(store, p),
        .n_bytes = p->n_bytes,
    };
}

void tile_objects(const struct tile *tile, struct store_object *ret_base,
                  struct store_object *ret_fine)
{
    *ret_base = object_at(tile->store, &tile->base);
    *ret_fine = object_at(tile->store, &tile->fine);
}

void tile_lease(struct tile *tile, uint64_t until_ns)
{
    lock(tile->store);
    if (until_ns > tile->lease_until_ns)
        tile->lease_until_ns = until_ns;
    unlock(tile->store);
}

static bool intact(const struct store *store, const struct place *p)
{
    return p->slot == SLOT_NONE || hash_xxh3(place_bytes(store, p), p->n_bytes) == p->checksum;
}

int tile_verify(const struct tile *tile)
{
    return !(intact(tile->store, &tile->base) && intact(tile->store, &tile->fine));
}
