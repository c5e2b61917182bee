/* client_error: the reason inside a google.rpc.Status, whatever the bytes are */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "clients/c/client.h"
#include "lib/base/rng.h"

#define INFO  "type.googleapis.com/google.rpc.ErrorInfo"
#define RETRY "type.googleapis.com/google.rpc.RetryInfo"

/* Status{5, "gone", [RetryInfo, ErrorInfo{"SEQUENCE", "deltapq.v1", {layer: 3}}]} */
static size_t good_status(uint8_t *bytes)
{
    static const char TEXT[] = "\x08\x05"
                               "\x12\x04gone"
                               "\x1a\x2e\x0a\x28" RETRY "\x12\x02\x0a\x00"
                               "\x1a\x4f\x0a\x28" INFO "\x12\x23"
                               "\x0a\x08SEQUENCE"
                               "\x12\x0a"
                               "deltapq.v1"
                               "\x1a\x0b\x0a\x05layer\x12\x02"
                               "42";

    memcpy(bytes, TEXT, sizeof(TEXT) - 1);
    return sizeof(TEXT) - 1;
}

static void test_reason(void **state)
{
    uint8_t bytes[256];
    size_t n = good_status(bytes);
    char reason[32] = "before";

    (void)state;
    client_error_reason(bytes, n, reason);
    assert_string_equal(reason, "SEQUENCE");
    client_error_reason(bytes, 0, reason);
    assert_string_equal(reason, "");
    client_error_reason(bytes, 56, reason); /* RetryInfo alone */
    assert_string_equal(reason, "");
}

static void test_long_reason(void **state)
{
    uint8_t bytes[128] = "\x1a\x4c\x0a\x28" INFO "\x12\x20\x0a\x1e";
    char reason[32];

    (void)state;
    memset(bytes + 48, 'R', 30);
    bytes[1] = 0x2a + 0x22;
    client_error_reason(bytes, 78, reason);
    assert_int_equal(strlen(reason), 30);
    bytes[1] += 2, bytes[45] += 2, bytes[47] += 2; /* 32 bytes don't fit */
    memset(bytes + 48, 'R', 32);
    client_error_reason(bytes, 80, reason);
    assert_string_equal(reason, "");
}

/* Cut and changed bytes: the sanitizer says when something outside is read. */
static void test_hostile(void **state)
{
    struct rng rng = rng_seed(1);
    uint8_t good[256];
    size_t n = good_status(good);

    (void)state;
    for (int i = 0; i < 20000; i++) {
        size_t n_cut = rng_below(&rng, n + 1);
        uint8_t *bytes = malloc(n_cut + 1);
        char reason[32];

        assert_non_null(bytes);
        memcpy(bytes, good, n_cut);
        bytes = realloc(bytes, n_cut ? n_cut : 1);
        for (uint64_t k = rng_below(&rng, 4); k > 0 && n_cut; k--)
            bytes[rng_below(&rng, n_cut)] = (uint8_t)rng_next(&rng);
        client_error_reason(bytes, n_cut, reason);
        assert_true(strlen(reason) < sizeof(reason));
        free(bytes);
    }
}

static void test_set(void **state)
{
    struct dpq_client_error error;

    (void)state;
    assert_int_equal(client_error_set(NULL, 5, "X", "text"), 5);
    assert_int_equal(
        client_error_set(&error, 7, "A_REASON_THAT_IS_LONGER_THAN_THE_FIELD_FOR_IT", "%300s", "x"),
        7);
    assert_int_equal(error.code, 7);
    assert_int_equal(strlen(error.reason), sizeof(error.reason) - 1);
    assert_int_equal(strlen(error.message), sizeof(error.message) - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reason),
        cmocka_unit_test(test_long_reason),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_set),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
