/* risk_subspace: means of any grouping, and the subspace that is named */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/risk/risk_subspace.h"
#include "tests/util/oracle.h"

enum { N = 32 };

static void fill(float *v, float value)
{
    for (int m = 0; m < N; m++)
        v[m] = value * (float)(m + 1);
}

static void test_groups_are_tokens(void **state)
{
    struct risk_subspace tokens[N], groups[N];
    float error[N], residual[N], e2[N], d2[N];

    (void)state;
    fill(error, .1f);
    fill(residual, 1);
    risk_subspace_init(tokens, N, error, residual);
    risk_subspace_init(groups, N, error, residual);
    fill(e2, .3f);
    fill(d2, 2);
    for (int t = 0; t < 32; t++)
        risk_subspace_step(tokens, N, 1. / 64, 1, e2, d2);
    fill(e2, 32 * .3f);
    fill(d2, 32 * 2);
    risk_subspace_step(groups, N, 1. / 64, 32, e2, d2);
    for (int m = 0; m < N; m++) {
        double w = 1 - pow(63. / 64, 32);

        assert_true(fabs((double)groups[m].error / (m + 1) - (.1 + w * .2)) < 1e-6);
        assert_true(fabs((double)groups[m].residual / (m + 1) - (1 + w)) < 1e-6);
        assert_true(fabs((double)(tokens[m].error / groups[m].error) - 1) < 1e-5);
    }
    memcpy(tokens, groups, sizeof(groups));
    risk_subspace_step(groups, N, 1. / 64, 0, e2, d2);
    assert_memory_equal(tokens, groups, sizeof(groups));
}

/* What has grown, not what is large; calm ones tie and the first is named. */
static void test_worst(void **state)
{
    struct risk_subspace s[N];
    float error[N], residual[N], e2[N], d2[N];
    double ratio;

    (void)state;
    fill(error, .1f);
    fill(residual, 1);
    risk_subspace_init(s, N, error, residual);
    assert_int_equal(risk_subspace_worst(s, N, error, &ratio), 0);
    assert_true(ratio == 1);
    fill(e2, 3.2f);
    fill(d2, 32);
    e2[5] *= 3;
    risk_subspace_step(s, N, 1. / 64, 32, e2, d2);
    assert_int_equal(risk_subspace_worst(s, N, error, &ratio), 5);
    assert_true(ratio > 1.7 && ratio < 1.9);
    assert_int_equal(risk_subspace_worst(s, N, error, NULL), 5);
    assert_int_equal(sizeof(struct risk_subspace), 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups_are_tokens),
        cmocka_unit_test(test_worst),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
