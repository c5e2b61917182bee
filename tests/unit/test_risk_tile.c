/* risk_tile: a tile is its four groups; what was reported and asked for counts from the next one */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/risk/risk_random.h"
#include "lib/risk/risk_tile.h"

static const struct risk_calibration CAL = {
    .error = .2, .residual = 1.6, .energy = 16, .tolerance = .4, .model = INFINITY, .loop_gain = .9
};

struct tile {
    float x2[RISK_TILE_TOKENS], d2[RISK_TILE_TOKENS], e2[RISK_TILE_TOKENS];
    uint8_t token[RISK_TILE_TOKENS];
};

static void fill(struct tile *tile, struct risk_random *g, double ratio)
{
    for (int t = 0; t < RISK_TILE_TOKENS; t++) {
        double u = .5 + risk_random_unit(g);

        tile->x2[t] = (float)(16 * u);
        tile->d2[t] = (float)(1.6 * u);
        tile->e2[t] = (float)(.2 * ratio * u);
        tile->token[t] = t % 32 ? RISK_TOKEN_CODED : RISK_TOKEN_KEY;
    }
}

static struct risk_course step(struct risk_monitor *m, const struct tile *tile)
{
    struct risk_rules rules = RISK_RULES;
    struct risk_course course;

    risk_tile_step(m, &rules, &CAL, tile->x2, tile->d2, tile->e2, tile->token, m->zone.zone,
                   &course);
    return course;
}

/* The same as the meter's own functions, group by group. */
static void test_groups(void **state)
{
    struct risk_rules rules = RISK_RULES;
    struct risk_random g = { 3 };
    struct risk_monitor a, b;
    struct tile tile;

    (void)state;
    risk_monitor_init(&a, &CAL);
    b = a;
    for (int i = 0; i < 60; i++) {
        struct risk_level level = { 0 };
        struct risk_course course;

        fill(&tile, &g, i > 20 && i < 30 ? 6 : 1);
        for (int t = 0; t < 5 && !i; t++)
            tile.token[t] = RISK_TOKEN_SINK;
        tile.token[40 + i] = RISK_TOKEN_ESCAPED;
        course = step(&a, &tile);
        b.zone.reset = 0;
        for (int k = 0; k < RISK_TILE_GROUPS; k++) {
            struct risk_group group;

            risk_group_begin(&b.meter, &group);
            for (int t = 32 * k; t < 32 * k + 32; t++)
                if (tile.token[t] != RISK_TOKEN_SINK)
                    risk_group_energy(&group, (double)tile.x2[t]);
            risk_meter_tolerance(&b.meter, &rules, &CAL, &group);
            for (int t = 32 * k; t < 32 * k + 32; t++) {
                if (tile.token[t] == RISK_TOKEN_CODED)
                    risk_group_coded(&group, (double)tile.d2[t], (double)tile.e2[t], 0);
                if (tile.token[t] == RISK_TOKEN_ESCAPED)
                    risk_group_escaped(&group);
            }
            risk_monitor_step(&b, &rules, &CAL, &group, 0, &level);
            assert_int_equal(course.zone[k + 1], b.zone.zone);
            assert_true((float)level.mu <= course.peak);
        }
        assert_true(course.mu == (float)level.mu);
        assert_memory_equal(&a, &b, sizeof(a));
        if (i == 20 || i == 59)
            assert_int_equal(a.zone.zone, RISK_GREEN);
        if (i == 24)
            assert_int_equal(a.zone.zone, RISK_RED);
    }
}

/* Entering Red makes a reset due, and the tile that follows says that it did it. */
static void test_reset(void **state)
{
    struct risk_random g = { 4 };
    struct risk_monitor m;
    struct risk_course course;
    struct risk_input input = RISK_NO_INPUT;
    struct tile tile;

    (void)state;
    risk_monitor_init(&m, &CAL);
    fill(&tile, &g, 30);
    course = step(&m, &tile);
    assert_false(course.was_reset);
    assert_true(course.zone[RISK_TILE_GROUPS] == RISK_RED && m.zone.reset);
    assert_true(course.peak >= 1 && course.before == RISK_GREEN && course.zone[0] == RISK_GREEN);
    fill(&tile, &g, 1);
    course = step(&m, &tile);
    assert_true(course.was_reset && !m.zone.reset);
    course = step(&m, &tile);
    assert_false(course.was_reset);
    risk_monitor_init(&m, &CAL);
    input.resets = true;
    risk_input_apply(&input, &m);
    assert_true(m.zone.reset && m.zone.zone == RISK_GREEN);
    assert_true(step(&m, &tile).was_reset);
}

/* Reports add up as they do one by one, and raise the zone before the next tile. */
static void test_reports(void **state)
{
    struct risk_monitor a, b;
    struct risk_input input = RISK_NO_INPUT;
    struct risk_random g = { 5 };
    struct risk_course course;
    struct tile tile;

    (void)state;
    risk_monitor_init(&a, &CAL);
    b = a;
    risk_input_apply(&input, &a);
    assert_memory_equal(&a, &b, sizeof(a));
    for (int i = 0; i < 3; i++) {
        risk_meter_report(&b.meter, .5 * i);
        risk_input_report(&input, .5 * i);
    }
    risk_input_apply(&input, &a);
    assert_true(fabs(a.meter.report - b.meter.report) < 1e-6);
    assert_int_equal(a.zone.zone, RISK_GREEN);
    input = RISK_NO_INPUT;
    risk_input_report(&input, 2);
    risk_input_apply(&input, &a);
    assert_int_equal(a.zone.zone, RISK_RED);
    fill(&tile, &g, 1);
    risk_tile_step(&a, &(struct risk_rules)RISK_RULES, &CAL, tile.x2, tile.d2, tile.e2, tile.token,
                   RISK_GREEN, &course);
    assert_true(course.before == RISK_GREEN && course.zone[0] == RISK_RED && course.was_reset);
    for (int i = 0; i < 12; i++)
        step(&a, &tile);
    assert_int_equal(a.zone.zone, RISK_GREEN);
    input = RISK_NO_INPUT;
    risk_input_report(&input, 1.5);
    risk_input_apply(&input, &a);
    assert_int_equal(a.zone.zone, RISK_YELLOW);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_reports),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
