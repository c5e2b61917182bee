/* risk_zone: every transition against the rules written out, switching at a boundary, actions */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/risk/risk_zone.h"
#include "tests/util/oracle.h"

/* theory.md 7.3, line by line, for n tokens that share a μ */
static struct risk_zone by_the_rules(struct risk_zone z, double mu, uint32_t n)
{
    uint8_t zone = z.zone;
    uint32_t calm = zone > RISK_GREEN && mu < (zone == RISK_RED ? .8 : .6) ? z.calm + n : 0;
    bool is_red = mu >= 1, is_down = calm >= z.dwell && !is_red && zone > RISK_GREEN;
    uint32_t dwell = z.dwell, green;

    if (is_red)
        z.zone = RISK_RED;
    else if (is_down)
        z.zone--;
    else if (zone == RISK_GREEN && mu >= .7)
        z.zone = RISK_YELLOW;
    if (z.zone > zone)
        dwell = dwell * 2 < 1024 ? dwell * 2 : 1024;
    green = z.zone == RISK_GREEN ? z.green + n : 0;
    if (green >= 512) {
        dwell = dwell / 2 > 32 ? dwell / 2 : 32;
        green = 0;
    }
    if (is_down || (is_red && zone < RISK_RED))
        calm = 0;
    if (is_red && zone < RISK_RED)
        z.reset = 1;
    z.calm = (uint16_t)calm;
    z.dwell = (uint16_t)dwell;
    z.green = (uint16_t)green;
    return z;
}

static void check_step(struct risk_zone z, double mu, uint32_t n)
{
    struct risk_zone want = by_the_rules(z, mu, n), got = z;
    bool has_changed = risk_zone_step(&got, mu, n);

    assert_memory_equal(&got, &want, sizeof(want));
    assert_int_equal(has_changed, got.zone != z.zone);
    assert_true(risk_zone_is_valid(&got));
    assert_true(got.reset == (z.reset || (got.zone == RISK_RED && z.zone != RISK_RED)));
    assert_false(z.zone == RISK_RED && got.zone == RISK_GREEN);
}

static void test_every_transition(void **state)
{
    static const double MU[] = { 0,       .599999, .6, .650,    .699999, .7,  .75,
                                 .799999, .8,      .9, .999999, 1,       1.5, INFINITY };
    static const uint32_t N[] = { 1, 8, 32, 128 };

    (void)state;
    for (uint32_t zone = 0; zone < RISK_N_ZONES; zone++)
        for (uint32_t dwell = 32; dwell <= 1024; dwell *= 2)
            for (uint32_t count = 0; count < 1200; count++)
                for (size_t i = 0; i < ARRAY_SIZE(MU); i++)
                    for (size_t j = 0; j < ARRAY_SIZE(N); j++) {
                        struct risk_zone z = { .dwell = (uint16_t)dwell,
                                               .zone = (uint8_t)zone,
                                               .reset = count % 2 };

                        if (zone == RISK_GREEN)
                            z.green = (uint16_t)(count % 512);
                        else
                            z.calm = (uint16_t)count;
                        check_step(z, MU[i], N[j]);
                    }
}

/* From any state, also after long silence, and with a level that is not a number. */
static void test_ends(void **state)
{
    struct risk_zone z;

    (void)state;
    risk_zone_init(&z);
    assert_true(risk_zone_is_valid(&z) && z.zone == RISK_GREEN && !z.reset);
    assert_true(risk_zone_step(&z, (double)NAN, 1));
    assert_int_equal(z.zone, RISK_RED);
    z = (struct risk_zone){ .zone = RISK_YELLOW, .dwell = 1024, .calm = UINT16_MAX };
    assert_true(risk_zone_step(&z, 0, 128));
    assert_int_equal(z.zone, RISK_GREEN);
}

static void test_raise(void **state)
{
    struct risk_zone z;

    (void)state;
    risk_zone_init(&z);
    z.green = 100;
    assert_false(risk_zone_raise(&z, RISK_GREEN));
    assert_true(risk_zone_raise(&z, RISK_YELLOW));
    assert_true(z.zone == RISK_YELLOW && !z.reset && z.dwell == 64 && risk_zone_is_valid(&z));
    assert_true(risk_zone_raise(&z, RISK_RED));
    assert_true(z.zone == RISK_RED && z.reset && z.dwell == 128);
    z.reset = 0;
    assert_false(risk_zone_raise(&z, RISK_RED));
    assert_true(!z.reset && z.dwell == 128);
    for (int i = 0; i < 127; i++)
        assert_false(risk_zone_step(&z, 0, 1));
    assert_true(risk_zone_step(&z, 0, 1));
    assert_int_equal(z.zone, RISK_YELLOW);
}

static void test_invalid(void **state)
{
    static const struct risk_zone BAD[] = {
        { .dwell = 32, .zone = RISK_N_ZONES },
        { .dwell = 32, .reset = 2 },
        { .dwell = 31 },
        { .dwell = 1025 },
        { .dwell = 32, .green = 512 },
        { .dwell = 32, .calm = 1 },
        { .dwell = 32, .zone = RISK_RED, .green = 1 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(BAD); i++)
        assert_false(risk_zone_is_valid(&BAD[i]));
}

/* A level that hovers at Red's boundary, with noise: back-off keeps the zone from flickering.
 * theory.md 7.3 has .8 switches in 10,000 tokens, 6.1 without back-off. */
static void test_boundary(void **state)
{
    struct risk_random g = { 4 };
    struct risk_zone z;
    double noise = 0;
    int n_changes = 0;

    (void)state;
    risk_zone_init(&z);
    for (int t = 0; t < 200000; t++) {
        double a, b;

        risk_random_normals(&g, &a, &b);
        noise += (a - noise) / 64;
        n_changes += risk_zone_step(&z, .85 + 1.1 * noise, 1);
    }
    assert_in_range(n_changes, 1, 200000 / 10000 * 3);
}

/* What must hold of the table, whatever its numbers: higher zones never keep less, nor rely more on
 * the reference, nor make longer groups; Red does without a reference that does not gain, and that
 * alone depends on it. */
static void test_actions(void **state)
{
    (void)state;
    for (uint32_t reference = 0; reference < 5; reference++)
        for (int i = 0; i < 4; i++) {
            struct risk_action a[RISK_N_ZONES];
            bool has_fine = i & 1, gains = i & 2;

            for (uint32_t zone = 0; zone < RISK_N_ZONES; zone++)
                a[zone] = risk_zone_action(reference, zone, has_fine, gains);
            assert_int_equal(a[RISK_GREEN].fine, has_fine);
            assert_true(a[RISK_YELLOW].fine && a[RISK_RED].fine);
            assert_true(a[RISK_GREEN].mode <= a[RISK_YELLOW].mode);
            assert_true(a[RISK_YELLOW].mode <= a[RISK_RED].mode);
            assert_true(a[RISK_GREEN].group >= a[RISK_YELLOW].group);
            assert_true(a[RISK_YELLOW].group >= a[RISK_RED].group);
            assert_true((a[RISK_RED].group == 8) == (reference == 1 || reference == 4));
            assert_int_equal(a[RISK_RED].mode, !reference ? RISK_MODE_RAW
                                               : gains    ? RISK_MODE_BETTER
                                                          : RISK_MODE_INTRA);
            assert_int_equal(a[RISK_YELLOW].mode, reference ? RISK_MODE_BETTER : RISK_MODE_INTRA);
            assert_int_equal(a[RISK_GREEN].mode, reference ? RISK_MODE_REFERENCE : RISK_MODE_INTRA);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_transition),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_raise),
        cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_boundary),
        cmocka_unit_test(test_actions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
