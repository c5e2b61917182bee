/* daemon/work.c: the worker pool */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/work.h"

enum { N_WORKERS = 3 };

struct counted {
    struct job job;
    struct pool *pool;
    uint32_t slices_left;
    uint32_t *total; /* atomic */
};

static void count(struct job *job, uint32_t worker)
{
    struct counted *c = (struct counted *)job;

    assert_true(worker < N_WORKERS);
    __atomic_add_fetch(c->total, 1, __ATOMIC_RELAXED);
    if (--c->slices_left)
        pool_resubmit(c->pool, job);
}

/* what was admitted is run, with all its slices, before pool_free() returns */
static void test_runs_out(void **state)
{
    struct counted jobs[50];
    struct pool *pool;
    uint32_t total = 0, want = 0;

    (void)state;
    assert_int_equal(pool_new(N_WORKERS, 1000, &pool), 0);
    assert_int_equal(pool_n_workers(pool), N_WORKERS);
    for (uint32_t i = 0; i < 50; i++) {
        jobs[i] = (struct counted){ { .run = count }, pool, 1 + i % 7, &total };
        want += 1 + i % 7;
        assert_int_equal(pool_submit(pool, &jobs[i].job), 0);
    }
    assert_null(pool_free(pool));
    assert_int_equal(total, want);
    assert_null(pool_free(NULL));
}

struct gate {
    struct job job;
    bool open; /* atomic */
    bool entered;
};

static void wait_at_gate(struct job *job, uint32_t worker)
{
    struct gate *gate = (struct gate *)job;

    (void)worker;
    __atomic_store_n(&gate->entered, true, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&gate->open, __ATOMIC_ACQUIRE))
        usleep(100);
}

/* the bound refuses the job behind the last place, and slices pass it */
static void test_bound(void **state)
{
    struct gate gate = { .job.run = wait_at_gate };
    struct counted jobs[4];
    struct pool *pool;
    uint32_t total = 0, queued, running;

    (void)state;
    assert_int_equal(pool_new(1, 2, &pool), 0);
    assert_int_equal(pool_submit(pool, &gate.job), 0);
    while (!__atomic_load_n(&gate.entered, __ATOMIC_ACQUIRE))
        usleep(100);
    for (int i = 0; i < 4; i++)
        jobs[i] = (struct counted){ { .run = count }, pool, 1, &total };
    assert_int_equal(pool_submit(pool, &jobs[0].job), 0);
    assert_int_equal(pool_submit(pool, &jobs[1].job), 0);
    assert_int_equal(pool_submit(pool, &jobs[2].job), 1);
    pool_resubmit(pool, &jobs[3].job);
    pool_counts(pool, &queued, &running);
    assert_int_equal(queued, 3);
    assert_int_equal(running, 1);
    __atomic_store_n(&gate.open, true, __ATOMIC_RELEASE);
    pool_free(pool);
    assert_int_equal(total, 3);
}

struct order {
    struct job job;
    uint32_t *at;
    uint32_t me;
};

static uint32_t seen[8];

static void note(struct job *job, uint32_t worker)
{
    struct order *o = (struct order *)job;

    (void)worker;
    seen[(*o->at)++] = o->me;
}

static void test_order(void **state)
{
    struct order jobs[8];
    struct pool *pool;
    uint32_t at = 0;

    (void)state;
    assert_int_equal(pool_new(1, 100, &pool), 0);
    for (uint32_t i = 0; i < 8; i++) {
        jobs[i] = (struct order){ { .run = note }, &at, i };
        assert_int_equal(pool_submit(pool, &jobs[i].job), 0);
    }
    pool_free(pool);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(seen[i], i);
}

struct loop_test {
    struct pool_loop loop;
    uint8_t hits[1000];
    uint32_t stop_at;
    uint32_t n_turns, n_ends; /* atomic */
};

static bool turn(struct pool_loop *loop, uint32_t i, uint32_t worker)
{
    struct loop_test *t = (struct loop_test *)loop;

    assert_true(i < t->loop.n && worker < N_WORKERS);
    t->hits[i]++;
    __atomic_add_fetch(&t->n_turns, 1, __ATOMIC_RELAXED);
    return i != t->stop_at;
}

static void end(struct pool_loop *loop, uint32_t worker)
{
    (void)worker;
    __atomic_add_fetch(&((struct loop_test *)loop)->n_ends, 1, __ATOMIC_RELAXED);
}

static void run_loop(struct loop_test *t, uint32_t n, uint32_t stop_at)
{
    struct pool *pool;

    memset(t, 0, sizeof(*t));
    t->loop.n = n;
    t->loop.turn = turn;
    t->loop.end = end;
    t->stop_at = stop_at;
    assert_int_equal(pool_new(N_WORKERS, 10, &pool), 0);
    assert_int_equal(pool_loop_start(pool, &t->loop, false), 0);
    pool_free(pool);
    assert_int_equal(t->n_ends, 1);
}

/* each turn once, one end; after a stop no turn begins, and those before have all been begun */
static void test_loop(void **state)
{
    static const uint32_t SIZES[] = { 1, 2, 3, 4, 5, 100, 1000 };
    static struct loop_test t;

    (void)state;
    for (size_t k = 0; k < ARRAY_SIZE(SIZES); k++) {
        run_loop(&t, SIZES[k], UINT32_MAX);
        assert_int_equal(t.n_turns, SIZES[k]);
        for (uint32_t i = 0; i < SIZES[k]; i++)
            assert_int_equal(t.hits[i], 1);
    }
    run_loop(&t, 1000, 10);
    for (uint32_t i = 0; i <= 10; i++)
        assert_int_equal(t.hits[i], 1);
    assert_true(t.n_turns < 1000);
}

static void test_loop_refused(void **state)
{
    struct gate gate = { .job.run = wait_at_gate };
    struct loop_test *t = calloc(1, sizeof(*t));
    struct pool *pool;

    (void)state;
    t->loop.n = 5;
    t->loop.turn = turn;
    t->loop.end = end;
    t->stop_at = UINT32_MAX;
    assert_int_equal(pool_new(2, 0, &pool), 0);
    assert_int_equal(pool_loop_start(pool, &t->loop, false), 1);
    assert_int_equal(pool_submit(pool, &gate.job), 1);
    assert_int_equal(pool_loop_start(pool, &t->loop, true), 0);
    pool_free(pool);
    assert_int_equal(t->n_turns, 5);
    assert_int_equal(t->n_ends, 1);
    free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_out),     cmocka_unit_test(test_bound),
        cmocka_unit_test(test_order),        cmocka_unit_test(test_loop),
        cmocka_unit_test(test_loop_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
