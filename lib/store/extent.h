#pragma once

/*
 * Which pages of the arena are free: private, a bitmap and a tree of runs over it
 *
 * A leaf of the tree is a word of the bitmap, 64 pages; a node knows how many of its pages are free
 * at its beginning, at its end, and in its longest run. The lowest run that is long enough is found
 * by one descent, that there is none by a look at the root, and neighbours merge by themselves: all
 * of it log2(pages / 64) steps, 18 for 64 GiB, and a step for every 64 pages taken. First fit (at
 * the lowest place) keeps long runs at the end whole; it costs the same here as next fit, which
 * would spread small extents over all of them. Half a byte a page, 0.01 % of the arena.
 *
 * Thread: none of its own; the store's mutex is held.
 */

#include <stdbool.h>

#include "lib/base/defs.h"

enum {
    EXTENT_NONE = 0xffffffffu,
    EXTENT_MAX_PAGES = 1u << 31, /* 8 TiB */
};

struct extent_run {
    uint32_t head, tail, best; /* free pages at the beginning, at the end, in the longest run */
};

struct extent_map {
    uint64_t *used;          /* [n_leaves], a bit a page; pages that do not exist are in use */
    struct extent_run *runs; /* [2 n_leaves], 1 is the root, i's children are 2i and 2i + 1 */
    uint32_t n_leaves;       /* a power of two */
    uint32_t n_pages, n_used;
};

/** extent_map_init() - @n_pages: 1 … EXTENT_MAX_PAGES. On failure nothing needs deinit */
int extent_map_init(struct extent_map *map, uint32_t n_pages) _must_check_;
/** works on a zeroed struct, leaves one */
void extent_map_deinit(struct extent_map *map);

/** extent_take() - n ≥ 1 consecutive pages. Return: the first, or EXTENT_NONE */
uint32_t extent_take(struct extent_map *map, uint32_t n);

/** extent_give() - back what extent_take(n) returned */
void extent_give(struct extent_map *map, uint32_t first, uint32_t n);

/*
 * Filling a new map with what is in use already: claims first, then one extent_settle(), before
 * which nothing can be taken. A claim costs a step for every 64 pages.
 */

/** extent_claim() - Return: false, and nothing is claimed, when a page of it is claimed already */
bool extent_claim(struct extent_map *map, uint32_t first, uint32_t n);

/** extent_unclaim() - what was claimed */
void extent_unclaim(struct extent_map *map, uint32_t first, uint32_t n);
void extent_settle(struct extent_map *map);
