#pragma once

/*
 * A tile of one stream, from its tokens' energies to the next verdict
 *
 * The stream's own numbers in token order are all that it depends on: whoever steps the same tile
 * from the same monitor gets the same verdict. Thread: one at a time for each monitor.
 */

#include "lib/risk/risk_meter.h"

enum {
    RISK_TILE_TOKENS = 128,
    RISK_TILE_GROUP = KERN_GROUP, /* tokens that the means and the zone are stepped by */
    RISK_TILE_GROUPS = RISK_TILE_TOKENS / RISK_TILE_GROUP,
};

/* What a worker or an operator has said about a stream since its last tile. */
struct risk_input {
    float scale, offset; /* reports: the mean times scale plus offset */
    bool resets;         /* a reset is due */
};

#define RISK_NO_INPUT ((struct risk_input){ .scale = 1 })

/** risk_input_report() - add a report: as risk_meter_report() */
void risk_input_report(struct risk_input *input, double ratio);

/**
 * risk_input_apply() - to a monitor between two tiles
 * A report at its limit is Red from the next tile on, one at .7 of it Yellow.
 */
void risk_input_apply(const struct risk_input *input, struct risk_monitor *monitor);

/* What a tile was for its stream. */
struct risk_course {
    float mu;          /* after it */
    float peak;        /* the largest after any group */
    uint8_t cause;     /* of the peak: enum risk_cause */
    uint8_t was_reset; /* a reset was due, and not waived: the tile had no reference */
    uint8_t before;    /* zone at the end of the tile before */
    uint8_t zone[1 + RISK_TILE_GROUPS]; /* under which it was coded; after each group */
};

/**
 * risk_tile_step() - four groups, one after the other
 * @kern:       any: all give the same bits
 * @x2, @d2, @e2: [128], finite: of |x|², of the loop's |d|² and of the |e|² that its base code
 * leaves
 * @token:        [128] of enum risk_token
 * @before:       zone at the end of the tile before, without inputs since
 */
void risk_tile_step(struct risk_monitor *monitor, const struct kern *kern,
                    const struct risk_rules *rules, const struct risk_calibration *calibration,
                    const float *x2, const float *d2, const float *e2, const uint8_t *token,
                    uint8_t before, struct risk_course *ret_course);
