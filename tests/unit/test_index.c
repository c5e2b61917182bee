/* index: random adds and removes against a plain table, with keys that collide */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "lib/base/rng.h"
#include "lib/store/store_internal.h"

enum { N = 200, STEPS = 20000 };

/* A few homes only, also at the end of the table, so that runs are long and wrap around. */
static void crowd(struct tile *tiles, struct rng *rng)
{
    for (int i = 0; i < N; i++) {
        memset(&tiles[i], 0, sizeof(tiles[i]));
        tiles[i].key[0] = (uint8_t)(250 + rng_below(rng, 8));
        tiles[i].key[1] = tiles[i].key[0] < 250 ? 2 : 1;
        tiles[i].key[31] = (uint8_t)i;
    }
}

static void test_random(void **state)
{
    static struct tile tiles[N];
    struct rng rng = rng_seed(4);
    bool in[N] = { false };
    struct index index;

    (void)state;
    crowd(tiles, &rng);
    assert_int_equal(index_init(&index, N), 0);
    for (int step = 0; step < STEPS; step++) {
        size_t i = rng_below(&rng, N);

        if (in[i])
            index_remove(&index, &tiles[i]);
        else
            index_add(&index, &tiles[i]);
        in[i] = !in[i];
        if (step % 16)
            continue;
        for (size_t k = 0; k < N; k++)
            assert_ptr_equal(index_find(&index, tiles[k].key), in[k] ? &tiles[k] : NULL);
    }
    index_deinit(&index);
    index_deinit(&index); /* twice is fine */
}

/* Full to what it was made for: a search for something else still ends. */
static void test_full(void **state)
{
    static struct tile tiles[N];
    struct rng rng = rng_seed(6);
    struct index index;
    uint8_t key[32];

    (void)state;
    assert_int_equal(index_init(&index, N), 0);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 32; k++)
            tiles[i].key[k] = (uint8_t)rng_next(&rng);
        index_add(&index, &tiles[i]);
    }
    for (int i = 0; i < 10000; i++) {
        for (int k = 0; k < 32; k++)
            key[k] = (uint8_t)rng_next(&rng);
        assert_null(index_find(&index, key));
    }
    for (int i = 0; i < N; i++)
        assert_ptr_equal(index_find(&index, tiles[i].key), &tiles[i]);
    index_deinit(&index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
