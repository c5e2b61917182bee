/* How much there is of a profile: looks at every tile, for what is asked once in a long while */
#include <string.h>

#include "lib/store/store_internal.h"

enum { SLICE_SLOTS = 65536 };

static bool is_of(const uint8_t *line_profile, const uint8_t profile[32])
{
    return !memcmp(line_profile, profile, ARENA_NAME_BYTES);
}

static uint64_t count_tiles(struct store *store, uint64_t first, uint64_t end,
                            const uint8_t profile[32])
{
    uint64_t n = 0;

    store_lock(store);
    for (uint64_t slot = first; slot < end; slot++)
        n += store->entries[slot].tile.role == ENTRY_TILE &&
             is_of(store->arena.lines[slot].profile, profile);
    store_unlock(store);
    return n;
}

uint64_t store_count_profile(struct store *store, const uint8_t profile[32])
{
    uint64_t n_slots = store->arena.header.n_slots, n = 0;
    struct strip *strip;

    for (uint64_t first = 0; first < n_slots; first += SLICE_SLOTS)
        n += count_tiles(store, first,
                         first + SLICE_SLOTS < n_slots ? first + SLICE_SLOTS : n_slots, profile);
    store_lock(store);
    for (strip = strip_of_kind(store->strips, DPQ_SLOT_TAIL); strip;
         strip = strip_of_kind(strip->next, DPQ_SLOT_TAIL))
        n += is_of(strip->line.profile, profile);
    store_unlock(store);
    return n;
}
