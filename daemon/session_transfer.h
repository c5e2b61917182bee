#pragma once

/*
 * The session layer: sequences on their way to another daemon, and from one
 *
 * As session_stream.h says of what is opened. ExportRequest and Import in kv_cache.proto have the
 * reasons of errors.
 */

#include "daemon/session.h"

enum { SESSION_MAX_EXPORT_TOKENS = 1 << 22 }; /* a sequence's */

struct session_export; /* one state of a sequence, as records of an export file */

struct session_export_open {
    uint32_t tenant;
    uint64_t sequence_id;
    char adapter[256], salt[256]; /* as it was created */
    uint64_t n_tokens;            /* 0: all */
    bool is_rest;                 /* of an export that broke off */
    uint32_t sequence_crc32c;     /* of the sequence's record in it */
    uint64_t first_index;         /* of the first tile, or the tail, that it lacks */
    /* ---- */
    struct session_error error;
    uint64_t ret_n_tokens;
};
/** session_export_open() - hold what is to be exported, until session_export_close()
 *  A worker: token ids are copied. Return: 0; 1 with op->error */
int session_export_open(struct session *session, struct session_export_open *op,
                        struct session_export **ret_export);

struct session_piece {
    void (*done)(struct session_piece *piece);
    /* ---- */
    struct session_error error;
    void *bytes; /* malloc'ed, the caller's */
    uint64_t n_bytes;
    uint64_t total_bytes; /* of all pieces */
};
/** session_export_next() - the next bytes; one at a time
 *  Return: 0, done() will be called; 1, there are none */
int session_export_next(struct session_export *export, struct session_piece *piece);

/** no job runs any more; accepts NULL, returns NULL. Any thread */
struct session_export *session_export_close(struct session_export *export);

struct session_import; /* a sequence on its way in; not there before all of it is */

/** session_import_new() - NULL: no memory */
struct session_import *session_import_new(struct session *session, uint32_t tenant);

struct session_import_data {
    const void *bytes; /* of an export file with one sequence, behind those of the last call */
    uint64_t n_bytes;
    void (*done)(struct session_import_data *op);
    /* ---- */
    struct session_error error;
    uint64_t n_tokens;        /* stored: the next tile is to be this one's, or it is the tail */
    uint64_t n_shared_tokens; /* of these, stored before */
    uint64_t sequence_id;     /* 0 until all is there */
};
/** session_import_data() - one at a time; after an error none */
void session_import_data(struct session_import *import, struct session_import_data *op);

/** session_import_end() - nothing more comes. 0; 1 with ret_error: something is missing */
int session_import_end(const struct session_import *import, struct session_error *ret_error);

/** no job runs any more: tiles stay cached. Accepts NULL, returns NULL. Any thread */
struct session_import *session_import_free(struct session_import *import);
