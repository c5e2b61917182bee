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

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_random) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
