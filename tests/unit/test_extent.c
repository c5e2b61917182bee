/* extent: random takes and gives against a naive map */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "lib/base/rng.h"
#include "lib/store/extent.h"

enum { PAGES = 3000, HELD = 200, STEPS = 40000 };

static uint32_t longest_free(const uint8_t *used)
{
    uint32_t best = 0, run = 0;

    for (uint32_t i = 0; i < PAGES; i++) {
        run = used[i] ? 0 : run + 1;
        best = run > best ? run : best;
    }
    return best;
}

/* Extents never overlap, a take fails only when no run is long enough, and all comes together again
 * at the end. */
static void test_random(void **state)
{
    struct {
        uint32_t first, n;
    } held[HELD] = { 0 };
    struct rng r = rng_seed(1);
    uint8_t used[PAGES] = { 0 };
    struct extent_map m;

    (void)state;
    assert_int_equal(extent_map_init(&m, PAGES), 0);
    for (int i = 0; i < STEPS; i++) {
        size_t k = rng_below(&r, HELD);

        if (held[k].n) {
            extent_give(&m, held[k].first, held[k].n);
            memset(used + held[k].first, 0, held[k].n);
            held[k].n = 0;
            continue;
        }
        held[k].n = 1 + (uint32_t)rng_below(&r, rng_below(&r, 10) ? 20 : 300);
        held[k].first = extent_take(&m, held[k].n);
        if (held[k].first == EXTENT_NONE) {
            assert_true(longest_free(used) < held[k].n);
            held[k].n = 0;
            continue;
        }
        for (uint32_t p = 0; p < held[k].n; p++) {
            assert_false(used[held[k].first + p]);
            used[held[k].first + p] = 1;
        }
    }
    for (size_t k = 0; k < HELD; k++)
        if (held[k].n)
            extent_give(&m, held[k].first, held[k].n);
    assert_int_equal(m.n_used, 0);
    assert_int_equal(extent_take(&m, PAGES), 0);
    assert_int_equal(extent_take(&m, 1), EXTENT_NONE);
    extent_map_deinit(&m);
}

/* Sizes around the edges of words and levels: all can be had, in one piece or page by page. */
static void test_edges(void **state)
{
    static const uint32_t SIZES[] = { 1,   2,   63,  64,  65,   127,  128,
                                      129, 191, 192, 193, 4095, 4096, 4097 };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(SIZES); i++) {
        uint32_t n = SIZES[i];
        struct extent_map m;

        assert_int_equal(extent_map_init(&m, n), 0);
        assert_int_equal(extent_take(&m, n + 1), EXTENT_NONE);
        assert_int_equal(extent_take(&m, n), 0);
        extent_give(&m, 0, n);
        for (uint32_t p = 0; p < n; p++)
            assert_int_equal(extent_take(&m, 1), p); /* lowest first */
        assert_int_equal(extent_take(&m, 1), EXTENT_NONE);
        for (uint32_t p = 0; p < n; p += 2)
            extent_give(&m, p, 1);
        assert_int_equal(extent_take(&m, 2), EXTENT_NONE);
        for (uint32_t p = 1; p < n; p += 2)
            extent_give(&m, p, 1);
        assert_int_equal(m.n_used, 0);
        assert_int_equal(extent_take(&m, n), 0); /* merged */
        extent_map_deinit(&m);
        extent_map_deinit(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_edges),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
