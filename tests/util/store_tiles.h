#pragma once

/* Tiles whose key and bytes follow from their name, and a store to put them into. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/rng.h"
#include "lib/store/store_internal.h"

enum { MIB = 1 << 20, OBJECT = 100000 };

static const uint8_t ZERO[32];

struct counted {
    int n;
    uint8_t last;
};

static inline void count_evicted(void *user, const uint8_t key[32], uint64_t freed_bytes)
{
    struct counted *c = user;

    if (!freed_bytes)
        abort();
    c->n++;
    c->last = key[31];
}

static inline void make_key(uint8_t key[32], uint8_t name)
{
    struct rng r = rng_seed(name);

    for (int i = 0; i < 32; i++)
        key[i] = (uint8_t)rng_next(&r);
    key[31] = name;
}

static inline void fill_bytes(uint8_t *bytes, size_t n, uint64_t name)
{
    struct rng r = rng_seed(name ^ n << 8);

    for (size_t i = 0; i < n; i += 8) {
        uint64_t x = rng_next(&r);

        memcpy(bytes + i, &x, n - i < 8 ? n - i : 8);
    }
}

static inline bool are_bytes(const uint8_t *bytes, size_t n, uint64_t name)
{
    struct rng r = rng_seed(name ^ n << 8);

    for (size_t i = 0; i < n; i += 8) {
        uint64_t x = rng_next(&r);

        if (memcmp(bytes + i, &x, n - i < 8 ? n - i : 8))
            return false;
    }
    return true;
}

/* n_fine 0: none */
static inline int put_at(struct store *s, uint8_t name, size_t n_base, size_t n_fine,
                         uint64_t now_ns, struct tile **ret_tile)
{
    uint8_t *bytes = malloc(n_base + n_fine), key[32];
    struct store_put_args a = {
        .key = key,
        .parent = ZERO,
        .profile = ZERO,
        .first_index = 128 * (uint64_t)name,
        .n_numbers = 1000,
        .base = bytes,
        .n_base = n_base,
        .fine = n_fine ? bytes + n_base : NULL,
        .n_fine = n_fine,
    };
    int r;

    if (!bytes)
        abort();
    make_key(key, name);
    fill_bytes(bytes, n_base, name);
    fill_bytes(bytes + n_base, n_fine, ~(uint64_t)name);
    r = store_put(s, &a, now_ns, ret_tile);
    free(bytes);
    return r;
}

static inline int put(struct store *s, uint8_t name, size_t n_base, size_t n_fine,
                      struct tile **ret_tile)
{
    return put_at(s, name, n_base, n_fine, 0, ret_tile);
}

static inline struct store *new_store(uint64_t bytes, struct counted *c)
{
    struct store *s = NULL;

    if (store_new(bytes, "t", count_evicted, c, &s))
        abort();
    return s;
}

/* The arena as a later process finds it: what is in memory of this one is gone. */
static inline struct store *reopen(struct store *s, uint64_t grace_until_ns, struct counted *c,
                                   struct store_recovery *ret_recovery)
{
    const struct store_options options = {
        .tenant = "t", .grace_until_ns = grace_until_ns, .evicted = count_evicted, .user = c
    };
    struct map map = MAP_NULL;
    int fd = dup(store_fd(s));

    store_free(s);
    s = NULL;
    if (map_adopt(fd, &map) || store_attach(&map, &options, ret_recovery, &s))
        abort();
    return s;
}

static inline struct store_stats stats(struct store *s)
{
    struct store_stats st;

    store_get_stats(s, &st);
    return st;
}

/* Let everything go that nobody refers to. Return: is the store as it was when it was new? */
static inline bool drains_at(struct store *s, uint64_t now_ns)
{
    struct store_stats st;

    for (uint32_t i = s->evict.n_known; i-- > 0;) {
        struct tile *t = tile_of(s, i);

        if (t->role != ENTRY_TILE || t->n_refs)
            continue;
        tile_ref(t);
        tile_unref(t, /* discard= */ true, now_ns, NULL);
    }
    st = stats(s);
    return !st.used_bytes && !st.n_tiles && !st.tile_bytes && !st.tile_numbers && !st.tail_bytes &&
           s->n_free_slots == s->arena.header.n_slots && !s->n_unreferenced_pages;
}

static inline bool drains(struct store *s)
{
    return drains_at(s, 0);
}
