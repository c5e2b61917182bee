/* rows: gathering from any strides, finding what is not finite, scattering with conversion */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/util/toy_profile.h"

enum { LAYERS = 3, HEADS = 2, D = 32, TOKENS = 5, STREAMS = LAYERS * 2 * HEADS };
enum { NUMBERS = TOKENS * STREAMS * D };

/* A different number for every element, exact in all three dtypes. */
static float value(uint32_t layer, uint32_t kind, uint32_t head, uint32_t token, uint32_t i)
{
    uint32_t k = (((layer * 2 + kind) * HEADS + head) * TOKENS + token) * D + i;

    return (float)((int)(k * 7 % 255) - 127) * (k & 1 ? 0.5f : 2);
}

enum layout { TRANSFORMERS, VLLM, CANONICAL, BACKWARDS, N_LAYOUTS };

static struct dpq_tensor layout(enum layout which, uint32_t dtype)
{
    int64_t e = (int64_t)dpq_dtype_bytes(dtype), d = D * e;
    struct dpq_tensor t = { .dtype = dtype };

    switch (which) {
    case TRANSFORMERS: /* [layer][kind][head][token][dim] */
        t.stride_token = d;
        t.stride_head = d * TOKENS;
        t.stride_kind = d * TOKENS * HEADS;
        t.stride_layer = 2 * t.stride_kind;
        break;
    case VLLM: /* for each layer [kind][block][slot][head][dim] */
        t.stride_head = d;
        t.stride_token = d * HEADS;
        t.stride_kind = d * HEADS * TOKENS;
        t.stride_layer = 2 * t.stride_kind;
        break;
    case CANONICAL:
        t.stride_head = d;
        t.stride_kind = d * HEADS;
        t.stride_layer = d * HEADS * 2;
        t.stride_token = d * STREAMS;
        break;
    default: /* canonical, the last token first */
        t = layout(CANONICAL, dtype);
        t.offset = (uint64_t)(t.stride_token * (TOKENS - 1));
        t.stride_token = -t.stride_token;
        break;
    }
    return t;
}

static uint8_t *element(const struct dpq_tensor *t, void *memory, uint32_t layer, uint32_t kind,
                        uint32_t head, uint32_t token, uint32_t i)
{
    return (uint8_t *)memory + t->offset + layer * t->stride_layer + kind * t->stride_kind +
           head * t->stride_head + token * t->stride_token + i * dpq_dtype_bytes(t->dtype);
}

#define FOR_EACH_ELEMENT \
    for (uint32_t l = 0; l < LAYERS; l++) \
        for (uint32_t k = 0; k < 2; k++) \
            for (uint32_t h = 0; h < HEADS; h++) \
                for (uint32_t t = 0; t < TOKENS; t++) \
                    for (uint32_t i = 0; i < D; i++)

static void fill(const struct dpq_tensor *tensor, void *memory)
{
    FOR_EACH_ELEMENT
    toy_put(element(tensor, memory, l, k, h, t, i), tensor->dtype, value(l, k, h, t, i));
}

/* Any layout in, any layout and dtype out: every number arrives where it belongs. */
static void test_layouts(void **state)
{
    struct dpq_geometry g = toy_geometry(LAYERS, HEADS, D);
    struct dpq_range all = { 0, LAYERS, 0, TOKENS };
    uint8_t in[NUMBERS * 4], rows[NUMBERS * 4], out[NUMBERS * 4];

    (void)state;
    for (uint32_t n = 0; n < N_LAYOUTS * N_LAYOUTS * 9; n++) {
        struct dpq_tensor from = layout(n / 9 / N_LAYOUTS, n % 3);
        struct dpq_tensor to = layout(n / 9 % N_LAYOUTS, n / 3 % 3);
        struct dpq_fault fault;

        assert_int_equal(dpq_tensor_check(&from, &g, LAYERS, TOKENS,
                                          NUMBERS * dpq_dtype_bytes(from.dtype), &fault),
                         0);
        fill(&from, in);
        assert_int_equal(dpq_rows_gather(&g, &from, in, TOKENS, rows, &fault), 0);
        dpq_rows_scatter(&g, rows, from.dtype, &all, &to, out);
        FOR_EACH_ELEMENT
        {
            size_t at = (((size_t)t * LAYERS + l) * 2 + k) * HEADS + h;

            assert_true(toy_get(rows + (at * D + i) * dpq_dtype_bytes(from.dtype), from.dtype) ==
                        value(l, k, h, t, i));
            assert_true(toy_get(element(&to, out, l, k, h, t, i), to.dtype) ==
                        value(l, k, h, t, i));
        }
    }
}

/* Some layers and tokens: the first of the range goes to element 0, nothing else is written. */
static void test_range(void **state)
{
    struct dpq_geometry g = toy_geometry(LAYERS, HEADS, D);
    struct dpq_range range = { 1, 1, 2, 2 };
    struct dpq_tensor from = layout(CANONICAL, DPQ_F32), to = layout(TRANSFORMERS, DPQ_F16);
    uint8_t rows[NUMBERS * 4], out[NUMBERS * 2];

    (void)state;
    fill(&from, rows);
    memset(out, 0xa5, sizeof(out));
    dpq_rows_scatter(&g, rows, DPQ_F32, &range, &to, out);
    FOR_EACH_ELEMENT
    {
        const uint8_t *at = element(&to, out, l, k, h, t, i);

        if (l < 1 && t < 2)
            assert_true(toy_get(at, DPQ_F16) == value(l + 1, k, h, t + 2, i));
        else
            assert_true(at[0] == 0xa5 && at[1] == 0xa5);
    }
}

/* Infinities and NaN of either sign are found, and named. */
static void test_not_finite(void **state)
{
    static const uint32_t BAD[3][4] = {
        { 0x7f800000, 0xff800000, 0x7fc00000, 0xff800001 },
        { 0x7c00, 0xfc00, 0x7e00, 0xfc01 },
        { 0x7f80, 0xff80, 0x7fc0, 0xff81 },
    };
    static const uint32_t GOOD[3][2] = { { 0x7f7fffff, 0x80000001 },
                                         { 0x7bff, 0x8001 },
                                         { 0x7f7f, 0x8001 } };
    struct dpq_geometry g = toy_geometry(LAYERS, HEADS, D);
    uint8_t in[NUMBERS * 4], rows[NUMBERS * 4];

    (void)state;
    for (uint32_t dtype = 0; dtype < 3; dtype++)
        for (uint32_t n = 0; n < 6; n++) {
            struct dpq_tensor tensor = layout(n % N_LAYOUTS, dtype);
            uint32_t bits = n < 4 ? BAD[dtype][n] : GOOD[dtype][n - 4], i = n * 6;
            struct dpq_fault fault = { 0 };

            fill(&tensor, in);
            memcpy(element(&tensor, in, 2, n & 1, 1, 3, i), &bits, dpq_dtype_bytes(dtype));
            if (n >= 4) {
                assert_int_equal(dpq_rows_gather(&g, &tensor, in, TOKENS, rows, &fault), 0);
                continue;
            }
            assert_int_equal(dpq_rows_gather(&g, &tensor, in, TOKENS, rows, &fault),
                             DPQ_E_NOT_FINITE);
            assert_int_equal(fault.layer, 2);
            assert_int_equal(fault.kind, n & 1);
            assert_int_equal(fault.head, 1);
            assert_int_equal(fault.token, 3);
            assert_non_null(strstr(fault.message, "layer 2, head 1, token 3"));
            assert_int_equal(dpq_rows_gather(&g, &tensor, in, 3, rows, NULL), 0);
        }
}

/* One row for all: strides of 0 read it again and again. */
static void test_zero_strides(void **state)
{
    struct dpq_geometry g = toy_geometry(LAYERS, HEADS, D);
    struct dpq_tensor tensor = { .dtype = DPQ_BF16, .offset = 2 };
    uint8_t in[2 + D * 2], rows[NUMBERS * 2];

    (void)state;
    for (uint32_t i = 0; i < D; i++)
        toy_put(in + 2 + 2 * i, DPQ_BF16, (float)i);
    assert_int_equal(dpq_tensor_check(&tensor, &g, LAYERS, TOKENS, sizeof(in), NULL), 0);
    assert_int_equal(dpq_rows_gather(&g, &tensor, in, TOKENS, rows, NULL), 0);
    for (uint32_t i = 0; i < NUMBERS; i++)
        assert_true(toy_get(rows + 2 * i, DPQ_BF16) == (float)(i % D));
}

/* What does not fit becomes infinite, ties go to even, and bf16's 1e30 stays what it is. */
static void test_conversion(void **state)
{
    struct dpq_geometry g = toy_geometry(1, 1, D);
    struct dpq_range all = { 0, 1, 0, 1 };
    struct dpq_tensor to = { .stride_kind = D * 4, .stride_layer = D * 8 };
    float in[2 * D] = { 1e30f, 65519, 65520, -7e4f, 1 + 0x1p-11f, 1 + 3 * 0x1p-11f, 0x1p-25f };
    uint16_t out[4 * D], half[2 * D];

    (void)state;
    to.dtype = DPQ_F16;
    to.stride_kind = D * 2;
    dpq_rows_scatter(&g, in, DPQ_F32, &all, &to, out);
    assert_int_equal(out[0], 0x7c00);
    assert_int_equal(out[1], 0x7bff);
    assert_int_equal(out[2], 0x7c00);
    assert_int_equal(out[3], 0xfc00);
    assert_int_equal(out[4], 0x3c00);
    assert_int_equal(out[5], 0x3c02);
    assert_int_equal(out[6], 0);
    memset(half, 0, sizeof(half));
    toy_put(&half[0], DPQ_BF16, 1e30f);
    to.dtype = DPQ_BF16;
    dpq_rows_scatter(&g, half, DPQ_BF16, &all, &to, out);
    assert_memory_equal(half, out, sizeof(half));
    to.dtype = DPQ_F16;
    dpq_rows_scatter(&g, half, DPQ_BF16, &all, &to, out);
    assert_int_equal(out[0], 0x7c00);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts),    cmocka_unit_test(test_range),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_zero_strides),
        cmocka_unit_test(test_conversion),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
