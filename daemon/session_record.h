#pragma once

/*
 * What a sequence is, beside its tiles and tail, as bytes of its record in the arena
 *
 * A list of entries, {u32 kind, u32 n_bytes, body, zeroes up to a multiple of 8}, little-endian; it
 * only grows, and is written anew when its room is used up. A later entry changes what an earlier
 * one said. Kinds that are not known are passed over, so that more can be added.
 *
 *     BEGIN  u32 version = 2, u32 rate, u64 position_base, u64 fork_origin (0: none),
 *            u64 n_adopted_tokens, u8 profile_id[32], u8 scope[32]    first, once
 *     IDS    u64 first_token, u32 ids[]      ids of the tokens from first_token on; none after them
 *     SEAL   u64 n_tiles, u64 generation     so many tiles there are, the tail goes on behind them
 *     MAKER  u64 first_tile, u64 id          from first_tile on, this id is in keys of tiles
 *                                            without ids; before any: the sequence's
 *     TAIL   u64 version, u64 lossy_end      which tail counts; rows before lossy_end are decoded
 *     PIN    u64 until_ns                    pinned until then, CLOCK_MONOTONIC; 0: not
 *     KEEP   u64 bits                        RECORD_KEEPS_…: what it was created to keep
 *     CUT    u64 end                         it had so many tokens before some were evicted from
 * its end; 0: none are missing
 *
 * Version 1 had BEGIN, IDS and SEAL alone, and is read.
 *
 * What is not there follows: tiles' keys from ids and scope (session_key.c), the number of tokens
 * from n_tiles and the tail of that version whose first_index is 128 n_tiles. Ids are written
 * before the rows they belong to are committed; those of rows that never were are cut off when it
 * is read.
 */

#include <stdbool.h>

#include "lib/base/defs.h"

struct record_begin {
    uint32_t rate;
    uint64_t position_base, fork_origin, n_adopted_tokens;
    uint8_t profile_id[32], scope[32];
};

struct record_maker {
    uint64_t first_tile, id;
};

struct record_tail {
    uint64_t version, lossy_end;
};

struct record_content {
    struct record_begin begin;
    uint32_t *ids; /* owned */
    size_t n_ids;
    struct record_maker *makers; /* owned; first_tile grows, and is < n_tiles */
    size_t n_makers;
    struct record_tail tail;
    uint64_t n_tiles, generation;
    uint64_t pinned_until_ns;
    uint64_t keeps; /* RECORD_KEEPS_… */
    uint64_t n_evicted_end;
};

enum {
    RECORD_KEEPS_FINE = 1,
    RECORD_KEEPS_TOKENS = 2,
    RECORD_CUT_BYTES = 64, /* of a change that has tail, seal and cut */
    RECORD_CUTS = 8,       /* that a record has room for, whatever else is in it */
};

/** record_pack() - a whole record; *ret_bytes is malloc'ed, the caller's. Return: 0, -ENOMEM */
int record_pack(const struct record_content *content, uint8_t **ret_bytes,
                size_t *ret_n_bytes) _must_check_;

/* What a request adds. */
struct record_change {
    bool has_ids;
    uint64_t first_token;
    const uint32_t *ids;
    size_t n_ids; /* may be 0: what was said of tokens from first_token on does not hold */
    bool has_maker;
    struct record_maker maker;
    bool has_tail;
    struct record_tail tail;
    bool has_seal;
    uint64_t n_tiles, generation;
    bool has_pin;
    uint64_t pinned_until_ns;
    bool has_cut;
    uint64_t n_evicted_end;
};

/** record_pack_change() - its entries; as record_pack(). n 0 when there is nothing to say */
int record_pack_change(const struct record_change *change, uint8_t **ret_bytes,
                       size_t *ret_n_bytes) _must_check_;

enum record_outcome {
    RECORD_E_FOREIGN = 1, /* another version, or no record at all */
};

/**
 * record_parse() - distrusts every byte
 * Return: 0, then record_content_deinit() is due; RECORD_E_FOREIGN; -ENOMEM.
 */
int record_parse(const uint8_t *bytes, size_t n_bytes,
                 struct record_content *ret_content) _must_check_;
void record_content_deinit(struct record_content *content);
