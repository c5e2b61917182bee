#pragma once

/*
 * Tiles by key: open addressing, linear probing, never more than three quarters full
 *
 * Keys are HMACs, hence uniform: their first eight bytes are the hash, and four more are kept in
 * the cell, so that nearly every look at a tile that is not the one is saved. A cell is eight
 * bytes: those four, and the tile's number in the store's array of entries. Removal shifts back
 * what follows, so there are no tombstones. Private memory; the store's mutex is held.
 */

#include <stdbool.h>

#include "lib/base/defs.h"

struct tile;
union slot_entry;

struct index_cell {
    uint32_t number; /* + 1; 0: empty */
    uint32_t tag;    /* of the key */
};

struct index {
    union slot_entry *entries; /* borrowed */
    struct index_cell *cells;
    uint64_t mask;
};

/** index_init() - for up to n_max tiles, which are in entries */
int index_init(struct index *index, union slot_entry *entries, uint64_t n_max) _must_check_;
void index_deinit(struct index *index);
struct tile *index_find(const struct index *index, const uint8_t key[32]);

/** index_add() - Return: false, and nothing is done, when there is one of this key */
bool index_add(struct index *index, const struct tile *tile);
void index_remove(struct index *index, const struct tile *tile);

/** index_prefetch() - this key is looked for, or added, soon */
void index_prefetch(const struct index *index, const uint8_t key[32]);
