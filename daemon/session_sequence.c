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
    sequence_free(sequence);
}

struct sequence *sequence_free(struct sequence *sequence)
{
    if (!sequence)
        return NULL;
    free(sequence->tiles);
    free(sequence->inputs);
    free(sequence->token_ids);
    free(sequence->makers);
    profile_put(sequence->tenant->session, sequence->profile);
    free(sequence);
    return NULL;
}

uint64_t sequence_new_id(struct session *session)
{
    uint64_t id;

    do /* those of earlier runs are not far from impossible, but not impossible */
        id = session_new_id(session);
    while (id_table_find(&session->sequences, id));
    return id;
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

int sequence_reserve_maker(struct sequence *sequence)
{
    size_t capacity = 2 * sequence->n_makers + 1;
    struct record_maker *makers;

    if (sequence->n_makers < sequence->makers_capacity)
        return 0;
    makers = realloc(sequence->makers, capacity * sizeof(*makers));
    if (!makers)
        return error_origin(-ENOMEM);
    sequence->makers = makers;
    sequence->makers_capacity = capacity;
    return 0;
}

uint64_t sequence_private_id(const struct sequence *sequence, uint64_t tile_index)
{
    size_t n = sequence->n_makers;

    while (n && sequence->makers[n - 1].first_tile > tile_index)
        n--;
    return n ? sequence->makers[n - 1].id : sequence->entry.id;
}

void sequence_shorten(struct sequence *sequence, struct tail_holder **tails)
{
    struct tail_holder *holder = steal_ptr(sequence->tail);

    sequence->n_tokens = sequence->n_tiles * (uint64_t)DPQ_TILE_TOKENS;
    if (sequence->n_token_ids > sequence->n_tokens)
        sequence->n_token_ids = sequence->n_tokens;
    sequence->n_adopted_tokens = 0; /* it is not what was adopted any more */
    while (sequence->n_makers &&
           sequence->makers[sequence->n_makers - 1].first_tile >= sequence->n_tiles)
        sequence->n_makers--;
    sequence->private_id = session_new_id(sequence->tenant->session);
    sequence->tail_object = (struct store_object){ .ref.slot = NO_SLOT };
    if (!holder)
        return;
    holder->next = *tails;
    *tails = holder;
}

void sequence_unlink(struct session *session, struct sequence *sequence)
{
    assert(!sequence->released);
    sequence->released = true;
    id_table_remove(&session->sequences, &sequence->entry);
    sequence->tenant->n_sequences--;
    sequence_drop_inputs(session, sequence);
    if (sequence_book(sequence))
        monitor_forget(session->monitor, sequence->entry.id);
}

uint64_t sequence_empty(struct session *session, struct sequence *sequence,
                        enum session_discard discard)
{
    struct event event = { .kind = EVENT_SEQUENCE_RELEASED,
                           .tenant = sequence->tenant->index,
                           .id = sequence->entry.id,
                           .a = sequence->n_tokens };
    uint64_t now_ns = session_now_ns();
    bool frees;

    /* the record first: after that a restart does not find the sequence */
    sequence->record = record_free(sequence->record, now_ns);
    event.b = tail_holder_unref(session, steal_ptr(sequence->tail));
    while (
        sequence->n_tiles) { /* the last first: what follows is worth less than what it follows */
        uint64_t freed = 0;

        sequence->n_tiles--;
        frees = discard == DISCARD_TILES || (discard == DISCARD_PRIVATE_TILES &&
                                             sequence_tile_is_private(sequence, sequence->n_tiles));
        tile_unref(sequence->tiles[sequence->n_tiles], frees, now_ns, &freed);
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
        sequence_unlink(session, sequence);
        free(sequence->tail); /* tail, record and tiles are the store's */
        sequence_free(sequence);
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
static bool is_unused(const struct sequence *sequence, uint64_t now_ns)
{
    return sequence->n_tokens == sequence->n_adopted_tokens && !sequence->fork_origin &&
           !sequence->was_trimmed && !sequence_pinned(sequence, now_ns);
}

bool sequence_is_orphan(const struct sequence *sequence, uint64_t now_ns)
{
    return sequence->owner_gone && is_unused(sequence, now_ns);
}

void sequence_leave(struct session *session, struct sequence *sequence)
{
    uint64_t now_ns = session_now_ns();

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
        drop = !next && !sequence->released && sequence_is_orphan(sequence, now_ns);
        if (drop)
            sequence_unlink(session, sequence);
        session_unlock(session);
        if (drop)
            sequence_empty(session, sequence, DISCARD_NOTHING);
        if (!next) {
            sequence_unref(session, sequence);
            return;
        }
        sequence_unref(session, sequence); /* the next turn's reference keeps it */
        if (!next->begin(next))
            return;
    }
}

/* Those that are orphans now, out of the table. @client_id: whose, 0: anybody's. Locked */
static struct id_entry *unlink_orphans(struct session *session, uint64_t client_id, uint64_t now_ns)
{
    struct id_entry *drop = NULL, *entry, *next;

    for (entry = id_table_next(&session->sequences, NULL); entry; entry = next) {
        struct sequence *sequence = (struct sequence *)entry;

        next = id_table_next(&session->sequences, entry);
        if (client_id && sequence->owner != client_id)
            continue;
        if (client_id)
            sequence->owner_gone = true; /* a running append's end looks at it */
        if (sequence->busy || !sequence_is_orphan(sequence, now_ns))
            continue;
        sequence_unlink(session, sequence);
        entry->next = drop;
        drop = entry;
    }
    return drop;
}

static uint32_t drop_orphans(struct session *session, uint64_t client_id, uint64_t now_ns)
{
    struct id_entry *drop;
    uint32_t n = 0;

    session_lock(session);
    drop = unlink_orphans(session, client_id, now_ns);
    session_unlock(session);
    while (drop) {
        struct sequence *sequence = (struct sequence *)drop;

        drop = drop->next;
        sequence_empty(session, sequence, DISCARD_NOTHING);
        n++;
    }
    return n;
}

uint32_t sequence_owner_gone(struct session *session, uint64_t client_id)
{
    return drop_orphans(session, client_id, session_now_ns());
}

void sequence_pins_tick(struct session *session, uint64_t now_ns)
{
    struct id_entry *entry = NULL;
    uint64_t next_ns = UINT64_MAX;
    bool is_due;

    session_lock(session);
    is_due = session->next_pin_ns <= now_ns;
    while (is_due && (entry = id_table_next(&session->sequences, entry))) {
        const struct sequence *sequence = (struct sequence *)entry;

        if (sequence_pinned(sequence, now_ns) && sequence->pinned_until_ns < next_ns)
            next_ns = sequence->pinned_until_ns;
    }
    if (is_due)
        session->next_pin_ns = next_ns;
    session_unlock(session);
    if (is_due)
        drop_orphans(session, 0, now_ns);
}

void sequence_set_pin(struct sequence *sequence, uint64_t until_ns)
{
    struct session *session = sequence->tenant->session;

    sequence->pinned_until_ns = until_ns;
    if (until_ns && until_ns < session->next_pin_ns)
        session->next_pin_ns = until_ns;
}

/* --- create ----------------------------------------------------------------------------------- */

struct creation {
    struct job job;
    struct session *session;
    struct session_create *op;
    struct profile_entry *profile; /* a reference, the sequence's from create() on */
};

int sequence_add(struct session *session, struct sequence *sequence,
                 struct session_error *ret_error)
{
    struct tenant *tenant = sequence->tenant;

    if (tenant->n_sequences >= MAX_SEQUENCES) {
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "LIMIT",
                          "tenant %s has %d sequences, the most there may be", tenant->config->name,
                          MAX_SEQUENCES);
        return 1;
    }
    if (!sequence->entry.id)
        sequence->entry.id = sequence_new_id(session);
    id_table_add(&session->sequences, &sequence->entry);
    tenant->n_sequences++;
    return 0;
}

/* owner and limits; then the sequence is in the table */
static int add_sequence(struct session *session, struct session_create *op,
                        struct sequence *sequence)
{
    int r = 1;

    session_lock(session);
    if (op->client_id && !client_find(session, op->tenant, op->client_id)) {
        session_error_set(&op->error, SESSION_NOT_FOUND, "CLIENT", "client_id %llu is not attached",
                          (unsigned long long)op->client_id);
    } else {
        r = sequence_add(session, sequence, &op->error);
    }
    if (!r) {
        sequence->private_id = op->sequence_id = sequence->entry.id;
        op->n_tokens = sequence->n_tokens;
        sequence->tenant->tokens_shared += sequence->n_tokens;
    }
    session_unlock(session);
    return r;
}

static int make_sequence(struct session_create *op, struct key_maker *maker,
                         struct sequence *sequence)
{
    const struct session_prefix *prefix = &op->prefix;
    struct prefix_hit hit = { 0 };
    int r;

    sequence->refs = 1;
    sequence->rate = prefix->rate;
    sequence->position_base = prefix->position_base;
    sequence->owner = op->client_id;
    sequence->keeps_fine = op->keep_fine;
    sequence->keeps_tokens = op->keep_tokens;
    sequence->used_ns = session_now_ns();
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
    sequence->tiles = NULL;
    sequence_free(sequence);
}

static void create(struct session *session, struct session_create *op,
                   struct profile_entry *profile, int32_t worker)
{
    struct sequence *sequence = calloc(1, sizeof(*sequence));
    struct event event = { .kind = EVENT_SEQUENCE_CREATED, .tenant = op->tenant };
    int r = sequence ? 0 : error_origin(-ENOMEM);

    if (!r) {
        sequence->tenant = &session->tenants[op->tenant];
        sequence->profile = steal_ptr(profile);
        r = make_sequence(op, session_key_maker(session, worker), sequence);
    }
    profile_put(session, profile);
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
    struct profile_entry *profile;
    struct creation *creation;

    session_error_clear(&op->error);
    profile = profile_get(session, op->prefix.profile_id);
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
            session_error_busy(&op->error);
            free(creation);
        }
    }
    profile_put(session, profile);
    op->done(op);
}
