/* session_record: what is written is read, later entries win, and no byte is trusted */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/session_record.h"
#include "lib/base/rng.h"

enum { N_IDS = 300, MAX_BYTES = 8192 };

static uint32_t ids[2 * N_IDS];

/* A record with some changes behind it. Return: its bytes */
static size_t make(uint8_t *to)
{
    struct record_maker makers[] = { { 0, 71 }, { 1, 72 } };
    struct record_content content = { .begin = { .rate = 2,
                                                 .position_base = 7,
                                                 .fork_origin = 8,
                                                 .n_adopted_tokens = 128,
                                                 .profile_id = { 1 },
                                                 .scope = { 2 } },
                                      .ids = ids,
                                      .n_ids = N_IDS,
                                      .makers = makers,
                                      .n_makers = 2,
                                      .tail = { 1, 140 },
                                      .n_tiles = 2,
                                      .generation = 5,
                                      .pinned_until_ns = 99,
                                      .keeps = RECORD_KEEPS_TOKENS,
                                      .n_evicted_end = 400 };
    struct record_change change = { .has_ids = true,
                                    .first_token = 250,
                                    .ids = ids + 251,
                                    .n_ids = 101,
                                    .has_seal = true,
                                    .n_tiles = 3,
                                    .generation = 6 };
    uint8_t *bytes;
    size_t n, n_change;

    for (uint32_t i = 0; i < 2 * N_IDS; i++)
        ids[i] = 1000 + i;
    assert_int_equal(record_pack(&content, &bytes, &n), 0);
    memcpy(to, bytes, n);
    free(bytes);
    assert_int_equal(record_pack_change(&change, &bytes, &n_change), 0);
    memcpy(to + n, bytes, n_change);
    free(bytes);
    assert_int_equal(n % 8 + n_change % 8, 0);
    return n + n_change;
}

static void test_round_trip(void **state)
{
    uint8_t bytes[MAX_BYTES];
    size_t n = make(bytes);
    struct record_content c;

    (void)state;
    assert_int_equal(record_parse(bytes, n, &c), 0);
    assert_int_equal(c.begin.rate, 2);
    assert_int_equal(c.begin.position_base, 7);
    assert_int_equal(c.begin.fork_origin, 8);
    assert_int_equal(c.begin.n_adopted_tokens, 128);
    assert_int_equal(c.begin.profile_id[0], 1);
    assert_int_equal(c.begin.scope[0], 2);
    assert_int_equal(c.n_tiles, 3);
    assert_int_equal(c.generation, 6);
    assert_int_equal(c.n_ids, 351);
    assert_memory_equal(c.ids, ids, 250 * sizeof(uint32_t));
    assert_memory_equal(c.ids + 250, ids + 251, 101 * sizeof(uint32_t));
    assert_int_equal(c.n_makers, 2);
    assert_true(c.makers[0].id == 71 && c.makers[1].first_tile == 1 && c.makers[1].id == 72);
    assert_true(c.tail.version == 1 && c.tail.lossy_end == 140);
    assert_int_equal(c.pinned_until_ns, 99);
    assert_int_equal(c.keeps, RECORD_KEEPS_TOKENS);
    assert_int_equal(c.n_evicted_end, 400);
    record_content_deinit(&c);
}

/* What a trim says: fewer tiles, and no ids of makers whose tiles have gone. */
static void test_trim(void **state)
{
    const struct record_change trim = { .has_ids = true,
                                        .first_token = 128,
                                        .has_tail = true,
                                        .tail = { 2, 0 },
                                        .has_seal = true,
                                        .n_tiles = 1,
                                        .generation = 7,
                                        .has_cut = true };
    const struct record_change next = { .has_maker = true,
                                        .maker = { 1, 73 },
                                        .has_seal = true,
                                        .n_tiles = 2,
                                        .generation = 8,
                                        .has_pin = true,
                                        .has_cut = true,
                                        .n_evicted_end = 256 };
    const struct record_change *const changes[] = { &trim, &next };
    uint8_t bytes[MAX_BYTES], *more;
    size_t n = make(bytes), n_more;
    struct record_content c;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(record_pack_change(changes[i], &more, &n_more), 0);
        memcpy(bytes + n, more, n_more);
        n += n_more;
        free(more);
        assert_int_equal(record_parse(bytes, n, &c), 0);
        assert_int_equal(c.n_ids, 128);
        assert_int_equal(c.n_tiles, 1 + i);
        assert_int_equal(c.generation, 7 + i);
        assert_true(c.tail.version == 2 && c.tail.lossy_end == 0);
        assert_int_equal(c.n_makers, 1 + i);
        assert_int_equal(c.makers[i].id, i ? 73 : 71);
        assert_int_equal(c.pinned_until_ns, i ? 0 : 99);
        assert_int_equal(c.n_evicted_end, i ? 256 : 0);
        record_content_deinit(&c);
    }
}

static void test_unsaying(void **state)
{
    const struct record_change change = { .has_ids = true, .first_token = 40 }, nothing = { 0 };
    uint8_t bytes[MAX_BYTES], *more;
    size_t n = make(bytes), n_more;
    struct record_content c;

    (void)state;
    assert_int_equal(record_pack_change(&change, &more, &n_more), 0);
    memcpy(bytes + n, more, n_more);
    free(more);
    assert_int_equal(record_parse(bytes, n + n_more, &c), 0);
    assert_int_equal(c.n_ids, 40);
    record_content_deinit(&c);
    assert_int_equal(record_pack_change(&nothing, &more, &n_more), 0);
    assert_int_equal(n_more, 0);
    free(more);
}

/* An entry of a kind that a later version adds is passed over; another version is not read. */
static void test_other_versions(void **state)
{
    const uint32_t unknown[4] = { 77, 5, 0, 0 };
    uint8_t bytes[MAX_BYTES];
    size_t n = make(bytes);
    struct record_content c;

    (void)state;
    memcpy(bytes + n, unknown, sizeof(unknown));
    assert_int_equal(record_parse(bytes, n + sizeof(unknown), &c), 0);
    assert_int_equal(c.n_tiles, 3);
    record_content_deinit(&c);
    bytes[8] = 1; /* had fewer kinds */
    assert_int_equal(record_parse(bytes, n, &c), 0);
    record_content_deinit(&c);
    bytes[8] = 0;
    assert_int_equal(record_parse(bytes, n, &c), RECORD_E_FOREIGN);
    bytes[8] = 3;
    assert_int_equal(record_parse(bytes, n, &c), RECORD_E_FOREIGN);
}

/* Cut anywhere, and with random bytes changed: refused or read, never beyond the end. */
static void test_damaged(void **state)
{
    uint8_t good[MAX_BYTES];
    size_t n = make(good), n_read = 0;
    struct rng rng = rng_seed(1);
    struct record_content c;

    (void)state;
    for (size_t i = 0; i < n; i++) {
        uint8_t *cut = malloc(i + 1); /* exact, for the sanitizer */

        memcpy(cut, good, i);
        if (!record_parse(cut, i, &c))
            record_content_deinit(&c);
        free(cut);
    }
    for (int i = 0; i < 20000; i++) {
        uint8_t *bad = malloc(n);

        memcpy(bad, good, n);
        for (int k = 0; k < 3; k++)
            bad[rng_below(&rng, k ? n : 112)] = (uint8_t)rng_next(&rng);
        if (!record_parse(bad, n, &c)) {
            record_content_deinit(&c);
            n_read++;
        }
        free(bad);
    }
    assert_true(n_read > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_trim),
        cmocka_unit_test(test_unsaying),   cmocka_unit_test(test_other_versions),
        cmocka_unit_test(test_damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
