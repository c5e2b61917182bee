#include "lib/store/index.h"

#include <errno.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

int index_init(struct index *index, union slot_entry *entries, uint64_t n_max)
{
    uint64_t n = 64;

    while (n / 4 * 3 < n_max)
        n *= 2;
    index->entries = entries;
    index->cells = map_zeroed(n * sizeof(*index->cells));
    if (!index->cells)
        return error_origin(-ENOMEM);
    index->mask = n - 1;
    return 0;
}

void index_deinit(struct index *index)
{
    map_zeroed_free(index->cells, (index->mask + 1) * sizeof(*index->cells));
    index->cells = NULL;
}

static uint64_t home(const struct index *index, const uint8_t key[32])
{
    uint64_t h;

    memcpy(&h, key, sizeof(h));
    return h & index->mask;
}

static uint32_t tag_of(const uint8_t key[32])
{
    uint32_t tag;

    memcpy(&tag, key + 8, sizeof(tag));
    return tag;
}

static struct tile *tile_at(const struct index *index, uint64_t cell)
{
    return &index->entries[index->cells[cell].number - 1].tile;
}

static uint32_t number_of(const struct index *index, const struct tile *tile)
{
    return (uint32_t)((const union slot_entry *)tile - index->entries) + 1;
}

/* The key's cell, or the empty one where it would be. */
static uint64_t probe(const struct index *index, const uint8_t key[32])
{
    uint32_t tag = tag_of(key);
    uint64_t i = home(index, key);

    while (index->cells[i].number &&
           (index->cells[i].tag != tag || memcmp(tile_at(index, i)->key, key, 32)))
        i = (i + 1) & index->mask;
    return i;
}

void index_prefetch(const struct index *index, const uint8_t key[32])
{
    __builtin_prefetch(&index->cells[home(index, key)], 1);
}

struct tile *index_find(const struct index *index, const uint8_t key[32])
{
    uint64_t i = probe(index, key);

    return index->cells[i].number ? tile_at(index, i) : NULL;
}

bool index_add(struct index *index, const struct tile *tile)
{
    uint64_t i = probe(index, tile->key);

    if (index->cells[i].number)
        return false;
    index->cells[i] = (struct index_cell){ number_of(index, tile), tag_of(tile->key) };
    return true;
}

void index_remove(struct index *index, const struct tile *tile)
{
    uint32_t number = number_of(index, tile);
    uint64_t hole = home(index, tile->key);

    while (index->cells[hole].number != number)
        hole = (hole + 1) & index->mask;
    index->cells[hole].number = 0;
    for (uint64_t i = (hole + 1) & index->mask; index->cells[i].number; i = (i + 1) & index->mask) {
        uint64_t from = home(index, tile_at(index, i)->key);

        if (((i - from) & index->mask) < ((i - hole) & index->mask))
            continue;
        index->cells[hole] = index->cells[i];
        index->cells[i].number = 0;
        hole = i;
    }
}
