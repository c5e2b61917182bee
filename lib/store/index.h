#pragma once

/*
 * Tiles by key: open addressing, linear probing, never more than half full
 *
 * Keys are HMACs, hence uniform: their first eight bytes are the hash. Removal shifts back what
 * follows, so there are no tombstones. A cell is the tile's number in the store's array of entries,
 * four bytes. Private memory; the store's mutex is held.
 */

#include "lib/base/defs.h"

struct tile;
union slot_entry;

struct index {
    union slot_entry *entries; /* borrowed */
    uint32_t *cells;           /* number + 1; 0: empty */
    uint64_t mask;
};

/** index_init() - for up to n_max tiles, which are in entries */
int index_init(struct index *index, union slot_entry *entries, uint64_t n_max) _must_check_;
void index_deinit(struct index *index);
struct tile *index_find(const struct index *index, const uint8_t key[32]);
void index_add(struct index *index, const struct tile *tile);
void index_remove(struct index *index, const struct tile *tile);
