/* daemon/session_table.c: things found by id */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/session_internal.h"
#include "lib/base/rng.h"

enum { N = 5000 };

/* Against a plain array: each entry is found until it is removed, and each is visited once. */
static void test_table(void **state)
{
    struct id_entry *entries = calloc(N, sizeof(*entries)), *entry;
    bool *there = calloc(N, sizeof(*there));
    struct rng rng = rng_seed(3);
    struct id_table table;
    uint32_t n = 0, n_seen = 0;

    (void)state;
    assert_int_equal(id_table_init(&table), 0);
    assert_null(id_table_next(&table, NULL));
    for (uint64_t i = 0; i < N; i++)
        entries[i].id = i % 2 ? i : i << 40; /* both ends of the word must count */
    for (uint32_t step = 0; step < 4 * N; step++) {
        uint64_t i = rng_below(&rng, N);

        assert_ptr_equal(id_table_find(&table, entries[i].id), there[i] ? &entries[i] : NULL);
        if (there[i])
            id_table_remove(&table, &entries[i]);
        else
            id_table_add(&table, &entries[i]);
        there[i] = !there[i];
        n += there[i] ? 1 : UINT32_MAX;
        assert_int_equal(table.n, n);
    }
    for (entry = id_table_next(&table, NULL); entry; entry = id_table_next(&table, entry)) {
        assert_true(there[entry - entries]);
        there[entry - entries] = false;
        n_seen++;
    }
    assert_int_equal(n_seen, n);
    id_table_deinit(&table);
    free(entries);
    free(there);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
