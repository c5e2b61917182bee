#pragma once

/* An import under way, between session_import.c and session_import_record.c. */

#include "daemon/session_internal.h"
#include "daemon/session_transfer.h"
#include "lib/store/export_file.h"

struct session_import {
    struct job job; /* the next record; first, see take() */
    struct session *session;
    struct tenant *tenant;
    struct export_reader reader; /* of what has come and is not dealt with */
    uint8_t *buffer;
    uint64_t capacity;
    struct sequence *sequence; /* not in the table yet; NULL: before its record, or published */
    uint64_t n_tokens;         /* of the sequence's record */
    uint64_t n_shared_tokens;
    uint32_t tail_dtype, n_tail_tokens;
    uint8_t *tail_rows;
    uint64_t sequence_id; /* when it is published */
    bool is_admitted;     /* the first bytes have been taken by the pool */
    bool has_bytes;       /* op's are in the buffer */
    struct session_import_data *op;
};

/*
 * What a record means, once export_next() has judged it
 * Thread: a worker; one at a time.
 * Return: 0; 1 with the error set; a fault.
 */
int import_sequence(struct session_import *import, const struct export_sequence *s, uint32_t worker,
                    struct session_error *error) _must_check_;
int import_tile(struct session_import *import, const struct export_record *record, uint32_t worker,
                struct session_error *error) _must_check_;
int import_tail(struct session_import *import, const struct export_record *record,
                struct session_error *error) _must_check_;
/* all is there: the sequence becomes one */
int import_finish(struct session_import *import, struct session_error *error) _must_check_;
