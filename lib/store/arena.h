#pragma once

/*
 * The arena's bytes: what lies where, and the order in which a slot is committed
 *
 * FORMAT.md, "Arena", has the same in words. Little-endian, no padding, offsets from the first
 * byte, no pointers, nothing that a client could write.
 *
 *   page 0     header, two copies: at 0 and at ARENA_HEADER_STEP; the valid one with the higher
 *              seq counts, and the other one is where the next update goes. Beside them one word
 *              for the handler of fatal signals.
 *   page 1 …   slot table, ARENA_LINE_BYTES a line
 *   then       extents, page-aligned
 */

#include <stdatomic.h>
#include <stdbool.h>

#include "lib/base/defs.h"
#include "lib/deltapq.h"

#define ARENA_MAGIC 0x414e455241515044ull /* "DPQARENA" */

enum {
    ARENA_SCHEMA_MAJOR = 2,
    ARENA_SCHEMA_MINOR = 0,
    ARENA_KEY_SCHEME = 1,  /* how tile keys are derived */
    ARENA_TILE_FORMAT = 1, /* of the objects in extents */
    ARENA_PAGE = 4096,
    ARENA_HEADER_STEP = 1024,
    ARENA_FAULT_OFFSET = 2048, /* u64: not 0 after a run that ended by its own fault */
    ARENA_LINE_BYTES = 128,
    ARENA_BYTES_PER_SLOT = 16384, /* one slot for so many bytes of arena, … */
    ARENA_MIN_SLOTS = 64,         /* … but at least these */
    ARENA_NAME_BYTES = 16,        /* of a digest or key that only names something */
    ARENA_MAX_FAULTS = 3,         /* runs that ended by their own fault: not opened any more */
    ARENA_MAX_UNREADY = 10,       /* runs in a row that ended before they were ready: neither */
};

/* A slot that has got here is used no more; in practice none does, but for damage. */
#define ARENA_MAX_GENERATION (UINT64_C(1) << 61)

enum slot_state {
    SLOT_FREE = 0, /* a page of zeroes is a table of free slots */
    SLOT_WRITING = 1,
    SLOT_COMMITTED = 2,
    SLOT_BURIED = 3, /* not to be found any more, but its extent waits for a lease to expire */
};

/* The kinds that slot lines have beside enum dpq_slot_kind: readers have no use for it. */
enum {
    SLOT_KIND_RECORD = 4, /* what a sequence is, in bytes that only the daemon's session knows */
};

/* Never reordered, only extended where it says reserved: any build can judge any arena. */
struct arena_header {
    uint64_t magic;
    uint32_t schema_major; /* another one: not to be read */
    uint32_t schema_minor; /* older readers ignore what a higher one adds */
    uint64_t n_bytes;      /* of the memfd */
    uint64_t n_slots;
    uint64_t slots_offset, extents_offset;
    uint32_t line_bytes, page_bytes;
    uint32_t key_scheme, tile_format;
    uint8_t tenant_hash[32]; /* SHA-256 of the tenant's name */
    uint8_t secret_id[16];   /* of the secret in the keys; 0: not recorded */
    uint64_t epoch;          /* random in a new arena, + 1 at each attach */
    uint32_t faults;         /* runs that ended by their own fault, since the last good service */
    uint32_t unready;        /* runs in a row that ended before they were ready */
    uint32_t clean;          /* 1: closed in good order; a hint */
    uint32_t reserved0;      /* 0 */
    uint64_t lease_until_ns; /* CLOCK_MONOTONIC: no lease was given beyond this; 0: none at all */
    uint32_t reserved[16];   /* 0 */
    uint64_t seq;            /* + 1 with each update; the older copy is overwritten */
    uint32_t reserved2;      /* 0 */
    uint32_t crc32c;         /* of everything before it */
};

struct arena_line {
    _Atomic uint64_t word;             /* state in bits 0 and 1, generation above */
    uint8_t key[32];                   /* of the tile; 0 for tail and record */
    uint8_t parent[ARENA_NAME_BYTES];  /* first bytes of the parent's key; 0: none */
    uint8_t profile[ARENA_NAME_BYTES]; /* first bytes of its digest */
    uint64_t sequence_id;              /* whose tail or record; for a tile, who wrote it */
    uint64_t first_index;    /* of the first token in its sequence; of a record: version */
    uint64_t first_position; /* RoPE position of that token; of a record: its room */
    uint32_t n_bytes;
    uint32_t n_numbers;  /* that a tile stands for; in its base object's line. Of a tail: version */
    uint32_t first_page; /* of the extent, counted from extents_offset */
    uint8_t kind;        /* enum dpq_slot_kind, or SLOT_KIND_RECORD */
    uint8_t n_tokens;    /* 1 … 128; of a record: 0 */
    uint8_t rate;        /* of a tile: enum dpq_rate */
    uint8_t dtype;       /* of a tail's rows: enum dpq_dtype; of a fine object: 1, it is kept */
    uint64_t checksum;   /* XXH3-64 of the n_bytes */
    uint64_t line_checksum; /* XXH3-64 of everything before it, the word as COMMITTED */
};

_Static_assert(sizeof(struct arena_header) == 224, "wire");
_Static_assert(offsetof(struct arena_header, tenant_hash) == 64, "wire");
_Static_assert(offsetof(struct arena_header, epoch) == 112, "wire");
_Static_assert(offsetof(struct arena_header, lease_until_ns) == 136, "wire");
_Static_assert(offsetof(struct arena_header, seq) == 208, "wire");
_Static_assert(sizeof(struct arena_line) == ARENA_LINE_BYTES, "wire");
_Static_assert(offsetof(struct arena_line, sequence_id) == 72, "wire");
_Static_assert(offsetof(struct arena_line, line_checksum) == 120, "wire");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the formats are little-endian");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "the word is shared between processes");

static inline uint64_t slot_word(uint64_t generation, enum slot_state state)
{
    return generation << 2 | state;
}

/* Whose an arena is. Another one's is not opened. */
struct arena_identity {
    uint8_t tenant_hash[32];
    uint8_t secret_id[16];
};

/* Why an arena is not opened, in the order of the checks. */
enum arena_outcome {
    ARENA_E_SIZE = 1,     /* arena_format(): too few bytes, or too many */
    ARENA_E_HEADER = 2,   /* no valid copy of the header */
    ARENA_E_SCHEMA = 3,   /* another schema_major */
    ARENA_E_GEOMETRY = 4, /* the header does not describe these bytes */
    ARENA_E_FORMAT = 5,   /* another key_scheme or tile_format */
    ARENA_E_TENANT = 6,
    ARENA_E_SECRET = 7,
    ARENA_E_FAULTS = 8,  /* ARENA_MAX_FAULTS */
    ARENA_E_UNREADY = 9, /* ARENA_MAX_UNREADY */
};

/* An arena that is mapped for writing. What is here, not what is mapped, is believed. */
struct arena {
    uint8_t *bytes;
    struct arena_header header;
    uint32_t newest; /* copy of the header, 0 or 1 */
    struct arena_line *lines;
    uint64_t *generations; /* [n_slots], private */
};

/**
 * arena_format() - lay an arena out
 * @bytes:       n_bytes zeroed bytes; borrowed until arena_deinit()
 * @n_slots:     0: one for each ARENA_BYTES_PER_SLOT
 * @first_epoch: random, so that what a reader kept of an earlier arena is never taken for this
 * one's Return: 0; ARENA_E_SIZE; -ENOMEM.
 */
int arena_format(uint8_t *bytes, uint64_t n_bytes, const struct arena_identity *identity,
                 uint64_t n_slots, uint64_t first_epoch, struct arena *ret_arena) _must_check_;

/**
 * arena_judge() - may this arena be opened?
 * @identity: NULL: anybody's, and whatever its last runs ended by (readers)
 * Trusts nothing, writes nothing. Return: 0; what of enum arena_outcome is wrong first.
 */
int arena_judge(const uint8_t *bytes, uint64_t n_bytes, const struct arena_identity *identity,
                struct arena_header *ret_header) _must_check_;

/**
 * arena_attach() - take over what an earlier process left
 * Counts the start (unready, faults) before anything else is written, so that a start that dies of
 * what it finds is not repeated for ever. The slots are the caller's to look at, the generations
 * its to fill in; then arena_begin_epoch().
 * Return: 0; see arena_judge(); -ENOMEM.
 */
int arena_attach(uint8_t *bytes, uint64_t n_bytes, const struct arena_identity *identity,
                 struct arena *ret_arena) _must_check_;

/** arena_begin_epoch() - the next epoch, in the header before anybody is told */
void arena_begin_epoch(struct arena *arena);

/** arena_write_header() - arena->header into the older copy: a torn one leaves the other standing
 */
void arena_write_header(struct arena *arena);

/** arena_fault_word() - for the handler of fatal signals, which stores 1; may outlive the arena */
_Atomic uint64_t *arena_fault_word(uint8_t *bytes);

/** works on a zeroed struct */
void arena_deinit(struct arena *arena);

/** arena_n_pages() - of all extents together */
uint64_t arena_n_pages(const struct arena *arena);

static inline uint8_t *arena_extent(const struct arena *arena, uint32_t first_page)
{
    return arena->bytes + arena->header.extents_offset + (uint64_t)first_page * ARENA_PAGE;
}

/*
 * The steps of a slot. Between begin and commit extent and line are written; whoever took the slot
 * is the only one to touch it.
 */

/** arena_begin() - FREE -> WRITING. Return: the new generation */
uint64_t arena_begin(struct arena *arena, uint64_t slot);

/** arena_commit() - write the line, then WRITING -> COMMITTED; word and line checksum are set here
 */
void arena_commit(struct arena *arena, uint64_t slot, const struct arena_line *line);

/** arena_bury() - COMMITTED -> BURIED: not to be found, and its extent not to be written yet, even
 *  if this process dies */
void arena_bury(struct arena *arena, uint64_t slot);

/** arena_release() - any state -> FREE, next generation; then the extent may be written again */
void arena_release(struct arena *arena, uint64_t slot);

/** line_checksum() - of a copy of a line, as if committed */
uint64_t line_checksum(const struct arena_line *line);

/** line_room_bytes() - of the extent that a line names: what it may grow to */
uint64_t line_room_bytes(const struct arena_line *line);

/**
 * arena_line_good() - does a copy of a line with this generation name something that can be?
 * Checksum, kind, counts, extent; the extent's bytes are not looked at.
 */
bool arena_line_good(const struct arena_header *header, const struct arena_line *line);
