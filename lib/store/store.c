/*
 * A store's life: arena and private memory, made anew or around what an earlier process left
 */

#include "lib/store/store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

const char *store_outcome_name(int outcome)
{
    static const char *const names[] = {
        [STORE_E_FULL] = "FULL",         [STORE_E_EXISTS] = "EXISTS",   [STORE_E_NONE] = "NONE",
        [STORE_E_SIZE] = "SIZE",         [STORE_E_CORRUPT] = "CORRUPT", [STORE_E_BUSY] = "BUSY",
        [STORE_E_HEADER] = "HEADER",     [STORE_E_SCHEMA] = "SCHEMA",   [STORE_E_FORMAT] = "FORMAT",
        [STORE_E_GEOMETRY] = "GEOMETRY", [STORE_E_TENANT] = "TENANT",   [STORE_E_SECRET] = "SECRET",
        [STORE_E_FAULTS] = "FAULTS",     [STORE_E_UNREADY] = "UNREADY",
    };

    if (outcome < 0 || outcome >= (int)ARRAY_SIZE(names) || !names[outcome])
        return "UNKNOWN";
    return names[outcome];
}

/* --- making ----------------------------------------------------------------------------------- */

static int identify(const struct store_options *options, struct arena_identity *ret_identity)
{
    memcpy(ret_identity->secret_id, options->secret_id, sizeof(ret_identity->secret_id));
    return hash_sha256(options->tenant, strlen(options->tenant), ret_identity->tenant_hash);
}

static struct store *make(const struct store_options *options)
{
    struct store *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->scrubbed, NULL);
    s->map = (struct map)MAP_NULL;
    s->ro_fd = -1;
    s->verify_reads = options->verify_reads;
    s->cold_ns = options->cold_ns;
    s->evicted = options->evicted;
    s->dropped = options->dropped;
    s->user = options->user;
    s->oldest_fine = s->newest_fine = s->limbo = s->limbo_last = SLOT_NIL;
    return s;
}

static int make_private(struct store *s)
{
    const struct arena_header *h = &s->arena.header;
    int r;

    r = extent_map_init(&s->extents, (uint32_t)arena_n_pages(&s->arena));
    if (r)
        return error_fold(r);
    s->entries = map_zeroed(h->n_slots * sizeof(*s->entries));
    s->free_slots = malloc(h->n_slots * sizeof(*s->free_slots));
    if (!s->entries || !s->free_slots)
        return error_origin(-ENOMEM);
    r = index_init(&s->index, s->entries, h->n_slots);
    if (!r)
        r = evict_init(&s->evict, (uint32_t)h->n_slots, arena_n_pages(&s->arena) * ARENA_PAGE);
    if (r)
        return error_fold(r);
    s->stats.arena_bytes = h->n_bytes;
    return 0;
}

/* The rest of a store whose arena has been laid out or opened; then the mapping is its own. */
static int finish(struct store *s, struct map *map, struct store_recovery *ret_recovery)
{
    int r;

    r = make_private(s);
    if (!r)
        r = map_reopen_ro(map, &s->ro_fd);
    if (!r)
        r = recover_slots(s, ret_recovery);
    if (r)
        return error_fold(r);
    s->map = *map;
    *map = (struct map)MAP_NULL;
    return 0;
}

int store_create(struct map *map, const struct store_options *options, struct store **ret_store)
{
    _cleanup_(store_freep) struct store *s = make(options);
    struct store_recovery nothing;
    struct arena_identity identity;
    uint64_t epoch;
    int r;

    if (!s)
        return error_origin(-ENOMEM);
    r = identify(options, &identity);
    if (!r)
        r = hash_random(&epoch, sizeof(epoch));
    if (r)
        return error_fold(r);
    r = arena_format(map->bytes, map->n_bytes, &identity, options->n_slots, epoch >> 1 | 1,
                     &s->arena);
    if (r)
        return r > 0 ? STORE_E_SIZE : error_fold(r);
    r = finish(s, map, &nothing);
    if (r)
        return error_fold(r);
    *ret_store = steal_ptr(s);
    return 0;
}

int store_attach(struct map *map, const struct store_options *options,
                 struct store_recovery *ret_recovery, struct store **ret_store)
{
    static const int outcomes[] = {
        [ARENA_E_SIZE] = STORE_E_SIZE,       [ARENA_E_HEADER] = STORE_E_HEADER,
        [ARENA_E_SCHEMA] = STORE_E_SCHEMA,   [ARENA_E_GEOMETRY] = STORE_E_GEOMETRY,
        [ARENA_E_FORMAT] = STORE_E_FORMAT,   [ARENA_E_TENANT] = STORE_E_TENANT,
        [ARENA_E_SECRET] = STORE_E_SECRET,   [ARENA_E_FAULTS] = STORE_E_FAULTS,
        [ARENA_E_UNREADY] = STORE_E_UNREADY,
    };
    _cleanup_(store_freep) struct store *s = make(options);
    struct store_recovery recovery = { 0 };
    struct arena_identity identity;
    struct arena_header before;
    int r;

    if (!s)
        return error_origin(-ENOMEM);
    s->grace_until_ns = options->grace_until_ns;
    r = identify(options, &identity);
    if (r)
        return error_fold(r);
    r = arena_judge(map->bytes, map->n_bytes, &identity, &before);
    if (r)
        return outcomes[r];
    r = arena_attach(map->bytes, map->n_bytes, &identity, &s->arena);
    if (r)
        return error_fold(r);
    /* what was leased is not known, but for how long it can be */
    if (before.lease_until_ns < s->grace_until_ns)
        s->grace_until_ns = before.lease_until_ns;
    recovery.clean = before.clean;
    recovery.faults = s->arena.header.faults;
    recovery.unready = before.unready;
    r = finish(s, map, &recovery);
    if (r)
        return error_fold(r);
    arena_begin_epoch(&s->arena);
    *ret_recovery = recovery;
    *ret_store = steal_ptr(s);
    return 0;
}

int store_new(uint64_t arena_bytes, const char *tenant, store_gone_fn evicted, void *user,
              struct store **ret_store)
{
    const struct store_options options = { .tenant = tenant, .evicted = evicted, .user = user };
    _cleanup_(map_close) struct map map = MAP_NULL;
    int r;

    if (arena_bytes < 1 << 20)
        return STORE_E_SIZE;
    r = map_create("deltapq-arena", arena_bytes, &map);
    if (r)
        return r == MAP_E_MEMORY ? STORE_E_SIZE : error_fold(r);
    r = store_create(&map, &options, ret_store);
    return r == STORE_E_SIZE ? r : error_fold(r);
}

/* --- the end ---------------------------------------------------------------------------------- */

struct store *store_free(struct store *store)
{
    if (!store)
        return NULL;
    while (store->strips) {
        struct strip *strip = store->strips;

        strip_forget(strip);
        free(strip); /* the first member of tail and record */
    }
    if (store->map.bytes) {
        store->arena.header.clean = 1;
        arena_write_header(&store->arena);
    }
    map_zeroed_free(store->entries, store->arena.header.n_slots * sizeof(*store->entries));
    free(store->free_slots);
    index_deinit(&store->index);
    evict_deinit(&store->evict);
    extent_map_deinit(&store->extents);
    if (store->ro_fd >= 0)
        close(store->ro_fd);
    arena_deinit(&store->arena);
    map_close(&store->map);
    pthread_cond_destroy(&store->scrubbed);
    pthread_mutex_destroy(&store->mutex);
    free(store);
    return NULL;
}

void store_ready(struct store *store)
{
    store_lock(store);
    store->arena.header.unready = 0;
    arena_write_header(&store->arena);
    store_unlock(store);
}

void store_healthy(struct store *store)
{
    store_lock(store);
    if (store->arena.header.faults) {
        store->arena.header.faults = 0;
        arena_write_header(&store->arena);
    }
    store_unlock(store);
}

void store_note_lease(struct store *store, uint64_t until_ns)
{
    if (until_ns <= store->arena.header.lease_until_ns)
        return;
    store->arena.header.lease_until_ns = until_ns;
    arena_write_header(&store->arena);
}

/* --- asking ----------------------------------------------------------------------------------- */

_Atomic uint64_t *store_fault_word(struct store *store)
{
    return arena_fault_word(store->map.bytes);
}

int store_fd(const struct store *store)
{
    return store->map.fd;
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
    store_lock(store);
    *ret_stats = store->stats;
    ret_stats->used_bytes = (uint64_t)store->extents.n_used * ARENA_PAGE;
    store_unlock(store);
}

/* --- places ----------------------------------------------------------------------------------- */

struct store_object place_object(const struct store *store, const struct place *place,
                                 uint64_t generation)
{
    if (place->slot == SLOT_NIL)
        return (struct store_object){ .ref = { .slot = SLOT_NONE } };
    return (struct store_object){
        .ref = { .slot = place->slot, .generation = generation },
        .bytes = place_bytes(store, place),
        .n_bytes = place->n_bytes,
    };
}

/* The checksum is the line's, which has one of its own. */
bool place_matches(const struct store *store, const struct place *place,
                   const struct arena_line *line)
{
    return line_checksum(line) == line->line_checksum && line->first_page == place->first_page &&
           line->n_bytes == place->n_bytes &&
           hash_xxh3(place_bytes(store, place), place->n_bytes) == line->checksum;
}

bool place_intact(const struct store *store, const struct place *place)
{
    struct arena_line line;

    if (place->slot == SLOT_NIL)
        return true;
    line = store->arena.lines[place->slot];
    return place_matches(store, place, &line);
}
