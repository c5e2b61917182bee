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
static void crowd(union slot_entry *entries, struct rng *rng)
{
    for (int i = 0; i < N; i++) {
        uint8_t *key = entries[i].tile.key;

        memset(&entries[i], 0, sizeof(entries[i]));
        key[0] = (uint8_t)(250 + rng_below(rng, 8));
        key[1] = key[0] < 250 ? 2 : 1;
        key[31] = (uint8_t)i;
    }
}

static void test_random(void **state)
{
    static union slot_entry entries[N];
    struct rng rng = rng_seed(4);
    bool in[N] = { false };
    struct index index;

    (void)state;
    crowd(entries, &rng);
    assert_int_equal(index_init(&index, entries, N), 0);
    for (int step = 0; step < STEPS; step++) {
        size_t i = rng_below(&rng, N);

        if (in[i])
            index_remove(&index, &entries[i].tile);
        else
            assert_true(index_add(&index, &entries[i].tile));
        if (!in[i])
            assert_false(index_add(&index, &entries[i].tile)); /* once */
        in[i] = !in[i];
        if (step % 16)
            continue;
        for (size_t k = 0; k < N; k++)
            assert_ptr_equal(index_find(&index, entries[k].tile.key),
                             in[k] ? &entries[k].tile : NULL);
    }
    index_deinit(&index);
    index_deinit(&index); /* twice is fine */
}

/* Full to what it was made for: a search for something else still ends. */
static void test_full(void **state)
{
    static union slot_entry entries[N];
    struct rng rng = rng_seed(6);
    struct index index;
    uint8_t key[32];

    (void)state;
    assert_int_equal(index_init(&index, entries, N), 0);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 32; k++)
            entries[i].tile.key[k] = (uint8_t)rng_next(&rng);
        assert_true(index_add(&index, &entries[i].tile));
    }
    for (int i = 0; i < 10000; i++) {
        for (int k = 0; k < 32; k++)
            key[k] = (uint8_t)rng_next(&rng);
        assert_null(index_find(&index, key));
    }
    for (int i = 0; i < N; i++)
        assert_ptr_equal(index_find(&index, entries[i].tile.key), &entries[i].tile);
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
