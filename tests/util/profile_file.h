#pragma once

/* Profile files under attack: seal them again after a change, and touch all that a profile shows.
 */

#include <string.h>

#include "lib/base/crc32c.h"
#include "lib/codec/profile_file.h"

static inline void profile_seal(uint8_t *bytes, size_t n_bytes)
{
    uint32_t crc;

    if (n_bytes < PROFILE_CRC_FROM)
        return;
    crc = crc32c(0, bytes + PROFILE_CRC_FROM, n_bytes - PROFILE_CRC_FROM);
    memcpy(bytes + offsetof(struct profile_file_header, crc32c), &crc, sizeof(crc));
}

static inline uint64_t profile_sum(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += p[i];
    return sum;
}

/* Read every array of every stream to its end: a sanitizer sees what lies outside. */
static inline uint64_t profile_walk(const struct dpq_profile *p)
{
    uint64_t sum = strlen(p->info) + strlen(p->name);

    for (uint32_t i = 0; i < p->n_streams; i++) {
        const struct profile_stream *s = &p->streams[i];
        struct profile_sizes n = profile_sizes(p->geometry.head_dim, s->dsub, s->n_inputs);

        sum += profile_sum(s->mean, n.vector) + profile_sum(s->encode, n.matrix) +
               profile_sum(s->decode, n.matrix);
        for (int t = 0; t < N_TREES; t++)
            if (s->tree[t].scale)
                sum += profile_sum(s->tree[t].scale, n.scale) +
                       profile_sum(s->tree[t].base, n.base) + profile_sum(s->tree[t].fine, n.fine);
        if (s->leak)
            sum += profile_sum(s->leak, n.leak);
        if (s->weight)
            sum += profile_sum(s->weight, n.weight) + profile_sum(s->bias, n.vector);
    }
    return sum;
}
