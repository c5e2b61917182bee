/*
 * The store decides what goes, by what it is worth; here is decided what may go at all
 *
 *     offer -> relieve -> withdraw -> whose was it?
 *
 * all of it under the session's lock, so that no request can begin with what has just been offered,
 * and none sees a sequence whose tiles have gone while its generation has not changed. A walk over
 * the tenant's tiles costs some nanoseconds each; it is made once for up to MAX_CHANGES changes.
 *
 * A sequence that lost tiles is shorter afterwards, and its raw tail, which nothing leads to any
 * more, goes as well. How long it was is remembered, also in its record, so that who asks for the
 * rest is told EVICTED.
 */
#include "daemon/session_pressure.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/hub.h"
#include "daemon/session_keep.h"
#include "lib/base/error.h"

enum {
    MAX_CHANGES = 64,
    N_MARKS = 1024,  /* bits that tell most tiles from those that changed */
    MAX_SLICES = 64, /* of one relief */
    BACK_OFF_MS = 100,
};

struct relief {
    struct session *session;
    struct tenant *tenant;
    uint64_t now_ns;
    bool may_evict; /* of sequences */
    struct store_change changes[MAX_CHANGES];
    size_t n_changes;
    uint64_t marks[N_MARKS / 64];
    struct tail_holder *tails; /* of sequences that were cut */
    struct record *records[MAX_CHANGES];
    size_t n_records;
};

static struct sequence *next_sequence(const struct relief *r, const struct sequence *sequence)
{
    const struct id_entry *entry = sequence ? &sequence->entry : NULL;

    do
        entry = id_table_next(&r->session->sequences, entry);
    while (entry && ((const struct sequence *)entry)->tenant != r->tenant);
    return (struct sequence *)entry;
}

/* --- offers ----------------------------------------------------------------------------------- */

static bool is_cold(const struct relief *r, const struct sequence *sequence)
{
    return !sequence->busy && !sequence_pinned(sequence, r->now_ns) &&
           r->now_ns - sequence->used_ns >= r->session->cold_ns;
}

static void offer(struct relief *r)
{
    for (struct sequence *s = next_sequence(r, NULL); s; s = next_sequence(r, s)) {
        bool may_drop = !s->keeps_fine, may_evict = r->may_evict && !s->keeps_tokens;

        s->is_offered = s->n_tiles && is_cold(r, s) && (may_drop || may_evict);
        if (s->is_offered)
            store_offer(r->tenant->store, s->tiles, s->n_tiles, may_drop, may_evict);
    }
}

static void withdraw(struct relief *r)
{
    for (struct sequence *s = next_sequence(r, NULL); s; s = next_sequence(r, s))
        if (s->is_offered)
            store_withdraw(r->tenant->store, s->tiles, s->n_tiles);
}

/* --- what became of them ---------------------------------------------------------------------- */

static uint32_t mark_of(const struct tile *tile)
{
    return (uint32_t)((uintptr_t)tile / 8 * 0x9e3779b1u >> 16) % N_MARKS;
}

static const struct store_change *change_of(const struct relief *r, const struct tile *tile)
{
    uint32_t mark = mark_of(tile);

    if (!(r->marks[mark / 64] >> mark % 64 & 1))
        return NULL;
    for (size_t i = 0; i < r->n_changes; i++)
        if (r->changes[i].tile == tile && !r->changes[i].is_evicted)
            return &r->changes[i];
    return NULL;
}

static void note_drops(struct relief *r, struct sequence *sequence)
{
    for (size_t i = 0; i < sequence->n_tiles; i++) {
        const struct store_change *change = change_of(r, sequence->tiles[i]);
        struct event event = { .kind = EVENT_FINE_DROPPED, .tenant = r->tenant->index };

        if (!change)
            continue;
        event.id = sequence->entry.id;
        event.a = i * DPQ_TILE_TOKENS;
        event.b = change->freed_bytes;
        event.c = ++sequence->generation;
        memcpy(event.digest, tile_key(sequence->tiles[i]), sizeof(event.digest));
        hub_publish(r->session->hub, &event);
    }
}

/* Where tiles are missing the next process sees it; that a tail is missing, and how long it was,
 * nothing else would say. Nor that tiles were gone, when somebody else has stored the same ones
 * since. Any other change leaves room for RECORD_CUTS of them; of those that follow before the next
 * change only tiles are missing. */
static void record_cut(struct sequence *sequence)
{
    const struct record_change change = { .has_tail = true,
                                          .tail = sequence->tail_mark,
                                          .has_seal = true,
                                          .n_tiles = sequence->n_tiles,
                                          .generation = sequence->generation,
                                          .has_cut = true,
                                          .n_evicted_end = sequence->n_evicted_end };

    (void)!sequence_note(sequence, &change);
}

/* Its tail goes, and tiles that have gone already. Of one that nothing is left of the record goes,
 * too: for a later process it never was. The next tail has another version: if a reader still holds
 * this one when the process is killed, the next process finds both. */
static void cut(struct relief *r, struct sequence *sequence)
{
    struct event event = { .kind = EVENT_TOKENS_EVICTED,
                           .tenant = r->tenant->index,
                           .id = sequence->entry.id };
    uint64_t n_before = sequence->n_tokens;

    while (sequence->n_tiles && tile_is_evicted(sequence->tiles[sequence->n_tiles - 1])) {
        tile_unref(sequence->tiles[--sequence->n_tiles], false, r->now_ns, NULL);
        sequence->generation++;
    }
    sequence->generation += sequence->tail != NULL;
    sequence->tail_mark = (struct record_tail){ sequence->tail_mark.version + 1, 0 };
    if (sequence->n_evicted_end < n_before)
        sequence->n_evicted_end = n_before;
    sequence_shorten(sequence, &r->tails);
    record_cut(sequence);
    if (!sequence->n_tokens && r->n_records < MAX_CHANGES) {
        r->records[r->n_records++] = steal_ptr(sequence->record);
        sequence->n_recorded_ids = 0;
    }
    event.a = sequence->n_tokens;
    event.b = n_before - sequence->n_tokens;
    event.c = sequence->generation;
    r->tenant->tokens_evicted += event.b;
    hub_publish(r->session->hub, &event);
}

static void tell_evicted(const struct relief *r)
{
    for (size_t i = 0; i < r->n_changes; i++)
        if (r->changes[i].is_evicted)
            session_tile_evicted(r->tenant, tile_key(r->changes[i].tile),
                                 r->changes[i].freed_bytes);
}

static void attribute(struct relief *r)
{
    tell_evicted(r); /* while they have names */
    memset(r->marks, 0, sizeof(r->marks));
    for (size_t i = 0; i < r->n_changes; i++) {
        uint32_t mark = mark_of(r->changes[i].tile);

        r->marks[mark / 64] |= UINT64_C(1) << mark % 64;
    }
    for (struct sequence *s = next_sequence(r, NULL); s; s = next_sequence(r, s)) {
        if (!s->is_offered)
            continue;
        s->is_offered = false;
        note_drops(r, s);
        if (s->n_tiles && tile_is_evicted(s->tiles[s->n_tiles - 1]))
            cut(r, s);
    }
}

/* --- slices ----------------------------------------------------------------------------------- */

static uint64_t used_bytes(const struct tenant *tenant, uint64_t *ret_arena_bytes)
{
    struct store_stats stats;

    store_get_stats(tenant->store, &stats);
    *ret_arena_bytes = stats.arena_bytes;
    return stats.used_bytes;
}

/* What was cut, without the lock. */
static void let_go(struct relief *r)
{
    while (r->n_records)
        record_free(r->records[--r->n_records], r->now_ns);
    while (r->tails) {
        struct tail_holder *holder = r->tails;

        r->tails = holder->next;
        tail_holder_unref(r->session, holder);
    }
}

/* Return: bytes in use afterwards */
static uint64_t slice(struct relief *r, uint64_t target)
{
    uint64_t arena_bytes;

    session_lock(r->session);
    offer(r);
    r->n_changes = store_relieve(r->tenant->store, target, r->now_ns, r->changes, MAX_CHANGES);
    withdraw(r);
    attribute(r);
    session_unlock(r->session);
    let_go(r);
    return used_bytes(r->tenant, &arena_bytes);
}

/* Raw rows take the most room for a token: the tail of the sequence that is the coldest. Return:
 * false, there is none */
static bool cut_a_tail(struct relief *r)
{
    struct sequence *coldest = NULL;

    session_lock(r->session);
    for (struct sequence *s = next_sequence(r, NULL); s; s = next_sequence(r, s))
        if (s->tail && !s->keeps_tokens && is_cold(r, s) &&
            (!coldest || s->used_ns < coldest->used_ns))
            coldest = s;
    if (coldest)
        cut(r, coldest);
    session_unlock(r->session);
    let_go(r);
    return coldest != NULL;
}

static void relieve_by_slices(struct relief *r, uint64_t target)
{
    uint64_t arena_bytes, at = used_bytes(r->tenant, &arena_bytes);

    for (int i = 0; i < MAX_SLICES && at > target; i++) {
        uint64_t after = slice(r, target);

        if (after >= at)
            break;
        at = after;
    }
}

/* Return: was anything freed? */
static bool relieve(struct tenant *tenant, uint64_t target, bool may_evict, uint64_t now_ns)
{
    struct relief *r = calloc(1, sizeof(*r));
    uint64_t arena_bytes, before = used_bytes(tenant, &arena_bytes);

    if (!r)
        return false;
    r->session = tenant->session;
    r->tenant = tenant;
    r->now_ns = now_ns;
    r->may_evict = may_evict;
    for (int i = 0; may_evict && i < MAX_SLICES; i++)
        if (used_bytes(tenant, &arena_bytes) <= target || !cut_a_tail(r))
            break;
    relieve_by_slices(r, target);
    free(r);
    return used_bytes(tenant, &arena_bytes) < before;
}

/* in bytes of the tenant's arena */
struct watermarks {
    uint64_t used, high, low;
};

static struct watermarks watermarks_of(const struct tenant *tenant)
{
    struct session *session = tenant->session;
    uint64_t arena_bytes;
    struct watermarks marks = { .used = used_bytes(tenant, &arena_bytes) };

    session_lock(session);
    marks.high = arena_bytes / 100 * session->high_percent;
    marks.low = arena_bytes / 100 * session->low_percent;
    session_unlock(session);
    return marks;
}

bool pressure_relieve(struct tenant *tenant, uint64_t n_bytes, uint64_t now_ns)
{
    struct watermarks marks = watermarks_of(tenant);
    uint64_t target = marks.used > n_bytes ? marks.used - n_bytes : 0;

    if (relieve(tenant, target < marks.low ? target : marks.low, /* may_evict= */ false, now_ns))
        return true;
    return relieve(tenant, target, /* may_evict= */ true, now_ns);
}

int pressure_put(struct tenant *tenant, const struct store_put_args *args, uint64_t now_ns,
                 struct tile **ret_tile)
{
    int r;

    do
        r = store_put(tenant->store, args, now_ns, ret_tile);
    while (r == STORE_E_FULL && pressure_relieve(tenant, args->n_base + args->n_fine, now_ns));
    return r;
}

void pressure_keep_low(struct tenant *tenant, uint64_t now_ns)
{
    struct watermarks marks = watermarks_of(tenant);

    if (marks.used <= marks.high ||
        now_ns < __atomic_load_n(&tenant->relief_after_ns, __ATOMIC_RELAXED))
        return;
    if (!relieve(tenant, marks.low, false, now_ns))
        __atomic_store_n(&tenant->relief_after_ns, now_ns + BACK_OFF_MS * UINT64_C(1000000),
                         __ATOMIC_RELAXED);
}

void session_tile_dropped(void *user, const uint8_t key[32], uint64_t freed_bytes)
{
    struct tenant *tenant = user;
    struct event event = { .kind = EVENT_FINE_DROPPED, .tenant = tenant->index, .b = freed_bytes };

    memcpy(event.digest, key, sizeof(event.digest));
    hub_publish(tenant->session->hub, &event);
}
