#pragma once

/*
 * A tile's two objects, as FORMAT.md has them: little-endian, no padding, offsets from the object's
 * first byte.
 *
 *   base = header | stream directory | gains | base panels | [frame kinds] | [droppable]
 *          | [verdict] | raw area
 *   fine = header | panel numbers | fine panels
 */

#include "lib/codec/profile.h"
#include "lib/kern/kern.h"

#define TILE_BASE_MAGIC 0x42515044u /* "DPQB" */
#define TILE_FINE_MAGIC 0x46515044u /* "DPQF" */

enum {
    TILE_VERSION = 1,
    TILE_GROUP_TOKENS = 8, /* the finest grid of groups: a droppable mask has 16 bits a stream */
    TILE_MAX_RAW = 4,      /* raw entries a stream */
    TILE_NO_PANEL = 0xffffffffu,
};

/* How a token of a stream was coded: 2 bits, in the frame-kind area, or by rule without one. */
enum frame_kind {
    FRAME_PREDICTED = 0,
    FRAME_INTRA = 1,  /* no prediction */
    FRAME_KEY = 2,    /* no prediction, and on the grid or forced by a reset */
    FRAME_ESCAPE = 3, /* as predicted in the loop; a raw row overrides the output */
};

enum raw_type {
    RAW_INPUT = 0, /* the tile's dtype, bit for bit */
    RAW_F16 = 1,
    RAW_INT8 = 2, /* fp32 scale, then int8 values */
};

enum stream_bits {
    STREAM_HAS_KINDS = 1 << 0,     /* its 32 bytes of frame kinds are stored */
    STREAM_HAS_FINE = 1 << 1,      /* the fine plane was made: it is in the fine object */
    STREAM_ALL_DROPPABLE = 1 << 2, /* the fine plane may be dropped from every group */
    STREAM_KNOWN_BITS = 7,
};

struct tile_base_header {
    uint32_t magic;
    uint16_t version;
    uint8_t dtype;       /* of the input: enum dpq_dtype */
    uint8_t rate;        /* enum dpq_rate */
    uint8_t profile[32]; /* digest */
    uint64_t first_position;
    uint64_t first_index;
    uint32_t n_bytes;
    uint32_t n_streams;
    uint32_t head_dim;
    uint32_t directory_offset;
    uint32_t gains_offset;
    uint32_t kinds_offset;  /* 32 bytes for each stream with STREAM_HAS_KINDS, in their order */
    uint32_t panels_offset; /* a multiple of 64 */
    uint32_t n_panel_lines;
    uint32_t droppable_offset; /* u16 for each stream without STREAM_ALL_DROPPABLE, in their order:
                                  bit i says that the group of tokens 8 i … 8 i + 7 is droppable */
    uint32_t verdict_offset;   /* the monitor's state after this tile: opaque here, may be empty */
    uint32_t n_verdict_bytes;
    uint32_t raw_offset;
    uint32_t n_raw_bytes;
    uint32_t reserved;
};

struct tile_stream {    /* the stream directory's entry */
    uint32_t panel;     /* first line of its base panel, counted from panels_offset */
    uint8_t reference;  /* enum reference used in this tile; REFERENCE_NONE or the profile's */
    uint8_t dsub;       /* the profile's */
    uint8_t bits;       /* enum stream_bits */
    uint8_t group_log2; /* tokens between keys, for rule-made kinds: 3 … 7 */
};

struct tile_raw {    /* followed by the rows, in token order; then zeroes up to a multiple of 8 */
    uint32_t stream; /* ascending */
    uint8_t type;    /* enum raw_type */
    uint8_t reserved[3];
    uint64_t tokens[2]; /* bit t % 64 of word t / 64: token t has a row */
};

struct tile_fine_header { /* followed by a u32 panel number for each stream, or TILE_NO_PANEL */
    uint32_t magic;
    uint16_t version;
    uint16_t reserved;
    uint8_t profile[32];
    uint64_t first_index;
    uint32_t n_bytes;
    uint32_t n_streams;
    uint32_t panels_offset; /* a multiple of 64 */
    uint32_t n_panel_lines;
};

_Static_assert(sizeof(struct tile_base_header) == 112, "wire");
_Static_assert(sizeof(struct tile_stream) == 8, "wire");
_Static_assert(sizeof(struct tile_raw) == 24, "wire");
_Static_assert(sizeof(struct tile_fine_header) == 64, "wire");

/* One raw entry, checked; rows lie inside the object. */
struct tile_raw_view {
    uint8_t type;
    uint64_t tokens[2];
    uint32_t rows; /* offset in the object */
};

/*
 * Both objects, judged once: private copies of everything that is used as an index. What remains in
 * the objects themselves (gains, kinds, panels, raw rows) may change meanwhile: any value is in
 * range.
 */
struct tile_view {
    struct tile_base_header header;
    struct tile_stream *streams;
    uint32_t *kinds;      /* offset in base, 0: none */
    uint32_t *fine_panel; /* offset in fine, 0: none */
    struct tile_raw_view *raw;
    uint32_t *first_raw; /* [n_streams + 1]: raw entries of stream s are first_raw[s] … [s + 1] */
    const uint8_t *base, *fine;
    uint32_t max_raw;
};

int tile_view_new(const struct dpq_profile *profile, struct tile_view **ret_view) _must_check_;
struct tile_view *tile_view_free(struct tile_view *view);

/**
 * tile_view_set() - judge a tile's objects; the only function that distrusts them
 * @fine: may be NULL
 * Return: 0; DPQ_E_CORRUPT, DPQ_E_VERSION, DPQ_E_MISMATCH (another profile's, or another tile's
 * fine object), with the reason in ret_fault
 */
int tile_view_set(struct tile_view *view, const struct dpq_profile *profile, const void *base,
                  size_t n_base, const void *fine, size_t n_fine,
                  struct dpq_fault *ret_fault) _must_check_;

/* Bytes of one raw row. */
static inline uint32_t raw_row_bytes(uint8_t type, uint32_t head_dim, uint32_t dtype)
{
    if (type == RAW_INT8)
        return (uint32_t)sizeof(float) + head_dim;
    return head_dim * (type == RAW_F16 ? 2 : (uint32_t)dpq_dtype_bytes(dtype));
}
