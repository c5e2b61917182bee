#pragma once

/* How much of shared memory is in huge pages. Linux for x86-64: 2 MiB. */

#include "lib/store/map.h"

/**
 * huge_bytes() - how much of the memory is in huge pages
 * Looks at one place in 2 MiB if any of 16 places is in one, else at those; some milliseconds.
 * Return: bytes; 0 also when the kernel does not tell (no /proc/self/smaps).
 */
uint64_t huge_bytes(const struct map *map);
