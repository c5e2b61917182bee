/*
 * From the slot table of an earlier process to everything that is private
 *
 *     judge    each line by itself: half-written and damaged ones are freed
 *     strips   of two lines over one extent the longer is kept, of two versions the later
 *     claim    every extent once; if two lines want the same page, neither is believed
 *     build    tiles from base objects, then their fine ones; tails, records, graves
 *
 * Freeing is the only thing that is written, by the same protocol as ever, so that this may be
 * killed and repeated. A crash leaves half-written slots, orphans and pairs; anything else that is
 * freed here was damaged, and is counted apart.
 *
 * Which tiles were used last is not known any more. Of a chain the end goes first, so the list of
 * the unreferenced begins with those that are far from their sequence's start.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

/* A line that was believed so far. */
struct found {
    uint32_t slot;
    uint32_t first_page, n_pages;
    uint8_t kind;
    bool buried;
};

struct recovery {
    struct store *store;
    struct store_recovery *counts;
    struct found *found;
    uint32_t n_found;
};

static struct arena_line copy_line(const struct recovery *r, uint32_t slot)
{
    return r->store->arena.lines[slot];
}

/* --- judge ------------------------------------------------------------------------------------ */

static void judge(struct recovery *r, uint32_t slot)
{
    struct arena *arena = &r->store->arena;
    struct arena_line line = copy_line(r, slot);
    uint64_t word = atomic_load_explicit(&line.word, memory_order_relaxed);

    arena->generations[slot] = word >> 2;
    switch (word & 3) {
    case SLOT_FREE:
        return;
    case SLOT_WRITING:
        arena_release(arena, slot);
        r->counts->n_half_written++;
        return;
    default:
        if (word >> 2 < ARENA_MAX_GENERATION && arena_line_good(&arena->header, &line))
            break;
        arena_release(arena, slot);
        r->counts->n_damaged++;
        return;
    }
    r->found[r->n_found++] = (struct found){
        .slot = slot,
        .first_page = line.first_page,
        .n_pages = pages_of(line_room_bytes(&line)),
        .kind = line.kind,
        .buried = (word & 3) == SLOT_BURIED,
    };
}

/* Slots that were freed leave the list; the others keep their order. */
static void free_found(struct recovery *r, struct found *f, uint64_t *count)
{
    arena_release(&r->store->arena, f->slot);
    f->kind = 0;
    ++*count;
}

static void sweep(struct recovery *r)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->n_found; i++)
        if (r->found[i].kind)
            r->found[n++] = r->found[i];
    r->n_found = n;
}

/* --- strips ----------------------------------------------------------------------------------- */

struct grown {
    struct found *found;
    struct arena_line line;
};

static int by_extent(const void *a, const void *b)
{
    const struct grown *x = a, *y = b;

    if (x->line.first_page != y->line.first_page)
        return x->line.first_page < y->line.first_page ? -1 : 1;
    return (x->line.n_bytes > y->line.n_bytes) - (x->line.n_bytes < y->line.n_bytes);
}

static int by_version(const void *a, const void *b)
{
    const struct grown *x = a, *y = b;

    if (x->line.sequence_id != y->line.sequence_id)
        return x->line.sequence_id < y->line.sequence_id ? -1 : 1;
    return (x->line.first_index > y->line.first_index) -
           (x->line.first_index < y->line.first_index);
}

/* A growth that was cut short between its commit and the release of the shorter line. */
static bool is_pair(const struct grown *shorter, const struct grown *longer)
{
    return shorter->line.first_page == longer->line.first_page &&
           shorter->line.kind == longer->line.kind &&
           shorter->line.sequence_id == longer->line.sequence_id &&
           shorter->line.first_index == longer->line.first_index &&
           shorter->line.n_bytes < longer->line.n_bytes;
}

static uint32_t collect(struct recovery *r, bool records_only, struct grown *ret_grown)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->n_found; i++) {
        struct found *f = &r->found[i];

        if (f->buried ||
            !(f->kind == SLOT_KIND_RECORD || (f->kind == DPQ_SLOT_TAIL && !records_only)))
            continue;
        if (ret_grown)
            ret_grown[n] = (struct grown){ f, copy_line(r, f->slot) };
        n++;
    }
    return n;
}

static int settle_strips(struct recovery *r)
{
    uint32_t n = collect(r, false, NULL);
    struct grown *grown;

    if (!n)
        return 0;
    grown = malloc(n * sizeof(*grown));
    if (!grown)
        return error_origin(-ENOMEM);
    collect(r, false, grown);
    qsort(grown, n, sizeof(*grown), by_extent);
    for (uint32_t i = 0; i + 1 < n; i++)
        if (is_pair(&grown[i], &grown[i + 1]))
            free_found(r, grown[i].found, &r->counts->n_orphans);
    sweep(r);
    n = collect(r, true, grown);
    qsort(grown, n, sizeof(*grown), by_version);
    for (uint32_t i = 0; i + 1 < n; i++)
        if (grown[i].line.sequence_id == grown[i + 1].line.sequence_id)
            free_found(r, grown[i].found, &r->counts->n_orphans);
    sweep(r);
    free(grown);
    return 0;
}

/* --- claim ------------------------------------------------------------------------------------ */

/* All that want a page of first … are freed. Rare, so by looking at each. */
static void free_disputed(struct recovery *r, const struct found *want)
{
    uint64_t first = want->first_page, end = first + want->n_pages;

    for (uint32_t i = 0; i < r->n_found; i++) {
        struct found *f = &r->found[i];

        if (f->kind && f->first_page < end && first < (uint64_t)f->first_page + f->n_pages)
            free_found(r, f, &r->counts->n_damaged);
    }
}

/* The map is empty before, and has nobody's page twice after. */
static void claim(struct recovery *r)
{
    struct extent_map *map = &r->store->extents;

    for (uint32_t i = 0; i < r->n_found; i++) {
        struct found *f = &r->found[i];

        if (extent_claim(map, f->first_page, f->n_pages))
            continue;
        while (i-- > 0)
            extent_unclaim(map, r->found[i].first_page, r->found[i].n_pages);
        free_disputed(r, f);
        sweep(r);
        i = UINT32_MAX; /* from the start */
    }
}

/* --- build ------------------------------------------------------------------------------------ */

static void drop(struct recovery *r, struct found *f, uint64_t *count)
{
    extent_unclaim(&r->store->extents, f->first_page, f->n_pages);
    free_found(r, f, count);
}

static struct place place_of(const struct found *f, const struct arena_line *line)
{
    return (struct place){ f->slot, f->first_page, f->n_pages, line->n_bytes };
}

static void add_base(struct recovery *r, struct found *f)
{
    struct store *s = r->store;
    struct arena_line line = copy_line(r, f->slot);
    struct tile *t = &s->entries[f->slot].tile;

    *t = (struct tile){ .role = ENTRY_TILE,
                        .flags = TILE_UNCHECKED,
                        .store = s,
                        .base = place_of(f, &line),
                        .fine = PLACE_NULL,
                        .lease_until_ns = s->grace_until_ns,
                        .n_numbers = line.n_numbers,
                        .older = SLOT_NIL,
                        .newer = SLOT_NIL };
    memcpy(t->key, line.key, sizeof(t->key));
    if (!index_add(&s->index, t)) {
        t->role = ENTRY_NONE;
        drop(r, f, &r->counts->n_damaged);
        return;
    }
    r->counts->n_tiles++;
}

static void add_fine(struct recovery *r, struct found *f)
{
    struct arena_line line = copy_line(r, f->slot);
    struct tile *t = index_find(&r->store->index, line.key);

    if (!t || t->fine.slot != SLOT_NIL) {
        drop(r, f, &r->counts->n_orphans);
        return;
    }
    t->fine = place_of(f, &line);
}

static void add_grave(struct recovery *r, struct found *f)
{
    struct place place = { f->slot, f->first_page, f->n_pages, 0 };

    space_wait(r->store, &place, r->store->grace_until_ns);
    r->counts->n_buried++;
}

static int add_strip(struct recovery *r, const struct found *f)
{
    struct arena_line line = copy_line(r, f->slot);

    if (line.kind == SLOT_KIND_RECORD) {
        r->counts->n_records++;
        return record_recover(r->store, &line, f->slot);
    }
    r->counts->n_tails++;
    return tail_recover(r->store, &line, f->slot);
}

enum { AHEAD = 12 }; /* as many cells of the index are on their way from memory */

static int build(struct recovery *r)
{
    int e = 0;

    for (uint32_t i = 0; i < r->n_found && !e; i++) {
        struct found *f = &r->found[i];

        if (i + AHEAD < r->n_found)
            index_prefetch(&r->store->index, r->store->arena.lines[f[AHEAD].slot].key);
        if (f->buried)
            add_grave(r, f);
        else if (f->kind == DPQ_SLOT_BASE)
            add_base(r, f);
        else if (f->kind != DPQ_SLOT_FINE)
            e = add_strip(r, f);
    }
    for (uint32_t i = 0; i < r->n_found && !e; i++)
        if (r->found[i].kind == DPQ_SLOT_FINE && !r->found[i].buried)
            add_fine(r, &r->found[i]);
    return error_fold(e);
}

/* --- the unreferenced, and the free ----------------------------------------------------------- */

enum { N_DEPTHS = 256 };

static uint32_t depth_of(const struct store *s, uint32_t slot)
{
    uint64_t depth = s->arena.lines[slot].first_index / DPQ_TILE_TOKENS;

    return depth < N_DEPTHS ? (uint32_t)depth : N_DEPTHS - 1;
}

/* By depth, through the tiles' own links: a list for each, then one behind the other. */
static void list_tiles(struct recovery *r)
{
    struct store *s = r->store;
    uint32_t heads[N_DEPTHS];

    memset(heads, 0xff, sizeof(heads)); /* SLOT_NIL */
    for (uint32_t i = 0; i < r->n_found; i++) {
        const struct found *f = &r->found[i];
        uint32_t *head;

        if (f->kind != DPQ_SLOT_BASE || f->buried)
            continue;
        head = &heads[depth_of(s, f->slot)];
        s->entries[f->slot].tile.newer = *head;
        *head = f->slot;
    }
    for (uint32_t depth = N_DEPTHS; depth-- > 0;) {
        for (uint32_t slot = heads[depth], next; slot != SLOT_NIL; slot = next) {
            struct tile *t = &s->entries[slot].tile;

            next = t->newer;
            tile_list_append(t);
            tile_count(s, t);
        }
    }
}

/* Slot 0 on top. */
static void list_free_slots(struct store *s)
{
    for (uint64_t slot = s->arena.header.n_slots; slot-- > 0;) {
        uint64_t word = atomic_load_explicit(&s->arena.lines[slot].word, memory_order_relaxed);

        if ((word & 3) == SLOT_FREE)
            space_give_slot(s, (uint32_t)slot);
    }
}

static int recover(struct recovery *r)
{
    struct store *s = r->store;
    int e;

    for (uint64_t slot = 0; slot < s->arena.header.n_slots; slot++)
        judge(r, (uint32_t)slot);
    e = settle_strips(r);
    if (e)
        return error_fold(e);
    claim(r);
    e = build(r);
    if (e)
        return error_fold(e);
    extent_settle(&s->extents);
    list_tiles(r);
    list_free_slots(s);
    r->counts->n_retired = s->n_retired_slots;
    return 0;
}

int recover_slots(struct store *store, struct store_recovery *ret_recovery)
{
    struct recovery r = { .store = store, .counts = ret_recovery };
    int e;

    r.found = malloc(store->arena.header.n_slots * sizeof(*r.found));
    if (!r.found)
        return error_origin(-ENOMEM);
    e = recover(&r);
    free(r.found);
    return error_fold(e);
}
