#pragma once

/*
 * The profile file's structs, as FORMAT.md has them: little-endian, no padding, offsets from the
 * file's first byte, 0 for "none". They are shared by the reader and the writer and by nobody else.
 */

#include "lib/codec/profile.h"

#define PROFILE_MAGIC "DPQPROF"

enum {
    PROFILE_VERSION = 1,
    PROFILE_ALIGN = 64,
    PROFILE_CRC_FROM = 16, /* the CRC covers everything from here on */
    PROFILE_DECODE_IS_TRANSPOSED = 1 << 0,
    PROFILE_STRICT = 1 << 1,
    PROFILE_FULL = 1 << 2,
    PROFILE_FLAGS = 7,
};

struct profile_file_header {
    char magic[8];
    uint32_t version;
    uint32_t crc32c;
    uint64_t n_bytes;
    uint64_t streams_offset;
    uint64_t info_offset;
    uint64_t info_bytes; /* NUL included */
    uint32_t n_streams;
    uint32_t stream_bytes; /* sizeof(struct profile_file_stream) */
    char name[128];
    struct dpq_geometry geometry;
    uint64_t audit_offset;
    uint64_t audit_bytes;
    float bound;
    uint32_t group_log2;
};

struct profile_file_tree {
    uint64_t scale, base, fine;
};

struct profile_file_stream {
    uint32_t reference;
    uint32_t dsub;
    uint32_t fine_rates;
    uint32_t flags;
    float tolerance[N_TREES][N_PLANES];
    float importance;
    uint32_t reserved;
    uint64_t mean, encode, decode;
    struct profile_file_tree tree[N_TREES];
    uint64_t leak, weight, bias;
};

/** profile_name_ok() - NUL-terminated UTF-8 without control characters */
bool profile_name_ok(const char name[128]);

_Static_assert(sizeof(struct dpq_geometry) == 32 + 512, "wire");
_Static_assert(sizeof(struct profile_file_header) == 184 + 544 + 24, "wire");
_Static_assert(sizeof(struct profile_file_stream) == 136, "wire");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the formats are little-endian");

/* What each array of a stream holds, so that reader and writer agree by construction. */
struct profile_sizes {
    size_t vector; /* mean, bias */
    size_t matrix; /* encode, decode */
    size_t scale, base, fine, leak;
    size_t weight;
};

static inline struct profile_sizes profile_sizes(uint32_t head_dim, uint32_t dsub,
                                                 uint32_t n_inputs)
{
    size_t n_subspaces = head_dim / dsub;

    return (struct profile_sizes){
        .vector = head_dim * sizeof(float),
        .matrix = (size_t)head_dim * head_dim * sizeof(float),
        .scale = n_subspaces * sizeof(float),
        .base = n_subspaces * 16 * dsub,
        .fine = n_subspaces * 256 * dsub,
        .leak = n_subspaces * sizeof(int16_t),
        .weight = (size_t)head_dim * n_inputs * sizeof(float),
    };
}
