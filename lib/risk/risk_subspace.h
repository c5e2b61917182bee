#pragma once

/*
 * Which subspace of a stream it is: running means of each, 8 bytes, while a sequence is appended to
 *
 * They decide nothing: one monitor for each two dimensions raises too many false alarms (theory.md
 * 7.1). They name the worst subspace when the stream's own monitor has spoken. Not kept at rest.
 *
 * Thread: one at a time for each stream.
 */

#include <stdint.h>

struct risk_subspace {
    float error, residual; /* running means of |e|², |d|², per token */
};

/** risk_subspace_init() - at calibration's means, all > 0 */
void risk_subspace_init(struct risk_subspace *subspaces, uint32_t n_subspaces, const float *error,
                        const float *residual);

/**
 * risk_subspace_step() - a group's sums
 * @rate:     of the means per token, as in struct risk_rules
 * @n_tokens: coded tokens of the group; 0 changes nothing
 * @e2, @d2:  [n_subspaces], sums over the group
 */
void risk_subspace_step(struct risk_subspace *subspaces, uint32_t n_subspaces, double rate,
                        uint32_t n_tokens, const float *e2, const float *d2);

/**
 * risk_subspace_worst() - the subspace whose error has grown most, the lowest on ties
 * @error:     [n_subspaces], at calibration
 * @n_subspaces: > 0
 * @ret_ratio: its error over calibration's; may be NULL
 */
uint32_t risk_subspace_worst(const struct risk_subspace *subspaces, uint32_t n_subspaces,
                             const float *error, double *ret_ratio);
