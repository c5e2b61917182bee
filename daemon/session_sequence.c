/*
 * Sequences: tiles, then a raw tail of fewer than 128 tokens
 *
 *     created --append, append, ...--> released
 *
 * Whoever changes a sequence has its turn first: turns come in order, one at a time, so an append
 * works on a sequence that stands still, without the lock. Readers have no turn: they take, under
 * the lock, references to the tiles and the tail as they are, and read what was acknowledged then.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/hub.h"
#include "daemon/session_internal.h"
#include "lib/base/error.h"

/* --- life ------------------------------------------------------------------------------------- */

struct sequence *sequence_find(struct session *session, uint32_t tenant, uint64_t sequence_id)
{
    struct sequence *sequence = (struct sequence *)id_table_find(&session->sequences, sequence_id);

    return sequence && sequence->tenant->index == tenant ? sequence : NULL;
}

void sequence_unref(struct session *session, struct sequence *sequence)
{
    uint32_t refs;

    session_lock(session);
    refs = --sequence->refs;
    session_unlock(session);
    if (refs)
        return;
    assert(!sequence->tiles && !sequence->tail && !sequence->busy);
    free(sequence->token_ids);
    free(sequence);
}

uint64_t tail_holder_unref(struct session *session, struct tail_holder *holder)
{
    uint64_t freed_bytes = 0;
    uint32_t refs;

    if (!holder)
        return 0;
    session_lock(session);
    refs = --holder->refs;
    session_unlock(session);
    if (refs)
        return 0;
    tail_free(holder->tail, session_now_ns(), &freed_bytes);
    free(holder);
    return freed_bytes;
}

int sequence_reserve_ids(struct sequence *sequence, size_t n)
{
    size_t want = sequence->n_token_ids + n;
    uint32_t *ids;

    if (want <= sequence->token_ids_capacity)
        return 0;
    if (want < 2 * sequence->token_ids_capacity)
        want = 2 * sequence->token_ids_capacity;
    ids = realloc(sequence->token_ids, want * sizeof(*ids));
    if (!ids)
        return error_origin(-ENOMEM);
    sequence->token_ids = ids;
    sequence->token_ids_capacity = want;
    return 0;
}

/* out of the table: from now on nobody finds it. Locked. */
static void unlink_sequence(struct session *session, struct sequence *sequence)
{
    assert(!sequence->released);
    sequence->released = true;
    id_table_remove(&session->sequences, &sequence->entry);
    sequence->tenant->n_sequences--;
}

/* give tiles and tail of an unlinked sequence back; drops the table's reference */
static uint64_t empty_sequence(struct session *session, struct sequence *sequence, bool discard)
{
    struct event event = { .kind = EVENT_SEQUENCE_RELEASED,
                           .tenant = sequence->tenant->index,
                           .id = sequence->entry.id,
                           .a = sequence->n_tokens };
    uint64_t now_ns = session_now_ns();

    /* the record first: after that a restart does not find the sequence */
    sequence->record = record_free(sequence->record, now_ns);
    event.b = tail_holder_unref(session, steal_ptr(sequence->tail));
    while (
        sequence->n_tiles) { /* the last first: what follows is worth less than what it follows */
        uint64_t freed = 0;

        tile_unref(sequence->tiles[--sequence->n_tiles], discard, now_ns, &freed);
        event.b += freed;
    }
    free(sequence->tiles);
    sequence->tiles = NULL;
    hub_publish(session->hub, &event);
    sequence_unref(session, sequence);
    return event.b;
}

void sequence_forget_all(struct session *session)
{
    struct id_entry *entry;

    while (session->sequences.n && (entry = id_table_next(&session->sequences, NULL))) {
        struct sequence *sequence = (struct sequence *)entry;

        assert(!sequence->busy && sequence->refs == 1); /* no request is outstanding */
        unlink_sequence(session, sequence);
        free(sequence->tail); /* tail, record and tiles are the store's */
        free(sequence->tiles);
        free(sequence->token_ids);
        free(sequence);
    }
}

/* --- turns ------------------------------------------------------------------------------------ */

int sequence_enter(struct sequence *sequence, struct turn *turn, bool *ret_begin,
                   struct session_error *ret_error)
{
    if (sequence->n_waiting >= MAX_WAITING_TURNS) {
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "QUEUE",
                          "sequence %llu: %d requests are waiting for it already",
                          (unsigned long long)sequence->entry.id, MAX_WAITING_TURNS);
        ret_error->retry_ms = RETRY_MS;
        return 1;
    }
    sequence->refs++;
    *ret_begin = !sequence->busy;
    sequence->busy = true;
    if (*ret_begin)
        return 0;
    turn->next = NULL;
    if (!sequence->first_turn)
        sequence->last_turn = &sequence->first_turn;
    *sequence->last_turn = turn;
    sequence->last_turn = &turn->next;
    sequence->n_waiting++;
    return 0;
}

/* Nobody but its owner can have wanted it: only what was there before was adopted. */
static bool is_unused(const struct sequence *sequence)
{
    return sequence->n_tokens == sequence->n_adopted_tokens;
}

void sequence_leave(struct session *session, struct sequence *sequence)
{
    for (;;) {
        struct turn *next;
        bool drop;

        session_lock(session);
        next = sequence->first_turn;
        if (next) {
            sequence->first_turn = next->next;
            sequence->n_waiting--;
        } else {
            sequence->busy = false;
        }
        drop = !next && sequence->owner_gone && is_unused(sequence) && !sequence->released;
        if (drop)
            unlink_sequence(session, sequence);
        session_unlock(session);
        if (drop)
            empty_sequence(session, sequence, false);
        if (!next) {
            sequence_unref(session, sequence);
            return;
        }
        sequence_unref(session, sequence); /* the next turn's reference keeps it */
        if (!next->begin(next))
            return;
    }
}

uint32_t sequence_owner_gone(struct session *session, uint64_t client_id)
{
    struct id_entry *drop = NULL, *entry, *next;
    uint32_t n = 0;

    session_lock(session);
    for (entry = id_table_next(&session->sequences, NULL); entry; entry = next) {
        struct sequence *sequence = (struct sequence *)entry;

        next = id_table_next(&session->sequences, entry);
        if (sequence->owner != client_id)
            continue;
        sequence->owner_gone = true; /* a running append's end looks at it */
        if (!is_unused(sequence) || sequence->busy)
            continue;
        unlink_sequence(session, sequence);
        entry->next = drop;
        drop = entry;
        n++;
    }
    session_unlock(session);
    while (drop) {
        struct sequence *sequence = (struct sequence *)drop;

        drop = drop->next;
        empty_sequence(session, sequence, false);
    }
    return n;
}

/* --- create ----------------------------------------------------------------------------------- */

struct creation {
    struct job job;
    struct session *session;
    struct session_create *op;
    const struct profile_entry *profile;
};

/* owner and limits; then the sequence is in the table */
static int add_sequence(struct session *session, struct session_create *op,
                        struct sequence *sequence)
{
    struct tenant *tenant = sequence->tenant;
    int r = 1;

    session_lock(session);
    if (op->client_id && !client_find(session, op->tenant, op->client_id)) {
        session_error_set(&op->error, SESSION_NOT_FOUND, "CLIENT", "client_id %llu is not attached",
                          (unsigned long long)op->client_id);
    } else if (tenant->n_sequences >= MAX_SEQUENCES) {
        session_error_set(&op->error, SESSION_RESOURCE_EXHAUSTED, "LIMIT",
                          "tenant %s has %d sequences, the most there may be", tenant->config->name,
                          MAX_SEQUENCES);
    } else {
        do /* those of earlier runs are not far from impossible, but not impossible */
            sequence->entry.id = session_new_id(session);
        while (id_table_find(&session->sequences, sequence->entry.id));
        id_table_add(&session->sequences, &sequence->entry);
        tenant->n_sequences++;
        tenant->tokens_shared += sequence->n_tokens;
        op->sequence_id = sequence->entry.id;
        op->n_tokens = sequence->n_tokens;
        r = 0;
    }
    session_unlock(session);
    return r;
}

static int make_sequence(struct session *session, struct session_create *op,
                         const struct profile_entry *profile, struct key_maker *maker,
                         struct sequence *sequence)
{
    const struct session_prefix *prefix = &op->prefix;
    struct prefix_hit hit = { 0 };
    int r;

    sequence->tenant = &session->tenants[op->tenant];
    sequence->profile = profile;
    sequence->refs = 1;
    sequence->rate = prefix->rate;
    sequence->position_base = prefix->position_base;
    sequence->owner = op->client_id;
    r = key_scope(maker, sequence->tenant->config->name, prefix, sequence->scope);
    if (!r)
        r = prefix_find(sequence->tenant->store, maker, sequence->scope, prefix->token_ids,
                        prefix->n_token_ids, &hit);
    if (r)
        return error_fold(r);
    sequence->tiles = hit.tiles;
    sequence->n_tiles = sequence->tiles_capacity = hit.n_tiles;
    sequence->n_tokens = sequence->n_adopted_tokens = hit.n_tiles * DPQ_TILE_TOKENS;
    r = sequence_reserve_ids(sequence, sequence->n_tokens);
    if (r)
        return error_fold(r);
    sequence->n_token_ids = sequence->n_tokens;
    if (sequence->n_tokens)
        memcpy(sequence->token_ids, prefix->token_ids,
               sequence->n_tokens * sizeof(sequence->token_ids[0]));
    return 0;
}

static void discard_unborn(struct sequence *sequence)
{
    struct prefix_hit hit = { sequence->tiles, sequence->n_tiles };

    prefix_hit_deinit(&hit);
    free(sequence->token_ids);
    free(sequence);
}

static void create(struct session *session, struct session_create *op,
                   const struct profile_entry *profile, int32_t worker)
{
    struct sequence *sequence = calloc(1, sizeof(*sequence));
    struct event event = { .kind = EVENT_SEQUENCE_CREATED, .tenant = op->tenant };
    int r = sequence ? 0 : error_origin(-ENOMEM);

    if (!r)
        r = make_sequence(session, op, profile, session_key_maker(session, worker), sequence);
    if (r)
        session_error_fault(&op->error, r, "CreateSequence");
    else
        r = add_sequence(session, op, sequence);
    if (r) {
        if (sequence)
            discard_unborn(sequence);
    } else {
        event.id = op->sequence_id;
        event.a = op->n_tokens;
        hub_publish(session->hub, &event);
    }
    op->done(op);
}

static void create_on_worker(struct job *job, uint32_t worker)
{
    struct creation *creation = (struct creation *)job;

    create(creation->session, creation->op, creation->profile, (int32_t)worker);
    free(creation);
}

void session_create(struct session *session, struct session_create *op)
{
    const struct profile_entry *profile;
    struct creation *creation;

    session_error_clear(&op->error);
    profile = profile_find(session, op->prefix.profile_id);
    if (!profile) {
        session_error_set(&op->error, SESSION_NOT_FOUND, "PROFILE",
                          "profile_id names no installed profile");
    } else if (prefix_check(&op->prefix, &op->error)) {
        /* said why */
    } else if (op->prefix.n_token_ids <= N_INLINE_IDS) {
        create(session, op, profile, -1);
        return;
    } else {
        creation = calloc(1, sizeof(*creation));
        if (!creation) {
            session_error_fault(&op->error, error_origin(-ENOMEM), "CreateSequence");
        } else {
            *creation = (struct creation){ { .run = create_on_worker }, session, op, profile };
            if (!pool_submit(session->pool, &creation->job))
                return;
            session_error_set(&op->error, SESSION_RESOURCE_EXHAUSTED, "QUEUE",
                              "the workers' queue is full");
            op->error.retry_ms = RETRY_MS;
            free(creation);
        }
    }
    op->done(op);
}

/* --- release ---------------------------------------------------------------------------------- */

struct release {
    struct turn turn;
    struct session *session;
    struct sequence *sequence;
    struct session_release *op;
};

static bool release_begin(struct turn *turn)
{
    struct release *release = (struct release *)turn;
    struct session *session = release->session;
    struct sequence *sequence = release->sequence;
    struct session_release *op = release->op;
    bool was_released;

    session_lock(session);
    was_released = sequence->released;
    if (!was_released)
        unlink_sequence(session, sequence);
    session_unlock(session);
    if (was_released)
        session_error_set(&op->error, SESSION_NOT_FOUND, "SEQUENCE",
                          "sequence %llu was released meanwhile",
                          (unsigned long long)sequence->entry.id);
    else
        op->freed_bytes = empty_sequence(session, sequence, op->discard);
    free(release);
    op->done(op);
    return true;
}

void session_release(struct session *session, struct session_release *op)
{
    struct release *release = calloc(1, sizeof(*release));
    struct sequence *sequence = NULL;
    bool begin = false;
    int r = 1;

    session_error_clear(&op->error);
    if (!release) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Release");
        op->done(op);
        return;
    }
    session_lock(session);
    sequence = sequence_find(session, op->tenant, op->sequence_id);
    if (!sequence)
        session_error_set(&op->error, SESSION_NOT_FOUND, "SEQUENCE", "sequence_id %llu is unknown",
                          (unsigned long long)op->sequence_id);
    else
        r = sequence_enter(sequence, &release->turn, &begin, &op->error);
    if (!r) {
        release->turn.begin = release_begin;
        release->session = session;
        release->sequence = sequence;
        release->op = op;
    }
    session_unlock(session);
    if (r) {
        free(release);
        op->done(op);
    } else if (begin) {
        release_begin(&release->turn);
        sequence_leave(session, sequence);
    }
}
