/*
 * The machine as a table: where each event leads from each zone
 *
 * μ and the time of calm are first turned into one event. The table then has one row a zone, one
 * column an event, and nothing else decides a transition.
 */

#include "lib/risk/risk_zone.h"

#include <assert.h>

#include "lib/base/defs.h"

enum event {
    CALMED, /* calm for as long as the dwell */
    CALM,   /* μ is low enough to count */
    LEVEL,  /* neither low nor high */
    HIGH,   /* μ >= .7 */
    ALARM,  /* μ >= 1 */
    N_EVENTS,
};

/* clang-format off */
static const uint8_t NEXT[RISK_N_ZONES][N_EVENTS] = {
    /*                 CALMED       CALM         LEVEL        HIGH         ALARM    */
    [RISK_GREEN]  = { RISK_GREEN,  RISK_GREEN,  RISK_GREEN,  RISK_YELLOW, RISK_RED },
    [RISK_YELLOW] = { RISK_GREEN,  RISK_YELLOW, RISK_YELLOW, RISK_YELLOW, RISK_RED },
    [RISK_RED]    = { RISK_YELLOW, RISK_RED,    RISK_RED,    RISK_RED,    RISK_RED },
};
/* clang-format on */

/* μ below this counts towards the dwell; in Green there is nowhere to go */
static const double LEAVE[RISK_N_ZONES] = { 0, .6, .8 };

static const double ENTER_YELLOW = .7, ENTER_RED = 1;

static uint16_t add(uint16_t count, uint32_t n)
{
    uint32_t sum = count + n;

    return sum < UINT16_MAX ? (uint16_t)sum : UINT16_MAX;
}

void risk_zone_init(struct risk_zone *zone)
{
    *zone = (struct risk_zone){ .zone = RISK_GREEN, .dwell = RISK_DWELL_MIN };
}

static enum event event(struct risk_zone *z, double mu, uint32_t n_tokens)
{
    bool is_calm = mu < LEAVE[z->zone];

    z->calm = is_calm ? add(z->calm, n_tokens) : 0;
    if (!(mu < ENTER_RED)) /* also when it is not a number */
        return ALARM;
    if (is_calm)
        return z->calm >= z->dwell ? CALMED : CALM;
    return mu >= ENTER_YELLOW ? HIGH : LEVEL;
}

static bool move(struct risk_zone *z, uint8_t to)
{
    bool has_changed = to != z->zone;

    if (to > z->zone)
        z->dwell = z->dwell * 2 < RISK_DWELL_MAX ? z->dwell * 2 : RISK_DWELL_MAX;
    if (has_changed)
        z->calm = 0;
    if (has_changed && to == RISK_RED)
        z->reset = 1;
    z->zone = to;
    return has_changed;
}

bool risk_zone_step(struct risk_zone *z, double mu, uint32_t n_tokens)
{
    enum event e;
    bool has_changed;

    assert(z->zone < RISK_N_ZONES);
    e = event(z, mu, n_tokens);
    has_changed = move(z, NEXT[z->zone][e]);
    z->green = z->zone == RISK_GREEN ? add(z->green, n_tokens) : 0;
    if (z->green >= RISK_GREEN_RELIEF) {
        z->dwell = z->dwell / 2 > RISK_DWELL_MIN ? z->dwell / 2 : RISK_DWELL_MIN;
        z->green = 0;
    }
    return has_changed;
}

bool risk_zone_raise(struct risk_zone *z, uint32_t at_least)
{
    assert(z->zone < RISK_N_ZONES && at_least < RISK_N_ZONES);
    if (at_least <= z->zone)
        return false;
    z->green = 0;
    return move(z, (uint8_t)at_least);
}

bool risk_zone_is_valid(const struct risk_zone *z)
{
    return z->zone < RISK_N_ZONES && z->reset <= 1 && z->dwell >= RISK_DWELL_MIN &&
           z->dwell <= RISK_DWELL_MAX && z->green < RISK_GREEN_RELIEF &&
           (z->zone != RISK_GREEN || !z->calm) && (z->zone == RISK_GREEN || !z->green);
}

enum { AXIS_NONE, AXIS_TIME, AXIS_DEPTH, N_AXES };

static const uint8_t AXIS[] = { AXIS_NONE, AXIS_TIME, AXIS_DEPTH, AXIS_DEPTH, AXIS_TIME };

/* fine: 2 as the profile has it */
/* clang-format off */
static const struct risk_action ACTIONS[N_AXES][RISK_N_ZONES] = {
    [AXIS_NONE]  = { { RISK_MODE_INTRA, 2, 0 },      { RISK_MODE_INTRA, 1, 0 },   { RISK_MODE_RAW, 1, 0 } },
    [AXIS_TIME]  = { { RISK_MODE_REFERENCE, 2, 32 }, { RISK_MODE_BETTER, 1, 16 }, { RISK_MODE_BETTER, 1, 8 } },
    [AXIS_DEPTH] = { { RISK_MODE_REFERENCE, 2, 0 },  { RISK_MODE_BETTER, 1, 0 },  { RISK_MODE_BETTER, 1, 0 } },
};
/* clang-format on */

struct risk_action risk_zone_action(uint32_t reference, uint32_t zone, bool has_fine, bool gains)
{
    struct risk_action a;

    assert(reference < ARRAY_SIZE(AXIS) && zone < RISK_N_ZONES);
    a = ACTIONS[AXIS[reference]][zone];
    if (a.fine == 2)
        a.fine = has_fine;
    if (zone == RISK_RED && a.mode == RISK_MODE_BETTER && !gains)
        a.mode = RISK_MODE_INTRA;
    return a;
}
