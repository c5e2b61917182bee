#pragma once

/* An export file in memory: a profile of 300 bytes, a sequence of two tiles and a tail, an empty
 * one. */

#include <stdlib.h>
#include <string.h>

#include "lib/base/crc32c.h"
#include "lib/store/export_file.h"

struct export_memory {
    uint8_t bytes[8192];
    size_t n;
    size_t room; /* write() fails beyond; 0: all of bytes */
};

static inline int export_to_memory(void *user, const void *bytes, size_t n)
{
    struct export_memory *m = user;

    if (m->n + n > (m->room ? m->room : sizeof(m->bytes)))
        return -28; /* ENOSPC */
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
    return 0;
}

enum { EXPORT_SAMPLE_RECORDS = 7, EXPORT_SAMPLE_TOKENS = 2 * 128 + 5 };

static inline int export_sample(struct export_memory *m)
{
    static uint8_t filler[600];
    uint32_t tokens[EXPORT_SAMPLE_TOKENS];
    struct export_writer w;
    struct export_record records[EXPORT_SAMPLE_RECORDS] = {
        { .kind = EXPORT_PROFILE, .profile = { filler, 300 } },
        { .kind = EXPORT_SEQUENCE,
          .sequence = { .dtype = 1,
                        .rate = 2,
                        .position_base = 7,
                        .n_tokens = EXPORT_SAMPLE_TOKENS,
                        .tokens = (uint8_t *)tokens,
                        .adapter = (const uint8_t *)"lora",
                        .n_adapter = 4,
                        .salt = (const uint8_t *)"s",
                        .n_salt = 1 } },
        { .kind = EXPORT_TILE,
          .tile = { .first_index = 0,
                    .base = filler,
                    .n_base = 555,
                    .fine = filler + 9,
                    .n_fine = 333 } },
        { .kind = EXPORT_TILE, .tile = { .first_index = 128, .base = filler + 1, .n_base = 444 } },
        { .kind = EXPORT_TAIL,
          .tail = { .first_index = 256, .n_tokens = 5, .rows = filler, .n_bytes = 5 * 48 } },
        { .kind = EXPORT_SEQUENCE,
          .sequence = { .tokens = filler, .adapter = filler, .salt = filler } },
        { .kind = EXPORT_END },
    };
    int r;

    for (size_t i = 0; i < sizeof(filler); i++)
        filler[i] = (uint8_t)(i * i + i / 7);
    for (uint32_t i = 0; i < EXPORT_SAMPLE_TOKENS; i++)
        tokens[i] = 1000 + i;
    memset(records[1].sequence.profile, 0xab, 32);
    r = export_begin(&w, export_to_memory, m);
    for (size_t i = 0; i < EXPORT_SAMPLE_RECORDS && !r; i++)
        r = export_put(&w, &records[i]);
    return r;
}

/* After a change of the record at offset: make its checksum right again, if it lies in the file. */
static inline void export_seal(uint8_t *bytes, size_t n, size_t at)
{
    uint64_t n_bytes;
    uint32_t crc;

    if (n < 16 || at > n - 16)
        return;
    memcpy(&n_bytes, bytes + at + 8, sizeof(n_bytes));
    if (n_bytes > n - at - 16)
        return;
    crc = crc32c(crc32c(0, &n_bytes, sizeof(n_bytes)), bytes + at + 16, n_bytes);
    memcpy(bytes + at + 4, &crc, sizeof(crc));
}

/* Where the i-th record begins. */
static inline size_t export_record_at(const uint8_t *bytes, size_t i)
{
    size_t at = 16;
    uint64_t n_bytes;

    for (; i; i--) {
        memcpy(&n_bytes, bytes + at + 8, sizeof(n_bytes));
        at += 16 + align_up(n_bytes, 8);
    }
    return at;
}
