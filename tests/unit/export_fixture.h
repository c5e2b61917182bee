#pragma once

/* Sequences on their way between tenants: the bytes of an export, and an import of them. */

#include "daemon/session_transfer.h"
#include "lib/store/export_file.h"
#include "tests/unit/session_fixture.h"

struct waiting_piece {
    struct session_piece piece;
    bool done; /* atomic */
};

static inline void piece_done(struct session_piece *piece)
{
    __atomic_store_n(&((struct waiting_piece *)piece)->done, true, __ATOMIC_RELEASE);
}

/* false: there are no more */
static inline bool piece_next(struct session_export *export, struct session_piece *ret_piece)
{
    struct waiting_piece w = { .piece.done = piece_done };

    if (session_export_next(export, &w.piece))
        return false;
    while (!__atomic_load_n(&w.done, __ATOMIC_ACQUIRE))
        usleep(50);
    *ret_piece = w.piece;
    return true;
}

struct bytes {
    uint8_t *p;
    size_t n;
};

static inline int bytes_put(void *user, const void *bytes, size_t n)
{
    struct bytes *b = user;

    b->p = realloc(b->p, b->n + n);
    assert_non_null(b->p);
    memcpy(b->p + b->n, bytes, n);
    b->n += n;
    return 0;
}

/* behind what there is already; without a file's header */
static inline void export_run(struct fixture *f, struct session_export_open op, struct bytes *to)
{
    struct session_export *export;
    struct session_piece piece;
    size_t before = to->n;
    uint64_t total = 0;

    if (session_export_open(f->session, &op, &export))
        fail_msg("%s: %s", op.error.reason, op.error.message);
    while (piece_next(export, &piece)) {
        assert_int_equal(piece.error.code, SESSION_OK);
        assert_true(piece.n_bytes > 0 && piece.n_bytes <= SESSION_MAX_INLINE_BYTES);
        bytes_put(to, piece.bytes, piece.n_bytes);
        free(piece.bytes);
        total = piece.total_bytes;
    }
    assert_int_equal(to->n - before, total);
    session_export_close(export);
}

static inline void export_header(struct bytes *to)
{
    struct export_writer writer;

    assert_int_equal(export_begin(&writer, bytes_put, to), 0);
}

/* where the i-th record begins */
static inline size_t record_at(const struct bytes *b, size_t i)
{
    size_t at = EXPORT_HEADER_BYTES;
    uint64_t n_bytes;

    for (; i; i--) {
        memcpy(&n_bytes, b->p + at + 8, sizeof(n_bytes));
        at += EXPORT_HEADER_BYTES + align_up(n_bytes, 8);
    }
    return at;
}

struct waiting_data {
    struct session_import_data op;
    bool done; /* atomic */
};

static inline void data_done(struct session_import_data *op)
{
    __atomic_store_n(&((struct waiting_data *)op)->done, true, __ATOMIC_RELEASE);
}

static inline struct session_import_data import_data(struct session_import *import,
                                                     const void *bytes, size_t n)
{
    struct waiting_data w = { .op = { .bytes = bytes, .n_bytes = n, .done = data_done } };

    session_import_data(import, &w.op);
    while (!__atomic_load_n(&w.done, __ATOMIC_ACQUIRE))
        usleep(50);
    return w.op;
}
