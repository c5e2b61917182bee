/* codec: life cycle, the gain table, and every allocation failing once */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <errno.h>

#include "lib/codec/codec.h"
#include "tests/util/craft_tile.h"

/* The k-th allocation from now fails; 0: none does. Linked with --wrap. */
static unsigned countdown;

static bool fails(void)
{
    return countdown && !--countdown;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, n);
}

static void test_gain_table(void **state)
{
    struct toy toy = { .geometry = toy_geometry(1, 1, 32), .seed = 1, .dsub = 2 };
    struct dpq_codec *c = NULL;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    assert_int_equal(dpq_codec_new(toy.profile, 0, &c), 0);
    assert_true(c->gain[0] == 0 && c->inverse_gain[0] == 0);
    assert_true(c->gain[161] == 1 && c->gain[169] == 2 && c->gain[153] == 0.5f);
    for (int code = 1; code < 256; code++) {
        double exact = exp2((code - 161) / 8.0);

        assert_true(c->gain[code] == (float)exact);
        assert_true(c->inverse_gain[code] == 1 / c->gain[code]);
    }
    dpq_codec_free(c);
    assert_null(dpq_codec_free(NULL));
    toy_drop(&toy);
}

/* A fault and nothing left behind, until none fails; then it works. */
static void test_new_without_memory(void **state)
{
    struct toy toy = { .geometry = toy_geometry(2, 1, 32), .seed = 1, .mixed = true };
    struct dpq_codec *c = NULL;
    unsigned k = 1;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    for (;; k++) {
        int r;

        countdown = k;
        r = dpq_codec_new(toy.profile, ~0u, &c);
        if (countdown) /* there were fewer than k */
            break;
        assert_int_equal(r, -ENOMEM);
        assert_null(c);
    }
    countdown = 0;
    assert_non_null(c);
    assert_true(k > 10);
    dpq_codec_free(c);
    toy_drop(&toy);
}

static void test_encode_without_memory(void **state)
{
    struct toy toy = { .geometry = toy_geometry(2, 1, 32), .seed = 1, .dsub = 2 };
    size_t n_row = dpq_row_bytes(&toy.geometry, DPQ_F16), n_base = 0, n_fine = 0;
    uint8_t *rows = __real_calloc(DPQ_TILE_TOKENS, n_row), *base = NULL, *fine = NULL;
    struct dpq_codec *c = NULL;
    unsigned k = 1;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    assert_int_equal(dpq_codec_new(toy.profile, ~0u, &c), 0);
    for (;; k++) {
        int r;

        countdown = k;
        r = dpq_tile_encode(c, rows, DPQ_F16, 0, 0, DPQ_RATE_QUALITY, &base, &n_base, &fine,
                            &n_fine);
        if (countdown)
            break;
        assert_int_equal(r, -ENOMEM);
        assert_true(!base && !fine && !n_base && !n_fine);
    }
    countdown = 0;
    assert_true(base && fine && n_base && n_fine);
    assert_int_equal(k, 5); /* raw tokens, base, fine, raw area */
    dpq_free(base);
    dpq_free(fine);
    free(rows);
    dpq_codec_free(c);
    toy_drop(&toy);
}

/* Nothing is allocated for decoding. */
static void test_decode_allocates_nothing(void **state)
{
    struct toy toy = { .geometry = toy_geometry(2, 1, 32), .seed = 1, .mixed = true };
    static float rows[DPQ_TILE_TOKENS * 4 * 32];
    struct dpq_tensor tensor = { DPQ_F32, 0, 64 * 4, 32 * 4, 0, 128 * 4 };
    struct dpq_range all = { 0, 2, 0, DPQ_TILE_TOKENS };
    struct dpq_codec *c = NULL;
    struct craft t;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    assert_int_equal(dpq_codec_new(toy.profile, ~0u, &c), 0);
    t = craft_tile(&toy, DPQ_F16, 1);
    countdown = 1000;
    assert_int_equal(
        dpq_tile_decode(c, t.base, t.n_base, t.fine, t.n_fine, &all, &tensor, rows, NULL), 0);
    assert_int_equal(countdown, 1000);
    countdown = 0;
    craft_drop(&t);
    dpq_codec_free(c);
    toy_drop(&toy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gain_table),
        cmocka_unit_test(test_new_without_memory),
        cmocka_unit_test(test_encode_without_memory),
        cmocka_unit_test(test_decode_allocates_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
