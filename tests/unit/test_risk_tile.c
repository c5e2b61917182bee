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
    struct kern kern;

    kern_init(&kern, kern_cpu_detect());
    risk_tile_step(m, &kern, &rules, &CAL, tile->x2, tile->d2, tile->e2, tile->token, m->zone.zone,
                   &course);
    return course;
}

/* A group by the meter's own functions: at once, by the definition of its sums; or token by token.
 */
static void step_group(struct risk_monitor *m, const struct tile *tile, int first, bool by_tokens,
                       struct risk_level *ret_level)
{
    struct risk_rules rules = RISK_RULES;
    struct risk_group group;
    struct kern kern;

    kern_init(&kern, 0);
    risk_group_begin(&m->meter, &group);
    for (int t = first; by_tokens && t < first + RISK_TILE_GROUP; t++)
        if (tile->token[t] != RISK_TOKEN_SINK)
            risk_group_energy(&group, (double)tile->x2[t]);
    if (!by_tokens)
        risk_group_energies(&group, &kern, tile->x2 + first, tile->token + first);
    risk_meter_tolerance(&m->meter, &rules, &CAL, &group);
    for (int t = first; by_tokens && t < first + RISK_TILE_GROUP; t++) {
        if (tile->token[t] == RISK_TOKEN_CODED)
            risk_group_coded(&group, (double)tile->d2[t], (double)tile->e2[t], 0);
        if (tile->token[t] == RISK_TOKEN_ESCAPED)
            risk_group_escaped(&group);
    }
    if (!by_tokens)
        risk_group_tokens(&group, &kern, tile->d2 + first, tile->e2 + first, tile->token + first);
    risk_monitor_step(m, &rules, &CAL, &group, 0, ret_level);
}

/* The same as the meter's own functions, group by group: all bits if its tokens come at once, and
 * means to rounding, and all zones, if they come one by one. */
static void test_groups(void **state)
{
    struct risk_random g = { 3 };
    struct risk_monitor a, b, c;
    struct tile tile;

    (void)state;
    risk_monitor_init(&a, &CAL);
    b = c = a;
    for (int i = 0; i < 60; i++) {
        struct risk_level level = { 0 }, by_tokens;
        struct risk_course course;

        fill(&tile, &g, i > 20 && i < 30 ? 6 : 1);
        for (int t = 0; t < 5 && !i; t++)
            tile.token[t] = RISK_TOKEN_SINK;
        tile.token[40 + i] = RISK_TOKEN_ESCAPED;
        for (int t = 0; t < RISK_TILE_GROUP && i % 7 == 3; t++)
            tile.token[t] = i % 2 ? RISK_TOKEN_KEY : RISK_TOKEN_CODED;
        tile.e2[i] *= i % 5 ? 1 : 1000; /* beyond all caps */
        tile.x2[i + 1] *= i % 5 ? 1 : 1000;
        course = step(&a, &tile);
        b.zone.reset = c.zone.reset = 0;
        for (int k = 0; k < RISK_TILE_GROUPS; k++) {
            step_group(&b, &tile, 32 * k, /* by_tokens= */ false, &level);
            step_group(&c, &tile, 32 * k, /* by_tokens= */ true, &by_tokens);
            assert_int_equal(course.zone[k + 1], b.zone.zone);
            assert_int_equal(course.zone[k + 1], c.zone.zone);
            assert_true(level.cause == by_tokens.cause && fabs(level.mu / by_tokens.mu - 1) < 1e-6);
            assert_true((float)level.mu <= course.peak);
        }
        assert_true(course.mu == (float)level.mu);
        assert_memory_equal(&a, &b, sizeof(a));
        assert_true(fabs(a.meter.energy / c.meter.energy - 1) < 1e-12);
        assert_true(fabs(a.meter.residual / c.meter.residual - 1) < 1e-12);
        assert_true(fabs(a.meter.error / c.meter.error - 1) < 1e-12);
        assert_true(fabs(a.meter.square / c.meter.square - 1) < 1e-9);
        assert_true(fabs(a.meter.first - c.meter.first) <= 1e-7 * c.meter.first);
        assert_true(fabs(a.meter.cusum - c.meter.cusum) < 1e-9);
        assert_true(fabs(a.meter.ln_m - c.meter.ln_m) < 1e-9);
        assert_true(a.meter.escapes == c.meter.escapes);
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
    struct kern kern;
    struct tile tile;

    (void)state;
    kern_init(&kern, 0);
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
    risk_tile_step(&a, &kern, &(struct risk_rules)RISK_RULES, &CAL, tile.x2, tile.d2, tile.e2,
                   tile.token, RISK_GREEN, &course);
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
