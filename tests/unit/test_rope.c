/* rope: the tables, both pairings, and that undoing undoes */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/codec/rope.h"
#include "tests/util/toy_profile.h"

enum { N = 16 };

struct setting {
    uint32_t pairing, head_dim, rotary_dim;
    float scaling;
    uint64_t position;
};

static const struct setting SETTINGS[] = {
    { DPQ_ROPE_HALF, 64, 64, 1, 0 },
    { DPQ_ROPE_HALF, 128, 128, 1, 131072 },
    { DPQ_ROPE_HALF, 80, 32, 1, 77 },
    { DPQ_ROPE_HALF, 32, 2, 1.25f, 1000003 },
    { DPQ_ROPE_INTERLEAVED, 64, 64, 1, 5 },
    { DPQ_ROPE_INTERLEAVED, 256, 64, 0.75f, 40000 },
    { DPQ_ROPE_INTERLEAVED, 96, 96, 1.1f, 9999 },
};

static struct dpq_geometry geometry_of(const struct setting *s)
{
    struct dpq_geometry g = toy_geometry(1, 1, s->head_dim);

    g.rope_pairing = s->pairing;
    g.rotary_dim = s->rotary_dim;
    g.attention_scaling = s->scaling;
    memset(g.inv_freq, 0, sizeof(g.inv_freq));
    for (uint32_t i = 0; i < s->rotary_dim / 2; i++)
        g.inv_freq[i] = (float)pow(1e4, -2.0 * i / s->rotary_dim);
    return g;
}

/* One row by the definition, in double precision. */
static void naive(const struct setting *s, const struct dpq_geometry *g, uint64_t position,
                  const float *x, double *ret_x)
{
    uint32_t n = s->rotary_dim / 2;

    for (uint32_t i = 0; i < s->head_dim; i++)
        ret_x[i] = x[i];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t a = s->pairing == DPQ_ROPE_HALF ? i : 2 * i;
        uint32_t b = s->pairing == DPQ_ROPE_HALF ? i + n : 2 * i + 1;
        double angle = (double)position * (double)g->inv_freq[i], scale = (double)s->scaling;

        ret_x[a] = scale * (x[a] * cos(angle) - x[b] * sin(angle));
        ret_x[b] = scale * (x[b] * cos(angle) + x[a] * sin(angle));
    }
}

static void check(const struct setting *s, unsigned cpu)
{
    struct dpq_geometry g = geometry_of(s);
    struct rope_table table;
    struct kern k;
    float x[N * 256], y[N * 256];
    struct rng r = rng_seed(s->position);

    kern_init(&k, cpu & kern_cpu_detect());
    assert_int_equal(rope_table_new(&g, N, &table), 0);
    rope_table_fill(&table, &g, s->position, N);
    for (uint32_t i = 0; i < N * s->head_dim; i++)
        x[i] = y[i] = (float)(3 * toy_normal(&r));
    rope_apply(&k, &g, &table, y, N);
    for (uint32_t t = 0; t < N; t++) {
        double want[256];

        naive(s, &g, s->position + t, x + t * s->head_dim, want);
        for (uint32_t i = 0; i < s->head_dim; i++)
            assert_true(fabs(want[i] - y[t * s->head_dim + i]) < 4e-6);
    }
    rope_undo(&k, &g, &table, y, N);
    for (uint32_t i = 0; i < N * s->head_dim; i++)
        assert_true(fabsf(x[i] - y[i]) < 4e-6f);
    rope_table_free(&table);
}

static void test_both_ways(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(SETTINGS); i++) {
        check(&SETTINGS[i], 0);
        check(&SETTINGS[i], ~0u);
    }
}

/* Coordinates beyond rotary_dim are not touched at all. */
static void test_partial(void **state)
{
    struct setting s = { DPQ_ROPE_HALF, 80, 32, 2, 100 };
    struct dpq_geometry g = geometry_of(&s);
    struct rope_table table;
    struct kern k;
    float x[N * 80], y[N * 80];

    (void)state;
    kern_init(&k, kern_cpu_detect());
    assert_int_equal(rope_table_new(&g, N, &table), 0);
    rope_table_fill(&table, &g, s.position, N);
    for (int i = 0; i < N * 80; i++)
        x[i] = y[i] = (float)i;
    rope_apply(&k, &g, &table, y, N);
    for (int t = 0; t < N; t++) {
        assert_memory_equal(x + t * 80 + 32, y + t * 80 + 32, 48 * sizeof(float));
        assert_memory_not_equal(x + t * 80, y + t * 80, 32 * sizeof(float));
    }
    rope_table_free(&table);
}

static void test_none(void **state)
{
    struct setting s = { DPQ_ROPE_NONE, 64, 0, 1, 100 };
    struct dpq_geometry g = geometry_of(&s);
    struct rope_table table;
    struct kern k;
    float x[64] = { 1, 2, 3 }, y[64] = { 1, 2, 3 };

    (void)state;
    kern_init(&k, 0);
    assert_int_equal(rope_table_new(&g, 1, &table), 0);
    rope_table_fill(&table, &g, 7, 1);
    rope_apply(&k, &g, &table, y, 1);
    rope_undo(&k, &g, &table, y, 1);
    assert_memory_equal(x, y, sizeof(x));
    rope_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_partial),
        cmocka_unit_test(test_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
