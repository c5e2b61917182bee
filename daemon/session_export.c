/*
 * A sequence as records of an export file, given out in pieces
 *
 * What is written is pinned, as for a read. A piece is a window on the records: each record is
 * written anew for each piece that has a part of it, and what is outside of the window is not
 * copied. So a piece is all that an export holds, however large a tile is; the checksum is kept
 * from the first time.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session_read.h"
#include "daemon/session_transfer.h"
#include "lib/base/error.h"
#include "lib/store/export_file.h"

enum { PIECE_BYTES = SESSION_MAX_INLINE_BYTES };

struct session_export {
    struct job job; /* the next piece; first, see fill() */
    struct session *session;
    struct reading reading; /* of all of it; its loop is not used */
    struct session_read op;
    struct export_sequence sequence;
    uint32_t *token_ids;
    char adapter[256], salt[256];
    uint64_t first_record, n_records; /* 0: the sequence; then tiles; then the tail */
    uint64_t record;                  /* the next piece begins with */
    uint64_t n_given;                 /* bytes of it that were in pieces before */
    struct export_writer writer;
    uint64_t total_bytes; /* 0: not known yet */
    bool is_admitted;     /* the first piece has been taken by the pool */
    struct session_piece *piece;
};

struct session_export *session_export_close(struct session_export *export)
{
    if (!export)
        return NULL;
    reading_deinit(&export->reading);
    free(export->token_ids);
    free(export);
    return NULL;
}

/* --- records ---------------------------------------------------------------------------------- */

static void make_tile(const struct session_export *export, uint64_t i, struct export_record *record)
{
    struct store_object base, fine;

    tile_objects(export->reading.tiles[i], &base, &fine);
    record->kind = EXPORT_TILE;
    record->tile.first_index = i * DPQ_TILE_TOKENS;
    record->tile.base = base.bytes;
    record->tile.n_base = base.n_bytes;
    record->tile.fine = fine.n_bytes ? fine.bytes : NULL;
    record->tile.n_fine = fine.n_bytes;
}

static struct export_record record_of(const struct session_export *export, uint64_t i)
{
    const struct reading *reading = &export->reading;
    struct export_record record = { .kind = EXPORT_TAIL };

    if (i == 0) {
        record.kind = EXPORT_SEQUENCE;
        record.sequence = export->sequence;
    } else if (i <= reading->n_tiles) {
        make_tile(export, i - 1, &record);
    } else {
        record.tail.first_index = reading->tail_first;
        record.tail.n_tokens = (uint32_t)(export->op.n_tokens - reading->tail_first);
        record.tail.rows = reading->tail_object.bytes;
        record.tail.n_bytes =
            record.tail.n_tokens *
            dpq_row_bytes(profile_geometry(reading->profile), reading->tail_dtype);
    }
    return record;
}

static int write_nothing(void *user, const void *bytes, size_t n_bytes)
{
    (void)user;
    (void)bytes;
    (void)n_bytes;
    return 0;
}

/* bytes of the i-th record in the file, and its checksum if it is wanted */
static uint64_t measure(const struct session_export *export, uint64_t i, uint32_t *ret_crc32c)
{
    struct export_writer writer = { .write = write_nothing, .has_crc32c = !ret_crc32c };
    struct export_record record = record_of(export, i);

    (void)!export_put(&writer, &record); /* write_nothing() does not fail */
    if (ret_crc32c)
        *ret_crc32c = writer.crc32c;
    return writer.n_bytes;
}

/* --- open ------------------------------------------------------------------------------------- */

/* What is kept of the sequence beside what a read pins. Locked. */
static int take_sequence(struct session_export *export, struct session_export_open *op,
                         const uint8_t scope[KEY_BYTES])
{
    struct sequence *sequence = sequence_find(export->session, op->tenant, op->sequence_id);
    unsigned long long id = op->sequence_id;
    uint64_t n = op->n_tokens;

    if (!sequence) {
        session_error_no_sequence(&op->error, id);
        return 1;
    }
    n = n ? n : sequence->n_tokens;
    if (memcmp(scope, sequence->scope, KEY_BYTES)) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "ADAPTER_SALT",
                          "sequence %llu was created with another adapter or salt", id);
    } else if (n == 0) {
        session_error_set(&op->error, SESSION_FAILED_PRECONDITION, "EXPORT_EMPTY",
                          "sequence %llu has no tokens", id);
    } else if (n > sequence->n_tokens) {
        session_error_set(&op->error, SESSION_OUT_OF_RANGE, "TOKEN_RANGE",
                          "n_tokens %llu: sequence %llu has %llu", (unsigned long long)n, id,
                          (unsigned long long)sequence->n_tokens);
    } else if (n > SESSION_MAX_EXPORT_TOKENS) {
        session_error_set(&op->error, SESSION_OUT_OF_RANGE, "LIMIT",
                          "%llu tokens are more than the %d that an export may have",
                          (unsigned long long)n, SESSION_MAX_EXPORT_TOKENS);
    } else if (n > sequence->n_token_ids) {
        session_error_set(&op->error, SESSION_FAILED_PRECONDITION, "EXPORT_IDS",
                          "sequence %llu: tokens from %llu on have no ids, and nobody could look "
                          "them up: export those before with n_tokens",
                          id, (unsigned long long)sequence->n_token_ids);
    } else {
        export->token_ids = malloc(n * sizeof(export->token_ids[0]));
        if (export->token_ids) {
            memcpy(export->token_ids, sequence->token_ids, n * sizeof(export->token_ids[0]));
            export->op.n_tokens = n;
            return 0;
        }
        session_error_fault(&op->error, error_origin(-ENOMEM), "Export");
    }
    return 1;
}

static int find_scope(struct session_export *export, struct session_export_open *op,
                      uint8_t ret_scope[KEY_BYTES])
{
    struct session *session = export->session;
    struct session_prefix prefix = { 0 };
    struct sequence *sequence;
    bool found;
    int r;

    snprintf(prefix.adapter, sizeof(prefix.adapter), "%s", op->adapter);
    snprintf(prefix.salt, sizeof(prefix.salt), "%s", op->salt);
    session_lock(session);
    sequence = sequence_find(session, op->tenant, op->sequence_id);
    found = sequence != NULL;
    if (found) {
        memcpy(prefix.profile_id, dpq_profile_digest(sequence->profile->profile), 32);
        export->sequence.rate = prefix.rate = sequence->rate;
        export->sequence.position_base = prefix.position_base = sequence->position_base;
    }
    session_unlock(session);
    memcpy(export->sequence.profile, prefix.profile_id, 32);
    r = found ? key_scope(session_key_maker(session, -1), session->tenants[op->tenant].config->name,
                          &prefix, ret_scope)
              : 0;
    if (!r)
        return 0;
    session_error_fault(&op->error, r, "Export");
    return 1;
}

static void fill_sequence(struct session_export *export, const struct session_export_open *op)
{
    struct export_sequence *sequence = &export->sequence;

    snprintf(export->adapter, sizeof(export->adapter), "%s", op->adapter);
    snprintf(export->salt, sizeof(export->salt), "%s", op->salt);
    sequence->dtype = export->reading.tail ? export->reading.tail_dtype : 0;
    sequence->n_tokens = export->op.n_tokens;
    sequence->tokens = (const uint8_t *)export->token_ids;
    sequence->adapter = (const uint8_t *)export->adapter;
    sequence->n_adapter = (uint32_t)strlen(export->adapter);
    sequence->salt = (const uint8_t *)export->salt;
    sequence->n_salt = (uint32_t)strlen(export->salt);
    export->n_records = 1 + export->reading.n_tiles + (export->reading.tail ? 1 : 0);
}

/* n_tokens must not end within what is a tile now */
static int check_end(const struct session_export *export, struct session_export_open *op)
{
    uint64_t n = export->op.n_tokens;

    if (n % DPQ_TILE_TOKENS == 0 || export->reading.tail)
        return 0;
    if (op->is_rest)
        session_error_set(&op->error, SESSION_FAILED_PRECONDITION, "EXPORT_CHANGED",
                          "tokens %llu … %llu, the tail at the time, have become part of a tile "
                          "since: begin the export anew",
                          (unsigned long long)(n - n % DPQ_TILE_TOKENS), (unsigned long long)n);
    else
        session_error_set(&op->error, SESSION_OUT_OF_RANGE, "TOKEN_RANGE",
                          "n_tokens %llu ends within a tile: give a multiple of 128, or all",
                          (unsigned long long)n);
    return 1;
}

static int skip_records(struct session_export *export, struct session_export_open *op)
{
    uint32_t crc32c;

    if (!op->is_rest)
        return 0;
    measure(export, 0, &crc32c);
    if (crc32c != op->sequence_crc32c) {
        session_error_set(&op->error, SESSION_FAILED_PRECONDITION, "EXPORT_CHANGED",
                          "the record that is there already is not of this sequence");
        return 1;
    }
    if (op->first_index > export->op.n_tokens ||
        (op->first_index % DPQ_TILE_TOKENS && op->first_index != export->op.n_tokens)) {
        session_error_set(&op->error, SESSION_OUT_OF_RANGE, "TOKEN_RANGE",
                          "first_index %llu is not where a tile or the tail of %llu tokens begins",
                          (unsigned long long)op->first_index,
                          (unsigned long long)export->op.n_tokens);
        return 1;
    }
    export->first_record = 1 + (op->first_index + DPQ_TILE_TOKENS - 1) / DPQ_TILE_TOKENS;
    export->record = export->first_record;
    return 0;
}

static int open_export(struct session_export *export, struct session_export_open *op)
{
    uint8_t scope[KEY_BYTES] = { 0 };
    int r;

    if (find_scope(export, op, scope))
        return 1;
    session_lock(export->session);
    r = take_sequence(export, op, scope);
    session_unlock(export->session);
    if (r)
        return 1;
    export->op.tenant = op->tenant;
    export->op.sequence_id = op->sequence_id;
    session_error_clear(&export->op.error);
    export->reading.session = export->session;
    export->reading.op = &export->op;
    if (reading_pin(&export->reading)) {
        op->error = export->op.error; /* released meanwhile */
        return 1;
    }
    fill_sequence(export, op);
    op->ret_n_tokens = export->op.n_tokens;
    return check_end(export, op) || skip_records(export, op);
}

int session_export_open(struct session *session, struct session_export_open *op,
                        struct session_export **ret_export)
{
    struct session_export *export = calloc(1, sizeof(*export));

    session_error_clear(&op->error);
    if (!export) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Export");
        return 1;
    }
    export->session = session;
    if (open_export(export, op)) {
        session_export_close(export);
        return 1;
    }
    *ret_export = export;
    return 0;
}

/* --- pieces ----------------------------------------------------------------------------------- */

struct window {
    uint64_t skip; /* bytes before it */
    uint8_t *to;
    uint64_t room;
};

static int write_window(void *user, const void *bytes, size_t n_bytes)
{
    struct window *w = user;
    uint64_t skip = w->skip < n_bytes ? w->skip : n_bytes, n = n_bytes - skip;

    w->skip -= skip;
    n = n < w->room ? n : w->room;
    memcpy(w->to, (const uint8_t *)bytes + skip, n);
    w->to += n;
    w->room -= n;
    return 0;
}

/* what of the record is stored, once before it is given out */
static int check_record(const struct session_export *export, struct session_error *ret_error)
{
    const struct reading *reading = &export->reading;
    uint64_t i = export->record;
    int r = 0;

    if (export->n_given || i == 0)
        return 0;
    r = i <= reading->n_tiles ? tile_verify(reading->tiles[i - 1])
                              : tail_check(reading->tail->tail);
    if (!r)
        return 0;
    session_error_set(ret_error, SESSION_DATA_LOSS, "CORRUPT",
                      "what is stored from token %llu on does not match its checksum",
                      (unsigned long long)((i - 1) * DPQ_TILE_TOKENS));
    ret_error->token = (int64_t)((i - 1) * DPQ_TILE_TOKENS);
    return 1;
}

static void fill_piece(struct session_export *export, struct session_piece *piece)
{
    struct window window = { .to = piece->bytes, .room = PIECE_BYTES };

    while (export->record < export->n_records && window.room) {
        struct export_record record = record_of(export, export->record);
        uint64_t room = window.room, before = export->writer.n_bytes;

        if (check_record(export, &piece->error))
            return;
        window.skip = export->n_given;
        export->writer.write = write_window;
        export->writer.user = &window;
        export->writer.has_crc32c = export->n_given > 0;
        (void)!export_put(&export->writer, &record); /* write_window() does not fail */
        export->n_given += room - window.room;
        if (export->n_given == export->writer.n_bytes - before) {
            export->record++;
            export->n_given = 0;
        }
    }
    piece->n_bytes = PIECE_BYTES - window.room;
}

static void fill(struct job *job, uint32_t worker)
{
    struct session_export *export = (struct session_export *)job;
    struct session_piece *piece = export->piece;

    (void)worker;
    if (!export->total_bytes)
        for (uint64_t i = export->first_record; i < export->n_records; i++)
            export->total_bytes += measure(export, i, NULL);
    piece->total_bytes = export->total_bytes;
    piece->bytes = malloc(PIECE_BYTES);
    if (piece->bytes)
        fill_piece(export, piece);
    else
        session_error_fault(&piece->error, error_origin(-ENOMEM), "Export");
    if (piece->error.code != SESSION_OK) {
        free(piece->bytes);
        piece->bytes = NULL;
    }
    piece->done(piece);
}

int session_export_next(struct session_export *export, struct session_piece *piece)
{
    if (export->record == export->n_records)
        return 1;
    session_error_clear(&piece->error);
    piece->bytes = NULL;
    piece->n_bytes = piece->total_bytes = 0;
    export->piece = piece;
    export->job.run = fill;
    if (pool_carry_on(export->session->pool, &export->job, &export->is_admitted)) {
        session_error_busy(&piece->error);
        piece->done(piece);
    }
    return 0;
}
