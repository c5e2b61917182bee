#pragma once

/*
 * A cut: what a sequence is with its first tokens alone, for Fork and Trim
 *
 * Whole tiles stay tiles. Of a raw tail the rows are copied; a tile that is cut through is decoded,
 * and its head becomes rows of a tail, in fp32, which holds exactly what a read returns. Such rows
 * are lossy: tokens from there on have no ids, so that what is made of them is never shared.
 */

#include "daemon/session_errand.h"

struct cut {
    uint64_t n_tokens;
    size_t n_tiles;     /* the sequence's first */
    size_t n_token_ids; /* that still hold */
    uint32_t n_rows, dtype;
    uint8_t *rows;      /* of the tail: n_rows canonical ones of dtype; owned */
    uint64_t lossy_end; /* as in struct record_tail */
};

/**
 * cut_make() - of the errand's sequence; changes nothing
 * @n_tokens: as many as the sequence has at most
 * Thread: the errand's worker. Return: 0, then cut_deinit() is due; 1, the errand's error says why.
 */
int cut_make(struct errand *errand, uint32_t worker, uint64_t n_tokens,
             struct cut *ret_cut) _must_check_;

/** works on a zeroed struct */
void cut_deinit(struct cut *cut);

/** cut_lossy_tokens() - rows of the tail that are decoded ones */
uint64_t cut_lossy_tokens(const struct cut *cut);

/** cut_tail() - the cut's tail as one of @sequence, committed; NULL when it has none
 *  Return: 0; STORE_E_FULL; a fault. */
int cut_tail(const struct cut *cut, const struct sequence *sequence, const struct record_tail *mark,
             uint64_t now_ns, struct tail_holder **ret_holder) _must_check_;

/** cut_fail() - an outcome of the store, or a fault, into the errand's error. @r: not 0 */
void cut_fail(struct errand *errand, int r, const struct cut *cut, const char *what);
