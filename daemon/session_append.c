/*
 * Append: rows in, tiles and a tail out
 *
 *     check -> turn -> plan (a job) -> one turn of the loop a tile, and one for the new tail's rows
 *           -> commit (the loop's end) -> answer -> the next turn
 *
 * Up to the commit (session_commit.c) nothing is the sequence's: tiles are stored as they are made,
 * but only the append refers to them, and rows of the new tail are in a buffer. So a failure leaves
 * the sequence as it was.
 *
 * A tile is always made of its 128 rows at once: those of the tail, which are in the arena bit for
 * bit as they came, and new ones, under the verdict that the tile before it left. Hence its bytes
 * do not depend on how the rows arrived. Tiles are encoded side by side; where streams are watched,
 * each a layer behind the one before it, whose monitors it needs (session_verdict.h).
 *
 * Behind a trim into a tile the tail begins with decoded rows, in fp32. Rows that are appended to
 * it become fp32, too, which changes none of their numbers.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session_append.h"
#include "lib/base/error.h"

static struct append *append_free(struct append *append)
{
    uint64_t now_ns = session_now_ns();

    if (!append)
        return NULL;
    for (uint32_t i = 0; i < append->n_parts && append->parts; i++) {
        struct part *part = &append->parts[i];

        tile_unref(part->tile, /* discard= */ false, now_ns, NULL);
        dpq_free(part->base);
        dpq_free(part->fine);
        verdict_trail_free(part->trail);
        free(part->courses);
    }
    if (append->inputs_used && append->error.code == SESSION_OK)
        free(append->inputs);
    else if (append->inputs)
        sequence_return_inputs(append->session, append->sequence, append->inputs);
    numbers_release(append->session, &append->from);
    free(append->parts);
    free(append->tail_rows);
    free(append);
    return NULL;
}

void append_finish(struct append *append)
{
    struct session_append *op = append->op;
    struct sequence *sequence = append->sequence;
    struct session *session = append->session;

    op->error = append->error;
    append_free(append);
    op->done(op);
    sequence_leave(session, sequence);
}

/* --- plan ------------------------------------------------------------------------------------- */

/* Is this what was appended before, asked again by someone who did not hear the answer? */
static bool is_repeated(const struct sequence *sequence, const struct session_append *op)
{
    return op->n_token_ids && op->first_token <= sequence->n_token_ids &&
           op->n_tokens <= sequence->n_token_ids - op->first_token &&
           !memcmp(sequence->token_ids + op->first_token, op->token_ids,
                   op->n_tokens * sizeof(op->token_ids[0]));
}

void append_fill_reply(const struct sequence *sequence, struct session_append *op)
{
    op->n_total_tokens = sequence->n_tokens;
    op->n_tile_tokens = sequence->n_tiles * DPQ_TILE_TOKENS;
    op->generation = sequence->generation;
}

/* May this be appended now? Outside the lock: it is our turn. 0: plan on; 1: answered. */
static int check_turn(struct append *append)
{
    const struct sequence *sequence = append->sequence;
    struct session_append *op = append->op;
    struct session_error *error = &append->error;

    if (sequence->released) {
        session_error_set(error, SESSION_NOT_FOUND, "SEQUENCE",
                          "sequence %llu was released meanwhile",
                          (unsigned long long)sequence->entry.id);
    } else if (op->first_token > sequence->n_tokens && op->first_token <= sequence->n_evicted_end) {
        session_error_set(error, SESSION_NOT_FOUND, "EVICTED",
                          "tokens %llu..%llu were evicted for want of room: append again from "
                          "token %llu on",
                          (unsigned long long)sequence->n_tokens,
                          (unsigned long long)sequence->n_evicted_end,
                          (unsigned long long)sequence->n_tokens);
        error->token = (int64_t)sequence->n_tokens;
    } else if (op->first_token != sequence->n_tokens && is_repeated(sequence, op)) {
        op->n_shared_tokens = op->n_tokens;
        append_fill_reply(sequence, op);
    } else if (op->first_token != sequence->n_tokens) {
        session_error_set(error, SESSION_OUT_OF_RANGE, "FIRST_TOKEN",
                          "first_token %llu: the sequence has %llu tokens, and that is where it "
                          "continues",
                          (unsigned long long)op->first_token,
                          (unsigned long long)sequence->n_tokens);
    } else if (op->n_tokens > MAX_SEQUENCE_TOKENS - sequence->n_tokens) {
        session_error_set(error, SESSION_OUT_OF_RANGE, "LIMIT",
                          "a sequence has %d tokens at most: this one has %llu, %u more are too "
                          "many",
                          MAX_SEQUENCE_TOKENS, (unsigned long long)sequence->n_tokens,
                          op->n_tokens);
    } else if (sequence->tail && sequence->tail_dtype != op->from.tensor.dtype &&
               !sequence_n_lossy(sequence)) {
        static const char *const NAMES[] = { "f32", "f16", "bf16" };

        session_error_set(error, SESSION_INVALID_ARGUMENT, "DTYPE",
                          "dtype %s: the sequence's tail of %llu tokens is %s; go on in %s up to "
                          "token %llu",
                          NAMES[op->from.tensor.dtype],
                          (unsigned long long)(sequence->n_tokens % DPQ_TILE_TOKENS),
                          NAMES[sequence->tail_dtype], NAMES[sequence->tail_dtype],
                          (unsigned long long)align_up(sequence->n_tokens, DPQ_TILE_TOKENS));
    } else {
        return 0;
    }
    return 1;
}

/* The tail's rows become a tile's: those of an earlier process are verified first. 1: answered. */
static int check_tail(struct append *append)
{
    const struct sequence *sequence = append->sequence;

    if (!sequence->tail || !tail_check(sequence->tail->tail))
        return 0;
    session_error_set(&append->error, SESSION_DATA_LOSS, "CORRUPT",
                      "the stored rows of tokens %llu..%llu do not match their checksum",
                      (unsigned long long)(sequence->n_tiles * DPQ_TILE_TOKENS),
                      (unsigned long long)sequence->n_tokens);
    return 1;
}

/* Keys of the tiles to be made; those that are stored already need no encoding. */
static int plan_keys(struct append *append, struct key_maker *maker)
{
    struct sequence *sequence = append->sequence;
    uint8_t key[KEY_BYTES] = { 0 };

    if (sequence->n_tiles)
        memcpy(key, tile_key(sequence->tiles[sequence->n_tiles - 1]), KEY_BYTES);
    for (uint32_t i = 0; i < append->n_parts; i++) {
        struct part *part = &append->parts[i];
        uint64_t index = sequence->n_tiles + i;
        int r;

        if (append->keyed)
            r = key_tile(maker, sequence->scope, key, sequence->token_ids + index * DPQ_TILE_TOKENS,
                         key);
        else
            r = key_private(maker, sequence->scope, sequence->private_id, index, key);
        if (r)
            return error_fold(r);
        memcpy(part->key, key, KEY_BYTES);
        if (!append->keyed)
            continue;
        r = store_get(sequence->tenant->store, key, &part->tile);
        if (r == 0)
            part->shared = true;
        else if (r != STORE_E_NONE)
            return error_fold(r);
    }
    return 0;
}

/* room for what the commit must not fail for */
static int plan_memory(struct append *append)
{
    struct session *session = append->session;
    struct sequence *sequence = append->sequence;
    const struct session_append *op = append->op;
    size_t want = sequence->n_tiles + append->n_parts;
    int r = 0;

    append->parts = calloc(append->n_parts + 1, sizeof(append->parts[0]));
    if (append->n_tail_rows)
        append->tail_rows = malloc(append->n_tail_rows * append->tail_row_bytes);
    if (!append->parts || (append->n_tail_rows && !append->tail_rows))
        return error_origin(-ENOMEM);
    if (append->has_maker)
        r = sequence_reserve_maker(sequence);
    session_lock(session); /* readers look at these arrays */
    if (!r && append->keyed) {
        r = sequence_reserve_ids(sequence, op->n_tokens);
        if (!r)
            memcpy(sequence->token_ids + sequence->n_tokens, op->token_ids,
                   op->n_tokens * sizeof(op->token_ids[0]));
    }
    if (!r && want > sequence->tiles_capacity) {
        size_t capacity = want < 2 * sequence->tiles_capacity ? 2 * sequence->tiles_capacity : want;
        struct tile **tiles = realloc(sequence->tiles, capacity * sizeof(*tiles));

        if (tiles) {
            sequence->tiles = tiles;
            sequence->tiles_capacity = capacity;
        } else {
            r = error_origin(-ENOMEM);
        }
    }
    session_unlock(session);
    return r;
}

static bool append_turn(struct pool_loop *loop, uint32_t i, uint32_t worker);
static void append_end(struct pool_loop *loop, uint32_t worker);

/* how much of what there will be */
static void plan_counts(struct append *append)
{
    const struct sequence *sequence = append->sequence;
    const struct session_append *op = append->op;
    uint64_t n_after = sequence->n_tokens + op->n_tokens;
    uint32_t dtype = op->from.tensor.dtype;

    append->keyed = op->n_token_ids && sequence->n_token_ids == sequence->n_tokens;
    append->tail_first = sequence->n_tiles * (uint64_t)DPQ_TILE_TOKENS;
    append->n_old_rows = (uint32_t)(sequence->n_tokens - append->tail_first);
    append->n_parts = (uint32_t)(n_after / DPQ_TILE_TOKENS - sequence->n_tiles);
    append->n_tail_tokens = (uint32_t)(n_after % DPQ_TILE_TOKENS);
    append->n_tail_rows = append->n_parts ? append->n_tail_tokens : op->n_tokens;
    append->has_maker = !append->keyed && append->n_parts &&
                        sequence_private_id(sequence, sequence->n_tiles) != sequence->private_id;
    append->old_dtype = sequence->tail ? sequence->tail_dtype : dtype;
    append->tail_dtype = append->n_parts ? dtype : append->old_dtype;
    append->tail_row_bytes = dpq_row_bytes(profile_geometry(sequence->profile), append->tail_dtype);
}

static void plan(struct job *job, uint32_t worker)
{
    struct append *append = (struct append *)(void *)((char *)job - offsetof(struct append, job));
    int r;

    if (check_turn(append) || check_tail(append)) {
        append_finish(append);
        return;
    }
    plan_counts(append);
    r = plan_memory(append);
    if (!r)
        r = plan_keys(append, session_key_maker(append->session, (int32_t)worker));
    if (!r)
        r = append_plan_trails(append);
    if (r) {
        session_error_fault(&append->error, r, "Append");
        append_finish(append);
        return;
    }
    append->loop.n = append->n_parts + (append->n_tail_rows ? 1 : 0);
    if (sequence_book(append->sequence)) /* more would only wait for each other */
        append->loop.max_lanes = profile_geometry(append->sequence->profile)->n_layers;
    if (append->n_parts && sequence_book(append->sequence))
        append->inputs = sequence_take_inputs(append->session, append->sequence);
    append->loop.turn = append_turn;
    append->loop.end = append_end;
    (void)!pool_loop_start(append->session->pool, &append->loop, /* admitted= */ true);
}

/* --- on the workers --------------------------------------------------------------------------- */

static void fail(struct append *append, uint32_t turn, const struct session_error *error)
{
    session_lock(append->session);
    if (append->error.code == SESSION_OK || turn < append->error_turn) {
        append->error = *error;
        append->error_turn = turn;
    }
    session_unlock(append->session);
}

/* Assemble 128 rows and encode them. 0; 1 refused; a fault. */
static int encode_part(struct append *append, uint32_t i, uint32_t worker,
                       struct session_error *ret_error)
{
    const struct sequence *sequence = append->sequence;
    uint32_t n_old = i == 0 ? append->n_old_rows : 0;
    uint32_t first = i == 0 ? 0 : i * DPQ_TILE_TOKENS - append->n_old_rows;
    uint64_t first_index = append->tail_first + (uint64_t)i * DPQ_TILE_TOKENS;
    uint32_t dtype = i == 0 ? append->old_dtype : append->op->from.tensor.dtype;
    size_t row_bytes = dpq_row_bytes(profile_geometry(sequence->profile), dtype);
    struct part *part = &append->parts[i];
    struct verdict_desk *desk = &append->session->workers[worker].desk;
    struct tile_watch watch = { 0 };
    bool made = false, droppable = false;
    struct dpq_codec *codec;
    uint8_t *rows;
    int r;

    r = session_worker_rows(append->session, worker, DPQ_TILE_TOKENS * row_bytes, &rows);
    if (r)
        return error_fold(r);
    if (n_old)
        memcpy(rows, sequence->tail_object.bytes, n_old * row_bytes);
    r = append_gather(append, first, DPQ_TILE_TOKENS - n_old, dtype, rows + n_old * row_bytes,
                      ret_error);
    if (r)
        return r == 1 ? 1 : error_fold(r);
    if (!n_old || !sequence_n_lossy(sequence)) /* decoded rows teach a codec its own faults */
        refine_offer(sequence, part->key, first_index, dtype, rows);
    r = session_worker_codec(append->session, worker, sequence->profile, &codec);
    if (r)
        return error_fold(r);
    r = append_begin_verdict(append, i, desk, &watch);
    if (!r)
        r = tile_encode_watched(codec, rows, dtype, sequence->position_base + first_index,
                                first_index, sequence->rate,
                                sequence_book(sequence) ? &watch : NULL, &part->base, &part->n_base,
                                &part->fine, &part->n_fine);
    if (r)
        return error_fold(r);
    if (sequence_book(sequence))
        verdict_end(desk, part->base, part->n_base);
    r = dpq_tile_fine(part->base, part->n_base, &made, &droppable);
    if (r)
        return error_fold(r);
    part->keeps_fine = !droppable || sequence->keeps_fine;
    return 0;
}

static bool append_turn(struct pool_loop *loop, uint32_t i, uint32_t worker)
{
    struct append *append = (struct append *)loop;
    struct session_error error;
    int r = 0;

    session_error_clear(&error);
    if (i == append->n_parts)
        r = append_gather(append, append->op->n_tokens - append->n_tail_rows, append->n_tail_rows,
                          append->tail_dtype, append->tail_rows, &error);
    else if (!append->parts[i].shared)
        r = encode_part(append, i, worker, &error);
    if (r == 0 && i < append->n_parts)
        r = append_store(append, i, &error);
    if (r == 0)
        return true;
    if (r < 0)
        session_error_fault(&error, r, "Append");
    fail(append, i, &error);
    if (i < append->n_parts && append->parts[i].trail)
        verdict_trail_end(append->parts[i].trail);
    return false;
}

static void append_end(struct pool_loop *loop, uint32_t worker)
{
    struct append *append = (struct append *)loop;

    if (append->error.code == SESSION_OK) {
        append_commit(append, worker);
    } else {
        append_roll_back(append);
        append_finish(append);
    }
}

/* --- the request ------------------------------------------------------------------------------ */

static bool append_begin(struct turn *turn)
{
    struct append *append = (struct append *)(void *)((char *)turn - offsetof(struct append, turn));

    pool_resubmit(append->session->pool, &append->job); /* was admitted when it began to wait */
    return false;
}

static int check_shape(struct session_append *op)
{
    if (op->n_tokens == 0 || op->n_tokens > MAX_APPEND_TOKENS) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "LIMIT",
                          "n_tokens %u is not in 1 ... %d", op->n_tokens, MAX_APPEND_TOKENS);
        return 1;
    }
    if (!dpq_dtype_bytes(op->from.tensor.dtype)) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "TENSOR",
                          "tensor: dtype %u is unknown", op->from.tensor.dtype);
        return 1;
    }
    if (op->n_token_ids && op->n_token_ids != op->n_tokens) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "TOKEN_IDS",
                          "%llu token ids for %u tokens: give one each, or none",
                          (unsigned long long)op->n_token_ids, op->n_tokens);
        return 1;
    }
    return 0;
}

/* find the sequence and take or await its turn. 0, 1 with the error set */
static int enter(struct append *append, bool *ret_begin)
{
    struct session *session = append->session;
    struct session_append *op = append->op;
    struct sequence *sequence;
    int r = 1;

    session_lock(session);
    sequence = sequence_find(session, op->tenant, op->sequence_id);
    if (!sequence) {
        session_error_no_sequence(&op->error, op->sequence_id);
    } else {
        append->sequence = sequence;
        append->row_bytes =
            dpq_row_bytes(profile_geometry(sequence->profile), op->from.tensor.dtype);
        r = sequence_enter(sequence, &append->turn, ret_begin, &op->error);
    }
    session_unlock(session);
    return r;
}

static bool geometry_of(struct session *session, uint32_t tenant, uint64_t sequence_id,
                        struct dpq_geometry *ret_geometry)
{
    struct sequence *sequence;

    session_lock(session);
    sequence = sequence_find(session, tenant, sequence_id);
    if (sequence)
        *ret_geometry = *profile_geometry(sequence->profile);
    session_unlock(session);
    return sequence != NULL;
}

void session_append(struct session *session, struct session_append *op)
{
    struct append *append = calloc(1, sizeof(*append));
    struct dpq_geometry geometry;
    bool begin = false;
    int r;

    session_error_clear(&op->error);
    op->n_total_tokens = op->n_shared_tokens = op->n_tile_tokens = op->generation = 0;
    if (!append) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Append");
        op->done(op);
        return;
    }
    append->session = session;
    append->op = op;
    append->turn.begin = append_begin;
    append->job.run = plan;
    session_error_clear(&append->error);
    r = check_shape(op);
    if (!r && geometry_of(session, op->tenant, op->sequence_id, &geometry))
        r = numbers_acquire(session, op->tenant, &op->from, &geometry, geometry.n_layers,
                            op->n_tokens, &append->from, &op->error);
    if (!r)
        r = enter(append, &begin);
    if (r) {
        append_free(append);
        op->done(op);
        return;
    }
    if (begin && pool_submit(session->pool, &append->job)) {
        session_error_busy(&append->error);
        append_finish(append);
    }
}
