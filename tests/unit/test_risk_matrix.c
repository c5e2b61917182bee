/* risk_matrix: eigenvalues against known ones and identities; the ratio in the worst direction */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/risk/risk_matrix.h"
#include "tests/util/oracle.h"

/* a random positive definite matrix, with a spectrum spread over many powers of ten */
static void random_matrix(struct risk_random *g, uint32_t k, double spread, double *ret)
{
    double *x = oracle_normals(g, k * k);

    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < k; j++) {
            ret[i * k + j] = 0;
            for (uint32_t l = 0; l < k; l++)
                ret[i * k + j] += x[i * k + l] * x[j * k + l] * pow(spread, -(double)l);
        }
    free(x);
}

static double quadratic(const double *a, const double *v, uint32_t k)
{
    double sum = 0;

    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < k; j++)
            sum += v[i] * a[i * k + j] * v[j];
    return sum;
}

static void test_eigen_rebuilds_the_matrix(void **state)
{
    struct risk_random g = { 5 };

    (void)state;
    for (uint32_t k = 1; k <= RISK_MAX_DIM; k++) {
        double a[256], values[16], vectors[256];

        random_matrix(&g, k, 2, a);
        risk_matrix_eigen(a, k, values, vectors);
        for (uint32_t i = 0; i < k; i++) {
            assert_true(!i || values[i] >= values[i - 1]);
            for (uint32_t j = 0; j < k; j++) {
                double dot = 0, sum = 0;

                for (uint32_t l = 0; l < k; l++) {
                    dot += vectors[i * k + l] * vectors[j * k + l];
                    sum += values[l] * vectors[l * k + i] * vectors[l * k + j];
                }
                assert_true(fabs(dot - (i == j)) < 1e-13);
                assert_true(fabs(sum - a[i * k + j]) < 1e-12 * values[k - 1]);
            }
        }
    }
}

/* 2 - 2 cos(pi i / (k + 1)): the second difference */
static void test_eigen_of_known_spectrum(void **state)
{
    double a[256] = { 0 }, values[16], vectors[256];

    (void)state;
    for (uint32_t i = 0; i < 16; i++) {
        a[i * 16 + i] = 2;
        if (i)
            a[i * 16 + i - 1] = a[(i - 1) * 16 + i] = -1;
    }
    risk_matrix_eigen(a, 16, values, vectors);
    for (uint32_t i = 0; i < 16; i++)
        assert_true(fabs(values[i] - (2 - 2 * cos(M_PI * (i + 1) / 17))) < 1e-13);
}

/* No direction exceeds what is returned, and the direction returned attains it. */
static void test_domination_is_the_worst_direction(void **state)
{
    struct risk_random g = { 6 };

    (void)state;
    for (uint32_t k = 1; k <= RISK_MAX_DIM; k++) {
        double a[256], b[256], v[17], ratio;

        random_matrix(&g, k, 1.5, a);
        random_matrix(&g, k, 1.5, b);
        ratio = risk_matrix_domination(a, b, k, v);
        assert_true(fabs(quadratic(a, v, k) / quadratic(b, v, k) / ratio - 1) < 1e-7);
        for (int tries = 0; tries < 300; tries++) {
            double *w = oracle_normals(&g, k);

            assert_true(quadratic(a, w, k) <= quadratic(b, w, k) * ratio * (1 + 1e-9));
            free(w);
        }
    }
}

static void test_domination_of_lost_directions(void **state)
{
    const double zero[4] = { 0 }, one[4] = { 1, 0, 0, 1 }, first[4] = { 1, 0, 0, 0 };
    const double second[4] = { 0, 0, 0, 1 };

    (void)state;
    assert_true(risk_matrix_domination(zero, zero, 2, NULL) == 0);
    assert_true(isinf(risk_matrix_domination(one, zero, 2, NULL)));
    assert_true(risk_matrix_domination(zero, one, 2, NULL) == 0);
    assert_true(fabs(risk_matrix_domination(first, first, 2, NULL) - 1) < 1e-12);
    assert_true(risk_matrix_domination(second, first, 2, NULL) > 1e11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eigen_rebuilds_the_matrix),
        cmocka_unit_test(test_eigen_of_known_spectrum),
        cmocka_unit_test(test_domination_is_the_worst_direction),
        cmocka_unit_test(test_domination_of_lost_directions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
