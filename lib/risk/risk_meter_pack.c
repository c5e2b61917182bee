/*
 * A monitor as 48 bytes, little-endian: ten f32 in the order of struct risk_meter, then calm,
 * dwell, green, zone, reset
 *
 * Going on from the bytes must be going on from the monitor, hence packing ends by reading its own
 * bytes back.
 */

#include <float.h>
#include <math.h>
#include <string.h>

#include "lib/risk/risk_meter.h"

enum { N_MEANS = sizeof(struct risk_meter) / sizeof(double), ZONE_AT = 4 * N_MEANS };

_Static_assert(ZONE_AT + 8 == RISK_MONITOR_BYTES, "layout");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the formats are little-endian");

/* the only mean that may be negative */
static const size_t LOOP = offsetof(struct risk_meter, loop) / sizeof(double);

static float get_float(const uint8_t *bytes, size_t i)
{
    float v;

    memcpy(&v, bytes + 4 * i, sizeof(v));
    return v;
}

static void read_meter(const uint8_t *bytes, struct risk_meter *ret_meter)
{
    for (size_t i = 0; i < N_MEANS; i++) {
        double v = (double)get_float(bytes, i);

        memcpy((char *)ret_meter + i * sizeof(v), &v, sizeof(v));
    }
}

void risk_monitor_pack(struct risk_monitor *monitor, uint8_t ret_bytes[RISK_MONITOR_BYTES])
{
    for (size_t i = 0; i < N_MEANS; i++) {
        double v;
        float f;

        memcpy(&v, (const char *)&monitor->meter + i * sizeof(v), sizeof(v));
        f = (float)fmin(fmax(v, -(double)FLT_MAX), (double)FLT_MAX);
        memcpy(ret_bytes + 4 * i, &f, sizeof(f));
    }
    memcpy(ret_bytes + ZONE_AT, &monitor->zone.calm, 2);
    memcpy(ret_bytes + ZONE_AT + 2, &monitor->zone.dwell, 2);
    memcpy(ret_bytes + ZONE_AT + 4, &monitor->zone.green, 2);
    ret_bytes[ZONE_AT + 6] = monitor->zone.zone;
    ret_bytes[ZONE_AT + 7] = monitor->zone.reset;
    read_meter(ret_bytes, &monitor->meter);
}

int risk_monitor_unpack(const uint8_t bytes[RISK_MONITOR_BYTES], struct risk_monitor *ret_monitor)
{
    struct risk_monitor m = { .zone = { .zone = bytes[ZONE_AT + 6], .reset = bytes[ZONE_AT + 7] } };

    for (size_t i = 0; i < N_MEANS; i++) {
        float v = get_float(bytes, i);

        if (!isfinite(v) || (i != LOOP && v < 0))
            return RISK_MONITOR_E_CORRUPT;
    }
    read_meter(bytes, &m.meter);
    memcpy(&m.zone.calm, bytes + ZONE_AT, 2);
    memcpy(&m.zone.dwell, bytes + ZONE_AT + 2, 2);
    memcpy(&m.zone.green, bytes + ZONE_AT + 4, 2);
    if (!risk_zone_is_valid(&m.zone) || !(m.meter.residual > 0) || !(m.meter.energy > 0))
        return RISK_MONITOR_E_CORRUPT;
    *ret_monitor = m;
    return 0;
}
