/*
 * From the slot table of an earlier process to everything that is private
 *
 *     judge    each line by itself: half-written and damaged ones are freed; base objects are tiles
 *     strips   of two lines over one extent the longer is kept, of two versions the later
 *     claim    every extent once; if two lines want the same page, neither is believed
 *     build    tiles get their fine objects; tails, records, graves
 *
 * Freeing is the only thing that is written, by the same protocol as ever, so that this may be
 * killed and repeated. A crash leaves half-written slots, orphans and pairs; anything else that is
 * freed here was damaged, and is counted apart.
 *
 * Which tiles were used last is not known any more, nor is it worth the time to find out whose
 * parents they are. Of a chain the end goes first, so those that are far from their sequence's
 * start are evicted first.
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
    uint8_t kind; /* 0: freed meanwhile */
    bool buried;
    uint8_t depth; /* of a tile in its chain, N_DEPTHS - 1 at most */
};

enum {
    N_DEPTHS = 256,
    AHEAD = 12, /* so many cells of the index, or entries, are on their way from memory */
};

static bool is_tile(const struct found *f)
{
    return f->kind == DPQ_SLOT_BASE && !f->buried;
}

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

/* Slots that were freed leave the list; the others keep their order. */
static void free_found(struct recovery *r, struct found *f, uint64_t *count)
{
    union slot_entry *entry = &r->store->entries[f->slot];

    if (is_tile(f) && entry->tile.role == ENTRY_TILE) {
        index_remove(&r->store->index, &entry->tile);
        evict_remove(&r->store->evict, f->slot);
        entry->tile.role = ENTRY_NONE;
    }
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

/* --- judge ------------------------------------------------------------------------------------ */

/* While its line is at hand. It is in the index a few lines later. */
static void make_tile(struct recovery *r, uint32_t slot, const struct arena_line *line)
{
    struct store *s = r->store;
    struct tile *t = &s->entries[slot].tile;

    *t = (struct tile){ .flags = TILE_UNCHECKED,
                        .store = s,
                        .base = { slot, line->first_page, pages_of(line->n_bytes), line->n_bytes },
                        .fine = PLACE_NULL,
                        .lease_until_ns = s->grace_until_ns,
                        .n_numbers = line->n_numbers };
    memcpy(t->key, line->key, sizeof(t->key));
    evict_recover(&s->evict, slot, line->n_numbers * evict_cost(line->first_index),
                  place_cost(&t->base));
    index_prefetch(&s->index, t->key);
}

static void add_tile(struct recovery *r, struct found *f)
{
    struct tile *t = &r->store->entries[f->slot].tile;

    if (index_add(&r->store->index, t))
        t->role = ENTRY_TILE;
    else
        free_found(r, f, &r->counts->n_damaged); /* two of one key */
}

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
        .depth = (uint8_t)(line.first_index / DPQ_TILE_TOKENS < N_DEPTHS
                               ? line.first_index / DPQ_TILE_TOKENS
                               : N_DEPTHS - 1),
    };
    if (is_tile(&r->found[r->n_found - 1]))
        make_tile(r, slot, &line);
}

/* Each tile is added when its cell has had time to come. */
static void judge_all(struct recovery *r)
{
    uint32_t n_added = 0;

    for (uint64_t slot = 0; slot < r->store->arena.header.n_slots; slot++) {
        judge(r, (uint32_t)slot);
        for (; n_added + AHEAD < r->n_found; n_added++)
            if (is_tile(&r->found[n_added]))
                add_tile(r, &r->found[n_added]);
    }
    for (; n_added < r->n_found; n_added++)
        if (is_tile(&r->found[n_added]))
            add_tile(r, &r->found[n_added]);
    sweep(r);
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

static void add_fine(struct recovery *r, struct found *f)
{
    struct arena_line line = copy_line(r, f->slot);
    struct tile *t = index_find(&r->store->index, line.key);

    if (!t || t->fine.slot != SLOT_NIL) {
        drop(r, f, &r->counts->n_orphans);
        return;
    }
    t->fine = place_of(f, &line);
    if (line.dtype)
        t->flags |= TILE_KEEPS_FINE;
    evict_resize(&r->store->evict, tile_number(t), place_cost(&t->base),
                 place_cost(&t->base) + place_cost(&t->fine));
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

static int build(struct recovery *r)
{
    int e = 0;

    for (uint32_t i = 0; i < r->n_found && !e; i++) {
        struct found *f = &r->found[i];

        if (f->buried)
            add_grave(r, f);
        else if (f->kind == DPQ_SLOT_TAIL || f->kind == SLOT_KIND_RECORD)
            e = add_strip(r, f);
    }
    for (uint32_t i = 0; i < r->n_found && !e; i++)
        if (r->found[i].kind == DPQ_SLOT_FINE && !r->found[i].buried)
            add_fine(r, &r->found[i]);
    return error_fold(e);
}

/* --- the unreferenced, and the free ----------------------------------------------------------- */

/* Tiles' slots, those far from a beginning first: sorted by counting. Return: how many */
static uint32_t sort_by_depth(const struct recovery *r, uint32_t *ret_slots)
{
    uint32_t at[N_DEPTHS + 1] = { 0 }, n = 0;

    for (uint32_t i = 0; i < r->n_found; i++)
        at[N_DEPTHS - 1 - r->found[i].depth] += is_tile(&r->found[i]);
    for (uint32_t depth = 0; depth <= N_DEPTHS; depth++) {
        uint32_t first = n;

        n += at[depth];
        at[depth] = first;
    }
    for (uint32_t i = 0; i < r->n_found; i++)
        if (is_tile(&r->found[i]))
            ret_slots[at[N_DEPTHS - 1 - r->found[i].depth]++] = r->found[i].slot;
    return n;
}

static int list_tiles(struct recovery *r)
{
    struct store *s = r->store;
    uint32_t *slots = malloc((r->n_found + 1) * sizeof(*slots)), n;

    if (!slots)
        return error_origin(-ENOMEM);
    n = sort_by_depth(r, slots);
    r->counts->n_tiles = n;
    for (uint32_t i = 0; i < n; i++) {
        struct tile *t = tile_of(s, slots[i]);

        if (i + AHEAD < n)
            __builtin_prefetch(tile_of(s, slots[i + AHEAD]));
        evict_line_up(&s->evict, slots[i], i, n);
        fine_list_add(t);
        s->n_unreferenced_pages += t->base.n_pages + t->fine.n_pages;
        tile_count(s, t);
    }
    free(slots);
    return 0;
}

/* Slot 0 on top. What was found, and is left, is in the order of slots. */
static void list_free_slots(struct recovery *r)
{
    uint32_t n = r->n_found;

    for (uint64_t slot = r->store->arena.header.n_slots; slot-- > 0;) {
        if (n && r->found[n - 1].slot == slot)
            n--;
        else
            space_give_slot(r->store, (uint32_t)slot);
    }
}

/* Each strip had two slots; one of them was free, as growing needs it, and is to be its own again
 * before others take what there is. */
static void complete_strips(struct recovery *r)
{
    for (struct strip *strip = r->store->strips; strip; strip = strip->next)
        strip_complete(strip);
}

static int recover(struct recovery *r)
{
    struct store *s = r->store;
    int e;

    judge_all(r);
    e = settle_strips(r);
    if (e)
        return error_fold(e);
    claim(r);
    e = build(r);
    if (e)
        return error_fold(e);
    extent_settle(&s->extents);
    e = list_tiles(r);
    if (e)
        return error_fold(e);
    sweep(r); /* orphans */
    list_free_slots(r);
    complete_strips(r);
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
