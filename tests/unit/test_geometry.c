/* geometry: each bad field is named; a tensor is inside exactly when its last byte is */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/util/toy_profile.h"

static void refuse(const struct dpq_geometry *g, const char *word)
{
    struct dpq_fault fault = { .message = "" };

    assert_int_equal(dpq_geometry_check(g, NULL), DPQ_E_INVALID);
    assert_int_equal(dpq_geometry_check(g, &fault), DPQ_E_INVALID);
    if (!strstr(fault.message, word))
        fail_msg("'%s' does not say '%s'", fault.message, word);
    assert_int_equal(fault.layer, -1);
    assert_int_equal(fault.token, -1);
}

static void test_good_geometries(void **state)
{
    static const uint32_t DIMS[] = { 32, 64, 80, 96, 128, 256 };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(DIMS); i++) {
        struct dpq_geometry g = toy_geometry(30, 3, DIMS[i]);

        assert_int_equal(dpq_geometry_check(&g, NULL), 0);
        g.rope_pairing = DPQ_ROPE_NONE;
        g.rotary_dim = 0;
        memset(g.inv_freq, 0, sizeof(g.inv_freq));
        assert_int_equal(dpq_geometry_check(&g, NULL), 0);
        g.n_sink = 128;
        g.n_layers = 1024;
        g.n_kv_heads = g.n_q_heads = 32;
        assert_int_equal(dpq_geometry_check(&g, NULL), 0);
    }
}

#define REFUSE(field, value, word) \
    do { \
        struct dpq_geometry bad = toy_geometry(30, 3, 64); \
        bad.field = (value); \
        refuse(&bad, word); \
    } while (0)

static void test_bad_fields(void **state)
{
    (void)state;
    REFUSE(n_layers, 0, "n_layers");
    REFUSE(n_layers, 1025, "n_layers");
    REFUSE(n_layers, UINT32_MAX, "n_layers");
    REFUSE(n_kv_heads, 0, "n_kv_heads");
    REFUSE(n_kv_heads, 257, "n_kv_heads");
    REFUSE(n_q_heads, 0, "n_q_heads");
    REFUSE(n_q_heads, 10, "n_q_heads");
    REFUSE(head_dim, 48, "head_dim");
    REFUSE(head_dim, 0, "head_dim");
    REFUSE(n_sink, 129, "n_sink");
    REFUSE(rope_pairing, 3, "rope_pairing");
    REFUSE(rotary_dim, 33, "rotary_dim");
    REFUSE(rotary_dim, 66, "rotary_dim");
    REFUSE(rotary_dim, 0, "rotary_dim");
    REFUSE(rotary_dim, 32, "inv_freq[16]");
    REFUSE(attention_scaling, 0, "attention_scaling");
    REFUSE(attention_scaling, NAN, "attention_scaling");
    REFUSE(attention_scaling, INFINITY, "attention_scaling");
    REFUSE(inv_freq[31], NAN, "inv_freq[31]");
    REFUSE(inv_freq[0], 1e9f, "inv_freq[0]");
    REFUSE(inv_freq[127], 1e-3f, "inv_freq[127]");
}

static void test_too_many_streams(void **state)
{
    struct dpq_geometry g = toy_geometry(1024, 64, 64);

    (void)state;
    refuse(&g, "streams");
}

/* 2 layers, 3 heads, D = 64, fp16: canonical rows of 1,536 bytes. */
static struct dpq_tensor rows(void)
{
    return (struct dpq_tensor){
        .dtype = DPQ_F16,
        .stride_head = 128,
        .stride_kind = 384,
        .stride_layer = 768,
        .stride_token = 1536,
    };
}

static int check(const struct dpq_tensor *t, uint32_t n_tokens, uint64_t n_bytes)
{
    struct dpq_geometry g = toy_geometry(2, 3, 64);
    struct dpq_fault fault;
    int r = dpq_tensor_check(t, &g, 2, n_tokens, n_bytes, &fault);

    assert_int_equal(dpq_tensor_check(t, &g, 2, n_tokens, n_bytes, NULL), r);
    return r;
}

static void test_tensor_to_the_byte(void **state)
{
    struct dpq_tensor t = rows();

    (void)state;
    assert_int_equal(check(&t, 10, 15360), 0);
    assert_int_equal(check(&t, 10, 15359), DPQ_E_INVALID);
    t.offset = 2;
    assert_int_equal(check(&t, 10, 15360), DPQ_E_INVALID);
    assert_int_equal(check(&t, 10, 15362), 0);
    assert_int_equal(check(&t, 0, 0), 0);
}

static void test_tensor_backwards(void **state)
{
    struct dpq_tensor t = rows();

    (void)state;
    t.stride_token = -1536;
    t.offset = 9 * 1536;
    assert_int_equal(check(&t, 10, 15360), 0);
    assert_int_equal(check(&t, 11, 15360), DPQ_E_INVALID);
    t.offset -= 2;
    assert_int_equal(check(&t, 10, 15360), DPQ_E_INVALID);
}

static void test_tensor_repeated(void **state)
{
    struct dpq_tensor t = { .dtype = DPQ_F32 };

    (void)state;
    assert_int_equal(check(&t, UINT32_MAX, 256), 0);
    assert_int_equal(check(&t, 1, 255), DPQ_E_INVALID);
}

static void test_tensor_alignment(void **state)
{
    struct dpq_tensor t = rows();

    (void)state;
    t.offset = 1;
    assert_int_equal(check(&t, 1, 1 << 20), DPQ_E_INVALID);
    t = rows();
    t.stride_head = 129;
    assert_int_equal(check(&t, 1, 1 << 20), DPQ_E_INVALID);
    t = rows();
    t.dtype = 3;
    assert_int_equal(check(&t, 1, 1 << 20), DPQ_E_INVALID);
}

/* Sums that would wrap in 64 bits. */
static void test_tensor_overflow(void **state)
{
    struct dpq_tensor t = rows();

    (void)state;
    t.offset = UINT64_MAX - 1;
    assert_int_equal(check(&t, 1, UINT64_MAX), DPQ_E_INVALID);
    t = rows();
    t.stride_token = INT64_MAX - 1;
    assert_int_equal(check(&t, UINT32_MAX, UINT64_MAX), DPQ_E_INVALID);
    t.stride_layer = t.stride_kind = t.stride_head = t.stride_token;
    assert_int_equal(check(&t, UINT32_MAX, UINT64_MAX), DPQ_E_INVALID);
    t.stride_token = INT64_MIN;
    assert_int_equal(check(&t, 3, UINT64_MAX), DPQ_E_INVALID);
    t = rows(); /* 4 * 2^62 is 0 in 64 bits */
    t.stride_token = 1ll << 62;
    assert_int_equal(check(&t, 5, 15360), DPQ_E_INVALID);
    /* one step back from the offset 2^63 is byte 0; the rest goes up from there */
    t = rows();
    t.offset = 1ull << 63;
    t.stride_token = INT64_MIN;
    assert_int_equal(check(&t, 2, (1ull << 63) + 1536), 0);
    assert_int_equal(check(&t, 2, (1ull << 63) + 1535), DPQ_E_INVALID);
}

static void test_names(void **state)
{
    int major, minor, patch;

    (void)state;
    assert_int_equal(sscanf(dpq_version(), "%d.%d.%d", &major, &minor, &patch), 3);
    assert_string_equal(dpq_outcome_name(0), "OK");
    assert_string_equal(dpq_outcome_name(DPQ_E_CORRUPT), "CORRUPT");
    assert_string_equal(dpq_outcome_name(DPQ_E_CANCELLED), "CANCELLED");
    assert_string_equal(dpq_outcome_name(DPQ_E_CUT + 1), "UNKNOWN");
    assert_string_equal(dpq_outcome_name(-12), "FAULT");
    assert_int_equal(dpq_dtype_bytes(DPQ_F32), 4);
    assert_int_equal(dpq_dtype_bytes(DPQ_F16), 2);
    assert_int_equal(dpq_dtype_bytes(DPQ_BF16), 2);
    assert_int_equal(dpq_dtype_bytes(3), 0);
    assert_null(dpq_free(NULL));
}

static void test_row_bytes(void **state)
{
    struct dpq_geometry g = toy_geometry(30, 3, 64);

    (void)state;
    assert_int_equal(dpq_row_bytes(&g, DPQ_F16), 23040);
    assert_int_equal(dpq_row_bytes(&g, DPQ_F32), 46080);
    g = toy_geometry(1024, 32, 256);
    assert_int_equal(dpq_row_bytes(&g, DPQ_F32), 1024ull * 2 * 32 * 256 * 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_geometries),
        cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_too_many_streams),
        cmocka_unit_test(test_tensor_to_the_byte),
        cmocka_unit_test(test_tensor_backwards),
        cmocka_unit_test(test_tensor_repeated),
        cmocka_unit_test(test_tensor_alignment),
        cmocka_unit_test(test_tensor_overflow),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_row_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
