/*
 * Storing an append: tiles as they are made, then the tail, then the sequence
 *
 * Objects are stored one by one, tiles in their order, which the policy of eviction goes by; a
 * reader of the sequence sees none of them before all are there, because the sequence is updated in
 * one step under the lock. If the store has no room half-way, or a later tile is refused, what was
 * stored is discarded. The old tail is let go only after the tiles that cover it, the new tail, and
 * the record that says so are committed, so that every acknowledged token is in the arena at every
 * moment, and is found there after a restart (session_restore.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/hub.h"
#include "daemon/session_append.h"
#include "daemon/session_keep.h"
#include "daemon/session_pressure.h"
#include "lib/base/error.h"

struct store_put_args sequence_put_args(const struct sequence *sequence, uint64_t first_index)
{
    static const uint8_t NO_PARENT[KEY_BYTES];
    const struct dpq_geometry *geometry = profile_geometry(sequence->profile);

    return (struct store_put_args){
        .parent = sequence->n_tiles ? tile_key(sequence->tiles[sequence->n_tiles - 1]) : NO_PARENT,
        .profile = dpq_profile_digest(sequence->profile->profile),
        .sequence_id = sequence->entry.id,
        .first_index = first_index,
        .first_position = sequence->position_base + first_index,
        .rate = sequence->rate,
        .n_numbers = dpq_row_bytes(geometry, DPQ_F16) / 2 * DPQ_TILE_TOKENS,
    };
}

static int put_part(struct append *append, uint32_t i, uint64_t now_ns)
{
    struct part *part = &append->parts[i];
    struct tenant *tenant = append->sequence->tenant;
    struct store_put_args args =
        sequence_put_args(append->sequence, append->tail_first + (uint64_t)i * DPQ_TILE_TOKENS);
    int r;

    pressure_keep_low(tenant, now_ns);
    if (i)
        args.parent = append->parts[i - 1].key;
    args.key = part->key;
    args.base = part->base;
    args.n_base = part->n_base;
    args.fine = part->fine;
    args.n_fine = part->n_fine;
    args.keeps_fine = part->keeps_fine;
    r = pressure_put(tenant, &args, now_ns, &part->tile);
    if (r == STORE_E_EXISTS) {
        part->shared = true; /* someone was faster, with the same tokens */
        r = 0;
    }
    part->base = dpq_free(part->base);
    part->fine = dpq_free(part->fine);
    return r;
}

/* Of those not stored yet, the first; if it is not ready, whoever makes it ready will go on. */
static bool is_next_ready(struct append *append)
{
    bool is_ready;

    session_lock(append->session);
    is_ready = append->n_put < append->n_parts && append->parts[append->n_put].ready;
    append->is_storing = is_ready;
    session_unlock(append->session);
    return is_ready;
}

int append_store(struct append *append, uint32_t i, struct session_error *ret_error)
{
    bool is_busy;
    int r = 0;

    session_lock(append->session);
    append->parts[i].ready = true;
    is_busy = append->is_storing;
    append->is_storing = true;
    session_unlock(append->session);
    if (is_busy)
        return 0;
    while (!r && is_next_ready(append)) {
        const struct part *part = &append->parts[append->n_put];

        append->wanted_bytes = part->n_base + part->n_fine;
        if (!part->tile)
            r = put_part(append, append->n_put, session_now_ns());
        append->n_put++;
    }
    if (r != STORE_E_FULL)
        return error_fold(r);
    tenant_no_room(append->sequence->tenant, append->wanted_bytes, ret_error);
    return 1;
}

/* What the record is to say before, or with, what follows: ids before the rows they belong to. */
static int write_record(struct append *append, uint64_t now_ns)
{
    struct sequence *sequence = append->sequence;
    struct record_change change = { .first_token = sequence->n_tokens };

    if (append->keyed) {
        change.has_ids = true;
        change.ids = sequence->token_ids + sequence->n_tokens;
        change.n_ids = append->op->n_tokens;
    } else if (sequence->n_recorded_ids > sequence->n_token_ids) {
        change.has_ids = true; /* those of an append that failed are not these tokens' */
        change.first_token = sequence->n_token_ids;
    }
    if (append->n_parts || sequence->n_evicted_end) {
        change.has_maker = append->has_maker;
        change.maker = (struct record_maker){ sequence->n_tiles, sequence->private_id };
        change.has_seal = true;
        change.n_tiles = sequence->n_tiles + append->n_parts;
        change.generation = sequence->generation + append->n_parts;
    }
    if (sequence->n_evicted_end) { /* it was cut: does the record know of it? */
        change.has_tail = true;
        change.tail = sequence->tail_mark;
        change.has_cut = true;
        change.n_evicted_end = sequence->n_evicted_end;
    }
    append->wanted_bytes = change.n_ids * sizeof(uint32_t);
    return sequence_write(sequence, &change, now_ns);
}

int tail_holder_new(const struct sequence *sequence, const struct record_tail *mark,
                    uint64_t first_index, uint32_t dtype, const void *rows, uint32_t n_tokens,
                    uint64_t now_ns, struct tail_holder **ret_holder)
{
    size_t row_bytes = dpq_row_bytes(profile_geometry(sequence->profile), dtype);
    struct tail_holder *holder = calloc(1, sizeof(*holder));
    struct tenant *tenant = sequence->tenant;
    int r;

    if (!holder)
        return error_origin(-ENOMEM);
    do
        r = tail_new(tenant->store, sequence->entry.id,
                     dpq_profile_digest(sequence->profile->profile), dtype, row_bytes, first_index,
                     sequence->position_base + first_index, now_ns, &holder->tail);
    while (r == STORE_E_FULL && pressure_relieve(tenant, DPQ_TILE_TOKENS * row_bytes, now_ns));
    if (!r) {
        tail_set_version(holder->tail, (uint32_t)mark->version);
        r = tail_grow(holder->tail, rows, n_tokens);
        if (r)
            tail_free(holder->tail, now_ns, NULL);
    }
    if (r) {
        free(holder);
        return r;
    }
    holder->refs = 1;
    *ret_holder = holder;
    return 0;
}

/* the rows behind the last tile: into the old tail, or a new one. STORE_E_FULL, or a fault */
static int put_tail(struct append *append, uint64_t now_ns)
{
    struct sequence *sequence = append->sequence;
    uint64_t first_index = append->tail_first + (uint64_t)append->n_parts * DPQ_TILE_TOKENS;

    if (!append->n_tail_rows)
        return 0;
    append->wanted_bytes = DPQ_TILE_TOKENS * append->tail_row_bytes;
    if (!append->n_parts && sequence->tail)
        return tail_grow(sequence->tail->tail, append->tail_rows, append->n_tail_rows);
    return tail_holder_new(sequence, &sequence->tail_mark, first_index, append->tail_dtype,
                           append->tail_rows, append->n_tail_rows, now_ns, &append->new_tail);
}

void append_roll_back(struct append *append)
{
    uint64_t now_ns = session_now_ns();

    tail_holder_unref(append->session, steal_ptr(append->new_tail));
    for (uint32_t i = append->n_parts; i-- > 0;) {
        struct part *part = &append->parts[i];

        part->tile = tile_unref(part->tile, /* discard= */ !part->shared, now_ns, NULL);
    }
}

/* The sequence points to what was stored. Locked. 1: its owner has gone, and nobody else knows it.
 */
static int publish(struct append *append, struct tail_holder **ret_old_tail)
{
    struct sequence *sequence = append->sequence;
    struct session_append *op = append->op;

    if (sequence_is_orphan(sequence, session_now_ns())) {
        /* before the tiles that it speaks of: the next process is not to miss them */
        sequence->record = record_free(sequence->record, session_now_ns());
        session_error_set(&append->error, SESSION_ABORTED, "CLIENT_GONE",
                          "the client has gone, and with it its sequence");
        /* rows that were added to an old tail can't be: there is none in an unused sequence */
        return 1;
    }
    for (uint32_t i = 0; i < append->n_parts; i++) {
        sequence->tiles[sequence->n_tiles++] = append->parts[i].tile;
        op->n_shared_tokens += append->parts[i].shared ? DPQ_TILE_TOKENS : 0;
    }
    sequence->generation += append->n_parts;
    sequence->n_tokens += op->n_tokens;
    if (append->keyed)
        sequence->n_token_ids = sequence->n_tokens;
    if (append->n_parts && append->has_maker)
        sequence->makers[sequence->n_makers++] =
            (struct record_maker){ append->tail_first / DPQ_TILE_TOKENS, sequence->private_id };
    if (append->n_parts || append->new_tail) {
        *ret_old_tail = sequence->tail;
        sequence->tail = steal_ptr(append->new_tail);
        sequence->tail_dtype = append->tail_dtype;
    }
    sequence->tail_object = (struct store_object){ .ref.slot = NO_SLOT };
    if (sequence->tail)
        tail_object(sequence->tail->tail, &sequence->tail_object);
    if (sequence->n_tokens >= sequence->n_evicted_end)
        sequence->n_evicted_end = 0;
    sequence->used_ns = session_now_ns();
    sequence->tenant->tokens_appended += op->n_tokens;
    sequence->tenant->tokens_shared += op->n_shared_tokens;
    append_fill_reply(sequence, op);
    return 0;
}

static void tell(const struct append *append, uint32_t worker)
{
    const struct sequence *sequence = append->sequence;
    struct session *session = append->session;

    for (uint32_t i = 0; i < append->n_parts; i++) {
        struct event event = { .kind = EVENT_TILE_SHARED,
                               .tenant = append->op->tenant,
                               .id = sequence->entry.id,
                               .a = append->tail_first + (uint64_t)i * DPQ_TILE_TOKENS };

        if (!append->parts[i].shared) {
            event.kind = EVENT_TILE_STORED;
            event.b = append->parts[i].n_base + append->parts[i].n_fine;
            event.c = append->op->generation - append->n_parts + i + 1;
        }
        hub_publish(session->hub, &event);
        if (!append->parts[i].shared && append->parts[i].courses) {
            struct monitor_tile tile = sequence_monitor_tile(sequence, event.a);

            monitor_push(session->monitor, worker, &tile, append->parts[i].courses);
        }
    }
}

void tenant_no_room(struct tenant *tenant, uint64_t wanted_bytes, struct session_error *ret_error)
{
    struct event event = { .kind = EVENT_SPACE_EXHAUSTED,
                           .tenant = tenant->index,
                           .a = wanted_bytes };
    struct store_stats stats;

    store_get_stats(tenant->store, &stats);
    session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "ARENA_FULL",
                      "no room for %llu bytes: %llu of the arena's %llu are in use, and sequences "
                      "hold on to all of them",
                      (unsigned long long)wanted_bytes, (unsigned long long)stats.used_bytes,
                      (unsigned long long)stats.arena_bytes);
    ret_error->retry_ms = 5 * RETRY_MS;
    hub_publish(tenant->session->hub, &event);
}

/*
 * Each order has one moment at which the append is there, also for a process that finds the arena:
 * the commit of the tail, if only that has grown; the record's, if tiles were made.
 */
static int commit_rest(struct append *append, uint64_t now_ns)
{
    int r;

    if (append->n_parts) {
        r = put_tail(append, now_ns);
        return r ? r : write_record(append, now_ns);
    }
    r = write_record(append, now_ns);
    return r ? r : put_tail(append, now_ns);
}

void append_commit(struct append *append, uint32_t worker)
{
    struct session *session = append->session;
    struct tail_holder *old_tail = NULL;
    uint64_t now_ns = session_now_ns();
    int r;

    if (!append->n_parts) /* of tiles, each has done so */
        pressure_keep_low(append->sequence->tenant, now_ns);
    r = commit_rest(append, now_ns);
    if (r == STORE_E_FULL) {
        tenant_no_room(append->sequence->tenant, append->wanted_bytes, &append->error);
    } else if (r == STORE_E_CORRUPT) {
        session_error_set(&append->error, SESSION_DATA_LOSS, "CORRUPT",
                          "the stored rows of the sequence's tail do not match their checksum");
    } else if (r) {
        session_error_fault(&append->error, error_fold(r), "Append");
    } else {
        session_lock(session);
        r = publish(append, &old_tail);
        session_unlock(session);
    }
    if (r) {
        append_roll_back(append);
    } else {
        tail_holder_unref(session, old_tail);
        tell(append, worker);
        for (uint32_t i = 0; i < append->n_parts; i++)
            append->parts[i].tile = NULL; /* the sequence's now */
    }
    append_finish(append);
}
