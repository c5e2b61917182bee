#include "lib/store/extent.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "lib/base/error.h"

enum { WORD = 64 };

static struct extent_run leaf(uint64_t used)
{
    uint64_t free_pages = ~used;
    struct extent_run run = { 0 };

    if (!used)
        return (struct extent_run){ WORD, WORD, WORD };
    run.head = (uint32_t)__builtin_ctzll(used);
    run.tail = (uint32_t)__builtin_clzll(used);
    for (; free_pages; run.best++)
        free_pages &= free_pages << 1;
    return run;
}

/* Two neighbours of n pages each. */
static struct extent_run join(struct extent_run left, struct extent_run right, uint32_t n)
{
    uint32_t best = left.tail + right.head;

    best = left.best > best ? left.best : best;
    return (struct extent_run){
        .head = left.head == n ? n + right.head : left.head,
        .tail = right.tail == n ? n + left.tail : right.tail,
        .best = right.best > best ? right.best : best,
    };
}

/* The leaves lo … hi have changed. */
static void update(struct extent_map *m, uint32_t lo, uint32_t hi)
{
    uint32_t n = WORD;

    for (uint32_t i = lo; i <= hi; i++)
        m->runs[m->n_leaves + i] = leaf(m->used[i]);
    lo = (m->n_leaves + lo) / 2;
    hi = (m->n_leaves + hi) / 2;
    for (; lo; lo /= 2, hi /= 2, n *= 2)
        for (uint32_t i = lo; i <= hi; i++)
            m->runs[i] = join(m->runs[2 * i], m->runs[2 * i + 1], n);
}

/* The bits of [at, end) in at's word. Return: how many */
static uint32_t bits_at(uint32_t at, uint32_t end, uint64_t *ret_bits)
{
    uint32_t bit = at % WORD;
    uint32_t k = WORD - bit < end - at ? WORD - bit : end - at;

    *ret_bits = (k == WORD ? ~UINT64_C(0) : (UINT64_C(1) << k) - 1) << bit;
    return k;
}

static void flip(struct extent_map *m, uint32_t first, uint32_t n, bool used)
{
    uint32_t end = first + n;
    uint64_t bits;

    for (uint32_t at = first, k; at < end; at += k) {
        k = bits_at(at, end, &bits);
        assert((m->used[at / WORD] & bits) ==
               (used ? 0 : bits)); /* nobody has, or gives, it twice */
        m->used[at / WORD] ^= bits;
    }
}

static void mark(struct extent_map *m, uint32_t first, uint32_t n, bool used)
{
    flip(m, first, n, used);
    update(m, first / WORD, (first + n - 1) / WORD);
}

int extent_map_init(struct extent_map *map, uint32_t n_pages)
{
    struct extent_map m = { .n_pages = n_pages, .n_leaves = 1 };

    assert(n_pages && n_pages <= EXTENT_MAX_PAGES);
    while ((uint64_t)m.n_leaves * WORD < n_pages)
        m.n_leaves *= 2;
    m.used = calloc(m.n_leaves, sizeof(*m.used));
    m.runs = calloc(2 * (size_t)m.n_leaves, sizeof(*m.runs));
    if (!m.used || !m.runs) {
        extent_map_deinit(&m);
        return error_origin(-ENOMEM);
    }
    for (uint32_t i = n_pages / WORD; i < m.n_leaves; i++)
        m.used[i] = i == n_pages / WORD ? ~UINT64_C(0) << n_pages % WORD : ~UINT64_C(0);
    update(&m, 0, m.n_leaves - 1);
    *map = m;
    return 0;
}

void extent_map_deinit(struct extent_map *map)
{
    free(map->used);
    free(map->runs);
    *map = (struct extent_map){ 0 };
}

/* The lowest n ≤ 64 free pages in a row of a word that has them. */
static uint32_t in_word(uint64_t used, uint32_t n)
{
    uint64_t starts = ~used;

    for (uint32_t k = n, half; k > 1; k -= half) {
        half = k / 2;
        starts &= starts >> half;
    }
    return (uint32_t)__builtin_ctzll(starts);
}

static uint32_t find(const struct extent_map *m, uint32_t n)
{
    uint32_t node = 1, start = 0;
    uint64_t n_half = (uint64_t)m->n_leaves * WORD / 2;

    if (m->runs[1].best < n)
        return EXTENT_NONE;
    for (; node < m->n_leaves; n_half /= 2) {
        struct extent_run left = m->runs[2 * node], right = m->runs[2 * node + 1];

        if (left.best >= n) {
            node = 2 * node;
            continue;
        }
        if (left.tail + right.head >= n)
            return start + (uint32_t)n_half - left.tail;
        node = 2 * node + 1;
        start += (uint32_t)n_half;
    }
    return start + in_word(m->used[node - m->n_leaves], n);
}

uint32_t extent_take(struct extent_map *map, uint32_t n)
{
    uint32_t first = find(map, n);

    if (first == EXTENT_NONE)
        return EXTENT_NONE;
    mark(map, first, n, true);
    map->n_used += n;
    return first;
}

void extent_give(struct extent_map *map, uint32_t first, uint32_t n)
{
    assert(n && first < map->n_pages && n <= map->n_pages - first);
    mark(map, first, n, false);
    map->n_used -= n;
}

bool extent_claim(struct extent_map *map, uint32_t first, uint32_t n)
{
    uint32_t end = first + n;
    uint64_t bits;

    assert(n && first < map->n_pages && n <= map->n_pages - first);
    for (uint32_t at = first, k; at < end; at += k) {
        k = bits_at(at, end, &bits);
        if (map->used[at / WORD] & bits)
            return false;
    }
    flip(map, first, n, true);
    map->n_used += n;
    return true;
}

void extent_unclaim(struct extent_map *map, uint32_t first, uint32_t n)
{
    flip(map, first, n, false);
    map->n_used -= n;
}

void extent_settle(struct extent_map *map)
{
    update(map, 0, map->n_leaves - 1);
}
