#pragma once

/*
 * Coding a tile under verdicts, and what it shows of its streams
 *
 * For whoever watches streams and decides about them; streams are numbered (layer * 2 + kind) *
 * n_kv_heads + head. Verdicts and measuring change nothing in the format.
 */

#include "lib/base/defs.h"
#include "lib/deltapq.h"

enum tile_verdict_mode {
    TILE_VERDICT_REFERENCE = 0, /* predicted as the profile says */
    TILE_VERDICT_BETTER = 1,    /* predicted where that leaves less than the vector itself has */
    TILE_VERDICT_INTRA = 2,     /* without a reference */
    TILE_VERDICT_RAW = 3, /* every token stored raw, int8 where that does; intra in the loop. With
                             keeps_fine only where the rate has a fine plane anyway; else that */
};

struct tile_verdict {   /* how a stream of a tile is to be coded; all 0: as the profile says */
    uint8_t mode;       /* enum tile_verdict_mode */
    uint8_t keeps_fine; /* 1: the fine plane is made whatever the rate, and not droppable */
    uint8_t group_log2; /* temporal: 3 … 7, if the profile's is larger; 0: the profile's */
    uint8_t reserved;
};

enum tile_token_part {
    TILE_TOKEN_CODED = 0,
    TILE_TOKEN_KEY = 1,     /* of a temporal reference: no prediction, as the grid has it */
    TILE_TOKEN_ESCAPED = 2, /* stored raw for its error */
    TILE_TOKEN_SINK = 3,    /* stored raw as one of the sequence's first */
};

/* What coding showed of a stream's tokens, in the coded metric. Of the loop, even where a token was
 * stored without its prediction: d2 is then what that would have left, e2 in proportion to it. */
struct tile_energies {
    float x2[128], d2[128], e2[128]; /* vector less mean, residual, error of the base plane */
    uint8_t part[128];               /* enum tile_token_part */
};

struct tile_watch {
    const struct tile_verdict *verdicts; /* [n_streams]; NULL: all 0 */
    void *user;
    /* once a layer, before it is coded, in order: its verdicts are read after that, and those of
     * the layers below are done with. May take its time. NULL: all are there from the start */
    void (*before_layer)(void *user, uint32_t layer);
    /* once a stream, in coding order, during the call; NULL: nobody wants them. True: this very
     * tile shall have the stream's fine plane, not droppable, whatever rate and verdict say */
    bool (*measured)(void *user, uint32_t stream, const struct tile_energies *energies);
    uint32_t n_verdict_bytes; /* zeroes left in the base object for tile_find_verdict() to find */
};

/** tile_encode_watched() - dpq_tile_encode() under verdicts, and with what it shows; measuring
 *  changes no byte by itself. Streams are numbered (layer * 2 + kind) * n_kv_heads + head.
 * DPQ_E_INVALID for a verdict out of range, too. */
int tile_encode_watched(struct dpq_codec *codec, const void *rows, uint32_t dtype,
                        uint64_t first_position, uint64_t first_index, uint32_t rate,
                        const struct tile_watch *watch, uint8_t **ret_base, size_t *ret_n_base,
                        uint8_t **ret_fine, size_t *ret_n_fine);

/** tile_find_verdict() - where a base object, distrusted, has the bytes that its maker left for the
 *  next tile; *ret_n_bytes 0: none. Return: 0; DPQ_E_CORRUPT, DPQ_E_VERSION. */
int tile_find_verdict(const void *base, size_t n_base, size_t *ret_offset, size_t *ret_n_bytes);
