/*
 * Fork: a sequence that begins as another one is now
 *
 *     cut (session_cut.c) -> references to tiles, copies of the rest -> the fork's tail -> its
 * record
 *     -> the table
 *
 * Tiles are shared by reference, whether they can be looked up or not: a fork's record says whose
 * ids their keys were made with. The record is the moment at which the fork is there, also for a
 * process that finds the arena; its tail, if it is found alone, is freed. From then on the two know
 * nothing of each other: what either appends, trims or releases the other does not notice.
 *
 * Who gives a fork a number of his own may ask again when he did not hear the answer: the number
 * decides the fork's id, so that it is found, also by a daemon that was started meanwhile.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/hub.h"
#include "daemon/session_cut.h"
#include "daemon/session_keep.h"
#include "daemon/session_verbs.h"
#include "lib/base/error.h"

struct forking {
    struct errand errand;
    struct session_fork *op;
    uint64_t id; /* 0: a new one */
};

/* What keys of its tiles are made with, as its record is to say it: the origin is implied only in
 * the origin's own. */
static int copy_makers(const struct sequence *origin, const struct cut *cut, struct sequence *fork)
{
    bool has_private = cut->n_tiles && sequence_tile_is_private(origin, cut->n_tiles - 1);
    size_t n = has_private ? origin->n_makers + 1 : 0;

    if (!n)
        return 0;
    fork->makers = malloc(n * sizeof(fork->makers[0]));
    if (!fork->makers)
        return error_origin(-ENOMEM);
    fork->makers_capacity = n;
    fork->makers[fork->n_makers++] = (struct record_maker){ 0, sequence_private_id(origin, 0) };
    for (size_t i = 0; i < origin->n_makers; i++) {
        const struct record_maker *maker = &origin->makers[i];

        if (maker->first_tile && maker->first_tile < cut->n_tiles)
            fork->makers[fork->n_makers++] = *maker;
    }
    return 0;
}

static int copy_arrays(const struct sequence *origin, const struct cut *cut, struct sequence *fork)
{
    fork->tiles = malloc((cut->n_tiles + 1) * sizeof(fork->tiles[0]));
    fork->token_ids = malloc((cut->n_token_ids + 1) * sizeof(fork->token_ids[0]));
    if (!fork->tiles || !fork->token_ids)
        return error_origin(-ENOMEM);
    fork->tiles_capacity = cut->n_tiles + 1;
    fork->n_token_ids = cut->n_token_ids;
    fork->token_ids_capacity = cut->n_token_ids + 1;
    if (cut->n_token_ids)
        memcpy(fork->token_ids, origin->token_ids, cut->n_token_ids * sizeof(fork->token_ids[0]));
    for (; fork->n_tiles < cut->n_tiles; fork->n_tiles++) {
        fork->tiles[fork->n_tiles] = origin->tiles[fork->n_tiles];
        tile_ref(fork->tiles[fork->n_tiles]);
    }
    return copy_makers(origin, cut, fork);
}

/* Memory alone, and references. It has its ids, too. */
static int make(struct sequence *origin, const struct cut *cut, uint64_t id,
                struct sequence **ret_fork)
{
    struct session *session = origin->tenant->session;
    struct sequence *fork = calloc(1, sizeof(*fork));

    if (!fork)
        return error_origin(-ENOMEM);
    *fork = (struct sequence){
        .tenant = origin->tenant,
        .refs = 1,
        .rate = origin->rate,
        .keeps_fine = origin->keeps_fine,
        .keeps_tokens = origin->keeps_tokens,
        .used_ns = session_now_ns(),
        .position_base = origin->position_base,
        .fork_origin = origin->entry.id,
        .n_tokens = cut->n_tokens,
        .generation = origin->generation,
        .tail_object.ref.slot = NO_SLOT,
        .tail_dtype = cut->dtype,
        .tail_mark.lossy_end = cut->lossy_end,
    };
    memcpy(fork->scope, origin->scope, KEY_BYTES);
    session_lock(session);
    fork->profile = profile_ref(origin->profile);
    fork->entry.id = id ? id : sequence_new_id(session);
    fork->private_id = session_new_id(session);
    session_unlock(session);
    *ret_fork = fork;
    return copy_arrays(origin, cut, fork);
}

/* One that nobody has found yet; what is in the arena goes, the record first. NULL is fine */
static void discard(struct session *session, struct sequence *fork, uint64_t now_ns)
{
    if (!fork)
        return;
    record_free(fork->record, now_ns);
    tail_holder_unref(session, fork->tail);
    while (fork->n_tiles)
        tile_unref(fork->tiles[--fork->n_tiles], /* discard= */ false, now_ns, NULL);
    sequence_free(fork);
}

static int commit(struct sequence *fork, const struct cut *cut, uint64_t now_ns)
{
    const struct record_change all = { 0 }; /* there is no record yet: it says everything */
    int r = cut_tail(cut, fork, &fork->tail_mark, now_ns, &fork->tail);

    if (r)
        return r;
    if (fork->tail)
        tail_object(fork->tail->tail, &fork->tail_object);
    return sequence_write(fork, &all, now_ns);
}

/* locked */
static void fill_reply(const struct sequence *fork, struct session_fork *op)
{
    op->fork_id = fork->entry.id;
    op->n_total_tokens = fork->n_tokens;
    op->n_tile_tokens = fork->n_tiles * DPQ_TILE_TOKENS;
    op->n_lossy_tokens = sequence_n_lossy(fork);
    op->generation = fork->generation;
}

/* Others find it from here on. 1: the errand's error says why not */
static int publish(struct forking *forking, struct sequence *fork)
{
    struct session *session = forking->errand.session;
    struct session_fork *op = forking->op;
    struct event event = { .kind = EVENT_SEQUENCE_FORKED,
                           .tenant = op->tenant,
                           .id = fork->entry.id,
                           .a = fork->fork_origin,
                           .b = fork->n_tokens };
    int r;

    session_lock(session);
    r = sequence_add(session, fork, forking->errand.error);
    if (!r) {
        fork->tenant->tokens_shared += fork->n_tiles * DPQ_TILE_TOKENS;
        fill_reply(fork, op);
    }
    session_unlock(session);
    if (!r)
        hub_publish(session->hub, &event);
    return r;
}

static void branch_off(struct forking *forking, const struct cut *cut)
{
    struct errand *errand = &forking->errand;
    uint64_t now_ns = session_now_ns();
    struct sequence *fork = NULL;
    int r;

    r = make(errand->sequence, cut, forking->id, &fork);
    if (!r)
        r = commit(fork, cut, now_ns);
    if (r)
        cut_fail(errand, r, cut, "Fork");
    else
        r = publish(forking, fork);
    if (r)
        discard(errand->session, fork, now_ns);
}

/* Was it asked for before, by its number? Then it is the answer, as it is now. */
static bool is_answered(struct forking *forking, uint32_t worker)
{
    struct errand *errand = &forking->errand;
    struct session *session = errand->session;
    struct session_fork *op = forking->op;
    uint64_t origin_id = errand->sequence->entry.id;
    const struct sequence *found;
    int r;

    if (!op->fork_key)
        return false;
    r = key_fork(session_key_maker(session, (int32_t)worker), origin_id, op->fork_key,
                 &forking->id);
    if (r) {
        session_error_fault(errand->error, r, "Fork");
        return true;
    }
    session_lock(session);
    found = (const struct sequence *)id_table_find(&session->sequences, forking->id);
    if (found && found->fork_origin == origin_id)
        fill_reply(found, op);
    else if (found)
        session_error_set(errand->error, SESSION_ALREADY_EXISTS, "FORK_KEY",
                          "fork_key %llu cannot be used: take another one",
                          (unsigned long long)op->fork_key);
    session_unlock(session);
    return found != NULL;
}

static void fork_off(struct errand *errand, uint32_t worker)
{
    struct forking *forking = (struct forking *)errand;
    const struct sequence *origin = errand->sequence;
    uint64_t n_tokens = forking->op->n_tokens ? forking->op->n_tokens : origin->n_tokens;
    struct cut cut;

    if (is_answered(forking, worker))
        return;
    if (n_tokens > origin->n_tokens) {
        session_error_set(errand->error, SESSION_OUT_OF_RANGE, "TOKEN_RANGE",
                          "n_tokens %llu: the sequence has %llu", (unsigned long long)n_tokens,
                          (unsigned long long)origin->n_tokens);
        return;
    }
    if (cut_make(errand, worker, n_tokens, &cut))
        return;
    branch_off(forking, &cut);
    cut_deinit(&cut);
}

static void answer(struct errand *errand)
{
    struct session_fork *op = ((struct forking *)errand)->op;

    free(errand);
    op->done(op);
}

void session_fork(struct session *session, struct session_fork *op)
{
    struct forking *forking = calloc(1, sizeof(*forking));

    session_error_clear(&op->error);
    op->fork_id = op->n_total_tokens = op->n_tile_tokens = op->n_lossy_tokens = op->generation = 0;
    if (!forking) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Fork");
        op->done(op);
        return;
    }
    forking->errand = (struct errand){ .error = &op->error, .work = fork_off, .answer = answer };
    forking->op = op;
    errand_start(session, op->tenant, op->sequence_id, &forking->errand);
}
