/* risk_detector: the e-detector's trace and rates as the oracle has them, CUSUM, drift of shapes */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/risk/risk_detector.h"
#include "lib/risk/risk_shape.h"
#include "tests/util/oracle.h"

static double step(double ln_m, double ratio, double stake, double alpha)
{
    return risk_detector_step(ln_m, risk_detector_payoff(ratio, stake), -log(alpha));
}

/* edetector.py A */
static void test_trace(void **state)
{
    static const struct {
        double ratio, ln_m, mu;
    } WANT[40] = { { 0.786915, 0.000000, 0.000000 }, { 0.809034, 0.000000, 0.000000 },
                   { 0.516912, 0.000000, 0.000000 }, { 1.172026, 0.082513, 0.008959 },
                   { 0.077370, 0.000000, 0.000000 }, { 0.353948, 0.000000, 0.000000 },
                   { 0.391384, 0.000000, 0.000000 }, { 2.327163, 0.508973, 0.055261 },
                   { 0.215770, 0.011204, 0.001216 }, { 0.461483, 0.000000, 0.000000 },
                   { 0.001573, 0.000000, 0.000000 }, { 0.932533, 0.000000, 0.000000 },
                   { 0.387726, 0.000000, 0.000000 }, { 0.072923, 0.000000, 0.000000 },
                   { 0.685240, 0.000000, 0.000000 }, { 0.400571, 0.000000, 0.000000 },
                   { 0.537511, 0.000000, 0.000000 }, { 4.727138, 1.052069, 0.114227 },
                   { 1.030629, 1.067267, 0.115877 }, { 5.508421, 2.247217, 0.243988 },
                   { 3.615222, 3.083430, 0.334779 }, { 0.063364, 2.451720, 0.266192 },
                   { 1.204013, 2.548853, 0.276738 }, { 0.463133, 2.236286, 0.242802 },
                   { 0.870375, 2.169278, 0.235526 }, { 1.823083, 2.513960, 0.272950 },
                   { 4.184549, 3.466496, 0.376370 }, { 0.644237, 3.270625, 0.355104 },
                   { 2.019384, 3.682530, 0.399826 }, { 9.593642, 5.186608, 0.563129 },
                   { 3.298505, 5.951728, 0.646201 }, { 0.577330, 5.714314, 0.620424 },
                   { 1.442383, 5.914141, 0.642120 }, { 0.337266, 5.511621, 0.598417 },
                   { 0.085616, 4.900622, 0.532078 }, { 2.882307, 5.563904, 0.604093 },
                   { 2.900450, 6.231849, 0.676614 }, { 3.495847, 7.041856, 0.764560 },
                   { 0.412459, 6.694041, 0.726796 }, { 0.496617, 6.404101, 0.695316 } };
    struct risk_random g = { 50 };
    double *z = oracle_normals(&g, 80), ln_m = 0;

    (void)state;
    for (int t = 0; t < 40; t++) {
        double ratio = (z[2 * t] * z[2 * t] + z[2 * t + 1] * z[2 * t + 1]) / 2 * (t < 16 ? .6 : 2);

        ln_m = step(ln_m, ratio, .5, 1e-4);
        assert_true(oracle_prints(ratio, WANT[t].ratio, 1e-6));
        assert_true(oracle_prints(ln_m, WANT[t].ln_m, 1e-6));
        assert_true(oracle_prints(ln_m / -log(1e-4), WANT[t].mu, 1e-6));
    }
    free(z);
}

enum { STREAMS = 64, TOKENS = 4000 };

/* alarms in 10,000 tokens, and the mean wait; an alarm sets M back to 1 */
static double alarms(const double *e2, double factor, double stake, double alpha, double *ret_wait)
{
    int n_tokens = factor <= 1 ? TOKENS : 1000;
    double ln_m[STREAMS] = { 0 }, n_alarms = 0, waits = 0;
    int run[STREAMS] = { 0 };

    for (int t = 0; t < n_tokens; t++)
        for (int s = 0; s < STREAMS; s++) {
            ln_m[s] = step(ln_m[s], factor * e2[t * STREAMS + s], stake, alpha);
            run[s]++;
            if (ln_m[s] < -log(alpha))
                continue;
            n_alarms++;
            waits += run[s];
            ln_m[s] = run[s] = 0;
        }
    *ret_wait = n_alarms > 0 ? waits / n_alarms : 0;
    return 1e4 * n_alarms / STREAMS / n_tokens;
}

/* edetector.py B */
static void test_alarm_rates(void **state)
{
    static const double FACTORS[] = { .8, 1, 2, 4 };
    static const struct {
        size_t k;
        double stake, alpha, rate[4], wait[4];
    } WANT[] = {
        { 2, .25, 1e-4, { 0, .04, 166.56, 411.56 }, { 0, 3969, 58, 24 } },
        { 2, .5, 1e-3, { 0, .70, 327.50, 822.66 }, { 0, 1565, 30, 12 } },
        { 2, .5, 1e-4, { 0, .08, 244.84, 624.38 }, { 0, 2036, 40, 16 } },
        { 8, .25, 1e-4, { 0, 0, 213.75, 537.81 }, { 0, 0, 46, 18 } },
        { 8, .5, 1e-3, { 0, .20, 488.44, 1122.50 }, { 0, 2385, 20, 9 } },
        { 8, .5, 1e-4, { 0, 0, 368.59, 854.84 }, { 0, 0, 27, 12 } },
    };

    (void)state;
    for (size_t row = 0; row < ARRAY_SIZE(WANT); row++) {
        struct risk_random g = { 51 };
        size_t k = WANT[row].k;
        double *z = oracle_normals(&g, TOKENS * STREAMS * k), *e2 = oracle_alloc(TOKENS * STREAMS);

        for (size_t i = 0; i < TOKENS * STREAMS * k; i++)
            e2[i / k] += z[i] * z[i] / (double)k;
        for (int i = 0; i < 4; i++) {
            double wait;

            assert_true(
                oracle_prints(alarms(e2, FACTORS[i], WANT[row].stake, WANT[row].alpha, &wait),
                              WANT[row].rate[i], 1e-2));
            assert_true(oracle_prints(wait, WANT[row].wait[i], 1));
        }
        free(e2);
        free(z);
    }
}

/* No alarm below the top, none lost above; outliers count as 8. */
static void test_ends(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) /* without a logarithm where that changes nothing */
        for (int j = -4; j <= 4; j++) {
            double ln_m = i / 6., payoff = exp2(j * .75);

            assert_true(risk_detector_step(ln_m, payoff, 9) ==
                        fmin(fmax(ln_m + log(payoff), 0), 9));
        }
    assert_true(risk_detector_step(0, exp(-5), 9) == 0);
    assert_true(risk_detector_step(8, exp(5), 9) == 9);
    assert_true(risk_detector_payoff(1, .5) == 1);
    assert_true(risk_detector_payoff(1e300, .5) == 4.5);
    assert_true(risk_detector_payoff(INFINITY, .5) == 4.5);
    assert_true(isfinite(log(pow(risk_detector_payoff(INFINITY, .5), 128))));
}

/* The mean ratio 1 of calibration never adds up; a jump to 8 alarms in four tokens. */
static void test_cusum(void **state)
{
    double sum = 0;

    (void)state;
    for (int t = 0; t < 100; t++)
        sum = risk_detector_cusum(sum, risk_detector_excess(t % 2 ? 2.9 : .1));
    assert_true(sum < 1);
    for (int t = 0; t < 4; t++) {
        assert_true(sum < 20);
        sum = risk_detector_cusum(sum, risk_detector_excess(100));
    }
    assert_true(sum >= 20);
}

/* 1 where ln S has moved by the limit, to either side; 0 where nothing moved or can. */
static void test_drift(void **state)
{
    static const uint32_t DIMS[] = { 2, 8, 64, 128 };
    struct risk_drift drift, none = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(DIMS); i++) {
        uint32_t k = DIMS[i];
        double gauss = risk_shape_radial_ratio(2, k), laplace = risk_shape_radial_ratio(1, k);
        double moved = risk_shape_radial(1, k) - risk_shape_radial(2, k), flat;

        risk_drift_init(&drift, gauss, k, moved);
        assert_true(risk_detector_drift(&drift, gauss * 3, 9) < 1e-12);
        assert_true(fabs(risk_detector_drift(&drift, laplace * 3, 9) - 1) < .02);
        risk_drift_init(&drift, laplace, k, moved);
        assert_true(fabs(risk_detector_drift(&drift, gauss * 3, 9) - 1) < .02);
        flat = risk_detector_drift(&drift, (gauss + laplace) / 2, 1);
        assert_true(fabs(flat - .5) < .02);
        risk_drift_init(&drift, gauss, k, 100);
        assert_true(risk_detector_drift(&drift, 1, 1) == 0);
        assert_true(risk_detector_drift(&drift, .5, 1) < .7);
    }
    risk_drift_init(&drift, .5, 64, .01); /* heavier than all there are */
    assert_true(drift.at == 0 && risk_detector_drift(&drift, .9, 1) == 0);
    assert_true(risk_detector_drift(&none, 1, 2) == 0);
    assert_true(risk_detector_drift(&drift, 0, 0) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace), cmocka_unit_test(test_alarm_rates),
        cmocka_unit_test(test_ends),  cmocka_unit_test(test_cusum),
        cmocka_unit_test(test_drift),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
