#pragma once

/* Filling struct dpq_fault: what a refused call is told. */

#include "lib/base/defs.h"
#include "lib/deltapq.h"

/**
 * fault_set() - a printf-like message, no location
 * @fault: may be NULL: the caller is not interested
 * Return: outcome, so that `return fault_set(f, DPQ_E_CORRUPT, …)` reads well.
 */
int fault_set(struct dpq_fault *fault, int outcome, const char *format, ...) _printf_(3, 4);

/** fault_set_at() - the same with a location; -1 where it does not apply */
int fault_set_at(struct dpq_fault *fault, int outcome, int32_t layer, int32_t kind, int32_t head,
                 int64_t token, const char *format, ...) _printf_(7, 8);
