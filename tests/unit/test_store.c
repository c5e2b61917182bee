/* store: put, get, references, eviction, leases, failing allocations, writers and readers at once
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/util/store_tiles.h"

static void test_put_get(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(4 * MIB, &c);
    struct tile *t, *again, *got;
    struct store_object base, fine;
    uint8_t key[32];

    (void)state;
    make_key(key, 7);
    assert_int_equal(store_get(s, key, &t), STORE_E_NONE);
    assert_int_equal(put(s, 7, OBJECT, 5000, &t), 0);
    assert_int_equal(put(s, 7, 10, 0, &again), STORE_E_EXISTS); /* the first writer wins */
    assert_ptr_equal(t, again);
    assert_int_equal(store_get(s, key, &got), 0);
    assert_memory_equal(tile_key(got), key, 32);
    tile_objects(got, &base, &fine);
    assert_int_equal(base.n_bytes, OBJECT);
    assert_int_equal(fine.n_bytes, 5000);
    assert_true(are_bytes(base.bytes, OBJECT, 7));
    assert_true(are_bytes(fine.bytes, 5000, ~(uint64_t)7));
    assert_int_equal((uintptr_t)base.bytes % 4096, 0);
    assert_int_equal(stats(s).n_tiles, 1);
    assert_int_equal(stats(s).tile_numbers, 1000);
    assert_int_equal(stats(s).used_bytes, (25 + 2) * 4096);
    assert_int_equal(stats(s).tile_bytes, (25 + 2) * 4096 + 2 * ARENA_LINE_BYTES);
    for (int i = 0; i < 3; i++)
        tile_unref(t, false, 0, NULL);
    assert_int_equal(store_get(s, key, &got), 0); /* cached without a reference */
    tile_unref(got, true, 0, NULL);
    assert_int_equal(store_get(s, key, &got), STORE_E_NONE);
    assert_true(drains(s));
    store_free(s);
}

static void test_without_fine(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct store_object base, fine;
    struct tile *t;
    uint64_t freed = 0;

    (void)state;
    assert_int_equal(put(s, 1, 4096, 0, &t), 0);
    tile_objects(t, &base, &fine);
    assert_int_equal(fine.n_bytes, 0);
    assert_true(fine.ref.slot == SLOT_NONE);
    tile_ref(t);
    assert_null(tile_unref(t, true, 0, &freed)); /* discard counts with the last one only */
    assert_int_equal(freed, 0);
    tile_unref(t, true, 0, &freed);
    assert_int_equal(freed, 4096 + ARENA_LINE_BYTES);
    assert_null(tile_unref(NULL, true, 0, &freed));
    assert_int_equal(freed, 0);
    assert_true(drains(s));
    store_free(s);
}

/* One flipped bit anywhere is found. */
static void test_verify(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct tile *t, *again;
    uint8_t key[32];

    (void)state;
    assert_int_equal(put(s, 1, 5000, 300, &t), 0);
    assert_int_equal(tile_verify(t), 0);
    for (int k = 0; k < 2; k++) {
        uint8_t *bytes = place_bytes(s, k ? &t->fine : &t->base);

        for (size_t bit = 0; bit < 8 * (k ? 300 : 5000); bit += k ? 1 : 7) {
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_false(place_intact(s, k ? &t->fine : &t->base));
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
    assert_int_equal(tile_verify(t), 0);
    place_bytes(s, &t->fine)[299] ^= 1;
    assert_int_equal(tile_verify(t), STORE_E_CORRUPT);
    place_bytes(s, &t->fine)[299] ^= 1;
    assert_int_equal(tile_check(t), STORE_E_CORRUPT); /* once is enough */
    make_key(key, 1);
    assert_int_equal(store_get(s, key, &again), STORE_E_NONE);
    assert_int_equal(put(s, 1, 5000, 300, &again), 0); /* and can be stored afresh */
    assert_true(again != t);
    assert_int_equal(stats(s).n_corrupt, 1);
    tile_unref(t, false, 0, NULL); /* is not kept */
    assert_int_equal(stats(s).n_tiles, 1);
    tile_unref(again, false, 0, NULL);
    assert_true(drains(s));
    store_free(s);
}

/* The line in the arena says everything that a restart needs. */
static void test_line(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    uint8_t key[32], parent[32], profile[32], bytes[600];
    struct store_put_args a = { .key = key,
                                .parent = parent,
                                .profile = profile,
                                .sequence_id = UINT64_C(0xfedcba9876543210),
                                .first_index = 1280,
                                .first_position = 5376,
                                .rate = DPQ_RATE_BALANCED,
                                .base = bytes,
                                .n_base = 500,
                                .fine = bytes + 500,
                                .n_fine = 100 };
    struct store_object o[2];
    struct tile *t;

    (void)state;
    make_key(key, 1);
    make_key(parent, 2);
    make_key(profile, 3);
    fill_bytes(bytes, sizeof(bytes), 4);
    assert_int_equal(store_put(s, &a, 0, &t), 0);
    tile_objects(t, &o[0], &o[1]);
    for (int i = 0; i < 2; i++) {
        const struct arena_line *line = &s->arena.lines[o[i].ref.slot];

        assert_true(line->word == slot_word(o[i].ref.generation, SLOT_COMMITTED));
        assert_int_equal(line->kind, i ? DPQ_SLOT_FINE : DPQ_SLOT_BASE);
        assert_memory_equal(line->key, key, 32);
        assert_memory_equal(line->parent, parent, sizeof(line->parent));
        assert_memory_equal(line->profile, profile, sizeof(line->profile));
        assert_true(line->sequence_id == a.sequence_id);
        assert_int_equal(line->first_index, 1280);
        assert_int_equal(line->first_position, 5376);
        assert_int_equal(line->n_tokens, 128);
        assert_int_equal(line->rate, DPQ_RATE_BALANCED);
        assert_int_equal(line->n_bytes, i ? 100 : 500);
        assert_ptr_equal(arena_extent(&s->arena, line->first_page), o[i].bytes);
        assert_true(line->checksum == hash_xxh3(o[i].bytes, o[i].n_bytes));
        assert_true(line->line_checksum == line_checksum(line));
    }
    tile_unref(t, false, 0, NULL);
    store_free(s);
}

/* Room is made by evicting what nobody refers to, oldest first, never what is leased. */
static void test_eviction(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct tile *t[16], *extra;
    uint8_t key[32];
    int n = 0;

    (void)state;
    while (put(s, (uint8_t)n, OBJECT, 0, &t[n]) == 0)
        n++;
    assert_in_range(n, 8, 10);
    assert_int_equal(c.n, 0); /* all are referenced: full is full */
    tile_lease(t[3], 1000);
    tile_unref(t[3], false, 0, NULL);
    assert_int_equal(put_at(s, 100, OBJECT, 0, 999, &extra), STORE_E_FULL); /* leased until 1000 */
    tile_unref(t[5], false, 0, NULL);
    s->evict.now += 1 << 16; /* as if much had been stored meanwhile */
    tile_unref(t[1], false, 0, NULL);
    assert_int_equal(put(s, 100, OBJECT, 0, &extra), 0);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.last, 5);
    make_key(key, 1);
    assert_int_equal(store_get(s, key, &t[1]), 0); /* referenced again: not evictable any more */
    assert_int_equal(put(s, 101, OBJECT, 0, &t[5]), STORE_E_FULL);
    assert_int_equal(put_at(s, 101, OBJECT, 0, 1000, &t[5]), 0); /* in place of 3 */
    assert_int_equal(c.last, 3);
    assert_int_equal(stats(s).n_evicted, 2);
    for (int i = 0; i < n; i++)
        if (i != 3)
            tile_unref(t[i], false, 0, NULL);
    tile_unref(extra, false, 0, NULL);
    assert_true(drains(s));
    store_free(s);
}

/* Cold fine objects go before any tile does; not those that are kept, held or leased. */
static void test_drop_first(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct store_object base, fine;
    struct tile *t[16], *extra;
    int n = 0;

    (void)state;
    while (put(s, (uint8_t)n, OBJECT, 60000, &t[n]) == 0)
        n++;
    assert_in_range(n, 4, 6);
    t[0]->flags |= TILE_KEEPS_FINE;
    assert_int_equal(tile_drop_fine(t[0], 0, NULL), STORE_E_BUSY);
    tile_lease(t[1], 1000);
    for (int i = 0; i < n; i++)
        tile_unref(t[i], false, 0, NULL);
    assert_int_equal(put_at(s, 100, 60000, 0, 999, &extra), 0);
    tile_objects(t[2], &base, &fine);
    assert_int_equal(fine.n_bytes, 0);
    assert_int_equal(base.n_bytes, OBJECT);
    assert_int_equal(c.n, 0);
    assert_int_equal(stats(s).n_fine_dropped, 1);
    for (int i = 3; i < n; i++)
        assert_int_equal(put_at(s, (uint8_t)(100 + i), 60000, 0, 999, &t[i]), 0);
    assert_int_equal(c.n, 0);
    assert_int_equal(put_at(s, 120, 60000, 0, 1000, &t[1]), 0); /* its lease is over */
    assert_int_equal(stats(s).n_fine_dropped, n - 1);
    assert_int_equal(c.n, 0);
    assert_int_equal(put_at(s, 121, 60000, 0, 1000, &t[0]), 0); /* none is left */
    assert_int_equal(stats(s).n_fine_dropped, n - 1);
    assert_true(c.n > 0);
    tile_unref(t[0], false, 0, NULL);
    tile_unref(t[1], false, 0, NULL);
    for (int i = 3; i < n; i++)
        tile_unref(t[i], false, 0, NULL);
    tile_unref(extra, false, 0, NULL);
    assert_true(drains_at(s, 1000));
    store_free(s);
}

/* Nothing is taken from those who have not all offered it; what is taken is a name until they let
 * go. */
static void test_relieve(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct store_change changes[8];
    struct store_object base, fine;
    struct tile *t[4];
    uint8_t key[32];

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(put(s, (uint8_t)i, OBJECT, 60000, &t[i]), 0);
    tile_ref(t[1]); /* somebody else's */
    tile_hold(t[2]);
    assert_int_equal(store_relieve(s, 0, 0, changes, 8), 0);
    store_offer(s, t, 4, true, false);
    assert_int_equal(store_relieve(s, 0, 0, changes, 8), 2); /* fine objects of 0 and 3 */
    assert_false(changes[0].is_evicted || changes[1].is_evicted);
    store_withdraw(s, t, 4);
    assert_int_equal(store_relieve(s, 0, 0, changes, 8), 0);
    for (int i = 0; i < 4; i++) /* of four sequences */
        store_offer(s, &t[i], 1, true, true);
    assert_int_equal(store_relieve(s, stats(s).used_bytes - 1, 0, changes, 8), 1);
    assert_true(changes[0].is_evicted);
    assert_true(tile_is_evicted(changes[0].tile));
    assert_int_equal(store_relieve(s, 0, 0, changes, 8), 1);
    store_withdraw(s, t, 4);
    assert_true(tile_is_evicted(t[0]) && tile_is_evicted(t[3]));
    assert_false(tile_is_evicted(t[1]) || tile_is_evicted(t[2]));
    assert_int_equal(c.n, 0); /* nobody is called for what is returned */
    assert_int_equal(stats(s).n_tiles, 2);
    assert_int_equal(stats(s).n_evicted, 2);
    make_key(key, 0);
    assert_memory_equal(tile_key(t[0]), key, 32);
    tile_objects(t[0], &base, &fine);
    assert_int_equal(base.n_bytes, 0);
    assert_int_equal(tile_check(t[0]), STORE_E_CORRUPT);
    assert_int_equal(put(s, 0, OBJECT, 0, &t[0]), 0); /* in another slot */
    tile_unref(changes[0].tile, false, 0, NULL);
    tile_let_go(t[2]);
    tile_unref(t[1], false, 0, NULL);
    for (int i = 0; i < 3; i++)
        tile_unref(t[i], false, 0, NULL);
    store_free(s);
}

/* Who offers is told by store_relieve() what became of it; a put of somebody else's would take it
 * without a word. */
static void test_put_among_offers(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct store_change changes[8];
    struct tile *t[16], *extra;
    int n = 0;

    (void)state;
    while (!put(s, (uint8_t)n, OBJECT, 60000, &t[n]))
        n++;
    assert_in_range(n, 3, 15);
    tile_unref(t[--n], false, 0, NULL); /* room enough */
    store_offer(s, t, (size_t)n, true, true);
    assert_int_equal(put(s, 99, OBJECT, 60000, &extra), 0);
    assert_int_equal(c.n, 1);
    assert_int_equal(stats(s).n_tiles, n + 1);
    assert_int_equal(stats(s).n_fine_dropped, 1);
    store_withdraw(s, t, (size_t)n);
    store_offer(s, t, (size_t)n, true, true);
    assert_int_equal(store_relieve(s, 0, 0, changes, 8), 8);
    store_withdraw(s, t, (size_t)n);
    tile_unref(extra, false, 0, NULL);
    for (int i = 0; i < n; i++)
        tile_unref(t[i], false, 0, NULL);
    store_free(s);
}

/* A put that can't succeed does not cost the cache. */
static void test_hopeless(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct tile *t[4], *big;

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(put(s, (uint8_t)i, OBJECT, 0, &t[i]), 0);
    tile_unref(t[0], false, 0, NULL);
    tile_unref(t[2], false, 0, NULL);
    assert_int_equal(put(s, 9, 2 * MIB, 0, &big), STORE_E_FULL);
    assert_int_equal(put(s, 9, MIB - 200000, 0, &big), STORE_E_FULL);
    assert_int_equal(put(s, 9, 10, 2 * MIB, &big), STORE_E_FULL); /* the base goes back */
    assert_int_equal(c.n, 0);
    assert_int_equal(stats(s).n_tiles, 4);
    assert_int_equal(put(s, 9, 600000, OBJECT, &big), 0); /* the fine object in place of one */
    assert_int_equal(c.n, 1);
    tile_unref(t[1], false, 0, NULL);
    tile_unref(t[3], false, 0, NULL);
    tile_unref(big, false, 0, NULL);
    assert_true(drains(s));
    store_free(s);
}

/* Small tiles run out of slots before they run out of room. */
static void test_slots(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct tile *t[64];

    (void)state;
    for (int i = 0; i < 32; i++)
        assert_int_equal(put(s, (uint8_t)i, 10, 10, &t[i]), 0);
    assert_int_equal(put(s, 99, 10, 0, &t[32]), STORE_E_FULL);
    tile_unref(t[8], false, 0, NULL);
    assert_int_equal(put(s, 99, 10, 10, &t[8]), 0);
    assert_int_equal(c.last, 8);
    for (int i = 0; i < 32; i++)
        tile_unref(t[i], false, 0, NULL);
    assert_true(drains(s));
    store_free(s);
}

/* What is freed under a lease is not handed out again before it expires; others do not wait. */
static void test_lease(void **state)
{
    static const uint64_t UNTIL[] = { 500, 300, 900, 300, 700 };
    struct counted c = { 0 };
    struct store *s = new_store(2 * MIB, &c);
    struct store_object o[ARRAY_SIZE(UNTIL)], fine;
    struct tile *t;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(UNTIL); i++) {
        assert_int_equal(put(s, (uint8_t)i, OBJECT, 5000, &t), 0);
        tile_objects(t, &o[i], &fine);
        tile_lease(t, UNTIL[i]);
        tile_lease(t, 10); /* never shorter */
        tile_unref(t, true, 100, NULL);
    }
    assert_int_equal(stats(s).n_tiles, 0);
    assert_int_equal(stats(s).used_bytes, ARRAY_SIZE(UNTIL) * 27 * 4096); /* waiting */
    for (uint64_t now = 299; now <= 900; now++) {
        uint64_t n_waiting = (uint64_t)(now < 300) * 2 + (now < 500) + (now < 700) + (now < 900);

        space_reap(s, now);
        assert_int_equal(stats(s).used_bytes, n_waiting * 27 * 4096);
        for (size_t i = 0; i < ARRAY_SIZE(UNTIL) && now % 50 == 49; i++)
            if (now < UNTIL[i])
                assert_true(are_bytes(o[i].bytes, OBJECT, i));
    }
    assert_int_equal(put_at(s, 50, 2 * MIB - 100000, 0, 900, &t), 0); /* all is one run again */
    tile_unref(t, true, 900, NULL);
    assert_true(drains(s));
    assert_int_equal(put(s, 1, OBJECT, 0, &t), 0);
    tile_lease(t, UINT64_MAX - 1);
    tile_unref(t, true, 100, NULL);
    store_free(s); /* nobody waits for that */
}

static void test_sizes(void **state)
{
    struct store *s = NULL;
    struct counted c = { 0 };
    struct tile *t;

    (void)state;
    assert_int_equal(store_new(MIB - 1, "t", NULL, NULL, &s), STORE_E_SIZE);
    assert_int_equal(store_new(UINT64_C(1) << 60, "t", NULL, NULL, &s), STORE_E_SIZE);
    assert_null(s);
    s = new_store(MIB, &c);
    assert_int_equal(stats(s).arena_bytes, MIB);
    assert_int_equal(s->arena.header.n_slots, 64);
    assert_int_equal(put(s, 1, (size_t)arena_n_pages(&s->arena) * 4096, 0, &t), 0); /* all of it */
    tile_unref(t, true, 0, NULL);
    assert_true(drains(s));
    store_free(s);
    s = new_store(33 * MIB + 5, &c);
    assert_int_equal(stats(s).arena_bytes, 33 * MIB + 4096);
    assert_int_equal(s->arena.header.n_slots, (33 * MIB + 4096) / 16384);
    store_free(s);
    assert_null(store_free(NULL));
}

/* The fine object goes for good, and never while somebody reads it or a lease lasts. */
static void test_drop_fine(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct store_object base, fine, old;
    struct tile *t;
    uint64_t freed = 0;

    (void)state;
    assert_int_equal(put(s, 1, 5000, 300, &t), 0);
    tile_objects(t, &base, &old);
    tile_hold(t);
    tile_hold(t);
    tile_let_go(t);
    assert_int_equal(tile_drop_fine(t, 0, &freed), STORE_E_BUSY);
    assert_true(are_bytes(old.bytes, 300, ~(uint64_t)1));
    tile_let_go(t);
    tile_lease(t, 50);
    assert_int_equal(tile_drop_fine(t, 10, &freed), 0);
    assert_int_equal(freed, 4096 + ARENA_LINE_BYTES);
    assert_int_equal(tile_drop_fine(t, 10, &freed), STORE_E_NONE);
    assert_int_equal(freed, 0);
    assert_true(s->arena.lines[old.ref.slot].word == slot_word(old.ref.generation, SLOT_BURIED));
    assert_int_equal(stats(s).used_bytes, 3 * 4096);
    space_reap(s, 50);
    assert_int_equal(stats(s).used_bytes, 2 * 4096);
    assert_true(s->arena.lines[old.ref.slot].word == slot_word(old.ref.generation + 1, SLOT_FREE));
    tile_objects(t, &base, &fine);
    assert_int_equal(fine.n_bytes, 0);
    assert_true(are_bytes(base.bytes, 5000, 1));
    assert_int_equal(stats(s).n_fine_dropped, 1);
    tile_unref(t, true, 50, NULL);
    assert_true(drains(s));
    assert_int_equal(put(s, 2, 5000, 300, &t), 0); /* of one that nobody refers to */
    tile_unref(t, false, 50, NULL);
    assert_int_equal(tile_drop_fine(t, 50, &freed), 0);
    assert_true(drains(s));
    store_free(s);
}

/* --- failing allocations ---------------------------------------------------------------------- */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void __wrap_free(void *p);

static _Atomic long n_live;
static _Atomic long fail_at; /* the fail_at-th allocation from now on fails; 0: none */

static bool fails_now(void)
{
    return fail_at && !--fail_at;
}

void *__wrap_malloc(size_t n)
{
    void *p = fails_now() ? NULL : __real_malloc(n);

    n_live += p != NULL;
    return p;
}

void *__wrap_calloc(size_t n, size_t size)
{
    void *p = fails_now() ? NULL : __real_calloc(n, size);

    n_live += p != NULL;
    return p;
}

void __wrap_free(void *p)
{
    n_live -= p != NULL;
    __real_free(p);
}

static int n_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* A life in a store: each allocation of it fails once. */
static int live(void)
{
    static const uint8_t KEY[32] = { 1 }, BYTES[100];
    struct store_put_args a = { .key = KEY,
                                .parent = ZERO,
                                .profile = ZERO,
                                .base = BYTES,
                                .n_base = sizeof(BYTES),
                                .fine = BYTES,
                                .n_fine = sizeof(BYTES) };
    struct dpq_reader *reader = NULL;
    struct store *s = NULL;
    struct tile *t = NULL;
    struct record *record = NULL;
    struct tail *tail = NULL;
    int r;

    r = store_new(MIB, "t", NULL, NULL, &s);
    if (!r)
        r = store_put(s, &a, 0, &t);
    if (!r)
        r = tail_new(s, 1, ZERO, 0, 16, 0, 0, 0, &tail);
    if (!r)
        r = record_new(s, 1, BYTES, 10, 100, NULL, 0, &record);
    if (!r)
        r = dpq_reader_new(store_ro_fd(s), &reader, NULL);
    tail_free(tail, 0, NULL);
    record_free(record, 0);
    tile_unref(t, false, 0, NULL);
    dpq_reader_free(reader);
    assert_true(!s || drains(s));
    store_free(s);
    return r;
}

static void test_allocations(void **state)
{
    int n_fds = n_descriptors(), r = -ENOMEM;
    long n_before = n_live;
    long k;

    (void)state;
    for (k = 1; r; k++) {
        assert_true(k < 50);
        fail_at = k;
        r = live();
        fail_at = 0;
        assert_true(!r || r == -ENOMEM);
        assert_int_equal(n_live, n_before);
        assert_int_equal(n_descriptors(), n_fds);
    }
    assert_true(k > 8);
}

/* --- writers and readers at once -------------------------------------------------------------- */

enum { N_NAMES = 120, N_WRITERS = 3, N_PUTS = 1500, N_KEPT = 8 };

struct shared_refs {
    _Atomic uint64_t slot[N_KEPT], generation[N_KEPT];
    _Atomic int stop;
    _Atomic long n_read, n_gone, n_changed;
};

/* Whatever is read under an unchanged generation is one tile's bytes, whole. */
static void read_on(int fd, struct shared_refs *refs)
{
    struct dpq_reader *reader = NULL;

    if (dpq_reader_new(fd, &reader, NULL))
        abort();
    for (unsigned i = 0; !atomic_load(&refs->stop); i = (i + 1) % N_KEPT) {
        struct dpq_slot_ref ref = { atomic_load(&refs->slot[i]),
                                    atomic_load(&refs->generation[i]) };
        struct dpq_slot_view view;
        int r = dpq_reader_slot(reader, &ref, /* verify= */ i % 2, &view);
        bool good;

        if (r == DPQ_E_CORRUPT || r < 0)
            abort();
        if (r) {
            atomic_fetch_add(&refs->n_gone, 1);
            continue;
        }
        good = are_bytes(view.bytes, view.n_bytes,
                         view.kind == DPQ_SLOT_FINE ? ~(view.first_index / 128)
                                                    : view.first_index / 128);
        if (dpq_reader_check(reader, &ref))
            atomic_fetch_add(&refs->n_changed, 1);
        else if (!good)
            abort();
        else
            atomic_fetch_add(&refs->n_read, 1);
    }
    dpq_reader_free(reader);
}

struct crew {
    struct store *store;
    struct shared_refs *refs;
    unsigned seed;
    pthread_barrier_t *start;
};

static void publish_refs(struct shared_refs *refs, size_t i, const struct store_object *o)
{
    if (!o->n_bytes)
        return;
    /* the two may not fit together for a moment: that reference is then of no slot's past */
    atomic_store(&refs->slot[i % N_KEPT], o->ref.slot);
    atomic_store(&refs->generation[i % N_KEPT], o->ref.generation);
}

static void *write_on(void *arg)
{
    struct crew *w = arg;
    struct rng r = rng_seed(w->seed);

    for (int i = 0; i < N_PUTS; i++) {
        struct store_object base, fine;
        struct tile *t = NULL;
        int e = put(w->store, (uint8_t)rng_below(&r, N_NAMES), 4000 + rng_below(&r, 90000),
                    rng_below(&r, 2) * 3000, &t);

        if (e == STORE_E_FULL)
            continue;
        if (e && e != STORE_E_EXISTS)
            abort();
        tile_objects(t, &base, &fine);
        publish_refs(w->refs, (size_t)i, &base);
        publish_refs(w->refs, (size_t)i + 1, &fine);
        if (tile_verify(t))
            abort();
        tile_unref(t, rng_below(&r, 2), 0, NULL);
    }
    return NULL;
}

static void *read_here(void *arg)
{
    struct crew *w = arg;

    read_on(store_ro_fd(w->store), w->refs);
    return NULL;
}

static void test_concurrent(void **state)
{
    struct shared_refs *refs =
        mmap(NULL, sizeof(*refs), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct counted c = { 0 };
    struct store *s = new_store(2 * MIB, &c);
    struct crew w[N_WRITERS + 1];
    pthread_t threads[N_WRITERS + 1];
    int status;
    pid_t pid;

    (void)state;
    pid = fork();
    if (!pid) {
        read_on(store_ro_fd(s), refs);
        _exit(0);
    }
    for (unsigned i = 0; i <= N_WRITERS; i++) {
        w[i] = (struct crew){ .store = s, .refs = refs, .seed = i };
        pthread_create(&threads[i], NULL, i < N_WRITERS ? write_on : read_here, &w[i]);
    }
    for (unsigned i = 0; i < N_WRITERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&refs->stop, 1);
    pthread_join(threads[N_WRITERS], NULL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(refs->n_read > 0 && refs->n_gone > 0);
    assert_true(c.n > 0);
    assert_true(drains(s));
    store_free(s);
    munmap(refs, sizeof(*refs));
}

enum { HALF = 2 * MIB }; /* long enough for the other to come in between */

/* Two that put the same key at the same time get the same tile. */
static void *put_same(void *arg)
{
    static const uint8_t KEY[32] = { 5 };
    struct crew *w = arg;
    uint8_t *bytes = calloc(2, HALF);
    struct store_put_args a = { .key = KEY,
                                .parent = ZERO,
                                .profile = ZERO,
                                .base = bytes,
                                .n_base = HALF,
                                .fine = bytes + HALF,
                                .n_fine = HALF };
    struct tile *t = NULL;

    if (!bytes)
        abort();
    pthread_barrier_wait(w->start);
    if (store_put(w->store, &a, 0, &t) < 0)
        abort();
    free(bytes);
    return t;
}

static void test_same_key(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(16 * MIB, &c);
    pthread_barrier_t start;
    struct crew w = { .store = s, .start = &start };
    pthread_t threads[2];
    void *tiles[2];

    (void)state;
    pthread_barrier_init(&start, NULL, 2);
    for (int i = 0; i < 50; i++) {
        for (int k = 0; k < 2; k++)
            pthread_create(&threads[k], NULL, put_same, &w);
        for (int k = 0; k < 2; k++)
            pthread_join(threads[k], &tiles[k]);
        assert_non_null(tiles[0]);
        assert_ptr_equal(tiles[0], tiles[1]);
        assert_int_equal(stats(s).n_tiles, 1);
        tile_unref(tiles[0], true, 0, NULL);
        tile_unref(tiles[1], true, 0, NULL);
        assert_true(drains(s));
    }
    pthread_barrier_destroy(&start);
    store_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_get),    cmocka_unit_test(test_without_fine),
        cmocka_unit_test(test_verify),     cmocka_unit_test(test_line),
        cmocka_unit_test(test_eviction),   cmocka_unit_test(test_drop_first),
        cmocka_unit_test(test_relieve),    cmocka_unit_test(test_put_among_offers),
        cmocka_unit_test(test_hopeless),   cmocka_unit_test(test_slots),
        cmocka_unit_test(test_lease),      cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_drop_fine),  cmocka_unit_test(test_allocations),
        cmocka_unit_test(test_concurrent), cmocka_unit_test(test_same_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
