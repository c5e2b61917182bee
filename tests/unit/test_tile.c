/* tile: encode and decode, layouts, escapes, damaged objects, what a tile costs */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/util/tile_fixture.h"

static double nmse(const struct toy *toy, const uint8_t *rows, uint32_t dtype, const float *got)
{
    size_t per_token = dpq_row_bytes(&toy->geometry, DPQ_F32) / 4;
    double e2 = 0, x2 = 0;

    for (size_t i = 4 * per_token; i < T * per_token; i++) {
        double x = toy_get(rows + i * dpq_dtype_bytes(dtype), dtype);

        e2 += (x - got[i]) * (x - got[i]);
        x2 += x * x;
    }
    return e2 / x2;
}

/* Every head_dim, dtype, dsub: C and SIMD agree bit for bit, the error is a small part of the
 * energy, smaller with the fine plane, and sinks are exact. */
static void test_round_trip(void **state)
{
    static const uint32_t DIMS[] = { 32, 64, 80, 96, 128, 256 };

    (void)state;
    for (size_t i = 0; i < 18; i++) {
        uint32_t dtype = (uint32_t)(i % 3);
        struct toy toy = { .geometry = toy_geometry(2, 2, DIMS[i / 3]),
                           .seed = i,
                           .dsub = i % 2 ? 4 : 2 };
        uint8_t *rows = random_rows(&toy.geometry, dtype, i);
        struct tile c, simd, base;
        float *got, *got_simd, *got_base;

        if (i / 3 % 2)
            toy.geometry.rope_pairing = DPQ_ROPE_INTERLEAVED;
        if (i / 3 % 3 == 2) {
            toy.geometry.rotary_dim = 16;
            memset(toy.geometry.inv_freq + 8, 0, sizeof(float) * 120);
        }
        assert_int_equal(toy_make(&toy), 0);
        c = encode(&toy, rows, dtype, 0, DPQ_RATE_QUALITY, 0);
        simd = encode(&toy, rows, dtype, 0, DPQ_RATE_QUALITY, ~0u);
        base = encode(&toy, rows, dtype, 0, DPQ_RATE_COMPACT, ~0u);
        assert_int_equal(c.n_base, simd.n_base);
        assert_memory_equal(c.base, simd.base, c.n_base);
        assert_int_equal(c.n_fine, simd.n_fine);
        assert_memory_equal(c.fine, simd.fine, c.n_fine);
        assert_null(base.fine);
        got = decode(&toy, &c, 0);
        got_simd = decode(&toy, &c, ~0u);
        got_base = decode(&toy, &base, ~0u);
        assert_memory_equal(got, got_simd, dpq_row_bytes(&toy.geometry, DPQ_F32) * T);
        assert_true(nmse(&toy, rows, dtype, got) < (toy.dsub == 2 ? 0.08 : 0.3));
        assert_true(nmse(&toy, rows, dtype, got_base) < (toy.dsub == 2 ? 0.25 : 0.6));
        assert_true(nmse(&toy, rows, dtype, got) < 0.6 * nmse(&toy, rows, dtype, got_base));
        for (size_t k = 0; k < 4 * dpq_row_bytes(&toy.geometry, DPQ_F32) / 4; k++)
            assert_true(toy_get(rows + k * dpq_dtype_bytes(dtype), dtype) == got[k]);
        free(got);
        free(got_simd);
        free(got_base);
        tile_drop(&c);
        tile_drop(&simd);
        tile_drop(&base);
        free(rows);
        toy_drop(&toy);
    }
}

/* The layouts of transformers ([layer][kind][head][token][dim]) and vLLM ([kind][block][slot][head]
 * [dim] for each layer), and tokens backwards: the same numbers in other places. */
static void test_layouts(void **state)
{
    struct toy toy = { .geometry = toy_geometry(2, 2, 32), .seed = 5, .dsub = 2 };
    int64_t d = 32 * 2;
    struct dpq_tensor layouts[] = {
        { DPQ_F16, 0, 4 * T * d, 2 * T * d, T * d, d },
        { DPQ_F16, 0, 4 * T * d, 2 * T * d, d, 2 * d },
        { DPQ_F16, (uint64_t)((T - 1) * 8 * d), 4 * d, 2 * d, d, -8 * d },
    };
    struct dpq_range all = { 0, 2, 0, T };
    size_t n = dpq_row_bytes(&toy.geometry, DPQ_F16) * T;
    uint8_t *rows = random_rows(&toy.geometry, DPQ_F16, 3), *want = malloc(n), *out = malloc(n);
    uint8_t *back = malloc(n);
    struct dpq_codec *c = NULL;
    struct tile t;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    t = encode(&toy, rows, DPQ_F16, 0, DPQ_RATE_BALANCED, ~0u);
    assert_int_equal(decode_range(&toy, &t, &all, DPQ_F16, ~0u, want), 0);
    assert_int_equal(dpq_codec_new(toy.profile, ~0u, &c), 0);
    for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
        assert_int_equal(dpq_tensor_check(&layouts[i], &toy.geometry, 2, T, n, NULL), 0);
        memset(out, 0, n);
        assert_int_equal(
            dpq_tile_decode(c, t.base, t.n_base, t.fine, t.n_fine, &all, &layouts[i], out, NULL),
            0);
        assert_int_equal(dpq_rows_gather(&toy.geometry, &layouts[i], out, T, back, NULL), 0);
        assert_memory_equal(back, want, n);
    }
    dpq_codec_free(c);
    tile_drop(&t);
    free(back);
    free(out);
    free(want);
    free(rows);
    toy_drop(&toy);
}

/* What dpq_tile_encode() refuses. */
static void test_arguments(void **state)
{
    struct toy toy = { .geometry = toy_geometry(2, 1, 32), .seed = 1, .dsub = 2 };
    uint8_t *rows = random_rows(&toy.geometry, DPQ_F32, 3), *base = NULL, *fine = NULL;
    size_t n_base = 0, n_fine = 0;
    struct dpq_codec *c = NULL;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    assert_int_equal(dpq_codec_new(toy.profile, ~0u, &c), 0);
#define ENCODE(dtype, index, rate) \
    dpq_tile_encode(c, rows, dtype, 0, index, rate, &base, &n_base, &fine, &n_fine)
    assert_int_equal(ENCODE(3, 0, 0), DPQ_E_INVALID);
    assert_int_equal(ENCODE(DPQ_F32, 64, 0), DPQ_E_INVALID);
    assert_int_equal(ENCODE(DPQ_F32, 0, 3), DPQ_E_INVALID);
#undef ENCODE
    assert_true(!base && !fine && !n_base && !n_fine);
    dpq_codec_free(c);
    free(rows);
    toy_drop(&toy);
}

/* bf16 can hold 1e30: a coded token that large escapes and comes back bit for bit; so do sinks. */
static void test_escape(void **state)
{
    struct toy toy = { .geometry = toy_geometry(2, 1, 64), .seed = 9, .dsub = 2 };
    uint8_t *rows, *got;
    struct dpq_range all = { 0, 2, 0, T };
    struct tile t;
    size_t row;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    rows = random_rows(&toy.geometry, DPQ_BF16, 1);
    row = dpq_row_bytes(&toy.geometry, DPQ_BF16);
    got = malloc(row * T);
    toy_put(rows + 2 * row + 6, DPQ_BF16, 1e30f);             /* a sink, K */
    toy_put(rows + 77 * row + 6, DPQ_BF16, -1e30f);           /* K of layer 0 */
    toy_put(rows + 78 * row + 3 * 128 + 10, DPQ_BF16, 3e38f); /* V of layer 1 */
    t = encode(&toy, rows, DPQ_BF16, 0, DPQ_RATE_COMPACT, ~0u);
    assert_int_equal(decode_range(&toy, &t, &all, DPQ_BF16, 0, got), 0);
    assert_memory_equal(got, rows, 4 * row);
    assert_memory_equal(got + 77 * row, rows + 77 * row, 128);
    assert_memory_equal(got + 78 * row + 3 * 128, rows + 78 * row + 3 * 128, 128);
    assert_memory_not_equal(got + 79 * row, rows + 79 * row, 128);
    free(got);
    tile_drop(&t);
    free(rows);
    toy_drop(&toy);
}

/* Truncated or flipped objects: an outcome or other numbers, never a crash. */
static void test_damage(void **state)
{
    struct toy toy = { .geometry = toy_geometry(1, 1, 32), .seed = 3, .dsub = 2 };
    struct dpq_range all = { 0, 1, 0, T };
    struct tile t;
    uint8_t *rows;
    float got[64 * T];

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    rows = random_rows(&toy.geometry, DPQ_F16, 2);
    t = encode(&toy, rows, DPQ_F16, 0, DPQ_RATE_QUALITY, ~0u);
    for (size_t n = 0; n < t.n_base; n += n < 300 ? 1 : 97) {
        struct tile cut = { .base = malloc(n + 1), .n_base = n };

        memcpy(cut.base, t.base, n);
        assert_int_equal(decode_range(&toy, &cut, &all, DPQ_F32, ~0u, got), DPQ_E_CORRUPT);
        free(cut.base);
    }
    for (size_t bit = 0; bit < 8 * 700; bit++) {
        t.base[bit / 8] ^= (uint8_t)(1 << bit % 8);
        (void)!decode_range(&toy, &t, &all, DPQ_F32, ~0u, got); /* any outcome will do */
        t.base[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t bit = 0; bit < 8 * 128; bit++) {
        t.fine[bit / 8] ^= (uint8_t)(1 << bit % 8);
        (void)!decode_range(&toy, &t, &all, DPQ_F32, ~0u, got); /* any outcome will do */
        t.fine[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    t.base[8] ^= 1;
    assert_int_equal(decode_range(&toy, &t, &all, DPQ_F32, ~0u, got), DPQ_E_MISMATCH);
    t.base[8] ^= 1;
    t.base[4] ^= 2;
    assert_int_equal(decode_range(&toy, &t, &all, DPQ_F32, ~0u, got), DPQ_E_VERSION);
    t.base[4] ^= 2;
    all.n_tokens = T + 1;
    assert_int_equal(decode_range(&toy, &t, &all, DPQ_F32, ~0u, got), DPQ_E_INVALID);
    tile_drop(&t);
    free(rows);
    toy_drop(&toy);
}

/* What a tile costs on SmolLM2's geometry, every byte counted. */
static void test_true_bits(void **state)
{
    struct toy toy = { .geometry = toy_geometry(30, 3, 64), .seed = 3, .dsub = 2 };
    uint8_t *rows;
    struct tile t;
    double n = 30 * 2 * 3 * 64 * T;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    rows = random_rows(&toy.geometry, DPQ_F16, 2);
    t = encode(&toy, rows, DPQ_F16, 128, DPQ_RATE_QUALITY, ~0u);
    assert_true(8 * (double)t.n_base / n < 2.14);
    assert_true(8 * (double)(t.n_base + t.n_fine) / n < 4.15);
    tile_drop(&t);
    free(rows);
    toy_drop(&toy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_arguments),  cmocka_unit_test(test_escape),
        cmocka_unit_test(test_damage),     cmocka_unit_test(test_true_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
