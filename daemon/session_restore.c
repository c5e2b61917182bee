/*
 * Sequences that outlive the daemon
 *
 * A record says what a sequence is; its tiles are found by the keys that follow from it, its tail
 * by the index at which the tiles end, and its version. The order in which an append commits makes
 * this enough: ids before rows, tiles and the new tail before the record's SEAL, and the old tail
 * goes last. So a sequence is either as it was acknowledged, or as it would have been a moment
 * later; a tail that no record goes on with belongs to an append that was cut short.
 *
 * Clients do not outlive their connection: sequences of which nobody had appended a token go, the
 * others wait for whoever knows their ids.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/session_keep.h"
#include "daemon/session_pressure.h"
#include "lib/base/error.h"

enum { ROOM_BYTES = 4096 };

/* --- writing ---------------------------------------------------------------------------------- */

/* The sequence as the change leaves it; its ids are in the array already, behind the acknowledged.
 * @ret_makers: room for one more than the sequence has; the content's */
static struct record_content content_after(const struct sequence *sequence,
                                           const struct record_change *change,
                                           struct record_maker *ret_makers)
{
    struct record_content content = {
        .begin = { .rate = sequence->rate,
                   .position_base = sequence->position_base,
                   .fork_origin = sequence->fork_origin,
                   .n_adopted_tokens = sequence->n_adopted_tokens },
        .ids = sequence->token_ids,
        .n_ids = change->has_ids ? change->first_token + change->n_ids : sequence->n_token_ids,
        .makers = ret_makers,
        .tail = change->has_tail ? change->tail : sequence->tail_mark,
        .n_tiles = change->has_seal ? change->n_tiles : sequence->n_tiles,
        .generation = change->has_seal ? change->generation : sequence->generation,
        .pinned_until_ns = change->has_pin ? change->pinned_until_ns : sequence->pinned_until_ns,
        .keeps = (sequence->keeps_fine ? RECORD_KEEPS_FINE : 0) |
                 (sequence->keeps_tokens ? RECORD_KEEPS_TOKENS : 0),
        .n_evicted_end = change->has_cut ? change->n_evicted_end : sequence->n_evicted_end,
    };

    memcpy(content.begin.profile_id, dpq_profile_digest(sequence->profile->profile), 32);
    memcpy(content.begin.scope, sequence->scope, KEY_BYTES);
    while (content.n_makers < sequence->n_makers &&
           sequence->makers[content.n_makers].first_tile < content.n_tiles) {
        ret_makers[content.n_makers] = sequence->makers[content.n_makers];
        content.n_makers++;
    }
    if (change->has_maker)
        ret_makers[content.n_makers++] = change->maker;
    return content;
}

static int write_anew(struct sequence *sequence, const struct record_change *change,
                      uint64_t now_ns)
{
    struct record_maker *makers = malloc((sequence->n_makers + 1) * sizeof(*makers));
    struct record_content content;
    struct record *record = NULL;
    uint8_t *bytes;
    size_t n;
    int r;

    if (!makers)
        return error_origin(-ENOMEM);
    content = content_after(sequence, change, makers);
    r = record_pack(&content, &bytes, &n);
    free(makers);
    if (r)
        return error_fold(r);
    r = record_new(sequence->tenant->store, sequence->entry.id, bytes, n,
                   2 * n < ROOM_BYTES ? ROOM_BYTES : 2 * n, sequence->record, now_ns, &record);
    free(bytes);
    if (r)
        return r;
    sequence->record = record;
    sequence->n_recorded_ids = content.n_ids;
    return 0;
}

/* STORE_E_FULL also when less than reserve_bytes would be left. */
static int grow(struct record *record, const uint8_t *bytes, size_t n, uint64_t reserve_bytes)
{
    const uint8_t *old_bytes;
    uint64_t n_old, room_bytes;
    int r = record_bytes(record, &old_bytes, &n_old, &room_bytes);

    if (r)
        return r;
    if (n + reserve_bytes > room_bytes - n_old)
        return STORE_E_FULL;
    return record_grow(record, bytes, n);
}

static int note(struct sequence *sequence, const struct record_change *change,
                uint64_t reserve_bytes)
{
    uint8_t *bytes = NULL;
    size_t n = 0;
    int r;

    if (!sequence->record)
        return STORE_E_FULL;
    r = record_pack_change(change, &bytes, &n);
    if (r)
        return error_fold(r);
    r = n ? grow(sequence->record, bytes, n, reserve_bytes) : 0;
    free(bytes);
    if (!r && change->has_ids)
        sequence->n_recorded_ids = change->first_token + change->n_ids;
    return r;
}

int sequence_note(struct sequence *sequence, const struct record_change *change)
{
    return note(sequence, change, 0);
}

/* Room for cuts is left, which come when there is no room for anything. */
int sequence_write(struct sequence *sequence, const struct record_change *change, uint64_t now_ns)
{
    uint64_t wanted_bytes = 2 * sizeof(uint32_t) * (sequence->n_token_ids + change->n_ids);
    int r = note(sequence, change, RECORD_CUTS * RECORD_CUT_BYTES);

    if (r != STORE_E_FULL)
        return r;
    do
        r = write_anew(sequence, change, now_ns);
    while (r == STORE_E_FULL &&
           pressure_relieve(sequence->tenant, ROOM_BYTES + wanted_bytes, now_ns));
    return r;
}

/* --- reading ---------------------------------------------------------------------------------- */

struct restore {
    struct session *session;
    struct tenant *tenant;
    struct key_maker *maker;
    uint64_t n_restored, n_tokens, n_unreadable, n_dropped;
};

static void restored_free(struct sequence *sequence)
{
    uint64_t now_ns = session_now_ns();

    while (sequence->n_tiles)
        tile_unref(sequence->tiles[--sequence->n_tiles], false, now_ns, NULL);
    sequence_free(sequence);
}

/* The next tile's key; the last one's before. Keyed are those whose tokens all have ids. */
static int next_key(struct restore *r, const struct sequence *sequence, uint64_t i,
                    uint8_t key[KEY_BYTES])
{
    if ((i + 1) * DPQ_TILE_TOKENS <= sequence->n_token_ids)
        return key_tile(r->maker, sequence->scope, key, sequence->token_ids + i * DPQ_TILE_TOKENS,
                        key);
    return key_private(r->maker, sequence->scope, sequence_private_id(sequence, i), i, key);
}

/* STORE_E_NONE: one of them is not there */
static int find_tiles(struct restore *r, struct sequence *sequence, uint64_t n_tiles)
{
    uint8_t key[KEY_BYTES] = { 0 };
    int e = 0;

    sequence->tiles = calloc(n_tiles + 1, sizeof(sequence->tiles[0]));
    if (!sequence->tiles)
        return error_origin(-ENOMEM);
    sequence->tiles_capacity = n_tiles + 1;
    for (uint64_t i = 0; i < n_tiles && !e; i++) {
        e = next_key(r, sequence, i, key);
        if (e)
            return error_fold(e);
        e = store_get(r->tenant->store, key, &sequence->tiles[i]);
        sequence->n_tiles += !e;
    }
    return e;
}

/* No pin is longer than the longest: another one is not of this boot's clock. */
static uint64_t pin_until(uint64_t until_ns)
{
    return until_ns > session_now_ns() + SESSION_MAX_PIN_MS * UINT64_C(1000000) ? 0 : until_ns;
}

static struct sequence *sequence_of(struct restore *r, const struct record_content *content,
                                    struct record *record)
{
    struct sequence *sequence = calloc(1, sizeof(*sequence));

    if (!sequence)
        return NULL;
    sequence->entry.id = record_sequence_id(record);
    sequence->tenant = r->tenant;
    sequence->profile = profile_get(r->session, content->begin.profile_id);
    sequence->refs = 1;
    sequence->rate = content->begin.rate;
    sequence->position_base = content->begin.position_base;
    sequence->fork_origin = content->begin.fork_origin;
    sequence->n_adopted_tokens = content->begin.n_adopted_tokens;
    sequence->generation = content->generation;
    sequence_set_pin(sequence, pin_until(content->pinned_until_ns));
    sequence->tail_mark = content->tail;
    sequence->was_trimmed = content->tail.version != 0;
    sequence->makers = content->makers;
    sequence->n_makers = sequence->makers_capacity = content->n_makers;
    /* those of an append that was cut short are not to be taken for those of the next one */
    sequence->private_id = session_new_id(r->session);
    sequence->owner_gone = true;
    sequence->keeps_fine = content->keeps & RECORD_KEEPS_FINE;
    sequence->keeps_tokens = content->keeps & RECORD_KEEPS_TOKENS;
    sequence->n_evicted_end = content->n_evicted_end;
    sequence->used_ns = session_now_ns();
    sequence->record = record;
    sequence->n_recorded_ids = content->n_ids;
    sequence->tail_object.ref.slot = NO_SLOT;
    memcpy(sequence->scope, content->begin.scope, KEY_BYTES);
    sequence->token_ids = content->ids;
    sequence->n_token_ids = sequence->token_ids_capacity = content->n_ids;
    return sequence;
}

/* Evicted after its record was last written, or damaged. It ends before that tile then, and each of
 * those that are missing counts as one change. */
static void shorten(struct restore *r, struct sequence *sequence, uint64_t n_tiles)
{
    struct tail_holder *tails = NULL;

    log_warning("tenant %s: sequence %llu: tile %llu of %llu was evicted, or damaged: the sequence "
                "ends there",
                r->tenant->config->name, (unsigned long long)sequence->entry.id,
                (unsigned long long)sequence->n_tiles, (unsigned long long)n_tiles);
    /* each may have lost its fine plane before it went: what was said must not be said of less */
    sequence->generation += 2 * (n_tiles - sequence->n_tiles);
    if (sequence->n_evicted_end < n_tiles * DPQ_TILE_TOKENS)
        sequence->n_evicted_end = n_tiles * DPQ_TILE_TOKENS;
    sequence_shorten(sequence, &tails); /* there is none yet */
}

/* Nor does the record know of fine objects that were dropped since: each may count once more. */
static void count_drops(struct sequence *sequence)
{
    for (size_t i = 0; i < sequence->n_tiles; i++) {
        struct store_object base, fine;

        tile_objects(sequence->tiles[i], &base, &fine);
        sequence->generation += !fine.n_bytes && sequence->rate != DPQ_RATE_COMPACT;
    }
}

/* A profile that is not installed now may be at the next start: its tiles are held, unserved. */
static void hold(struct restore *r, struct sequence *sequence)
{
    r->n_unreadable++;
    sequence_free(sequence);
}

static int restore_one(struct restore *r, struct record *record)
{
    struct record_content content;
    struct sequence *sequence;
    uint64_t n, room, n_tiles;
    const uint8_t *bytes;
    int e;

    e = record_bytes(record, &bytes, &n, &room);
    if (!e)
        e = record_parse(bytes, n, &content);
    if (e > 0) {
        r->n_unreadable++;
        return 0;
    }
    if (e)
        return error_fold(e);
    n_tiles = content.n_tiles;
    sequence = sequence_of(r, &content, record);
    if (!sequence) {
        record_content_deinit(&content);
        return error_origin(-ENOMEM);
    }
    e = find_tiles(r, sequence, n_tiles);
    if (e == STORE_E_NONE) {
        shorten(r, sequence, n_tiles);
        e = 0;
    }
    count_drops(sequence);
    if (!e && sequence->profile) {
        id_table_add(&r->session->sequences, &sequence->entry);
        r->tenant->n_sequences++;
    } else if (!e) {
        hold(r, sequence);
    } else {
        restored_free(sequence);
    }
    return error_fold(e);
}

static bool is_recorded(struct store *store, uint64_t sequence_id)
{
    struct record *record = record_next(store, NULL);

    while (record && record_sequence_id(record) != sequence_id)
        record = record_next(store, record);
    return record != NULL;
}

static int restore_tail(struct restore *r, struct tail *tail)
{
    struct sequence *sequence = sequence_find(r->session, r->tenant->index, tail_sequence_id(tail));
    struct tail_holder *holder;

    if (!sequence && is_recorded(r->tenant->store, tail_sequence_id(tail)))
        return 0; /* of one that can't be read */
    if (!sequence || sequence->tail || tail_version(tail) != sequence->tail_mark.version ||
        tail_first_index(tail) != sequence->n_tiles * DPQ_TILE_TOKENS) {
        if (sequence && sequence->n_evicted_end == tail_first_index(tail))
            sequence->n_evicted_end += tail_n_tokens(tail);
        tail_free(tail, session_now_ns(), NULL);
        return 0;
    }
    holder = calloc(1, sizeof(*holder));
    if (!holder)
        return error_origin(-ENOMEM);
    holder->tail = tail;
    holder->refs = 1;
    sequence->tail = holder;
    sequence->tail_dtype = tail_dtype(tail);
    tail_object(tail, &sequence->tail_object);
    return 0;
}

/* Tiles and tail are all there: how many tokens is that? */
static void finish(struct restore *r, struct sequence *sequence)
{
    sequence->n_tokens = sequence->n_tiles * DPQ_TILE_TOKENS +
                         (sequence->tail ? tail_n_tokens(sequence->tail->tail) : 0);
    if (sequence->n_token_ids > sequence->n_tokens)
        sequence->n_token_ids = sequence->n_tokens; /* of rows that were never committed */
    if (sequence->n_evicted_end <= sequence->n_tokens)
        sequence->n_evicted_end = 0; /* it has grown that long again */
    r->n_restored++;
    r->n_tokens += sequence->n_tokens;
    if (!sequence_is_orphan(sequence, session_now_ns())) {
        sequence_adopt_zones(r->session, sequence);
        return;
    }
    id_table_remove(&r->session->sequences, &sequence->entry);
    r->tenant->n_sequences--;
    r->n_restored--;
    r->n_dropped++;
    record_free(sequence->record, session_now_ns());
    if (sequence->tail)
        tail_free(sequence->tail->tail, session_now_ns(), NULL);
    free(sequence->tail);
    restored_free(sequence);
}

static int restore(struct restore *r)
{
    struct store *store = r->tenant->store;
    struct record *record, *next_record;
    struct tail *tail, *next_tail;
    struct id_entry *entry, *next;
    int e;

    for (record = record_next(store, NULL); record; record = next_record) {
        next_record = record_next(store, record);
        e = restore_one(r, record);
        if (e)
            return error_fold(e);
    }
    for (tail = tail_next(store, NULL); tail; tail = next_tail) {
        next_tail = tail_next(store, tail);
        e = restore_tail(r, tail);
        if (e)
            return error_fold(e);
    }
    for (entry = id_table_next(&r->session->sequences, NULL); entry; entry = next) {
        next = id_table_next(&r->session->sequences, entry);
        if (((struct sequence *)entry)->tenant == r->tenant)
            finish(r, (struct sequence *)entry);
    }
    return 0;
}

int restore_sequences(struct tenant *tenant)
{
    struct restore r = { .session = tenant->session,
                         .tenant = tenant,
                         .maker = session_key_maker(tenant->session, -1) };
    int e = restore(&r);

    if (e)
        return error_fold(e);
    if (r.n_restored || r.n_unreadable || r.n_dropped)
        log_info(
            "tenant %s: %llu sequences with %llu tokens are served again; %llu that nobody had "
            "appended to are gone",
            tenant->config->name, (unsigned long long)r.n_restored, (unsigned long long)r.n_tokens,
            (unsigned long long)r.n_dropped);
    if (r.n_unreadable)
        log_warning("tenant %s: %llu sequences can't be read by this daemon, or without a profile "
                    "that is not installed: they stay in the arena, and are not served",
                    tenant->config->name, (unsigned long long)r.n_unreadable);
    return 0;
}
