#pragma once

/* Reverse water-filling: what the best code of a Gaussian leaves of each direction. */

#include <stdint.h>

/**
 * risk_rwf() - total distortion of independent Gaussians at a total rate
 * @variances: [k], >= 0, in any order
 * @k:         1 … RISK_MAX_DIM
 * @nats:      of all k together, >= 0; ln N for a code of N words
 *
 * Directions weaker than the water level get no rate and stay as they are; hence it says what a
 * code of about one bit a number does, where the ratio of determinants does not (theory.md 6.2).
 *
 * Thread: any.
 * Return: the distortion, in the unit of the variances.
 */
double risk_rwf(const double *variances, uint32_t k, double nats);
