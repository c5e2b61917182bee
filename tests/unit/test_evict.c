/* evict: the order of the policy against a plain search, chains, scans, and traces against LRU */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "tests/util/evict_sim.h"

enum { N = 300, STEPS = 30000, ROOM = 1 << 20, BYTES = 8192 };

static struct evict new_evict(uint32_t n)
{
    struct evict e;

    assert_int_equal(evict_init(&e, n, ROOM), 0);
    return e;
}

static enum evict_answer yes(void *user, uint32_t number)
{
    (void)user;
    (void)number;
    return EVICT_YES;
}

static uint32_t take(struct evict *e)
{
    uint32_t number = evict_take(e, yes, NULL);

    if (number != EVICT_NONE)
        evict_remove(e, number);
    return number;
}

static void wait(struct evict *e)
{
    e->now += 1 << 14;
}

static void add(struct evict *e, uint32_t number, uint32_t parent)
{
    wait(e);
    evict_add(e, number, parent, 1, BYTES);
    evict_offer(e, number);
}

/* Children before parents, whatever is due first. */
static void test_chains(void **state)
{
    struct evict e = new_evict(8);

    (void)state;
    add(&e, 0, EVICT_NONE);
    add(&e, 1, 0);
    add(&e, 2, 1);
    add(&e, 3, 1);
    wait(&e);
    evict_use(&e, 2);
    assert_int_equal(take(&e), 3);
    assert_int_equal(take(&e), 2);
    assert_int_equal(take(&e), 1);
    add(&e, 4, 0);
    assert_int_equal(take(&e), 4);
    assert_int_equal(take(&e), 0);
    assert_int_equal(take(&e), EVICT_NONE);
    evict_deinit(&e);
    evict_deinit(&e); /* twice is fine */
}

/* What is cheap to compute again, for its bytes, goes before what is not. Without that the first
 * one here would go last: of later ones more were there that nobody had asked for again. */
static void test_cost(void **state)
{
    struct evict e = new_evict(4);

    (void)state;
    assert_true(evict_cost(1 << 15) > 2 * evict_cost(0)); /* attention looks back */
    evict_add(&e, 0, EVICT_NONE, 1, BYTES);
    evict_add(&e, 1, EVICT_NONE, 16, BYTES);
    evict_add(&e, 2, EVICT_NONE, 1, BYTES / 16); /* as dear a byte */
    for (uint32_t i = 0; i < 3; i++)
        evict_let_go(&e, i);
    assert_int_equal(take(&e), 0);
    evict_deinit(&e);
}

/* Who loses its parent is useless, and goes first; the parent's number may be another's by then. */
static void test_orphans(void **state)
{
    struct evict e = new_evict(8);

    (void)state;
    add(&e, 0, EVICT_NONE);
    add(&e, 1, 0);
    add(&e, 2, EVICT_NONE);
    evict_use(&e, 1);
    evict_remove(&e, 0);
    add(&e, 0, EVICT_NONE);
    assert_int_equal(e.nodes[0].n_children, 0);
    evict_offer(&e, 1);
    assert_int_equal(e.nodes[1].chance, 0);
    while (take(&e) != EVICT_NONE)
        assert_int_equal(e.nodes[0].n_children, 0);
    evict_deinit(&e);
}

static enum evict_answer by_table(void *user, uint32_t number)
{
    return ((const enum evict_answer *)user)[number];
}

static void test_answers(void **state)
{
    enum evict_answer answers[4] = { EVICT_NO, EVICT_LATER, EVICT_YES, EVICT_YES };
    struct evict e = new_evict(4);

    (void)state;
    for (uint32_t i = 0; i < 4; i++)
        add(&e, i, EVICT_NONE);
    assert_int_equal(evict_take(&e, by_table, answers), 2);
    assert_int_equal(evict_take(&e, by_table, answers), 2); /* as long as it is there */
    answers[2] = EVICT_NO;
    assert_int_equal(evict_take(&e, by_table, answers), 3);
    evict_remove(&e, 3);
    assert_int_equal(evict_take(&e, by_table, answers), EVICT_NONE); /* 1 does not hold it up */
    answers[0] = answers[1] = EVICT_YES;
    assert_int_equal(evict_take(&e, by_table, answers), 1);
    evict_remove(&e, 1);
    assert_int_equal(evict_take(&e, by_table, answers), EVICT_NONE); /* 0 was not offered again */
    evict_offer(&e, 0);
    evict_offer(&e, 0);
    assert_int_equal(evict_take(&e, by_table, answers), 0);
    evict_deinit(&e);
}

/* --- against a plain search ------------------------------------------------------------------- */

struct model {
    struct evict e;
    bool live[N], offered[N];
    uint32_t parent[N];
    uint32_t n_children[N];
};

static bool is_candidate(const struct model *m, uint32_t i)
{
    return m->live[i] && m->offered[i] && !m->n_children[i];
}

static uint32_t least_due(const struct model *m)
{
    uint32_t least = UINT32_MAX;

    for (uint32_t i = 0; i < N; i++)
        if (is_candidate(m, i) && m->e.nodes[i].due < least)
            least = m->e.nodes[i].due;
    return least;
}

static enum evict_answer if_offered(void *user, uint32_t number)
{
    const struct model *m = user;

    assert_true(m->live[number]);
    assert_int_equal(m->n_children[number], 0);
    return m->offered[number] ? EVICT_YES : EVICT_NO;
}

static void forget(struct model *m, uint32_t i)
{
    evict_remove(&m->e, i);
    m->live[i] = m->offered[i] = false;
    if (m->parent[i] != EVICT_NONE)
        m->n_children[m->parent[i]]--;
    for (uint32_t k = 0; k < N && m->n_children[i]; k++) {
        if (m->live[k] && m->parent[k] == i) {
            m->parent[k] = EVICT_NONE;
            m->n_children[i]--;
        }
    }
}

static void step(struct model *m, struct rng *rng)
{
    uint32_t i = (uint32_t)rng_below(rng, N), k = (uint32_t)rng_below(rng, N);

    if (!m->live[i]) {
        m->parent[i] = m->live[k] && rng_below(rng, 3) ? k : EVICT_NONE;
        evict_add(&m->e, i, m->parent[i], 1 + rng_unit(rng), BYTES + rng_below(rng, BYTES));
        m->live[i] = true;
        if (m->parent[i] != EVICT_NONE)
            m->n_children[k]++;
        return;
    }
    switch (rng_below(rng, 8)) {
    case 0:
        forget(m, i);
        break;
    case 1:
        m->offered[i] = false;
        evict_use(&m->e, i);
        break;
    case 2:
        evict_use(&m->e, i);
        break;
    case 3:
        evict_resize(&m->e, i, 2 * BYTES, BYTES);
        break;
    case 4:
        evict_let_go(&m->e, i);
        m->offered[i] = true;
        break;
    default:
        evict_offer(&m->e, i);
        m->offered[i] = true;
    }
}

static void test_random(void **state)
{
    static struct model m;
    struct rng rng = rng_seed(11);

    (void)state;
    m.e = new_evict(N);
    for (int i = 0; i < STEPS; i++) {
        uint32_t least, number;

        step(&m, &rng);
        if (i == STEPS / 2)
            m.e.now = 0x5ffffff0u; /* it is set back soon */
        if (i % 7)
            continue;
        least = least_due(&m);
        number = evict_take(&m.e, if_offered, &m);
        if (least == UINT32_MAX) {
            assert_int_equal(number, EVICT_NONE);
            continue;
        }
        assert_int_equal(m.e.nodes[number].due, least);
        forget(&m, number);
        assert_true(m.e.n_queued <= N);
    }
    assert_true(m.e.now < 0x5ffffff0u);
    evict_deinit(&m.e);
}

/* What a restart found goes in the order it was lined up in, and before what comes later. */
static void test_recovered(void **state)
{
    struct evict e = new_evict(N);

    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        evict_recover(&e, i, 1, BYTES);
    for (uint32_t i = 0; i < 100; i++)
        evict_line_up(&e, 99 - i, i, 100);
    add(&e, 200, 5);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(take(&e), i < 94 ? 99 - i : i < 99 ? 98 - i : 200);
    assert_int_equal(take(&e), 5);
    evict_deinit(&e);
}

/* A recovered tile does not go before one that follows it, whichever is due first. */
static void test_recovered_chain(void **state)
{
    struct evict e = new_evict(N);

    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        evict_recover(&e, i, 1, BYTES);
        evict_line_up(&e, i, i, 3);
    }
    for (int again = 0; again < 2; again++) { /* said twice, it is the same */
        evict_follow(&e, 1, 0);
        evict_follow(&e, 2, 1);
    }
    evict_follow(&e, 7, 2); /* which is not there */
    assert_int_equal(take(&e), 2);
    assert_int_equal(take(&e), 1);
    evict_follow(&e, 0, 1); /* nor is 1, by now */
    assert_int_equal(take(&e), 0);
    assert_int_equal(take(&e), EVICT_NONE);
    evict_deinit(&e);
}

/* --- traces ----------------------------------------------------------------------------------- */

/* The figures of tests/bench/evict, smaller: never less than LRU avoids; of chats a tenth more. */
static void test_traces(void **state)
{
    static const uint32_t sizes[] = { 6000, 1000, 6000 };
    static const uint32_t percents[] = { 10, 25, 50 };

    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct trace t;

        trace_init(&t, (enum trace_kind)kind, sizes[kind], 1);
        for (int i = 0; i < 3; i++) {
            uint64_t n_room = (uint64_t)t.n_tiles * percents[i] / 100;
            struct sim_result ours = sim_run(&t, SIM_OURS, n_room);
            struct sim_result lru = sim_run(&t, SIM_LRU, n_room);

            assert_true(ours.asked == lru.asked && ours.avoided <= ours.possible);
            assert_true(ours.avoided >= lru.avoided * (kind == TRACE_CHAT ? 1.1 : 1));
        }
        trace_deinit(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cost),
        cmocka_unit_test(test_chains),
        cmocka_unit_test(test_orphans),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_recovered),
        cmocka_unit_test(test_recovered_chain),
        cmocka_unit_test(test_traces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
