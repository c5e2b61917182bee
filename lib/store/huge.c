/*
 * What came of map_make_huge() is read from /proc/self/smaps: a huge page counts there when this
 * process has mapped it as one, so it is touched first, and the mapping is aligned (map.c).
 */
#include "lib/store/huge.h"

#include <stdio.h>

enum { N_PLACES = 16 };

static void touch(const struct map *map, uint64_t step)
{
    for (uint64_t at = 0; at < map->n_bytes; at += step)
        (void)*(const volatile uint8_t *)(map->bytes + at);
}

static void close_file(FILE **file)
{
    if (*file)
        fclose(*file);
}

/* sum over the mappings that begin within it */
static uint64_t mapped_huge(const struct map *map)
{
    _cleanup_(close_file) FILE *file = fopen("/proc/self/smaps", "re");
    unsigned long first, end, kib;
    uint64_t n_bytes = 0;
    bool is_inside = false;
    char line[512];

    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
            is_inside =
                first >= (uintptr_t)map->bytes && first < (uintptr_t)map->bytes + map->n_bytes;
        else if (is_inside && sscanf(line, "ShmemPmdMapped: %lu kB", &kib) == 1)
            n_bytes += (uint64_t)kib << 10;
    }
    return n_bytes;
}

uint64_t huge_bytes(const struct map *map)
{
    uint64_t n_pages = map->n_bytes / MAP_HUGE_BYTES;

    if (!n_pages)
        return 0;
    touch(map, (n_pages + N_PLACES - 1) / N_PLACES * MAP_HUGE_BYTES);
    if (!mapped_huge(map))
        return 0;
    touch(map, MAP_HUGE_BYTES);
    return mapped_huge(map);
}
