/*
 * A read in chunks: pinned once, decoded as far as somebody takes it
 *
 * Chunks go tile by tile, and in a tile by layers: a tile of a thousand layers' worth of numbers is
 * decoded once where streams have no depth reference, and where they have one, half as often as it
 * would be by tokens. (A few tokens of a tile cost as much as all of them.)
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/session_read.h"
#include "daemon/session_stream.h"
#include "lib/base/error.h"

struct session_read_stream {
    struct job job; /* the next chunk; first, see decode() */
    struct session *session;
    struct reading reading; /* of all of it; its loop is not used */
    struct session_read op;
    uint64_t max_chunk_bytes;
    uint64_t token;    /* where the next chunk begins */
    uint32_t layer;    /* likewise; from op.first_layer on */
    uint32_t n_tokens; /* of the chunks that begin at token */
    bool is_admitted;  /* the first chunk has been taken by the pool */
    struct session_chunk *chunk;
};

struct session_read_stream *session_read_close(struct session_read_stream *stream)
{
    if (stream)
        reading_deinit(&stream->reading);
    free(stream);
    return NULL;
}

/* one token of one layer */
static uint64_t cell_bytes(const struct session_read_stream *stream)
{
    const struct dpq_geometry *geometry = profile_geometry(stream->reading.profile);

    return 2 * (uint64_t)geometry->n_kv_heads * geometry->head_dim *
           dpq_dtype_bytes(stream->op.to.tensor.dtype);
}

/* how many tokens the chunks have that begin here: those of a tile, if a layer of them fits */
static void begin_tokens(struct session_read_stream *stream)
{
    uint64_t end = stream->op.first_token + stream->op.n_tokens;
    uint64_t tile_end = stream->token - stream->token % DPQ_TILE_TOKENS + DPQ_TILE_TOKENS;
    uint64_t most = stream->max_chunk_bytes / cell_bytes(stream);
    uint64_t n = (tile_end < end ? tile_end : end) - stream->token;

    stream->n_tokens = (uint32_t)(n < most ? n : most);
    stream->layer = stream->op.first_layer;
}

static int check_chunk_bytes(struct session_read_stream *stream, struct session_read_open *op)
{
    uint64_t least = cell_bytes(stream), most = SESSION_MAX_INLINE_BYTES;

    stream->max_chunk_bytes = op->max_chunk_bytes ? op->max_chunk_bytes : most;
    if (stream->max_chunk_bytes >= least && stream->max_chunk_bytes <= most)
        return 0;
    session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "CHUNK_SIZE",
                      "max_chunk_bytes %llu is not in %llu … %llu: from one token of one layer on",
                      (unsigned long long)op->max_chunk_bytes, (unsigned long long)least,
                      (unsigned long long)most);
    return 1;
}

static int open_stream(struct session_read_stream *stream, struct session_read_open *op)
{
    if (!dpq_dtype_bytes(op->dtype)) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "TENSOR", "dtype %u is unknown",
                          op->dtype);
        return 1;
    }
    stream->op = (struct session_read){
        .tenant = op->tenant,
        .sequence_id = op->sequence_id,
        .first_token = op->first_token,
        .n_tokens = op->n_tokens,
        .first_layer = op->first_layer,
        .n_layers = op->n_layers,
        .base_only = op->base_only,
        .to.tensor.dtype = op->dtype,
    };
    session_error_clear(&stream->op.error);
    stream->reading.op = &stream->op;
    stream->reading.session = stream->session;
    if (reading_pin(&stream->reading)) {
        op->error = stream->op.error;
        return 1;
    }
    op->generation = stream->op.generation;
    stream->token = op->first_token;
    if (check_chunk_bytes(stream, op))
        return 1;
    begin_tokens(stream);
    return 0;
}

int session_read_open(struct session *session, struct session_read_open *op,
                      struct session_read_stream **ret_stream)
{
    struct session_read_stream *stream = calloc(1, sizeof(*stream));

    session_error_clear(&op->error);
    if (!stream) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "ReadStream");
        return 1;
    }
    stream->session = session;
    if (open_stream(stream, op)) {
        session_read_close(stream);
        return 1;
    }
    *ret_stream = stream;
    return 0;
}

/* --- chunks ----------------------------------------------------------------------------------- */

static struct dpq_tensor tensor_of(const struct session_read_stream *stream, uint32_t n_tokens)
{
    const struct dpq_geometry *geometry = profile_geometry(stream->reading.profile);
    uint32_t dtype = stream->op.to.tensor.dtype;
    int64_t token = (int64_t)(geometry->head_dim * dpq_dtype_bytes(dtype));
    int64_t head = token * n_tokens, kind = head * geometry->n_kv_heads;

    return (struct dpq_tensor){ .dtype = dtype,
                                .stride_layer = 2 * kind,
                                .stride_kind = kind,
                                .stride_head = head,
                                .stride_token = token };
}

/* The chunk is a reading of one turn, which borrows from the whole one. */
static void read_chunk(struct session_read_stream *stream, struct session_chunk *chunk,
                       uint32_t worker)
{
    const struct reading *whole = &stream->reading;
    struct session_read op = stream->op;
    struct reading part = *whole;

    op.first_token = chunk->first_token;
    op.n_tokens = chunk->n_tokens;
    op.first_layer = chunk->first_layer;
    op.to.tensor = tensor_of(stream, chunk->n_tokens);
    part.op = &op;
    part.n_layers = chunk->n_layers;
    part.to.bytes = chunk->bytes;
    part.n_tiles = 0; /* turn 0 is the tail's */
    if (chunk->is_coded) {
        part.first_tile = chunk->first_token / DPQ_TILE_TOKENS;
        part.tiles += part.first_tile - whole->first_tile;
        part.n_tiles = 1;
    }
    session_error_clear(&part.error);
    if (!reading_turn(&part.loop, 0, worker))
        chunk->error = part.error;
    chunk->is_dropped = op.n_dropped_tokens;
}

/* the next chunk begins behind this one */
static void advance(struct session_read_stream *stream, const struct session_chunk *chunk)
{
    stream->layer += chunk->n_layers;
    if (stream->layer < stream->op.first_layer + stream->reading.n_layers)
        return;
    stream->token += chunk->n_tokens;
    begin_tokens(stream);
    session_lock(stream->session);
    stream->reading.tenant->tokens_read += chunk->n_tokens;
    session_unlock(stream->session);
}

static void decode(struct job *job, uint32_t worker)
{
    struct session_read_stream *stream = (struct session_read_stream *)job;
    struct session_chunk *chunk = stream->chunk;

    chunk->bytes = malloc(chunk->n_bytes);
    if (chunk->bytes)
        read_chunk(stream, chunk, worker);
    else
        session_error_fault(&chunk->error, error_origin(-ENOMEM), "ReadStream");
    if (chunk->error.code == SESSION_OK) {
        advance(stream, chunk);
    } else {
        free(chunk->bytes);
        chunk->bytes = NULL;
    }
    chunk->done(chunk);
}

int session_read_next(struct session_read_stream *stream, struct session_chunk *chunk)
{
    uint32_t n_left = stream->op.first_layer + stream->reading.n_layers - stream->layer;
    uint64_t layer_bytes = stream->n_tokens * cell_bytes(stream);

    if (!stream->n_tokens)
        return 1;
    session_error_clear(&chunk->error);
    chunk->first_token = stream->token;
    chunk->n_tokens = stream->n_tokens;
    chunk->first_layer = stream->layer;
    chunk->n_layers = (uint32_t)(stream->max_chunk_bytes / layer_bytes);
    if (chunk->n_layers > n_left)
        chunk->n_layers = n_left;
    chunk->is_coded = stream->token < stream->reading.tail_first;
    chunk->n_bytes = chunk->n_layers * layer_bytes;
    chunk->bytes = NULL;
    stream->chunk = chunk;
    stream->job.run = decode;
    if (pool_carry_on(stream->session->pool, &stream->job, &stream->is_admitted)) {
        session_error_busy(&chunk->error);
        chunk->done(chunk);
    }
    return 0;
}
