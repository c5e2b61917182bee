#pragma once

/*
 * Tiles by key: open addressing, linear probing, never more than half full
 *
 * Keys are HMACs, hence uniform: their first eight bytes are the hash. Removal shifts back what
 * follows, so there are no tombstones. Private memory; the store's mutex is held.
 */

#include "lib/base/defs.h"

struct tile;

struct index {
    struct tile **cells;
    uint64_t mask;
};

/** index_init() - for up to n_max tiles */
int index_init(struct index *index, uint64_t n_max) _must_check_;
void index_deinit(struct index *index);
struct tile *index_find(const struct index *index, const uint8_t key[32]);
void index_add(struct index *index, struct tile *tile);
void index_remove(struct index *index, const struct tile *tile);
