/*
 * A sequence from elsewhere: bytes in, tiles and a tail out
 *
 *     bytes -> records, one a slice, judged by export_next() -> the sequence: what of it is stored?
 *           -> tiles, judged by tile_judge() and stored -> the tail -> the record -> published
 *
 * Tiles are stored as they come, so that an import that broke off finds them again by their keys.
 * The sequence itself is made at the end, in the order in which an append commits: tiles, tail,
 * record. Before that nobody knows it, and what is stored is cache like any other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session_import.h"
#include "lib/base/error.h"

enum {
    MORE = 2, /* beside 0, 1 and faults: a record is not all there yet */
    SEQUENCE_BYTES = 64 + 4 * SESSION_MAX_EXPORT_TOKENS + 2 * EXPORT_MAX_NAME,
    STREAM_BYTES = 1024, /* of a tile, beside its codes and raw rows; rather more than it takes */
};

struct session_import *session_import_new(struct session *session, uint32_t tenant)
{
    struct session_import *import = calloc(1, sizeof(*import));

    if (import) {
        import->session = session;
        import->tenant = &session->tenants[tenant];
    }
    return import;
}

static void unborn_free(struct sequence *sequence)
{
    struct prefix_hit tiles = { sequence->tiles, sequence->n_tiles };

    prefix_hit_deinit(&tiles);
    sequence->tiles = NULL;
    sequence_free(sequence);
}

struct session_import *session_import_free(struct session_import *import)
{
    if (!import)
        return NULL;
    if (import->sequence)
        unborn_free(import->sequence);
    free(import->tail_rows);
    free(import->buffer);
    free(import);
    return NULL;
}

/* --- bytes ------------------------------------------------------------------------------------ */

/* the longest record of a kind that there can be now; 0: none */
static uint64_t longest(const struct session_import *import, enum export_kind kind)
{
    const struct dpq_geometry *geometry =
        import->sequence ? profile_geometry(import->sequence->profile) : NULL;
    uint64_t rows;

    if (kind == EXPORT_SEQUENCE)
        return SEQUENCE_BYTES;
    if (!geometry || (kind != EXPORT_TILE && kind != EXPORT_TAIL))
        return 0;
    rows = DPQ_TILE_TOKENS * dpq_row_bytes(geometry, DPQ_F32);
    return kind == EXPORT_TAIL
               ? rows
               : 2 * rows + (uint64_t)geometry->n_layers * 2 * geometry->n_kv_heads * STREAM_BYTES;
}

static int not_here(enum export_kind kind, uint64_t n_bytes, uint64_t most,
                    struct session_error *error)
{
    session_error_set(error, SESSION_INVALID_ARGUMENT, "IMPORT_CORRUPT",
                      "a record of kind %d and %llu bytes does not belong here: at most %llu",
                      (int)kind, (unsigned long long)n_bytes, (unsigned long long)most);
    return 1;
}

/* Not more than a record is waited for, and that only if it can be one. */
static int check_length(struct session_import *import, struct session_error *error)
{
    enum export_kind kind;
    uint64_t n_bytes, most;

    if (export_record_bytes(&import->reader, &kind, &n_bytes))
        return 0;
    most = longest(import, kind);
    return most && n_bytes <= most ? 0 : not_here(kind, n_bytes, most, error);
}

/* one record. 0; 1 with the error set; MORE; a fault */
static int step(struct session_import *import, uint32_t worker, struct session_error *error)
{
    struct export_record record;
    int r;

    if (check_length(import, error))
        return 1;
    r = export_next(&import->reader, &record);
    if (r == EXPORT_E_CUT)
        return MORE;
    if (r) {
        session_error_set(error, SESSION_INVALID_ARGUMENT,
                          r == EXPORT_E_VERSION ? "IMPORT_VERSION" : "IMPORT_CORRUPT", "%s",
                          r == EXPORT_E_VERSION ? "an export file of a version that is not known"
                                                : import->reader.reason);
        return 1;
    }
    if (record.kind == EXPORT_SEQUENCE)
        r = import_sequence(import, &record.sequence, worker, error);
    else if (record.kind == EXPORT_TILE)
        r = import_tile(import, &record, worker, error);
    else if (record.kind == EXPORT_TAIL)
        r = import_tail(import, &record, error);
    else
        r = not_here(record.kind, import->reader.at, 0, error);
    if (!r && !import->reader.n_left)
        r = import_finish(import, error);
    return r;
}

/* op's bytes behind what is left of those before */
static int gather(struct session_import *import)
{
    const struct session_import_data *op = import->op;
    uint64_t n_left = import->reader.n_bytes - import->reader.at, want = n_left + op->n_bytes;
    uint8_t *buffer;

    if (n_left)
        memmove(import->buffer, import->buffer + import->reader.at, n_left);
    (void)export_reader_drop(&import->reader);
    if (want > import->capacity) {
        buffer = realloc(import->buffer, want);
        if (!buffer)
            return error_origin(-ENOMEM);
        import->buffer = buffer;
        import->capacity = want;
    }
    if (op->n_bytes)
        memcpy(import->buffer + n_left, op->bytes, op->n_bytes);
    export_reader_extend(&import->reader, import->buffer, want);
    return 0;
}

static void take(struct job *job, uint32_t worker)
{
    struct session_import *import = (struct session_import *)job;
    struct session_import_data *op = import->op;
    int r = 0;

    if (!import->has_bytes) {
        import->has_bytes = true;
        r = gather(import);
    }
    if (!r)
        r = step(import, worker, &op->error);
    if (!r) { /* the next one in another slice */
        pool_resubmit(import->session->pool, job);
        return;
    }
    if (r < 0)
        session_error_fault(&op->error, r, "Import");
    op->n_tokens = import->sequence_id ? import->n_tokens
                   : import->sequence  ? import->sequence->n_tiles * DPQ_TILE_TOKENS
                                       : 0;
    op->n_shared_tokens = import->n_shared_tokens;
    op->sequence_id = import->sequence_id;
    op->done(op);
}

void session_import_data(struct session_import *import, struct session_import_data *op)
{
    session_error_clear(&op->error);
    op->n_tokens = op->n_shared_tokens = op->sequence_id = 0;
    import->op = op;
    import->has_bytes = false;
    import->job.run = take;
    if (pool_carry_on(import->session->pool, &import->job, &import->is_admitted)) {
        session_error_busy(&op->error);
        op->done(op);
    }
}

int session_import_end(const struct session_import *import, struct session_error *ret_error)
{
    if (import->sequence_id && import->reader.at == import->reader.n_bytes)
        return 0;
    session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "IMPORT_CUT", "the data ended %s",
                      import->sequence_id ? "with less than a record behind the sequence"
                      : import->sequence  ? "before the sequence did"
                                          : "before there was a sequence");
    return 1;
}
