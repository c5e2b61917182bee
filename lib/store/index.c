#include "lib/store/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

int index_init(struct index *index, uint64_t n_max)
{
    uint64_t n = 64;

    while (n < 2 * n_max)
        n *= 2;
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

struct tile *index_find(const struct index *index, const uint8_t key[32])
{
    for (uint64_t i = home(index, key); index->cells[i]; i = (i + 1) & index->mask)
        if (!memcmp(index->cells[i]->key, key, 32))
            return index->cells[i];
    return NULL;
}

void index_add(struct index *index, struct tile *tile)
{
    uint64_t i = home(index, tile->key);

    while (index->cells[i])
        i = (i + 1) & index->mask;
    index->cells[i] = tile;
}

void index_remove(struct index *index, const struct tile *tile)
{
    uint64_t hole = home(index, tile->key);

    while (index->cells[hole] != tile)
        hole = (hole + 1) & index->mask;
    index->cells[hole] = NULL;
    for (uint64_t i = (hole + 1) & index->mask; index->cells[i]; i = (i + 1) & index->mask) {
        uint64_t from = home(index, index->cells[i]->key);

        if (((i - from) & index->mask) < ((i - hole) & index->mask))
            continue;
        index->cells[hole] = index->cells[i];
        index->cells[i] = NULL;
        hole = i;
    }
}
