#pragma once

/* Small symmetric matrices: eigenvalues, and the ratio of two covariances in the worst direction.
 */

#include <stdint.h>

enum { RISK_MAX_DIM = 16 }; /* of a subspace */

/**
 * risk_matrix_eigen() - all eigenvalues and eigenvectors, by Jacobi's cyclic rotations
 * @a:           [k][k], symmetric and finite; only read
 * @k:           1 … RISK_MAX_DIM
 * @ret_values:  [k], ascending
 * @ret_vectors: [k][k], a vector a row, orthonormal; signs are arbitrary
 *
 * Thread: any.
 */
void risk_matrix_eigen(const double *a, uint32_t k, double *ret_values, double *ret_vectors);

/**
 * risk_matrix_domination() - λ_max(B^-1/2 A B^-1/2) = max over v of (vᵀA v) / (vᵀB v)
 * @a, @b:         [k][k], covariances: symmetric, not negative
 * @ret_direction: [k], a v that attains it, of no particular length; may be NULL
 *
 * With A = S_d, B = S_x this is the covariance domination of theory.md 3.1 (< 1: the residual is
 * smaller than the vector in every direction); with A = S_e, B = S_d it is γ_L of its 5.1.
 * Directions in which B has less than 1e-12 of its largest variance count as having that much, so
 * that a direction that only A has gives a very large ratio and one that neither has none.
 *
 * Thread: any.
 * Return: the ratio, >= 0; INFINITY when B is zero and A is not, 0 when both are.
 */
double risk_matrix_domination(const double *a, const double *b, uint32_t k, double *ret_direction);
