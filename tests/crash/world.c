#include "tests/crash/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/crash/plants.h"

static uint8_t pool[WORLD_POOL];
const uint8_t *world_pool = pool;

static const uint8_t NONE[32];

struct sequence {
    struct record *record;
    struct tail *tail;
    struct tile *tiles[WORLD_SEQUENCE_TILES];
    uint32_t n_tiles;
    bool is_cut; /* the record still tells of more tiles */
};

struct world {
    struct store *store;
    const struct world_size *size;
    struct oracle *oracle;
    struct rng rng;
    struct tile *tiles[WORLD_TILES];
    struct sequence sequences[WORLD_SEQUENCES];
};

static void need(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "world: %s\n", what);
        _exit(3);
    }
}

/* What the outside is told from now on. */
#define TELL(oracle, field, value) \
    do { \
        atomic_store(&(field), (value)); \
        atomic_fetch_add(&(oracle)->changes, 1); \
    } while (0)

void world_init(void)
{
    struct rng rng = rng_seed(77);

    for (size_t i = 0; i < sizeof(pool); i += 8) {
        uint64_t x = rng_next(&rng);

        memcpy(pool + i, &x, 8);
    }
}

/* --- tiles ------------------------------------------------------------------------------------ */

static void on_evicted(void *user, const uint8_t key[32], uint64_t freed_bytes)
{
    struct oracle *o = user;
    uint64_t name = world_name(key);
    uint32_t i = name & 0x7fff;

    (void)freed_bytes;
    if (!(name & 0x8000) && o->tiles[i].serial == name >> 16)
        TELL(o, o->tiles[i].state, TILE_NONE);
}

/* Nor is what is cached at its best for ever. */
static void on_dropped(void *user, const uint8_t key[32], uint64_t freed_bytes)
{
    struct oracle *o = user;
    uint64_t name = world_name(key);
    uint32_t i = name & 0x7fff;

    (void)freed_bytes;
    if (!(name & 0x8000) && o->tiles[i].serial == name >> 16)
        TELL(o, o->tiles[i].fine, FINE_NONE);
}

static int put_named(struct world *w, uint64_t name, uint64_t sequence_id, uint64_t first_index,
                     bool fine, const struct tile *parent, struct tile **ret_tile)
{
    uint8_t key[32];
    struct store_put_args args = {
        .key = key,
        .parent = parent ? parent->key : NONE,
        .profile = NONE,
        .sequence_id = sequence_id,
        .first_index = first_index,
        .n_numbers = 1,
        .base = world_content(name, 0),
        .n_base = world_length(name, 0, w->size->base_bytes),
        .fine = fine ? world_content(name, 1) : NULL,
        .n_fine = fine ? world_length(name, 1, w->size->fine_bytes) : 0,
    };

    world_key(name, key);
    return store_put(w->store, &args, w->oracle->now, ret_tile);
}

static void put_loose(struct world *w, uint32_t i)
{
    struct oracle *o = w->oracle;
    bool fine = rng_below(&w->rng, 3);
    int r;

    atomic_fetch_add(&o->tiles[i].serial, 1);
    atomic_store(&o->tiles[i].fine, fine ? FINE_THERE : FINE_NONE);
    atomic_store(&o->tiles[i].referenced, 1);
    TELL(o, o->tiles[i].state, crash_planted == PLANT_ACK_EARLY ? TILE_THERE : TILE_PUTTING);
    r = put_named(w, TILE_NAME(i, o->tiles[i].serial), 0, 0, fine, NULL, &w->tiles[i]);
    need(!r || r == STORE_E_FULL, "put");
    TELL(o, o->tiles[i].state, r ? TILE_NONE : TILE_THERE);
}

static void delete_loose(struct world *w, uint32_t i)
{
    struct oracle *o = w->oracle;

    TELL(o, o->tiles[i].state, crash_planted == PLANT_DELETE_ACK_EARLY ? TILE_NONE : TILE_DELETING);
    w->tiles[i] = tile_unref(w->tiles[i], true, o->now, NULL);
    TELL(o, o->tiles[i].state, TILE_NONE);
}

static void drop_fine(struct world *w, struct tile *tile, _Atomic uint8_t *fine)
{
    int r;

    if (*fine != FINE_THERE)
        return;
    TELL(w->oracle, *fine, crash_planted == PLANT_DROP_ACK_EARLY ? FINE_NONE : FINE_DROPPING);
    r = tile_drop_fine(tile, w->oracle->now, NULL);
    need(!r, "drop fine");
    TELL(w->oracle, *fine, FINE_NONE);
}

static void lease_loose(struct world *w, uint32_t i)
{
    struct oracle *o = w->oracle;
    uint32_t k = (uint32_t)rng_below(&w->rng, WORLD_LEASES);
    struct store_object objects[2];
    const struct store_object *object = &objects[0];

    if (o->leases[k].until > o->now)
        return;
    atomic_store(&o->leases[k].until, 0);
    tile_objects(w->tiles[i], &objects[0], &objects[1]);
    if (objects[1].n_bytes && rng_below(&w->rng, 2))
        object = &objects[1];
    tile_lease(w->tiles[i], o->now + WORLD_LEASE_TIME);
    o->leases[k].first_page =
        (uint32_t)(((const uint8_t *)object->bytes - arena_extent(&w->store->arena, 0)) /
                   ARENA_PAGE);
    o->leases[k].n_bytes = (uint32_t)object->n_bytes;
    o->leases[k].checksum = hash_xxh3(object->bytes, object->n_bytes);
    TELL(o, o->leases[k].until, o->now + WORLD_LEASE_TIME);
}

static void use_loose(struct world *w, uint32_t i)
{
    struct oracle *o = w->oracle;
    uint8_t key[32];

    if (!o->tiles[i].referenced) { /* found again */
        world_key(TILE_NAME(i, o->tiles[i].serial), key);
        need(!store_get(w->store, key, &w->tiles[i]), "get");
        need(!tile_check(w->tiles[i]), "check");
        TELL(o, o->tiles[i].referenced, 1);
        return;
    }
    switch (rng_below(&w->rng, 5)) {
    case 0:
        delete_loose(w, i);
        break;
    case 1:
        TELL(o, o->tiles[i].referenced, 0);
        w->tiles[i] = tile_unref(w->tiles[i], false, o->now, NULL);
        break;
    case 2:
        lease_loose(w, i);
        break;
    default:
        drop_fine(w, w->tiles[i], &o->tiles[i].fine);
    }
}

/* --- sequences -------------------------------------------------------------------------------- */

/* The record's next entry: so many tiles there are. */
static int write_record(struct world *w, struct sequence *q, uint64_t id, uint64_t n_tiles)
{
    const uint8_t *bytes;
    uint64_t n, room;

    if (!q->record)
        return record_new(w->store, id, &n_tiles, 8, 4096, NULL, w->oracle->now, &q->record);
    need(!record_bytes(q->record, &bytes, &n, &room), "record");
    if (n < 24) /* short, so that they are written anew now and then */
        return record_grow(q->record, &n_tiles, 8);
    return record_new(w->store, id, &n_tiles, 8, 4096, q->record, w->oracle->now, &q->record);
}

static int put_full_tiles(struct world *w, uint32_t k, uint64_t id, uint32_t n_after)
{
    struct sequence *q = &w->sequences[k];
    int r = 0;

    for (uint32_t i = q->n_tiles; i < n_after && !r; i++) {
        bool fine = world_mix(id + i) % 2;

        atomic_store(&w->oracle->sequences[k].fine[i], fine ? FINE_THERE : FINE_NONE);
        r = put_named(w, SEQUENCE_TILE_NAME(id, i), id, i * 128, fine, i ? q->tiles[i - 1] : NULL,
                      &q->tiles[i]);
        if (r == STORE_E_EXISTS) /* of an append that was cut short */
            r = 0;
        if (r)
            q->tiles[i] = NULL;
    }
    return r;
}

static int grow_tail(struct world *w, struct tail **tail, uint64_t id, uint32_t first_index,
                     uint32_t from, uint32_t to)
{
    int r = 0;

    if (!*tail)
        r = tail_new(w->store, id, NONE, DPQ_F16, w->size->row_bytes, first_index, first_index,
                     w->oracle->now, tail);
    return r ? r : tail_grow(*tail, world_rows(id, from, w->size->row_bytes), to - from);
}

/* Tiles that are full, the new tail, the record: that is the moment; then the old tail goes. */
static int seal(struct world *w, uint32_t k, uint64_t id, uint32_t to)
{
    struct sequence *q = &w->sequences[k];
    uint32_t n_after = to / 128;
    struct tail *new_tail = NULL;
    int r;

    r = put_full_tiles(w, k, id, n_after);
    if (!r && to % 128)
        r = grow_tail(w, &new_tail, id, n_after * 128, n_after * 128, to);
    if (!r && crash_planted == PLANT_SEAL_FREES_FIRST)
        q->tail = tail_free(q->tail, w->oracle->now, NULL);
    if (!r)
        r = write_record(w, q, id, n_after);
    if (r) {
        tail_free(new_tail, w->oracle->now, NULL);
        for (uint32_t i = n_after; i-- > q->n_tiles;)
            q->tiles[i] = tile_unref(q->tiles[i], true, w->oracle->now, NULL);
        return r;
    }
    q->n_tiles = n_after;
    tail_free(q->tail, w->oracle->now, NULL);
    q->tail = new_tail;
    return 0;
}

static void release(struct world *w, uint32_t k)
{
    struct oracle *o = w->oracle;
    struct sequence *q = &w->sequences[k];

    TELL(o, o->sequences[k].state, SEQUENCE_RELEASING);
    q->record = record_free(q->record, o->now); /* the moment */
    q->tail = tail_free(q->tail, o->now, NULL);
    while (q->n_tiles) {
        q->n_tiles--;
        q->tiles[q->n_tiles] = tile_unref(q->tiles[q->n_tiles], true, o->now, NULL);
    }
    TELL(o, o->sequences[k].state, SEQUENCE_NONE);
}

static void append(struct world *w, uint32_t k)
{
    struct oracle *o = w->oracle;
    struct sequence *q = &w->sequences[k];
    uint32_t from, to;
    uint64_t id;
    int r = 0;

    if (o->sequences[k].state == SEQUENCE_NONE) {
        atomic_store(&o->sequences[k].acked, 0);
        atomic_store(&o->sequences[k].started, 0);
        atomic_fetch_add(&o->sequences[k].serial, 1);
        TELL(o, o->sequences[k].state, SEQUENCE_LIVE);
    }
    id = SEQUENCE_ID(k, o->sequences[k].serial);
    from = o->sequences[k].acked;
    to = from + 1 + (uint32_t)rng_below(&w->rng, rng_below(&w->rng, 3) ? 60 : 180);
    if (to >= WORLD_SEQUENCE_TILES * 128) {
        release(w, k);
        return;
    }
    TELL(o, o->sequences[k].started, to);
    if (!q->record || (q->is_cut && crash_planted != PLANT_CUT_FORGOTTEN))
        r = write_record(w, q, id, q->n_tiles);
    q->is_cut = r && q->is_cut;
    if (!r && to / 128 > q->n_tiles)
        r = seal(w, k, id, to);
    else if (!r)
        r = grow_tail(w, &q->tail, id, q->n_tiles * 128, from, to);
    need(!r || r == STORE_E_FULL, "append");
    TELL(o, o->sequences[k].acked, r ? from : to);
    if (r && from == 0 && !q->record) {
        TELL(o, o->sequences[k].state, SEQUENCE_NONE);
    } else if (r) {
        if (q->tail && !tail_n_tokens(q->tail))
            q->tail = tail_free(q->tail, o->now, NULL);
        TELL(o, o->sequences[k].started, from);
        release(w, k); /* makes room */
    }
}

/* --- room ------------------------------------------------------------------------------------- */

/* What the store did to a sequence's tiles is told, then the sequence ends where it ends. */
static void tell_changes(struct world *w, uint32_t k, const struct store_change *changes, size_t n)
{
    struct oracle *o = w->oracle;
    struct sequence *q = &w->sequences[k];

    for (size_t c = 0; c < n; c++)
        for (uint32_t i = 0; i < q->n_tiles; i++)
            if (q->tiles[i] == changes[c].tile && !changes[c].is_evicted) {
                TELL(o, o->sequences[k].fine[i], FINE_NONE);
                atomic_fetch_add(&o->n_dropped, 1);
            }
}

/* The record stays as it is: that tiles are missing is seen from the arena. */
static void cut(struct world *w, uint32_t k, bool tail_too)
{
    struct oracle *o = w->oracle;
    struct sequence *q = &w->sequences[k];
    uint32_t n_before = q->n_tiles;

    while (q->n_tiles && tile_is_evicted(q->tiles[q->n_tiles - 1])) {
        q->n_tiles--;
        q->tiles[q->n_tiles] = tile_unref(q->tiles[q->n_tiles], false, o->now, NULL);
        atomic_fetch_add(&o->n_cut, 1);
    }
    for (uint32_t i = 0; i < q->n_tiles; i++)
        need(!tile_is_evicted(q->tiles[i]), "a tile was evicted before those that follow it");
    if (q->n_tiles == n_before && !tail_too)
        return;
    q->tail = tail_free(q->tail, o->now, NULL);
    q->is_cut = true;
    if (!q->n_tiles)
        q->record = record_free(q->record, o->now);
    TELL(o, o->sequences[k].acked, q->n_tiles * 128);
    TELL(o, o->sequences[k].started, q->n_tiles * 128);
}

static void make_room(struct world *w, uint32_t k)
{
    struct oracle *o = w->oracle;
    struct sequence *q = &w->sequences[k];
    bool may_drop = rng_below(&w->rng, 2), may_evict = !may_drop || rng_below(&w->rng, 2);
    uint64_t used_bytes = (uint64_t)w->store->extents.n_used * ARENA_PAGE;
    uint64_t n_bytes =
        rng_below(&w->rng, 2) ? (1 + rng_below(&w->rng, 4)) * ARENA_PAGE : used_bytes;
    struct store_change changes[8];
    size_t n;

    if (!q->n_tiles)
        return;
    TELL(o, o->sequences[k].dropping, may_drop);
    TELL(o, o->sequences[k].cutting, may_evict);
    store_offer(w->store, q->tiles, q->n_tiles, may_drop, may_evict);
    n = store_relieve(w->store, used_bytes > n_bytes ? used_bytes - n_bytes : 0, o->now, changes,
                      ARRAY_SIZE(changes));
    store_withdraw(w->store, q->tiles, q->n_tiles);
    tell_changes(w, k, changes, n);
    cut(w, k, may_evict && !rng_below(&w->rng, 4));
    TELL(o, o->sequences[k].cutting, 0);
    TELL(o, o->sequences[k].dropping, 0);
}

/* --- after a restart -------------------------------------------------------------------------- */

static void find_loose(struct world *w, uint32_t i)
{
    struct oracle *o = w->oracle;
    uint8_t key[32];

    w->tiles[i] = NULL;
    if (o->tiles[i].state == TILE_NONE)
        return;
    world_key(TILE_NAME(i, o->tiles[i].serial), key);
    if (store_get(w->store, key, &w->tiles[i])) {
        TELL(o, o->tiles[i].state, TILE_NONE);
        return;
    }
    need(!tile_check(w->tiles[i]), "loose tile");
    TELL(o, o->tiles[i].fine, w->tiles[i]->fine.slot != SLOT_NIL ? FINE_THERE : FINE_NONE);
    TELL(o, o->tiles[i].referenced, 1);
    TELL(o, o->tiles[i].state, TILE_THERE);
}

static struct record *find_record(struct world *w, uint64_t id)
{
    struct record *record = record_next(w->store, NULL);

    while (record && record_sequence_id(record) != id)
        record = record_next(w->store, record);
    return record;
}

static void find_sequence(struct world *w, uint32_t k)
{
    struct oracle *o = w->oracle;
    uint64_t id = SEQUENCE_ID(k, o->sequences[k].serial), n, room, n_tiles;
    struct sequence *q = &w->sequences[k];
    struct tail *tail = NULL, *next;
    const uint8_t *bytes;

    *q = (struct sequence){ 0 };
    if (o->sequences[k].state != SEQUENCE_NONE)
        q->record = find_record(w, id);
    if (q->record) {
        need(!record_bytes(q->record, &bytes, &n, &room), "record");
        memcpy(&n_tiles, bytes + n - 8, 8);
        for (uint64_t i = 0; i < n_tiles; i++) {
            uint8_t key[32];

            world_key(SEQUENCE_TILE_NAME(id, i), key);
            if (store_get(w->store, key, &q->tiles[i]))
                break;
            need(!tile_check(q->tiles[i]), "tile");
            TELL(o, o->sequences[k].fine[i],
                 q->tiles[i]->fine.slot != SLOT_NIL ? FINE_THERE : FINE_NONE);
            q->n_tiles++;
        }
        q->is_cut = q->n_tiles < n_tiles;
    }
    TELL(o, o->sequences[k].dropping, 0); /* now that it is told what was dropped */
    for (tail = tail_next(w->store, NULL); tail; tail = next) {
        next = tail_next(w->store, tail);
        if (tail_sequence_id(tail) % 0x8000 != k)
            continue;
        if (q->record && tail_sequence_id(tail) == id &&
            tail_first_index(tail) == q->n_tiles * 128 && !q->tail)
            q->tail = tail;
        else
            tail_free(tail, o->now, NULL);
    }
    if (o->sequences[k].state == SEQUENCE_LIVE && q->record) {
        uint32_t found = q->n_tiles * 128 + (q->tail ? tail_n_tokens(q->tail) : 0);

        need(!q->tail || !tail_check(q->tail), "tail");
        TELL(o, o->sequences[k].acked, found);
        TELL(o, o->sequences[k].started, found);
        TELL(o, o->sequences[k].cutting, 0);
    } else if (o->sequences[k].state != SEQUENCE_NONE) {
        release(w, k);
    }
}

static void open_world(struct world *w, struct map *map, struct store_recovery *found)
{
    struct oracle *o = w->oracle;
    const struct store_options options = { .tenant = "crash",
                                           .grace_until_ns = o->now + WORLD_LEASE_TIME,
                                           .evicted = on_evicted,
                                           .dropped = on_dropped,
                                           .user = o };

    atomic_store(&o->announced, 0);
    TELL(o, o->opening, 1);
    need(!store_attach(map, &options, found, &w->store), "attach");
    TELL(o, o->epoch, store_epoch(w->store));
    atomic_store(&o->announced, 1);
    store_ready(w->store);
    for (uint32_t i = 0; i < WORLD_TILES; i++)
        find_loose(w, i);
    for (uint32_t k = 0; k < WORLD_SEQUENCES; k++)
        find_sequence(w, k);
    /* full tiles of an append that was cut short, which nobody appended again: cached for nothing
     */
    for (uint32_t n = 0; n < w->store->evict.n_known; n++) {
        struct tile *t = tile_of(w->store, n);

        if (t->role == ENTRY_TILE && !t->n_refs && world_name(t->key) & 0x8000)
            tile_unref((tile_ref(t), t), true, o->now, NULL);
    }
    atomic_store(&o->in_flight, 0);
    atomic_store(&o->evicting, 0);
    TELL(o, o->opening, 0);
}

/* --- everything ------------------------------------------------------------------------------- */

static void one(struct world *w)
{
    struct oracle *o = w->oracle;
    uint32_t i = (uint32_t)rng_below(&w->rng, WORLD_TILES);
    uint32_t k = (uint32_t)rng_below(&w->rng, WORLD_SEQUENCES);
    struct sequence *q = &w->sequences[k];

    atomic_store(&o->now, o->now + 1);
    atomic_store(&o->in_flight, 1);
    switch (rng_below(&w->rng, 9)) {
    case 0:
    case 1:
    case 2:
        atomic_store(&o->evicting, 1);
        append(w, k);
        break;
    case 3:
        if (q->n_tiles) {
            uint32_t n = (uint32_t)rng_below(&w->rng, q->n_tiles);

            drop_fine(w, q->tiles[n], &o->sequences[k].fine[n]);
        }
        break;
    case 4:
        for (uint32_t n = 0; n < WORLD_SEQUENCES && !w->sequences[k].n_tiles; n++)
            k = (k + 1) % WORLD_SEQUENCES;
        atomic_store(&o->evicting, 1);
        make_room(w, k);
        break;
    default:
        if (o->tiles[i].state == TILE_NONE) {
            atomic_store(&o->evicting, 1);
            put_loose(w, i);
        } else {
            use_loose(w, i);
        }
    }
    atomic_store(&o->evicting, 0);
    atomic_store(&o->n_ops, o->n_ops + 1);
    TELL(o, o->in_flight, 0);
}

void world_run(struct map *map, const struct world_size *size, struct oracle *oracle, uint64_t n,
               uint64_t restart_every)
{
    struct world w = { .size = size,
                       .oracle = oracle,
                       .rng = rng_seed(oracle->seed + oracle->n_ops) };
    struct store_recovery found;
    struct map again = *map;

    open_world(&w, map, &found);
    for (uint64_t i = 0; i < n; i++) {
        if (restart_every && i % restart_every == restart_every - 1) {
            struct map next = again; /* this one's memory is left where it is, as by a kill */
            struct store *s = w.store;

            if (s->n_free_slots) /* a put that was cut short */
                arena_begin(&s->arena, s->free_slots[s->n_free_slots - 1]);
            open_world(&w, &next, &found);
        }
        one(&w);
    }
}

void world_create(const struct world_size *size, struct map *ret_map, struct oracle *oracle)
{
    const struct store_options options = { .tenant = "crash", .n_slots = size->n_slots };
    struct map map = MAP_NULL, keep = MAP_NULL;
    struct store *s = NULL;
    int fd;

    need(!map_create("crash", size->arena_bytes, &map), "memfd");
    fd = dup(map.fd);
    need(!store_create(&map, &options, &s), "create");
    store_ready(s);
    store_free(s);
    need(!map_adopt(fd, &keep), "adopt");
    memset(oracle, 0, sizeof(*oracle));
    oracle->seed = 5;
    *ret_map = keep;
}
