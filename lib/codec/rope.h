#pragma once

/*
 * Rotary embedding: cos and sin of the tokens of a tile, for both directions
 *
 * The angle is position * inv_freq in double precision; cosine and sine are rounded to fp32 once.
 * Forward turns by the angle and multiplies by attention_scaling; inverse undoes both. "Exact"
 * means to fp32 rounding.
 */

#include "lib/base/defs.h"
#include "lib/deltapq.h"
#include "lib/kern/kern.h"

struct rope_table {
    float *cosine, *sine;                 /* [n_tokens][rotary_dim / 2], scaled */
    float *inverse_cosine, *inverse_sine; /* the inverse's, sine negated */
};

/** rope_table_new() - room for n_tokens; all four pointers NULL when there is no rotation */
int rope_table_new(const struct dpq_geometry *geometry, size_t n_tokens,
                   struct rope_table *ret_table) _must_check_;
void rope_table_free(struct rope_table *table);

/** rope_table_fill() - for tokens at first_position, first_position + 1, … */
void rope_table_fill(struct rope_table *table, const struct dpq_geometry *geometry,
                     uint64_t first_position, size_t n_tokens);

/** rope_table_from() - the same table from token `first` on; borrows */
struct rope_table rope_table_from(const struct rope_table *table,
                                  const struct dpq_geometry *geometry, size_t first);

/** rope_turn() - of rows from token `first` on, for kern->give; borrows the table */
struct kern_turn rope_turn(const struct rope_table *table, const struct dpq_geometry *geometry,
                           size_t first);
/** rope_turn_back() - its inverse, of rows from token 0 on, for kern->take */
struct kern_turn rope_turn_back(const struct rope_table *table,
                                const struct dpq_geometry *geometry);

/** rope_apply() - turn token-major rows in place; does nothing without a rotation */
void rope_apply(const struct kern *k, const struct dpq_geometry *geometry,
                const struct rope_table *table, float *x, size_t n_tokens);
void rope_undo(const struct kern *k, const struct dpq_geometry *geometry,
               const struct rope_table *table, float *x, size_t n_tokens);
