/* tail: growing behind the committed rows, two slots in turn, leases, shortage */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "tests/util/store_tiles.h"

enum { ROW = 96 };

static struct tail *new_tail(struct store *s, uint64_t row_bytes)
{
    struct tail *tail = NULL;

    assert_int_equal(tail_new(s, 9, ZERO, DPQ_BF16, row_bytes, 256, 1256, 0, &tail), 0);
    return tail;
}

static void test_grow(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(2 * MIB, &c);
    struct dpq_reader *reader = NULL;
    struct dpq_slot_view view, old_view;
    struct store_object o, old;
    struct tail *tail = new_tail(s, ROW);
    uint8_t rows[128 * ROW];
    uint64_t freed = 0;

    (void)state;
    fill_bytes(rows, sizeof(rows), 1);
    tail_object(tail, &o);
    assert_true(o.ref.slot == SLOT_NONE); /* nothing to be seen before the first rows */
    assert_int_equal(dpq_reader_new(store_ro_fd(s), &reader, NULL), 0);
    assert_int_equal(tail_grow(tail, rows, 5), 0);
    tail_object(tail, &old);
    assert_int_equal(dpq_reader_slot(reader, &old.ref, true, &old_view), 0);
    assert_int_equal(tail_grow(tail, rows + 5 * ROW, 123), 0);
    tail_object(tail, &o);
    assert_int_equal(dpq_reader_slot(reader, &o.ref, true, &view), 0);
    assert_int_equal(view.kind, DPQ_SLOT_TAIL);
    assert_int_equal(view.dtype, DPQ_BF16);
    assert_int_equal(view.n_tokens, 128);
    assert_int_equal(view.first_index, 256);
    assert_int_equal(view.first_position, 1256);
    assert_int_equal(view.n_bytes, sizeof(rows));
    assert_memory_equal(view.bytes, rows, sizeof(rows));
    assert_int_equal(dpq_reader_check(reader, &old.ref), DPQ_E_GONE);
    assert_memory_equal(old_view.bytes, rows, 5 * ROW); /* acknowledged bytes are never touched */
    assert_int_equal(stats(s).tail_bytes, sizeof(rows));
    assert_int_equal(tail_n_tokens(tail), 128);
    assert_int_equal(tail_dtype(tail), DPQ_BF16);
    tail_free(tail, 0, &freed);
    assert_int_equal(freed, 3 * 4096 + 2 * ARENA_LINE_BYTES);
    assert_int_equal(dpq_reader_check(reader, &o.ref), DPQ_E_GONE);
    assert_true(drains(s));
    dpq_reader_free(reader);
    store_free(s);
}

/* Row by row: at any length the whole is there, under a checksum over all of it, in the two slots
 * in turn, and never is there a moment without a committed line. */
static void test_row_by_row(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(2 * MIB, &c);
    struct tail *tail = new_tail(s, ROW);
    struct dpq_slot_ref before = { .slot = SLOT_NONE }, first = { 0 };
    struct dpq_reader *reader = NULL;
    struct dpq_slot_view view;
    struct store_object o;
    uint8_t rows[128 * ROW];

    (void)state;
    fill_bytes(rows, sizeof(rows), 2);
    assert_int_equal(dpq_reader_new(store_ro_fd(s), &reader, NULL), 0);
    for (uint32_t i = 0; i < 128; i++) {
        assert_int_equal(tail_grow(tail, rows + i * ROW, 1), 0);
        tail_object(tail, &o);
        assert_int_equal(dpq_reader_slot(reader, &o.ref, true, &view), 0);
        assert_int_equal(view.n_tokens, i + 1);
        assert_memory_equal(view.bytes, rows, (i + 1) * ROW);
        if (!i)
            first = o.ref;
        assert_true((o.ref.slot == first.slot) == (i % 2 == 0));
        assert_true(o.ref.slot != before.slot);
        if (i)
            assert_int_equal(dpq_reader_slot(reader, &before, true, &view), DPQ_E_GONE);
        before = o.ref;
    }
    tail_free(tail, 0, NULL);
    assert_true(drains(s));
    dpq_reader_free(reader);
    store_free(s);
}

/* The line in the arena says everything that a restart needs. */
static void test_line(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(2 * MIB, &c);
    struct tail *tail = NULL;
    uint8_t profile[32], rows[3 * ROW] = { 0 };
    const struct arena_line *line;
    struct store_object o;

    (void)state;
    fill_bytes(profile, sizeof(profile), 3);
    assert_int_equal(tail_new(s, 77, profile, DPQ_F32, ROW, 128, 1128, 0, &tail), 0);
    assert_int_equal(tail_grow(tail, rows, 3), 0);
    tail_object(tail, &o);
    line = &s->arena.lines[o.ref.slot];
    assert_true(line->word == slot_word(o.ref.generation, SLOT_COMMITTED));
    assert_int_equal(line->kind, DPQ_SLOT_TAIL);
    assert_int_equal(line->dtype, DPQ_F32);
    assert_int_equal(line->sequence_id, 77);
    assert_int_equal(line->first_index, 128);
    assert_int_equal(line->first_position, 1128);
    assert_int_equal(line->n_tokens, 3);
    assert_int_equal(line->n_bytes, 3 * ROW);
    assert_int_equal(line->checksum, hash_xxh3(rows, sizeof(rows)));
    assert_memory_equal(line->profile, profile, sizeof(line->profile));
    assert_memory_equal(line->key, ZERO, 32);
    tail_free(tail, 0, NULL);
    store_free(s);
}

static void test_lease(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct tail *tail = new_tail(s, 4096); /* half of the arena */
    struct store_object o;
    struct tile *t = NULL;
    uint8_t row[4096];

    (void)state;
    fill_bytes(row, sizeof(row), 4);
    assert_int_equal(tail_grow(tail, row, 1), 0);
    tail_object(tail, &o);
    tail_lease(tail, 500);
    tail_lease(tail, 400); /* never shorter */
    tail_free(tail, 100, NULL);
    assert_int_equal(stats(s).used_bytes, 128 * 4096);
    assert_int_equal(put_at(s, 1, 600000, 0, 499, &t), STORE_E_FULL);
    assert_memory_equal(o.bytes, row, sizeof(row));
    assert_int_equal(put_at(s, 1, 600000, 0, 500, &t), 0);
    tile_unref(t, false, 500, NULL);
    assert_true(drains(s));
    store_free(s);
}

/* Too large, and neither slots nor extents to be had: nothing changes. */
static void test_full(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct tail *tail = NULL, *tails[64] = { NULL };
    struct tile *t = NULL;
    int n = 0;

    (void)state;
    assert_int_equal(tail_new(s, 1, ZERO, 0, UINT64_MAX / 128 + 2, 0, 0, 0, &tail), STORE_E_FULL);
    assert_int_equal(tail_new(s, 1, ZERO, 0, 1 << 20, 0, 0, 0, &tail), STORE_E_FULL);
    assert_true(drains(s));
    assert_int_equal(put(s, 1, 1000, 0, &t), 0); /* evicted when slots are short, too */
    tile_unref(t, false, 0, NULL);
    while (!tail_new(s, 1, ZERO, 0, 16, 0, 0, 0, &tails[n]))
        n++;
    assert_int_equal(n, 32); /* 64 slots */
    assert_int_equal(c.n, 1);
    assert_int_equal(stats(s).used_bytes, 32 * 4096);
    while (n)
        tail_free(tails[--n], 0, NULL);
    assert_null(tail_free(NULL, 0, NULL));
    assert_true(drains(s));
    store_free(s);
}

/* --- a tail that grows while others look -------------------------------------------------------
 */

struct watch {
    struct store *store;
    struct tail *tail;
    struct dpq_reader *reader;
    const uint8_t *rows;
    _Atomic int stop;
    _Atomic long n_seen;
};

static void *look_on(void *arg)
{
    struct watch *w = arg;

    while (!atomic_load(&w->stop)) {
        struct store_scrubbed sum;
        struct dpq_slot_view view;
        struct store_object o;
        int r;

        store_scrub(w->store, 1, 0, &sum);
        if (sum.n_corrupt)
            abort();
        tail_object(w->tail, &o);
        if (!o.n_bytes)
            continue;
        if (memcmp(o.bytes, w->rows, o.n_bytes))
            abort();
        r = dpq_reader_slot(w->reader, &o.ref, true, &view);
        if (r == DPQ_E_CORRUPT || (!r && view.n_bytes != o.n_bytes))
            abort();
        atomic_fetch_add(&w->n_seen, 1);
    }
    return NULL;
}

static void test_watched(void **state)
{
    struct counted c = { 0 };
    struct store *s = new_store(2 * MIB, &c);
    uint8_t *rows = malloc(128 * ROW);
    pthread_t thread;

    (void)state;
    assert_non_null(rows);
    fill_bytes(rows, 128 * ROW, 5);
    for (int round = 0; round < 20; round++) {
        struct watch w = { .store = s, .tail = new_tail(s, ROW), .rows = rows };

        assert_int_equal(dpq_reader_new(store_ro_fd(s), &w.reader, NULL), 0);
        assert_int_equal(pthread_create(&thread, NULL, look_on, &w), 0);
        for (uint32_t i = 0; i < 128; i++)
            assert_int_equal(tail_grow(w.tail, rows + i * ROW, 1), 0);
        while (!atomic_load(&w.n_seen))
            sched_yield();
        atomic_store(&w.stop, 1);
        pthread_join(thread, NULL);
        tail_free(w.tail, 0, NULL);
        dpq_reader_free(w.reader);
    }
    assert_true(drains(s));
    free(rows);
    store_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grow), cmocka_unit_test(test_row_by_row),
        cmocka_unit_test(test_line), cmocka_unit_test(test_lease),
        cmocka_unit_test(test_full), cmocka_unit_test(test_watched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
