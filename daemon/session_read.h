#pragma once

/* A read under way, between session_read.c and those who read in another way than all at once. */

#include "daemon/session_internal.h"

struct reading {
    struct pool_loop loop; /* tiles, then the tail if it is wanted */
    struct session *session;
    struct session_read *op;
    struct profile_entry *profile; /* a reference, when it is pinned */
    struct tenant *tenant;
    struct numbers to;
    uint32_t n_layers;
    uint64_t sequence_tokens; /* as of the pin */
    struct tile **tiles;
    uint32_t n_tiles;
    uint64_t first_tile;
    struct tail_holder *tail;
    struct store_object tail_object;
    uint32_t tail_dtype;
    uint64_t tail_first;        /* index of the tail's first token */
    struct session_error error; /* of the first turn, in order, that failed */
    uint32_t error_turn;
};

/**
 * reading_pin() - references to what op's range covers, as it is now
 * Session, op and error are set; n_layers, tiles, tail and what they are get set.
 * Return: 0; 1 with op->error.
 */
int reading_pin(struct reading *reading) _must_check_;

/** reading_turn() - the i-th tile, or the tail behind them, to op's tensor in to.bytes
 *  Return: true; false with reading->error. A worker. */
bool reading_turn(struct pool_loop *loop, uint32_t i, uint32_t worker);

/** reading_deinit() - lets go of what is pinned */
void reading_deinit(struct reading *reading);
