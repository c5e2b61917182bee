#pragma once

/*
 * A tile that no encoder makes: every section is there, with random codes, for any profile
 *
 * base: frame kinds for all streams but the first, droppable masks for all but the second, a
 * verdict of 20 bytes, raw rows of each type. fine: panels for all streams but the last.
 */

#include "lib/codec/tile_file.h"
#include "tests/util/toy_profile.h"

struct craft {
    uint8_t *base, *fine;
    size_t n_base, n_fine;
};

enum { CRAFT_VERDICT = 20, CRAFT_RAW_ROWS = 3 };

static inline size_t craft_raw_bytes(uint8_t type, uint32_t d, uint32_t dtype)
{
    return align_up(sizeof(struct tile_raw) + CRAFT_RAW_ROWS * raw_row_bytes(type, d, dtype), 8);
}

/* One entry with rows for tokens first, first + 31, first + 62. */
static inline void craft_raw(struct rng *r, uint8_t *to, uint32_t stream, uint8_t type, uint32_t d,
                             uint32_t dtype, uint32_t first)
{
    struct tile_raw raw = { .stream = stream, .type = type };

    for (uint32_t t = first; t < first + 31 * CRAFT_RAW_ROWS; t += 31)
        raw.tokens[t / 64] |= (uint64_t)1 << t % 64;
    memcpy(to, &raw, sizeof(raw));
    to += sizeof(raw);
    for (int k = 0; k < CRAFT_RAW_ROWS; k++) {
        if (type == RAW_INT8) {
            float scale = (float)(0.01 + 0.01 * rng_unit(r));

            memcpy(to, &scale, sizeof(scale));
            for (uint32_t i = 0; i < d; i++)
                to[4 + i] = (uint8_t)rng_next(r);
        } else {
            uint32_t as = type == RAW_F16 ? DPQ_F16 : dtype;

            for (uint32_t i = 0; i < d; i++)
                toy_put(to + i * dpq_dtype_bytes(as), as, (float)toy_normal(r));
        }
        to += raw_row_bytes(type, d, dtype);
    }
}

static inline void craft_random(struct rng *r, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)rng_next(r);
}

static inline void craft_base(const struct toy *toy, struct rng *r, uint32_t dtype, struct craft *t)
{
    const struct dpq_profile *p = toy->profile;
    uint32_t n = p->n_streams, d = p->geometry.head_dim, line = 0;
    struct tile_base_header h = {
        .magic = TILE_BASE_MAGIC,
        .version = TILE_VERSION,
        .dtype = (uint8_t)dtype,
        .first_position = 1000,
        .first_index = 256,
        .n_streams = n,
        .head_dim = d,
        .directory_offset = sizeof(h),
        .n_verdict_bytes = CRAFT_VERDICT,
    };

    memcpy(h.profile, p->digest, sizeof(h.profile));
    for (uint32_t s = 0; s < n; s++)
        h.n_panel_lines += d / p->streams[s].dsub;
    h.gains_offset = h.directory_offset + n * (uint32_t)sizeof(struct tile_stream);
    h.kinds_offset = h.gains_offset + n * DPQ_TILE_TOKENS;
    h.panels_offset = (uint32_t)align_up(h.kinds_offset + (n - 1) * 32, 64);
    h.droppable_offset = h.panels_offset + h.n_panel_lines * 64;
    h.verdict_offset = h.droppable_offset + (n - 1) * 2;
    h.raw_offset = (uint32_t)align_up(h.verdict_offset + CRAFT_VERDICT, 8);
    for (uint8_t type = RAW_INPUT; type <= RAW_INT8; type++)
        h.n_raw_bytes += (uint32_t)craft_raw_bytes(type, d, dtype);
    h.n_bytes = h.raw_offset + h.n_raw_bytes;
    t->n_base = h.n_bytes;
    t->base = calloc(1, t->n_base);
    memcpy(t->base, &h, sizeof(h));
    for (uint32_t s = 0; s < n; s++) {
        struct tile_stream e = {
            .panel = line,
            .reference = (uint8_t)p->streams[s].reference,
            .dsub = (uint8_t)p->streams[s].dsub,
            .bits = (uint8_t)((s ? STREAM_HAS_KINDS : 0) | (s + 1 < n ? STREAM_HAS_FINE : 0) |
                              (s == 1 ? STREAM_ALL_DROPPABLE : 0)),
            .group_log2 = (uint8_t)(3 + s % 5),
        };

        memcpy(t->base + h.directory_offset + s * sizeof(e), &e, sizeof(e));
        line += d / p->streams[s].dsub;
    }
    for (uint32_t i = 0; i < n * DPQ_TILE_TOKENS; i++)
        t->base[h.gains_offset + i] = (uint8_t)(rng_below(r, 20) ? 140 + rng_below(r, 30) : 0);
    craft_random(r, t->base + h.kinds_offset, (n - 1) * 32);
    craft_random(r, t->base + h.panels_offset, h.n_panel_lines * 64);
    craft_random(r, t->base + h.droppable_offset, (n - 1) * 2 + CRAFT_VERDICT);
    for (uint8_t type = RAW_INPUT, *to = t->base + h.raw_offset; type <= RAW_INT8; type++) {
        craft_raw(r, to, type == RAW_INPUT ? 0 : n - 1, type, d, dtype, 5u + type);
        to += craft_raw_bytes(type, d, dtype);
    }
}

static inline void craft_fine(const struct toy *toy, struct rng *r, struct craft *t)
{
    const struct dpq_profile *p = toy->profile;
    uint32_t n = p->n_streams, d = p->geometry.head_dim;
    struct tile_fine_header h = {
        .magic = TILE_FINE_MAGIC,
        .version = TILE_VERSION,
        .first_index = 256,
        .n_streams = n,
        .panels_offset = (uint32_t)align_up(sizeof(h) + n * sizeof(uint32_t), 64),
    };
    uint32_t panel[DPQ_TILE_TOKENS];

    memcpy(h.profile, p->digest, sizeof(h.profile));
    for (uint32_t s = 0; s < n; s++) {
        panel[s] = s + 1 < n ? h.n_panel_lines : TILE_NO_PANEL;
        h.n_panel_lines += s + 1 < n ? d / p->streams[s].dsub : 0;
    }
    h.n_bytes = h.panels_offset + h.n_panel_lines * 64;
    t->n_fine = h.n_bytes;
    t->fine = calloc(1, t->n_fine);
    memcpy(t->fine, &h, sizeof(h));
    memcpy(t->fine + sizeof(h), panel, n * sizeof(uint32_t));
    craft_random(r, t->fine + h.panels_offset, h.n_panel_lines * 64);
}

/* toy's profile must have 2 … 128 streams. */
static inline struct craft craft_tile(const struct toy *toy, uint32_t dtype, uint64_t seed)
{
    struct rng r = rng_seed(seed);
    struct craft t;

    craft_base(toy, &r, dtype, &t);
    craft_fine(toy, &r, &t);
    return t;
}

static inline void craft_drop(struct craft *t)
{
    free(t->base);
    free(t->fine);
}
