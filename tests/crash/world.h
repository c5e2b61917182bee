#pragma once

/*
 * A small world on a store, and an oracle of what the outside was told about it
 *
 * Loose tiles come, lose their fine object, and go; sequences grow by tokens as the daemon's do:
 * rows into a tail, full tiles put, then the record's next entry (how many tiles there are), and
 * only then is the old tail freed. When room is made they lose fine objects, their tail, and tiles
 * from their end, as the daemon's do (session_pressure.c), and go on from there. The oracle is in
 * memory that survives the process: before each operation it says what may come of it, after it
 * what was acknowledged. So whoever looks at the arena at any moment can say whether it is one of
 * the states that it may be in.
 *
 * All content is a piece of one pool of random bytes, at a place that follows from the name.
 */

#include <stdatomic.h>
#include <string.h>

#include "lib/base/rng.h"
#include "lib/store/store_internal.h"

enum {
    WORLD_TILES = 48,
    WORLD_SEQUENCES = 3,
    WORLD_SEQUENCE_TILES = 4, /* then it is released */
    WORLD_LEASES = 6,
    WORLD_LEASE_TIME = 20, /* operations */
    WORLD_POOL = 8 << 20,
};

struct world_size {
    uint64_t arena_bytes, n_slots;
    uint32_t base_bytes, fine_bytes; /* at most */
    uint32_t row_bytes;
};

enum tile_state { TILE_NONE, TILE_PUTTING, TILE_THERE, TILE_DELETING };
enum fine_state { FINE_NONE, FINE_THERE, FINE_DROPPING };
enum sequence_state { SEQUENCE_NONE, SEQUENCE_LIVE, SEQUENCE_RELEASING };

/* What was promised. Each change is one store, so that any moment's oracle makes sense. */
struct oracle {
    _Atomic uint64_t changes; /* of anything that is told to the outside */
    _Atomic uint64_t epoch;   /* as announced */
    _Atomic uint64_t now;
    _Atomic int opening;               /* a store is being attached, and the world looked through */
    _Atomic int announced;             /* since the last attach began */
    _Atomic int evicting;              /* unreferenced tiles may go */
    _Atomic int in_flight;             /* an operation is under way */
    _Atomic uint64_t n_dropped, n_cut; /* by making room: fine objects, tiles */
    _Atomic uint64_t n_ops;            /* done, ever */
    uint64_t seed;
    uint64_t poked_slot, poked_word; /* damaged by the test: torn until somebody frees it */
    struct {
        _Atomic uint32_t serial;
        _Atomic uint8_t state, fine, referenced;
    } tiles[WORLD_TILES];
    struct {
        _Atomic uint32_t serial;
        _Atomic uint8_t state;
        _Atomic uint32_t acked, started;   /* tokens */
        _Atomic uint8_t dropping, cutting; /* room is being made: any fine object, or the end */
        _Atomic uint8_t fine[WORLD_SEQUENCE_TILES];
    } sequences[WORLD_SEQUENCES];
    struct {
        _Atomic uint64_t until; /* 0: none */
        uint32_t first_page, n_bytes;
        uint64_t checksum;
    } leases[WORLD_LEASES];
};

extern const uint8_t *world_pool;
extern int crash_planted; /* which of plants.h's bugs is on; 0: none */

/** world_init() - the pool. Once */
void world_init(void);

/** world_create() - a memfd arena that is laid out and attached once, with an oracle of nothing */
void world_create(const struct world_size *size, struct map *ret_map, struct oracle *oracle);

/** world_run() - attach, look through, then n operations (for ever: UINT64_MAX), in the process
 * that is to be killed or stepped. @restart_every: operations; 0: never */
void world_run(struct map *map, const struct world_size *size, struct oracle *oracle, uint64_t n,
               uint64_t restart_every);

/* What is wrong, each counted. */
struct verdict {
    long torn, lost, back, mixed, leaked, refused, epoch, uncounted, reused, leased;
};

/** world_check_raw() - what readers that are mapped see. @at_attach: the slot table when the
 * running attach began; NULL: not known */
void world_check_raw(const uint8_t *bytes, const struct world_size *size, struct oracle *oracle,
                     const struct arena_line *at_attach, struct verdict *v);

/** world_check_recovered() - attach a copy of the arena, and compare it with the oracle
 *  @bytes: fd's mapping, of a copy */
void world_check_recovered(int fd, const struct world_size *size, struct oracle *oracle,
                           struct verdict *v);

static inline long verdict_sum(const struct verdict *v)
{
    return v->torn + v->lost + v->back + v->mixed + v->leaked + v->refused + v->epoch +
           v->uncounted + v->reused + v->leased;
}

/* --- names and content, world_check.c's and world.c's ----------------------------------------- */

#define TILE_NAME(i, serial)         ((uint64_t)(serial) << 16 | (i))
#define SEQUENCE_ID(i, serial)       ((uint64_t)(serial) << 16 | 0x8000 | (i))
#define SEQUENCE_TILE_NAME(id, tile) ((id) | (uint64_t)((tile) + 1) << 8)

static inline uint64_t world_mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15;
    return (x ^ x >> 29) * 0xbf58476d1ce4e5b9;
}

static inline void world_key(uint64_t name, uint8_t key[32])
{
    uint64_t parts[4] = { world_mix(name), world_mix(~name), name, 0 };

    memcpy(key, parts, 32);
}

static inline uint64_t world_name(const uint8_t key[32])
{
    uint64_t name;

    memcpy(&name, key + 16, sizeof(name));
    return name;
}

/* 1 … max bytes of a name's kind (0: base, 1: fine) */
static inline uint32_t world_length(uint64_t name, int kind, uint32_t max)
{
    return max - (uint32_t)(world_mix(name * 2 + (unsigned)kind) % (max / 2));
}

static inline const uint8_t *world_content(uint64_t name, int kind)
{
    return world_pool + (world_mix(~(name * 4 + (unsigned)kind)) >> 16) % (WORLD_POOL - (1 << 20));
}

static inline const uint8_t *world_rows(uint64_t sequence_id, uint32_t first, uint32_t row_bytes)
{
    return world_content(sequence_id, 2) + (uint64_t)first * row_bytes;
}
