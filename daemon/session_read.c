/*
 * Read: a range of tokens and layers, decoded into the caller's memory
 *
 *     check -> pin (references to tiles and tail, as they are now) -> one turn a tile, and one for
 *     the tail, on the workers -> the last one answers
 *
 * What is pinned does not change, so a read sees one state of the sequence, whatever is appended,
 * sealed or released meanwhile. Each tile's checksum is verified each time: XXH3 reads memory
 * faster than anything that follows, and damage is found before it is decoded.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session_read.h"
#include "lib/base/error.h"

void reading_deinit(struct reading *reading)
{
    uint64_t now_ns = session_now_ns();

    for (uint32_t i = 0; i < reading->n_tiles; i++) {
        tile_let_go(reading->tiles[i]);
        tile_unref(reading->tiles[i], false, now_ns, NULL);
    }
    tail_holder_unref(reading->session, reading->tail);
    numbers_release(reading->session, &reading->to);
    profile_put(reading->session, reading->profile);
    free(reading->tiles);
}

static void reading_free(struct reading *reading)
{
    reading_deinit(reading);
    free(reading);
}

/* --- checks ----------------------------------------------------------------------------------- */

/* Locked. The layers asked for are 1 at least. */
static int check_range(const struct sequence *sequence, struct session_read *op,
                       uint32_t *ret_n_layers)
{
    const struct dpq_geometry *geometry;

    if (!sequence) {
        session_error_no_sequence(&op->error, op->sequence_id);
        return 1;
    }
    geometry = profile_geometry(sequence->profile);
    if (sequence->n_evicted_end && op->first_token <= sequence->n_evicted_end &&
        op->n_tokens <= sequence->n_evicted_end - op->first_token &&
        op->first_token + op->n_tokens > sequence->n_tokens) {
        session_error_set(&op->error, SESSION_NOT_FOUND, "EVICTED",
                          "tokens %llu..%llu were evicted for want of room",
                          (unsigned long long)sequence->n_tokens,
                          (unsigned long long)sequence->n_evicted_end);
        op->error.token = (int64_t)sequence->n_tokens;
        return 1;
    }
    if (op->first_token > sequence->n_tokens ||
        op->n_tokens > sequence->n_tokens - op->first_token) {
        session_error_set(&op->error, SESSION_OUT_OF_RANGE, "TOKEN_RANGE",
                          "token range %llu..%llu is past the end: the sequence has %llu tokens",
                          (unsigned long long)op->first_token,
                          (unsigned long long)(op->first_token + op->n_tokens),
                          (unsigned long long)sequence->n_tokens);
        return 1;
    }
    if (op->first_layer >= geometry->n_layers ||
        op->n_layers > geometry->n_layers - op->first_layer) {
        session_error_set(&op->error, SESSION_OUT_OF_RANGE, "LAYER_RANGE",
                          "layers %u..%llu are past the end: the model has %u layers",
                          op->first_layer, (unsigned long long)op->first_layer + op->n_layers,
                          geometry->n_layers);
        return 1;
    }
    *ret_n_layers = op->n_layers ? op->n_layers : geometry->n_layers - op->first_layer;
    return 0;
}

int session_read_size(struct session *session, struct session_read *op, uint64_t *ret_n_bytes)
{
    const struct dpq_tensor *tensor = &op->to.tensor;
    struct dpq_geometry geometry;
    struct sequence *sequence;
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    uint32_t n_layers;
    __int128 end;
    int r;

    session_error_clear(&op->error);
    session_lock(session);
    sequence = sequence_find(session, op->tenant, op->sequence_id);
    r = check_range(sequence, op, &n_layers);
    if (!r)
        geometry = *profile_geometry(sequence->profile);
    session_unlock(session);
    if (r)
        return 1;
    if (op->n_tokens == 0) {
        *ret_n_bytes = 0;
        return 0;
    }

    const struct {
        int64_t stride;
        uint64_t n;
    } dims[] = {
        { tensor->stride_layer, n_layers },
        { tensor->stride_kind, 2 },
        { tensor->stride_head, geometry.n_kv_heads },
        { tensor->stride_token, op->n_tokens },
    };

    end = (__int128)tensor->offset + geometry.head_dim * dpq_dtype_bytes(tensor->dtype);
    for (size_t i = 0; i < ARRAY_SIZE(dims); i++)
        end += dims[i].stride > 0 ? (__int128)dims[i].stride * (dims[i].n - 1) : 0;
    if (end > SESSION_MAX_INLINE_BYTES) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "TENSOR",
                          "tensor: it ends at byte %.0f, an inline reply has %d at most: read into "
                          "a staging segment",
                          (double)end, SESSION_MAX_INLINE_BYTES);
        return 1;
    }
    if (dpq_tensor_check(tensor, &geometry, n_layers, (uint32_t)op->n_tokens, (uint64_t)end,
                         &fault)) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "TENSOR", "tensor: %s",
                          fault.message);
        return 1;
    }
    *ret_n_bytes = (uint64_t)end;
    return 0;
}

/* --- pin -------------------------------------------------------------------------------------- */

/* Take references to what the range covers. Locked; memory for the tiles was allocated before. */
static void pin(struct reading *reading, struct sequence *sequence)
{
    const struct session_read *op = reading->op;
    uint64_t end = op->first_token + op->n_tokens;
    uint64_t coded_end = sequence->n_tiles * DPQ_TILE_TOKENS;

    reading->first_tile = op->first_token / DPQ_TILE_TOKENS;
    reading->tail_first = coded_end;
    if (coded_end > end)
        coded_end = end;
    for (uint64_t i = reading->first_tile; i * DPQ_TILE_TOKENS < coded_end; i++) {
        tile_ref(sequence->tiles[i]);
        tile_hold(sequence->tiles[i]); /* what is read keeps its fine object */
        reading->tiles[reading->n_tiles++] = sequence->tiles[i];
    }
    if (end > reading->tail_first) {
        assert(sequence->tail);
        sequence->tail->refs++;
        reading->tail = sequence->tail;
        reading->tail_object = sequence->tail_object;
        reading->tail_dtype = sequence->tail_dtype;
    }
    if (end > reading->tail_first && sequence_n_lossy(sequence))
        coded_end = sequence->tail_mark.lossy_end < end ? sequence->tail_mark.lossy_end : end;
    reading->op->n_coded_tokens = coded_end > op->first_token ? coded_end - op->first_token : 0;
    reading->op->generation = sequence->generation;
    sequence->used_ns = session_now_ns();
}

int reading_pin(struct reading *reading)
{
    struct session *session = reading->session;
    struct session_read *op = reading->op;
    struct sequence *sequence;
    int r;

    session_lock(session);
    sequence = sequence_find(session, op->tenant, op->sequence_id);
    r = check_range(sequence, op, &reading->n_layers);
    if (!r && op->n_tokens) {
        reading->tiles = calloc(op->n_tokens / DPQ_TILE_TOKENS + 2, sizeof(reading->tiles[0]));
        if (!reading->tiles) {
            session_error_fault(&op->error, error_origin(-ENOMEM), "Read");
            r = 1;
        } else {
            pin(reading, sequence);
        }
    }
    if (!r) {
        reading->profile = profile_ref(sequence->profile);
        reading->tenant = sequence->tenant;
        if (!op->n_tokens)
            op->generation = sequence->generation;
    }
    session_unlock(session);
    return r;
}

/* --- on the workers --------------------------------------------------------------------------- */

static void fail(struct reading *reading, uint32_t turn, const struct session_error *error)
{
    session_lock(reading->session);
    if (reading->error.code == SESSION_OK || turn < reading->error_turn) {
        reading->error = *error;
        reading->error_turn = turn;
    }
    session_unlock(reading->session);
}

static void read_tail(struct reading *reading)
{
    const struct session_read *op = reading->op;
    uint64_t first = op->first_token > reading->tail_first ? op->first_token : reading->tail_first;
    struct dpq_tensor tensor = tensor_from_token(&op->to.tensor, first - op->first_token);
    struct dpq_range range = {
        .first_layer = op->first_layer,
        .n_layers = reading->n_layers,
        .first_token = (uint32_t)(first - reading->tail_first),
        .n_tokens = (uint32_t)(op->first_token + op->n_tokens - first),
    };

    dpq_rows_scatter(profile_geometry(reading->profile), reading->tail_object.bytes,
                     reading->tail_dtype, &range, &tensor, reading->to.bytes);
}

static int decode_tile(struct reading *reading, uint64_t tile_index, const struct tile *tile,
                       struct dpq_codec *codec, struct session_error *ret_error)
{
    const struct session_read *op = reading->op;
    uint64_t tile_first = tile_index * DPQ_TILE_TOKENS, tile_end = tile_first + DPQ_TILE_TOKENS;
    uint64_t first = op->first_token > tile_first ? op->first_token : tile_first;
    uint64_t end = op->first_token + op->n_tokens;
    struct dpq_tensor tensor = tensor_from_token(&op->to.tensor, first - op->first_token);
    struct dpq_range range = {
        .first_layer = op->first_layer,
        .n_layers = reading->n_layers,
        .first_token = (uint32_t)(first - tile_first),
        .n_tokens = (uint32_t)((end < tile_end ? end : tile_end) - first),
    };
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    struct store_object base, fine;
    bool has_fine, made, droppable;
    int r;

    tile_objects(tile, &base, &fine);
    has_fine = fine.n_bytes;
    if (op->base_only)
        fine.n_bytes = 0;
    r = dpq_tile_decode(codec, base.bytes, base.n_bytes, fine.n_bytes ? fine.bytes : NULL,
                        fine.n_bytes, &range, &tensor, reading->to.bytes, &fault);
    if (r < 0)
        return error_fold(r);
    if (!r && !has_fine && !dpq_tile_fine(base.bytes, base.n_bytes, &made, &droppable) && made)
        __atomic_add_fetch(&reading->op->n_dropped_tokens, range.n_tokens, __ATOMIC_RELAXED);
    if (r)
        session_error_set(ret_error, SESSION_DATA_LOSS, "CORRUPT",
                          "the stored tile of tokens %llu..%llu can't be decoded: %s",
                          (unsigned long long)tile_first, (unsigned long long)tile_end,
                          fault.message);
    return 0;
}

bool reading_turn(struct pool_loop *loop, uint32_t i, uint32_t worker)
{
    struct reading *reading = (struct reading *)loop;
    struct session_error error;
    struct dpq_codec *codec;
    int r;

    session_error_clear(&error);
    if (i == reading->n_tiles) {
        if (!tail_check(reading->tail->tail)) {
            read_tail(reading);
            return true;
        }
        session_error_set(&error, SESSION_DATA_LOSS, "CORRUPT",
                          "the stored rows from token %llu on do not match their checksum",
                          (unsigned long long)reading->tail_first);
        error.token = (int64_t)reading->tail_first;
        fail(reading, i, &error);
        return false;
    }
    if (tile_verify(reading->tiles[i])) {
        uint64_t first = (reading->first_tile + i) * DPQ_TILE_TOKENS;

        session_error_set(&error, SESSION_DATA_LOSS, "CORRUPT",
                          "the stored tile of tokens %llu..%llu does not match its checksum",
                          (unsigned long long)first, (unsigned long long)first + DPQ_TILE_TOKENS);
        error.token = (int64_t)first;
    } else {
        r = session_worker_codec(reading->session, worker, reading->profile, &codec);
        if (!r)
            r = decode_tile(reading, reading->first_tile + i, reading->tiles[i], codec, &error);
        if (r)
            session_error_fault(&error, r, "Read");
    }
    if (error.code == SESSION_OK)
        return true;
    fail(reading, i, &error);
    return false;
}

static void read_end(struct pool_loop *loop, uint32_t worker)
{
    struct reading *reading = (struct reading *)loop;
    struct session_read *op = reading->op;

    (void)worker;
    op->error = reading->error;
    if (op->error.code == SESSION_OK) {
        session_lock(reading->session);
        reading->tenant->tokens_read += op->n_tokens;
        session_unlock(reading->session);
    }
    reading_free(reading);
    op->done(op);
}

void session_read(struct session *session, struct session_read *op)
{
    struct reading *reading = calloc(1, sizeof(*reading));
    int r;

    session_error_clear(&op->error);
    op->n_coded_tokens = op->n_dropped_tokens = op->generation = 0;
    if (!reading) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Read");
        op->done(op);
        return;
    }
    reading->session = session;
    reading->op = op;
    session_error_clear(&reading->error);
    r = reading_pin(reading);
    if (!r && op->n_tokens)
        r = numbers_acquire(session, op->tenant, &op->to, profile_geometry(reading->profile),
                            reading->n_layers, (uint32_t)op->n_tokens, &reading->to, &op->error);
    if (!r && op->n_tokens) {
        reading->loop.n = reading->n_tiles + (reading->tail ? 1 : 0);
        reading->loop.turn = reading_turn;
        reading->loop.end = read_end;
        r = pool_loop_start(session->pool, &reading->loop, /* admitted= */ false);
        if (!r)
            return;
        session_error_busy(&op->error);
    }
    reading_free(reading);
    op->done(op);
}
