#include "lib/store/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

int index_init(struct index *index, union slot_entry *entries, uint64_t n_max)
{
    uint64_t n = 64;

    while (n < 2 * n_max)
        n *= 2;
    index->entries = entries;
    index->cells = calloc(n, sizeof(*index->cells));
    if (!index->cells)
        return error_origin(-ENOMEM);
    index->mask = n - 1;
    return 0;
}

void index_deinit(struct index *index)
{
    free(index->cells);
    index->cells = NULL;
}

static uint64_t home(const struct index *index, const uint8_t key[32])
{
    uint64_t h;

    memcpy(&h, key, sizeof(h));
    return h & index->mask;
}

static struct tile *tile_at(const struct index *index, uint64_t cell)
{
    return &index->entries[index->cells[cell] - 1].tile;
}

static uint32_t cell_of(const struct index *index, const struct tile *tile)
{
    return (uint32_t)((const union slot_entry *)tile - index->entries) + 1;
}

struct tile *index_find(const struct index *index, const uint8_t key[32])
{
    for (uint64_t i = home(index, key); index->cells[i]; i = (i + 1) & index->mask)
        if (!memcmp(tile_at(index, i)->key, key, 32))
            return tile_at(index, i);
    return NULL;
}

void index_add(struct index *index, const struct tile *tile)
{
    uint64_t i = home(index, tile->key);

    while (index->cells[i])
        i = (i + 1) & index->mask;
    index->cells[i] = cell_of(index, tile);
}

void index_remove(struct index *index, const struct tile *tile)
{
    uint32_t cell = cell_of(index, tile);
    uint64_t hole = home(index, tile->key);

    while (index->cells[hole] != cell)
        hole = (hole + 1) & index->mask;
    index->cells[hole] = 0;
    for (uint64_t i = (hole + 1) & index->mask; index->cells[i]; i = (i + 1) & index->mask) {
        uint64_t from = home(index, tile_at(index, i)->key);

        if (((i - from) & index->mask) < ((i - hole) & index->mask))
            continue;
        index->cells[hole] = index->cells[i];
        index->cells[i] = 0;
        hole = i;
    }
}
