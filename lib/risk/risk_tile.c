#include "lib/risk/risk_tile.h"

static const double YELLOW = .7, RED = 1;

void risk_input_report(struct risk_input *input, double ratio)
{
    input->scale *= .5f;
    input->offset = .5f * (input->offset + (float)ratio);
}

void risk_input_apply(const struct risk_input *input, struct risk_monitor *monitor)
{
    double *report = &monitor->meter.report;

    *report = *report * (double)input->scale + (double)input->offset;
    if (input->scale < 1)
        risk_zone_raise(&monitor->zone, *report >= RED      ? RISK_RED
                                        : *report >= YELLOW ? RISK_YELLOW
                                                            : RISK_GREEN);
    if (input->resets)
        monitor->zone.reset = 1;
}

void risk_tile_step(struct risk_monitor *monitor, const struct kern *kern,
                    const struct risk_rules *rules, const struct risk_calibration *calibration,
                    const float *x2, const float *d2, const float *e2, const uint8_t *token,
                    uint8_t before, struct risk_course *ret_course)
{
    *ret_course = (struct risk_course){ .before = before, .was_reset = monitor->zone.reset };
    ret_course->zone[0] = monitor->zone.zone;
    monitor->zone.reset = 0;
    for (uint32_t i = 0; i < RISK_TILE_GROUPS; i++) {
        uint32_t at = i * RISK_TILE_GROUP;
        struct risk_group group;
        struct risk_level level;

        risk_group_begin(&monitor->meter, &group);
        risk_group_energies(&group, kern, x2 + at, token + at);
        risk_meter_tolerance(&monitor->meter, rules, calibration, &group);
        risk_group_tokens(&group, kern, d2 + at, e2 + at, token + at);
        risk_monitor_step(monitor, rules, calibration, &group, 0, &level);
        ret_course->zone[i + 1] = monitor->zone.zone;
        ret_course->mu = (float)level.mu;
        if (ret_course->mu >= ret_course->peak) {
            ret_course->peak = ret_course->mu;
            ret_course->cause = (uint8_t)level.cause;
        }
    }
}
