#pragma once

/*
 * Which tile goes next: a policy over numbers, without tiles
 *
 * A tile is worth what it costs to compute again, for each byte that it takes, times the chance
 * that it is wanted again. Three things are known of it, and nothing is configured:
 *
 *     cost    of its own prefill; attention looks back, so it grows with the position
 *     use     that it was found again raises its chance; not so within a moment, which says nothing
 *     kin     of a parent's children, how many were found again: a template whose continuations
 *             nobody asks for twice says so of the next one
 *
 * A tile is due some time after its last use: two turns, or less the smaller its chance is beside
 * the usual one, and a little more or less by its cost. A turn is the time in which all of the
 * cache could be replaced, counted in bytes stored. So where tiles do not differ this is LRU, and
 * what stands out by being useless leaves first. What was scanned once, or twice at once, does.
 *
 * A tile is useless without its parents, so only leaves go: children before parents.
 *
 * A binary heap holds those that may go. Uses do not move anything in it: a tile that comes up
 * before it is due is put back. So all but evict_take() is O(1), that is O(log n) for each tile
 * that was used or offered since; 24 bytes a tile.
 *
 * Thread: none of its own; the store's mutex is held.
 */

#include <stdbool.h>

#include "lib/base/defs.h"

enum { EVICT_NONE = 0xffffffffu };

struct evict_node {
    uint32_t due;    /* steps of the clock; never becomes less */
    uint32_t parent; /* EVICT_NONE: a first tile, or the parent is not there any more */
    uint32_t n_children : 29;
    uint32_t live : 1;
    uint32_t queued : 1; /* has a cell in the heap, perhaps of an earlier tile of this number: then
                            it is due no sooner than that was */
    uint32_t found : 1;  /* again, since it was stored */
    uint8_t chance;      /* that it is wanted again, in 255ths */
    uint8_t worth;       /* of a byte: logarithm, see evict.c */
    uint8_t n_born;      /* children so far; halved with n_found when it is full */
    uint8_t n_found;     /* of these, that were found again */
};

struct evict_cell {
    uint32_t due; /* at most the node's */
    uint32_t number;
};

struct evict {
    struct evict_node *nodes; /* [n_max] */
    struct evict_cell *heap;  /* [n_max] */
    uint32_t n_max, n_known;  /* n_known: no number beyond it was ever added */
    uint32_t n_queued;
    double mean_worth, mean_chance; /* of what was stored lately */
    uint32_t n_born, n_found;       /* first tiles, as of children */
    uint32_t now;                   /* time, as due */
    uint64_t fraction;              /* bytes stored that do not make a unit yet */
    uint64_t unit_bytes;            /* that do */
};

/** evict_init() - for tiles of numbers below n_max in a cache of this size. -ENOMEM */
int evict_init(struct evict *evict, uint32_t n_max, uint64_t capacity_bytes) _must_check_;
/** works on a zeroed struct, leaves one */
void evict_deinit(struct evict *evict);

/** evict_cost() - of computing a tile again, given those before it; a first one's is 1 */
double evict_cost(uint64_t first_index);

/**
 * evict_add() - a tile was stored
 * @parent: EVICT_NONE; or a live tile
 * @cost:   of computing it again: evict_cost(), times how much work a token is; > 0
 */
void evict_add(struct evict *evict, uint32_t number, uint32_t parent, double cost,
               uint64_t n_bytes);

/** evict_recover() - a tile that was there before this policy; without a parent */
void evict_recover(struct evict *evict, uint32_t number, double cost, uint64_t n_bytes);

/** evict_line_up() - those recovered are offered, in the order in which they are to go: the i-th of
 *  n. Before anything else is done */
void evict_line_up(struct evict *evict, uint32_t number, uint32_t i, uint32_t n);

/** evict_follow() - one that was recovered is useless without @parent, and so goes first. No effect
 * on one that has a parent already, or when either is not there */
void evict_follow(struct evict *evict, uint32_t number, uint32_t parent);

/** evict_use() - it was found by who looked for it */
void evict_use(struct evict *evict, uint32_t number);

/** evict_resize() - its size has changed, at the same cost */
void evict_resize(struct evict *evict, uint32_t number, uint64_t n_bytes_before, uint64_t n_bytes);

/** evict_offer() - it may go from now on. Anew after each EVICT_NO */
void evict_offer(struct evict *evict, uint32_t number);

/** evict_let_go() - the same, and until now it was in use */
void evict_let_go(struct evict *evict, uint32_t number);

/** evict_remove() - it is gone. Its children, if there are any left, have no parent then, and
 * little chance; to find them costs a look at every tile */
void evict_remove(struct evict *evict, uint32_t number);

enum evict_answer {
    EVICT_YES,
    EVICT_NO,    /* not before it is offered again */
    EVICT_LATER, /* not now */
};

/**
 * evict_take() - the offered leaf that is due first
 * @ask: is it still to be had? Called for tiles in the order in which they are due, until EVICT_YES
 * It stays as it is until evict_remove(). Return: its number; EVICT_NONE.
 */
uint32_t evict_take(struct evict *evict, enum evict_answer (*ask)(void *user, uint32_t number),
                    void *user);
