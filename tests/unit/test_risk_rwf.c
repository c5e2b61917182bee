/* risk_rwf: the oracle's ratios, the definition by its water level, and spectra with zeros */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/risk/risk_matrix.h"
#include "lib/risk/risk_rwf.h"
#include "tests/util/oracle.h"

/* spectrum c^-i of trace k, over the flat one: rwf.py */
static void test_oracle(void **state)
{
    static const struct {
        uint32_t k, n_words;
        double ratio[3]; /* c = 1.5, 2, 4 */
    } WANT[] = {
        { 2, 16, { 0.979795897, 0.942809042, 0.800000000 } },
        { 2, 256, { 0.979795897, 0.942809042, 0.800000000 } },
        { 4, 256, { 0.904426982, 0.754247233, 0.376470588 } },
        { 8, 16, { 0.701412248, 0.472586933, 0.208399060 } },
        { 8, 256, { 0.671378458, 0.382455988, 0.109315633 } },
        { 16, 256, { 0.398189384, 0.198266017, 0.054687500 } },
    };

    (void)state;
    for (size_t row = 0; row < ARRAY_SIZE(WANT); row++) {
        uint32_t k = WANT[row].k;

        for (int i = 0; i < 3; i++) {
            double c = (double[]){ 1.5, 2, 4 }[i], v[16], flat[16], sum = 0;

            for (uint32_t j = 0; j < k; j++)
                sum += v[j] = pow(c, -(double)j);
            for (uint32_t j = 0; j < k; j++) {
                v[j] *= k / sum;
                flat[j] = 1;
            }
            assert_true(oracle_prints(risk_rwf(v, k, log(WANT[row].n_words)) /
                                          risk_rwf(flat, k, log(WANT[row].n_words)),
                                      WANT[row].ratio[i], 1e-9));
        }
    }
}

/* D = sum min(level, v) where sum max(0, ln(v / level) / 2) is the rate; order does not matter */
static void test_water_level(void **state)
{
    struct risk_random g = { 9 };

    (void)state;
    for (int tries = 0; tries < 2000; tries++) {
        uint32_t k = 1 + (uint32_t)(risk_random_unit(&g) * 16);
        double v[16], low = 0, high = 0, nats = 8 * risk_random_unit(&g), d = 0;

        for (uint32_t i = 0; i < k; i++) {
            v[i] = exp(12 * risk_random_unit(&g) - 6);
            high = fmax(high, v[i]);
        }
        for (int step = 0; step < 200; step++) {
            double level = (low + high) / 2, rate = 0;

            for (uint32_t i = 0; i < k; i++)
                rate += fmax(0, .5 * log(v[i] / level));
            if (rate > nats)
                low = level;
            else
                high = level;
        }
        for (uint32_t i = 0; i < k; i++)
            d += fmin(v[i], high);
        assert_true(fabs(risk_rwf(v, k, nats) / d - 1) < 1e-11);
    }
}

static void test_zeros_take_no_rate(void **state)
{
    const double with[4] = { 0, 3, 0, 1 }, without[2] = { 1, 3 }, none[3] = { 0 };

    (void)state;
    assert_true(risk_rwf(with, 4, 2) == risk_rwf(without, 2, 2));
    assert_true(risk_rwf(none, 3, 1) == 0);
    assert_true(fabs(risk_rwf(without, 2, 0) - 4) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_water_level),
        cmocka_unit_test(test_zeros_take_no_rate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
