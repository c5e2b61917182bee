#pragma once

/*
 * The export file: sequences and a profile as one stream of records, for moving caches between
 * machines (lib/FORMAT.md). Opaque bytes with names: what is in a tile is nobody's business here.
 *
 *   header | [profile] | (sequence | tile … | [tail]) … | end
 *
 * Written front to back, read front to back: neither side needs more than one record in memory.
 * Each record has a CRC-32C of its own, so a cut or damaged file is good up to the first bad
 * record, and the end says how many there were.
 *
 * All integers are little-endian. Thread: any, one call per object at a time.
 */

#include <stdbool.h>

#include "lib/base/defs.h"

enum {
    EXPORT_VERSION = 1,
    EXPORT_HEADER_BYTES = 16, /* of the file, and of each record */
    EXPORT_TILE_TOKENS = 128,
    EXPORT_MAX_TOKENS = 1 << 26,
    EXPORT_MAX_NAME = 4096, /* bytes of an adapter's or salt's name */
};

#define EXPORT_MAX_RECORD (UINT64_C(1) << 32)

enum export_kind {
    EXPORT_PROFILE = 1,
    EXPORT_SEQUENCE = 2,
    EXPORT_TILE = 3,
    EXPORT_TAIL = 4,
    EXPORT_END = 5,
};

/* Where a sequence comes from; enough to make its keys again, under another tenant's secret. */
struct export_sequence {
    uint8_t profile[32]; /* digest */
    uint32_t dtype;      /* enum dpq_dtype, of the tail's rows and what tiles were made from */
    uint32_t rate;       /* enum dpq_rate */
    uint64_t position_base;
    uint64_t n_tokens;
    const uint8_t *tokens; /* n_tokens u32, unaligned */
    const uint8_t *adapter, *salt;
    uint32_t n_adapter, n_salt;
};

/* One record; pointers go into the reader's bytes. */
struct export_record {
    enum export_kind kind;
    union {
        struct {
            const uint8_t *bytes;
            uint64_t n_bytes;
        } profile;
        struct export_sequence sequence;
        struct {
            uint64_t first_index;
            const uint8_t *base, *fine; /* fine is NULL when it was dropped or never made */
            uint64_t n_base, n_fine;
        } tile;
        struct {
            uint64_t first_index;
            uint32_t n_tokens; /* 1 … 127 */
            const uint8_t *rows;
            uint64_t n_bytes;
        } tail;
        uint64_t n_records; /* EXPORT_END: those before it */
    };
};

/* --- reading --------------------------------------------------------------------------------- */

enum export_outcome {
    EXPORT_E_CORRUPT = 1, /* the reason is in reader->reason; records before it were good */
    EXPORT_E_VERSION = 2, /* a file of a version that this reader does not know */
    EXPORT_E_CUT = 3,     /* the bytes end before the record does: come back with more */
};

/* A file in memory, a mapping, or as much of it as has come. */
struct export_reader {
    const uint8_t *bytes;
    uint64_t n_bytes;
    uint64_t at;     /* of the next record: where to go on after EXPORT_E_CUT, or to resume */
    bool has_header; /* the file's was read */
    const char *reason;
    uint64_t n_records;
    uint64_t n_left;     /* tokens of the sequence under way that no tile or tail has held yet */
    uint64_t next_index; /* of the next tile or tail */
    bool in_sequence;
    bool has_tail;
    bool ended;
};

void export_reader_init(struct export_reader *reader, const void *bytes, uint64_t n_bytes);

/** export_reader_extend() - more of the same file has come; bytes may have moved */
void export_reader_extend(struct export_reader *reader, const void *bytes, uint64_t n_bytes);

/** export_reader_drop() - what was read is not needed any more: bytes begin with the next record,
 *  and so does `at`. Returns how many were dropped */
uint64_t export_reader_drop(struct export_reader *reader);

/**
 * export_reader_skip() - the tiles of the sequence under way up to next_index will not come
 * @next_index: a multiple of 128 within the sequence, not before the next one
 */
void export_reader_skip(struct export_reader *reader, uint64_t next_index);

/**
 * export_record_bytes() - how long the record at `at` is, as soon as its first 16 bytes have come,
 * and the file's header has been read
 * From its own header, unjudged: what is longer than the caller wants need not be waited for.
 * Return: 0, or EXPORT_E_CUT.
 */
int export_record_bytes(const struct export_reader *reader, enum export_kind *ret_kind,
                        uint64_t *ret_n_bytes) _must_check_;

/**
 * export_next() - the next record, judged: the one function that distrusts an export file
 *
 * Order and sums are checked: tiles follow each other without a gap, and a sequence ends with as
 * many tokens as it began with. After EXPORT_END nothing may follow, and the next call says
 * CORRUPT. Return: 0; EXPORT_E_CORRUPT, EXPORT_E_VERSION, EXPORT_E_CUT.
 */
int export_next(struct export_reader *reader, struct export_record *ret_record) _must_check_;

/* --- writing --------------------------------------------------------------------------------- */

/** typedef export_write_fn - append bytes to the file; a fault ends the writing */
typedef int (*export_write_fn)(void *user, const void *bytes, size_t n_bytes);

struct export_writer {
    export_write_fn write;
    void *user;
    uint64_t n_bytes; /* written so far */
    uint64_t n_records;
    bool has_crc32c; /* crc32c is that of the record to come: it need not be computed */
    uint32_t crc32c; /* of the last record */
};

/** export_begin() - the file's header */
int export_begin(struct export_writer *writer, export_write_fn write, void *user) _must_check_;

/**
 * export_put() - one record
 * @record: any kind; the order is the caller's care, lengths within the limits above
 * Return: 0, or what write() returned
 */
int export_put(struct export_writer *writer, const struct export_record *record) _must_check_;
