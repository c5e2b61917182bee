/* daemon/rpc/rpc_check.c: from the wire to the session's structs */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/rpc/rpc_check.h"

/* the session's, which is not linked here */
void session_error_set(struct session_error *error, enum session_code code, const char *reason,
                       const char *format, ...)
{
    va_list args;

    *error = (struct session_error){ .code = code };
    snprintf(error->reason, sizeof(error->reason), "%s", reason);
    va_start(args, format);
    vsnprintf(error->message, sizeof(error->message), format, args);
    va_end(args);
}

static void assert_error(int r, const struct session_error *error, const char *reason,
                         const char *part)
{
    assert_int_equal(r, 1);
    assert_int_equal(error->code, SESSION_INVALID_ARGUMENT);
    assert_string_equal(error->reason, reason);
    assert_non_null(strstr(error->message, part));
}

/* --- text ------------------------------------------------------------------------------------- */

static size_t encode(uint32_t c, char *ret_text)
{
    if (c < 0x80) {
        ret_text[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        ret_text[0] = (char)(0xc0 | c >> 6);
        ret_text[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        ret_text[0] = (char)(0xe0 | c >> 12);
        ret_text[1] = (char)(0x80 | (c >> 6 & 63));
        ret_text[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    ret_text[0] = (char)(0xf0 | c >> 18);
    ret_text[1] = (char)(0x80 | (c >> 12 & 63));
    ret_text[2] = (char)(0x80 | (c >> 6 & 63));
    ret_text[3] = (char)(0x80 | (c & 63));
    return 4;
}

static void test_every_character(void **state)
{
    char text[8] = { 0 };

    (void)state;
    for (uint32_t c = 1; c < 0x200000; c++) {
        size_t n = encode(c, text);
        bool good = (c < 0xd800 || c > 0xdfff) && c <= 0x10ffff;

        text[n] = 'x';
        text[n + 1] = '\0';
        assert_int_equal(rpc_check_utf8(text), good ? n + 1 : 0);
        if (n > 1) {
            text[n - 1] = '\0'; /* cut short */
            assert_int_equal(rpc_check_utf8(text), 0);
        }
    }
}

static void test_bytes_that_are_no_characters(void **state)
{
    static const char *const texts[] = { "\x80",         "\xc0\x80",         "\xc1\xbf",
                                         "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf5\x80\x80\x80",
                                         "\xff" };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        assert_int_equal(rpc_check_utf8(texts[i]), 0);
    assert_int_equal(rpc_check_utf8("ab\xc3("), 2);
    assert_int_equal(rpc_check_utf8(""), 0);
}

static void test_text_has_a_length(void **state)
{
    struct session_error error;
    char text[4] = "-";

    (void)state;
    assert_int_equal(rpc_check_text("abc", "salt", text, sizeof(text), &error), 0);
    assert_string_equal(text, "abc");
    assert_error(rpc_check_text("abcd", "salt", text, sizeof(text), &error), &error, "TEXT",
                 "salt has 4 bytes: 3");
    assert_error(rpc_check_text("a\xff", "salt", text, sizeof(text), &error), &error, "TEXT",
                 "not UTF-8 from byte 1");
    assert_string_equal(text, "abc");
}

/* --- numbers ---------------------------------------------------------------------------------- */

static void test_numbers_are_inline_or_in_staging(void **state)
{
    Deltapq__V1__TensorDesc tensor = DELTAPQ__V1__TENSOR_DESC__INIT;
    uint8_t byte = 0;
    ProtobufCBinaryData data = { .len = 1, .data = &byte }, none = { 0 };
    struct session_numbers numbers;
    struct session_error error;

    (void)state;
    tensor.dtype = DELTAPQ__V1__DTYPE__BF16;
    tensor.stride_head = -4;
    assert_int_equal(rpc_check_numbers(&tensor, 0, &data, &numbers, &error), 0);
    assert_ptr_equal(numbers.inline_bytes, &byte);
    assert_int_equal(numbers.n_inline_bytes, 1);
    assert_int_equal(numbers.tensor.dtype, DPQ_BF16);
    assert_int_equal(numbers.tensor.stride_head, -4);
    assert_int_equal(rpc_check_numbers(&tensor, 7, &none, &numbers, &error), 0);
    assert_int_equal(numbers.client_id, 7);
    assert_null(numbers.inline_bytes);

    assert_error(rpc_check_numbers(&tensor, 7, &data, &numbers, &error), &error, "INLINE_SIZE",
                 "give one of them");
    data.len = SESSION_MAX_INLINE_BYTES + 1;
    assert_error(rpc_check_numbers(&tensor, 0, &data, &numbers, &error), &error, "INLINE_SIZE",
                 "1048577");
    assert_error(rpc_check_numbers(NULL, 0, &none, &numbers, &error), &error, "TENSOR", "missing");
    tensor.dtype = (Deltapq__V1__Dtype)3;
    assert_error(rpc_check_numbers(&tensor, 0, &none, &numbers, &error), &error, "TENSOR", "3");
    tensor.dtype = (Deltapq__V1__Dtype)-1;
    assert_error(rpc_check_numbers(&tensor, 0, &none, &numbers, &error), &error, "TENSOR", "-1");
}

static void test_prefix(void **state)
{
    uint8_t digest[33] = { 1, 2, 3 };
    ProtobufCBinaryData id = { .len = 32, .data = digest };
    const uint32_t tokens[2] = { 4, 5 };
    struct session_prefix prefix;
    struct session_error error;

    (void)state;
    assert_int_equal(
        rpc_check_prefix(&id, DELTAPQ__V1__RATE__COMPACT, "a", "s", 9, tokens, 2, &prefix, &error),
        0);
    assert_memory_equal(prefix.profile_id, digest, 32);
    assert_int_equal(prefix.rate, DPQ_RATE_COMPACT);
    assert_string_equal(prefix.adapter, "a");
    assert_string_equal(prefix.salt, "s");
    assert_int_equal(prefix.position_base, 9);
    assert_ptr_equal(prefix.token_ids, tokens);
    assert_int_equal(prefix.n_token_ids, 2);
    assert_error(rpc_check_prefix(&id, (Deltapq__V1__Rate)-1, "", "", 0, NULL, 0, &prefix, &error),
                 &error, "RATE", "-1");
    id.len = 33;
    assert_error(rpc_check_prefix(&id, 0, "", "", 0, NULL, 0, &prefix, &error), &error, "PROFILE",
                 "33 bytes");
}

/* --- geometry --------------------------------------------------------------------------------- */

static Deltapq__V1__Geometry geometry_of(uint32_t rotary_dim, double theta)
{
    Deltapq__V1__Geometry geometry = DELTAPQ__V1__GEOMETRY__INIT;

    geometry.n_layers = 2;
    geometry.head_dim = 64;
    geometry.rotary_dim = rotary_dim;
    geometry.rope_theta = theta;
    return geometry;
}

static void test_frequencies_from_theta(void **state)
{
    Deltapq__V1__Geometry message = geometry_of(64, 500000);
    struct dpq_geometry geometry;
    struct session_error error;

    (void)state;
    assert_int_equal(rpc_check_geometry(&message, &geometry, &error), 0);
    assert_true(geometry.attention_scaling == 1);
    assert_true(geometry.inv_freq[0] == 1);
    for (uint32_t i = 0; i < 32; i++)
        assert_true(geometry.inv_freq[i] == (float)pow(500000, -(double)i / 32));
    assert_true(geometry.inv_freq[32] == 0);
    message.attention_scaling = 1.5f;
    assert_int_equal(rpc_check_geometry(&message, &geometry, &error), 0);
    assert_true(geometry.attention_scaling == 1.5f);
}

static void test_frequencies_as_given(void **state)
{
    Deltapq__V1__Geometry message = geometry_of(4, 10000);
    float values[2] = { 0.5f, 0.25f };
    struct dpq_geometry geometry;
    struct session_error error;

    (void)state;
    message.inv_freq = values;
    message.n_inv_freq = 2;
    assert_int_equal(rpc_check_geometry(&message, &geometry, &error), 0);
    assert_true(geometry.inv_freq[0] == 0.5f && geometry.inv_freq[1] == 0.25f);
    message.n_inv_freq = 1;
    assert_error(rpc_check_geometry(&message, &geometry, &error), &error, "GEOMETRY", "1 values");
    message = geometry_of(0, 0); /* no RoPE at all */
    assert_int_equal(rpc_check_geometry(&message, &geometry, &error), 0);
}

static void test_geometry_that_would_not_fit(void **state)
{
    const double thetas[] = { 0, -1, NAN, INFINITY };
    const uint32_t dims[] = { 257, 258, 3000, UINT32_MAX };
    Deltapq__V1__Geometry message;
    struct dpq_geometry geometry;
    struct session_error error;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(thetas); i++) {
        message = geometry_of(64, thetas[i]);
        assert_error(rpc_check_geometry(&message, &geometry, &error), &error, "GEOMETRY",
                     "rope_theta");
    }
    for (size_t i = 0; i < ARRAY_SIZE(dims); i++) {
        message = geometry_of(dims[i], 10000);
        assert_error(rpc_check_geometry(&message, &geometry, &error), &error, "GEOMETRY",
                     "rotary_dim");
    }
    assert_error(rpc_check_geometry(NULL, &geometry, &error), &error, "GEOMETRY", "missing");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_character),
        cmocka_unit_test(test_bytes_that_are_no_characters),
        cmocka_unit_test(test_text_has_a_length),
        cmocka_unit_test(test_numbers_are_inline_or_in_staging),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_frequencies_from_theta),
        cmocka_unit_test(test_frequencies_as_given),
        cmocka_unit_test(test_geometry_that_would_not_fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
