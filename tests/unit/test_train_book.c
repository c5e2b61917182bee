/* train_book: the tree of one subspace against theory, its rounding, and poor samples; dealing */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/codec/train.h"
#include "tests/util/toy_profile.h"

static void test_dealing_balances(void **state)
{
    double values[64], sum[32] = { 0 }, least = INFINITY, most = -INFINITY;
    uint32_t order[64];
    bool seen[64] = { false };

    (void)state;
    for (int i = 0; i < 64; i++)
        values[i] = exp(i / 9.);
    train_deal(values, 64, 2, order);
    for (int j = 0; j < 64; j++) {
        assert_false(seen[order[j]]);
        seen[order[j]] = true;
        sum[j / 2] += log(values[order[j]]);
    }
    for (int m = 0; m < 32; m++) {
        least = fmin(least, sum[m]);
        most = fmax(most, sum[m]);
    }
    assert_true(most - least < 1e-6); /* a geometric sequence can be balanced exactly */
    memset(values, 0, sizeof(values));
    train_deal(values, 64, 4, order); /* nothing to balance: still a permutation */
    memset(seen, 0, sizeof(seen));
    for (int j = 0; j < 64; j++) {
        assert_false(seen[order[j]]);
        seen[order[j]] = true;
    }
}

static double book_error(const float *x, size_t n, const struct train_book *b, const int8_t *base,
                         const int8_t *fine, float scale)
{
    double sum = 0;

    for (size_t t = 0; t < n; t++) {
        double least[2] = { INFINITY, INFINITY };
        int parent = 0;

        for (int w = 0; w < 32; w++) {
            double e = 0;

            for (int i = 0; i < 2; i++) {
                float c = w < 16 ? base ? scale * base[w * 2 + i] : b->base[w][i]
                          : fine ? scale * fine[(parent * 16 + w % 16) * 2 + i]
                                 : b->fine[parent][w % 16][i];

                e += (double)(x[i * n + t] - c) * (double)(x[i * n + t] - c);
            }
            if (w < 16 && e < least[0])
                parent = w;
            least[w >= 16] = fmin(least[w >= 16], e);
        }
        sum += least[1];
    }
    return sum / (double)n / 2;
}

/* A Gaussian in two dimensions: near theory, and int8 costs next to nothing. */
static void test_book_against_theory(void **state)
{
    enum { N = 20000, M = 20000 };
    struct train_book_scratch scratch;
    struct rng r = rng_seed(2), seed = rng_seed(3);
    float *x = malloc(2 * N * sizeof(float)), *fresh = malloc(2 * M * sizeof(float));
    int8_t base[32], fine[512];
    struct train_book b;
    double exact, rounded;
    uint32_t n = 0;
    float scale;

    (void)state;
    for (size_t i = 0; i < 2 * N; i++)
        x[i] = (float)toy_normal(&r);
    for (size_t i = 0; i < 2 * M; i++)
        fresh[i] = (float)toy_normal(&r);
    assert_int_equal(train_book_scratch_init(&scratch, N), 0);
    train_book_learn(x, N, N, 2, 12, true, &seed, &scratch, &b);
    scale = train_book_round(&b, 2, base, fine);
    for (int w = 0; w < 16; w++)
        n += b.n_base[w];
    assert_int_equal(n, N);
    assert_true(b.base_error / N / 2 < .112 && b.base_error / N / 2 > .1);
    exact = book_error(fresh, M, &b, NULL, NULL, 0);
    rounded = book_error(fresh, M, &b, base, fine, scale);
    if (exact > .0092 || exact < .0078 || rounded / exact > 1.015)
        fail_msg("tree %.5f, rounded %.5f", exact, rounded);
    train_book_scratch_deinit(&scratch);
    free(x);
    free(fresh);
}

/* Around the number of samples that k-means++ looks at, and that parents settle on. */
static void test_numbers_of_samples(void **state)
{
    enum { N = 9000 };
    static const size_t SIZES[] = { 2047, 2048, 2049, 3000, 4095, 4096, 4097, 8191, N };
    struct train_book_scratch scratch;
    struct rng r = rng_seed(5), seed = rng_seed(6);
    float *x = malloc(2 * N * sizeof(float));
    struct train_book b;

    (void)state;
    for (size_t i = 0; i < 2 * N; i++)
        x[i] = (float)toy_normal(&r);
    assert_int_equal(train_book_scratch_init(&scratch, N), 0);
    for (size_t i = 0; i < ARRAY_SIZE(SIZES); i++) {
        double n = (double)SIZES[i];
        uint32_t counted = 0;

        train_book_learn(x, N, SIZES[i], 2, 12, true, &seed, &scratch, &b);
        for (int w = 0; w < 16; w++)
            counted += b.n_base[w];
        assert_int_equal(counted, SIZES[i]);
        assert_true(b.base_error / n / 2 < .115 && b.base_error / n / 2 > .095);
        assert_true(b.fine_error / n / 2 < .0085);
    }
    train_book_scratch_deinit(&scratch);
    free(x);
}

/* No samples, one value only, and four dimensions: no division by nothing, and a usable book. */
static void test_poor_books(void **state)
{
    struct train_book_scratch scratch;
    struct rng seed = rng_seed(3);
    float x[4 * 100] = { 0 };
    int8_t base[64], fine[1024];
    struct train_book b;

    (void)state;
    assert_int_equal(train_book_scratch_init(&scratch, 100), 0);
    for (uint32_t dsub = 2; dsub <= 4; dsub += 2)
        for (size_t n = 0; n <= 100; n += 50) {
            float scale;

            train_book_learn(x, 100, n, dsub, 12, true, &seed, &scratch, &b);
            scale = train_book_round(&b, dsub, base, fine);
            assert_true(scale > 0 && isfinite(scale));
            for (int w = 0; w < 16; w++)
                for (uint32_t i = 0; i < dsub; i++)
                    assert_true(isfinite(b.base[w][i]) && isfinite(b.fine[w][15][i]));
        }
    train_book_scratch_deinit(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dealing_balances),
        cmocka_unit_test(test_book_against_theory),
        cmocka_unit_test(test_numbers_of_samples),
        cmocka_unit_test(test_poor_books),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
