/*
 * A monitor as 24 bytes, little-endian: ten numbers in the order of struct risk_meter, the upper
 * halves of their f32; u16 tokens of calm, or in Green those since the dwell was halved; u16 dwell
 * in bits 0 to 10, zone in 11 and 12, reset in 13
 *
 * 24 bytes a stream and tile are .02 bits a number. Going on from the bytes must be going on from
 * the monitor, hence packing ends by reading its own bytes back.
 */

#include <math.h>
#include <string.h>

#include "lib/risk/risk_meter.h"

enum { N_MEANS = sizeof(struct risk_meter) / sizeof(double), ZONE_AT = 2 * N_MEANS };
enum { ZONE_SHIFT = 11, RESET_SHIFT = 13, END_SHIFT = 14 };

_Static_assert(ZONE_AT + 4 == RISK_MONITOR_BYTES, "layout");
_Static_assert(RISK_DWELL_MAX < 1 << ZONE_SHIFT && RISK_N_ZONES <= 4, "layout");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the formats are little-endian");

/* the only mean that may be negative */
static const size_t LOOP = offsetof(struct risk_meter, loop) / sizeof(double);

static const float LARGEST = 0x1.fep127f;

static float get_float(const uint8_t *bytes, size_t i)
{
    uint16_t half;
    uint32_t bits;
    float v;

    memcpy(&half, bytes + 2 * i, sizeof(half));
    bits = (uint32_t)half << 16;
    memcpy(&v, &bits, sizeof(v));
    return v;
}

/* To nearest even; what is not 0 does not become 0. */
static void put_float(uint8_t *bytes, size_t i, double v)
{
    double limited = v > -(double)LARGEST ? v : -(double)LARGEST;
    float f = (float)(limited < (double)LARGEST ? limited : (double)LARGEST);
    uint32_t bits;
    uint16_t half;

    memcpy(&bits, &f, sizeof(bits));
    half = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    if (v > 0 && !half)
        half = 1;
    memcpy(bytes + 2 * i, &half, sizeof(half));
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
    const struct risk_zone *z = &monitor->zone;
    uint16_t count = z->zone == RISK_GREEN ? z->green : z->calm;
    uint16_t state = (uint16_t)(z->dwell | z->zone << ZONE_SHIFT | z->reset << RESET_SHIFT);

#pragma GCC unroll 1
    for (size_t i = 0; i < N_MEANS; i++) {
        double v;

        memcpy(&v, (const char *)&monitor->meter + i * sizeof(v), sizeof(v));
        put_float(ret_bytes, i, v);
    }
    memcpy(ret_bytes + ZONE_AT, &count, 2);
    memcpy(ret_bytes + ZONE_AT + 2, &state, 2);
    read_meter(ret_bytes, &monitor->meter);
}

int risk_monitor_unpack(const uint8_t bytes[RISK_MONITOR_BYTES], struct risk_monitor *ret_monitor)
{
    struct risk_monitor m = { 0 };
    uint16_t count, state;

    for (size_t i = 0; i < N_MEANS; i++) {
        float v = get_float(bytes, i);

        if (!isfinite(v) || (i != LOOP && v < 0))
            return RISK_MONITOR_E_CORRUPT;
    }
    read_meter(bytes, &m.meter);
    memcpy(&count, bytes + ZONE_AT, 2);
    memcpy(&state, bytes + ZONE_AT + 2, 2);
    m.zone.dwell = state & ((1 << ZONE_SHIFT) - 1);
    m.zone.zone = state >> ZONE_SHIFT & 3;
    m.zone.reset = state >> RESET_SHIFT & 1;
    *(m.zone.zone == RISK_GREEN ? &m.zone.green : &m.zone.calm) = count;
    if (state >> END_SHIFT || !risk_zone_is_valid(&m.zone) || !(m.meter.residual > 0) ||
        !(m.meter.energy > 0))
        return RISK_MONITOR_E_CORRUPT;
    *ret_monitor = m;
    return 0;
}
