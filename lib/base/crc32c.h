#pragma once

#include "lib/base/defs.h"

/**
 * crc32c() - CRC-32C (Castagnoli) of bytes, continued from crc (0 at the beginning)
 *
 * For files and exported objects; eight bytes a step by tables, about 2 GB/s.
 */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n_bytes);
