/* Is an arena in one of the states that the oracle allows? */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/crash/world.h"

/* --- what mapped readers see ------------------------------------------------------------------ */

static void check_slots(const struct arena *a, const struct arena_line *at_attach,
                        const struct oracle *o, struct verdict *v)
{
    for (uint64_t i = 0; i < a->header.n_slots; i++) {
        struct arena_line line = a->lines[i];

        /* a scan that is not counted can be repeated for ever */
        if (at_attach && !o->announced && line.word != at_attach[i].word && !a->header.unready)
            v->uncounted++;
        if ((line.word & 3) != SLOT_COMMITTED || (i == o->poked_slot && line.word == o->poked_word))
            continue;
        if (!arena_line_good(&a->header, &line) ||
            hash_xxh3(arena_extent(a, line.first_page), line.n_bytes) != line.checksum)
            v->torn++;
    }
}

void world_check_raw(const uint8_t *bytes, const struct world_size *size, struct oracle *oracle,
                     const struct arena_line *at_attach, struct verdict *v)
{
    struct arena a = { .bytes = (uint8_t *)bytes };

    if (arena_judge(bytes, size->arena_bytes, NULL, &a.header)) {
        v->refused++;
        return;
    }
    a.lines = (struct arena_line *)(a.bytes + a.header.slots_offset);
    v->epoch += a.header.epoch < oracle->epoch;
    check_slots(&a, at_attach, oracle, v);
    for (int i = 0; i < WORLD_LEASES; i++)
        if (oracle->leases[i].until > oracle->now &&
            hash_xxh3(arena_extent(&a, oracle->leases[i].first_page), oracle->leases[i].n_bytes) !=
                oracle->leases[i].checksum)
            v->leased++;
}

/* --- what a restart finds --------------------------------------------------------------------- */

static struct tile *find(struct store *s, uint64_t name)
{
    uint8_t key[32];

    world_key(name, key);
    return index_find(&s->index, key);
}

static bool is_content(const struct store *s, const struct place *p, const uint8_t *want,
                       uint32_t n)
{
    return p->n_bytes == n && place_intact(s, p) && !memcmp(place_bytes(s, p), want, n);
}

/* Base and fine object, both exact; the fine one there, or not, or either. */
static void check_tile(const struct store *s, const struct world_size *size, uint64_t name,
                       const struct tile *t, int fine, struct verdict *v)
{
    bool has_fine = t->fine.slot != SLOT_NIL;

    if (!is_content(s, &t->base, world_content(name, 0), world_length(name, 0, size->base_bytes)) ||
        (has_fine &&
         !is_content(s, &t->fine, world_content(name, 1), world_length(name, 1, size->fine_bytes))))
        v->torn++;
    if (fine != FINE_DROPPING && has_fine != (fine == FINE_THERE))
        v->mixed++;
}

static void check_loose(struct store *s, const struct world_size *size, struct oracle *o,
                        struct verdict *v)
{
    for (uint32_t i = 0; i < WORLD_TILES; i++) {
        uint64_t name = TILE_NAME(i, o->tiles[i].serial);
        const struct tile *t = find(s, name);

        switch (o->tiles[i].state) {
        case TILE_NONE:
            v->back += t != NULL;
            continue;
        case TILE_THERE:
            v->lost += !t && !(o->evicting && !o->tiles[i].referenced);
            break;
        default:
            break;
        }
        if (t)
            check_tile(s, size, name, t,
                       o->evicting && !o->tiles[i].referenced && o->tiles[i].fine == FINE_THERE
                           ? FINE_DROPPING
                           : o->tiles[i].fine,
                       v);
    }
}

static bool rows_right(struct tail *tail, uint64_t id, uint32_t first, uint32_t row_bytes)
{
    struct store_object object;
    uint32_t n = tail_n_tokens(tail);

    tail_object(tail, &object);
    return !tail_check(tail) && object.n_bytes == (uint64_t)n * row_bytes &&
           !memcmp(object.bytes, world_rows(id, first, row_bytes), object.n_bytes);
}

static struct record *record_of(struct store *s, uint64_t id)
{
    struct record *r = record_next(s, NULL);

    while (r && record_sequence_id(r) != id)
        r = record_next(s, r);
    return r;
}

/* The tail that goes on where the tiles end. */
static struct tail *tail_of(struct store *s, uint64_t id, uint64_t first_index)
{
    struct tail *t = tail_next(s, NULL);

    while (t && (tail_sequence_id(t) != id || tail_first_index(t) != first_index))
        t = tail_next(s, t);
    return t;
}

/* A sequence ends where its first tile is missing: what has been announced, or is being done, says
 * whether one may be. */
static uint32_t count_tiles(struct store *s, const struct world_size *size, struct oracle *o,
                            uint32_t k, uint32_t n_tiles, struct verdict *v)
{
    uint64_t id = SEQUENCE_ID(k, o->sequences[k].serial);
    uint32_t n_there = 0;

    for (uint32_t i = 0; i < n_tiles; i++) {
        const struct tile *t = find(s, SEQUENCE_TILE_NAME(id, i));
        int fine = o->sequences[k].fine[i];

        if (!t)
            continue;
        v->mixed += n_there < i; /* behind one that is missing */
        n_there += n_there == i;
        if (o->sequences[k].dropping && fine == FINE_THERE)
            fine = FINE_DROPPING;
        check_tile(s, size, SEQUENCE_TILE_NAME(id, i), t, fine, v);
    }
    return n_there;
}

static void check_sequence(struct store *s, const struct world_size *size, struct oracle *o,
                           uint32_t k, struct verdict *v)
{
    uint64_t id = SEQUENCE_ID(k, o->sequences[k].serial), n, room, n_tiles;
    uint32_t acked = o->sequences[k].acked, started = o->sequences[k].started, found, n_there;
    struct record *record = record_of(s, id);
    const uint8_t *bytes;
    struct tail *tail;

    if (o->sequences[k].state != SEQUENCE_LIVE) {
        v->back += record && o->sequences[k].state == SEQUENCE_NONE;
        return;
    }
    if (!record) {
        v->lost += acked > 0 && !o->sequences[k].cutting;
        return;
    }
    if (record_bytes(record, &bytes, &n, &room) || n % 8) {
        v->torn++;
        return;
    }
    memcpy(&n_tiles, bytes + n - 8, 8);
    if (n_tiles > WORLD_SEQUENCE_TILES) {
        v->torn++;
        return;
    }
    n_there = count_tiles(s, size, o, k, (uint32_t)n_tiles, v);
    tail = n_there == n_tiles ? tail_of(s, id, n_tiles * 128) : NULL;
    if (tail && !rows_right(tail, id, (uint32_t)n_tiles * 128, size->row_bytes))
        v->torn++;
    found = n_there * 128 + (tail ? tail_n_tokens(tail) : 0);
    if (o->sequences[k].cutting && found <= acked && (found == acked || !tail))
        return; /* so far it has been cut by now */
    if (found < acked)
        v->lost++;
    else if (found != acked && found != started)
        v->mixed++;
}

/* --- nothing else, and nothing lost on the way -------------------------------------------------
 */

static bool is_known(struct oracle *o, uint64_t name)
{
    uint32_t i = name & 0x7f, tile = (uint32_t)(name >> 8 & 0x7f);

    if (!(name & 0x8000))
        return i < WORLD_TILES && o->tiles[i].serial == name >> 16;
    return i < WORLD_SEQUENCES && o->sequences[i].serial == name >> 16 && tile &&
           tile <= WORLD_SEQUENCE_TILES;
}

static bool is_busy(const struct oracle *o)
{
    return o->opening || o->in_flight;
}

static void check_strips(struct store *s, struct oracle *o, struct verdict *v)
{
    for (struct tail *t = tail_next(s, NULL); t; t = tail_next(s, t)) {
        uint64_t id = tail_sequence_id(t), n, room, n_tiles = 0;
        struct record *record = record_of(s, id);
        const uint8_t *bytes;

        if (record && !record_bytes(record, &bytes, &n, &room))
            memcpy(&n_tiles, bytes + n - 8, 8);
        if ((!record || tail_first_index(t) != n_tiles * 128) && !is_busy(o))
            v->leaked++;
    }
}

/* What was committed before the attach does not become less by it. */
struct longest {
    uint64_t id, first_index; /* of a record: 0 */
    uint64_t n;               /* tokens; of a record: version */
    uint8_t kind;
};

enum { MAX_LONGEST = 32 };

static void note_longest(const struct arena_line *line, struct longest *all)
{
    bool record = line->kind == SLOT_KIND_RECORD;
    struct longest l = { line->sequence_id, record ? 0 : line->first_index,
                         record ? line->first_index : line->n_tokens, line->kind };

    if ((line->word & 3) != SLOT_COMMITTED || (line->kind != DPQ_SLOT_TAIL && !record) ||
        line_checksum(line) != line->line_checksum)
        return;
    for (int i = 0; i < MAX_LONGEST; i++) {
        if (!all[i].kind)
            all[i] = l;
        if (all[i].kind != l.kind || all[i].id != l.id || all[i].first_index != l.first_index)
            continue;
        if (l.n > all[i].n)
            all[i].n = l.n;
        return;
    }
}

static void check_longest(struct store *s, const struct longest *all, struct verdict *v)
{
    for (int i = 0; i < MAX_LONGEST && all[i].kind; i++) {
        const struct strip *strip = s->strips;

        while (strip &&
               (strip->line.kind != all[i].kind || strip->line.sequence_id != all[i].id ||
                (all[i].kind == DPQ_SLOT_TAIL && strip->line.first_index != all[i].first_index)))
            strip = strip->next;
        v->back += !strip || (all[i].kind == DPQ_SLOT_TAIL ? strip->line.n_tokens
                                                           : strip->line.first_index) != all[i].n;
    }
}

/* What is under a lease is not free for the next process either. */
static void check_leases(const struct store *s, const struct oracle *o, struct verdict *v)
{
    for (int i = 0; i < WORLD_LEASES; i++) {
        uint32_t page = o->leases[i].first_page;

        if (o->leases[i].until > o->now)
            v->leased += !(s->extents.used[page / 64] >> page % 64 & 1) ||
                         s->grace_until_ns < o->leases[i].until;
    }
}

static void check_sums(struct store *s, struct oracle *o, struct verdict *v)
{
    uint64_t n_pages = 0, n_slots = s->n_free_slots + s->n_retired_slots;

    for (uint64_t i = 0; i < s->arena.header.n_slots; i++) {
        const union slot_entry *e = &s->entries[i];

        if (e->tile.role == ENTRY_TILE) {
            n_pages += e->tile.base.n_pages + e->tile.fine.n_pages;
            n_slots += 1 + (e->tile.fine.slot != SLOT_NIL);
            v->back += !is_known(o, world_name(e->tile.key));
        } else if (e->grave.role == ENTRY_GRAVE) {
            n_pages += e->grave.n_pages;
            n_slots++;
        }
    }
    for (struct strip *strip = s->strips; strip; strip = strip->next) {
        n_pages += strip->n_pages;
        n_slots += (strip->slots[0] != SLOT_NIL) + (strip->slots[1] != SLOT_NIL);
    }
    v->leaked += n_pages != s->extents.n_used;
    v->leaked += n_slots != s->arena.header.n_slots;
}

void world_check_recovered(int fd, const struct world_size *size, struct oracle *oracle,
                           struct verdict *v)
{
    const struct store_options options = { .tenant = "crash",
                                           .grace_until_ns = oracle->now + WORLD_LEASE_TIME };
    struct longest longest[MAX_LONGEST] = { 0 };
    struct store_recovery found;
    struct map map = MAP_NULL;
    struct store *s = NULL;

    if (map_adopt(dup(fd), &map)) {
        v->refused++;
        return;
    }
    for (uint64_t i = 0; i < size->n_slots; i++)
        note_longest((const struct arena_line *)(map.bytes + ARENA_PAGE) + i, longest);
    if (store_attach(&map, &options, &found, &s)) {
        map_close(&map);
        v->refused++;
        return;
    }
    for (uint64_t i = 0; i < s->arena.header.n_slots; i++)
        v->leaked += (s->arena.lines[i].word & 3) == SLOT_WRITING;
    check_loose(s, size, oracle, v);
    for (uint32_t k = 0; k < WORLD_SEQUENCES; k++)
        check_sequence(s, size, oracle, k, v);
    check_strips(s, oracle, v);
    check_sums(s, oracle, v);
    check_longest(s, longest, v);
    check_leases(s, oracle, v);
    store_free(s);
}
