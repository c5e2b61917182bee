#pragma once

#include "lib/base/defs.h"
#include "lib/deltapq.h"

/**
 * tile_judge() - is this a tile of the codec's profile, of that place, that a daemon may keep?
 * @base, @fine: as of dpq_tile_decode(), but in memory that does not change
 * @first_position, @first_index, @rate: as it was encoded with
 *
 * For bytes from elsewhere, before they are stored: all that dpq_tile_decode() looks at, and that
 * raw rows are finite. What codes say is not judged: any codes are numbers.
 *
 * Thread: any, one call per codec at a time.
 * Return: 0; DPQ_E_CORRUPT, DPQ_E_VERSION, DPQ_E_MISMATCH (of another place, too),
 *         DPQ_E_NOT_FINITE, located; reason in ret_fault.
 */
int tile_judge(struct dpq_codec *codec, const void *base, size_t n_base, const void *fine,
               size_t n_fine, uint64_t first_position, uint64_t first_index, uint32_t rate,
               struct dpq_fault *ret_fault) _must_check_;
