#pragma once

/*
 * The zone of a stream
 *
 *                 μ >= .7                    μ >= 1: reset
 *     ┌───────┐ ──────────► ┌────────┐ ──────────────────► ┌─────┐
 *     │ Green │             │ Yellow │                     │ Red │
 *     └───────┘ ◄────────── └────────┘ ◄────────────────── └─────┘
 *         │     μ < .6 for               μ < .8 for dwell     ▲
 *         │     dwell tokens             tokens               │
 *         └───────────────────────────────────────────────────┘
 *                              μ >= 1: reset
 *
 * Hysteresis alone would still switch on noise at a boundary, hence back-off: each rise doubles the
 * dwell, up to 1024 tokens; each 512 tokens of Green halve it. A reset is due once on entering Red.
 * theory.md 7.3 is where the numbers come from.
 *
 * A pure function of its arguments. Thread: any.
 */

#include <stdbool.h>
#include <stdint.h>

enum risk_zone_name {
    RISK_GREEN,
    RISK_YELLOW,
    RISK_RED,
    RISK_N_ZONES,
};

enum {
    RISK_DWELL_MIN = 32,
    RISK_DWELL_MAX = 1024,
    RISK_GREEN_RELIEF = 512, /* tokens of Green that halve the dwell */
};

struct risk_zone {
    uint16_t calm;  /* tokens of low μ, on the way down */
    uint16_t dwell; /* that are needed */
    uint16_t green; /* tokens of Green since the dwell was last halved */
    uint8_t zone;   /* enum risk_zone_name */
    uint8_t reset;  /* 1: a reset is due; whoever does it puts 0 */
};

/** risk_zone_init() - Green, shortest dwell, nothing due */
void risk_zone_init(struct risk_zone *zone);

/**
 * risk_zone_step() - the machine, once a token or once a group
 * @mu:       level after the tokens
 * @n_tokens: 1 … 128
 *
 * Return: whether the zone has changed.
 */
bool risk_zone_step(struct risk_zone *zone, double mu, uint32_t n_tokens);

/**
 * risk_zone_raise() - what a worker's report says of this sequence: at least this zone, from now on
 *
 * Counts as a rise: the dwell doubles, the way down is by low μ as ever. Entering Red makes a reset
 * due. Return: whether the zone has changed.
 */
bool risk_zone_raise(struct risk_zone *zone, uint32_t at_least);

/** risk_zone_is_valid() - of a state that came from outside */
bool risk_zone_is_valid(const struct risk_zone *zone);

/* --- what a zone means for the encoder ------------------------------------------------------- */

enum risk_mode {
    RISK_MODE_REFERENCE, /* predicted from the stream's reference */
    RISK_MODE_BETTER,    /* for each group, the better of predicted and intra */
    RISK_MODE_INTRA,     /* no reference */
    RISK_MODE_RAW,       /* int8, or the input's type where that does not do; where the rate has
                            no fine plane, that first */
};

struct risk_action {
    uint8_t mode;  /* enum risk_mode */
    uint8_t fine;  /* 1: the fine plane is written, and must not be dropped */
    uint8_t group; /* tokens from key to key; 0: there are none, or not of this axis */
};

/**
 * risk_zone_action() - decisions.md 9 and 12 as a table; lib/risk/README.md prints it
 * @reference: as in enum risk_reference, <= 4
 * @zone:      enum risk_zone_name
 * @has_fine:  the profile keeps both planes of this stream anyway
 * @gains:     predictions still leave less than the vectors have: risk_meter_gains()
 */
struct risk_action risk_zone_action(uint32_t reference, uint32_t zone, bool has_fine, bool gains);
