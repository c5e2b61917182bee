/*
 * A tile's bytes, judged
 *
 * The objects may lie in memory that somebody else can change, so each structure is first copied,
 * then checked in the copy, then used from the copy. Arithmetic is in 64 bits; an object has less
 * than 4 GiB, so sums of a few 32-bit fields can't wrap.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/fault.h"
#include "lib/codec/tile_file.h"
#include "lib/codec/tile_watch.h"

enum { KINDS_BYTES = KERN_TOKENS / 4 };

struct tile_view *tile_view_free(struct tile_view *view)
{
    if (!view)
        return NULL;
    free(view->first_raw);
    free(view->raw);
    free(view->fine_panel);
    free(view->kinds);
    free(view->streams);
    free(view);
    return NULL;
}

DEFINE_CLEANUP(struct tile_view *, tile_view_free);

int tile_view_new(const struct dpq_profile *profile, struct tile_view **ret_view)
{
    _cleanup_(tile_view_freep) struct tile_view *v = calloc(1, sizeof(*v));
    size_t n = profile->n_streams;

    if (!v)
        return error_origin(-ENOMEM);
    v->max_raw = profile->n_streams * TILE_MAX_RAW;
    v->streams = calloc(n, sizeof(*v->streams));
    v->kinds = calloc(n, sizeof(*v->kinds));
    v->fine_panel = calloc(n, sizeof(*v->fine_panel));
    v->raw = calloc(v->max_raw, sizeof(*v->raw));
    v->first_raw = calloc(n + 1, sizeof(*v->first_raw));
    if (!v->streams || !v->kinds || !v->fine_panel || !v->raw || !v->first_raw)
        return error_origin(-ENOMEM);
    *ret_view = steal_ptr(v);
    return 0;
}

static bool inside(uint64_t offset, uint64_t n_bytes, uint64_t n_object)
{
    return offset <= n_object && n_bytes <= n_object - offset;
}

static int check_header(const struct tile_base_header *h, const struct dpq_profile *p,
                        size_t n_base, struct dpq_fault *fault)
{
    uint64_t n = p->n_streams;

    if (h->magic != TILE_BASE_MAGIC)
        return fault_set(fault, DPQ_E_CORRUPT,
                         "this is not a tile's base object: the magic is "
                         "missing");
    if (h->version != TILE_VERSION)
        return fault_set(fault, DPQ_E_VERSION, "tile version %u; this library reads version %d",
                         h->version, TILE_VERSION);
    if (memcmp(h->profile, p->digest, sizeof(h->profile)))
        return fault_set(fault, DPQ_E_MISMATCH, "the tile was made with another profile");
    if (h->n_bytes != n_base || h->n_streams != n || h->head_dim != p->geometry.head_dim ||
        !dpq_dtype_bytes(h->dtype) || h->rate > DPQ_RATE_COMPACT)
        return fault_set(fault, DPQ_E_CORRUPT, "the tile's header contradicts itself");
    if (!inside(h->directory_offset, n * sizeof(struct tile_stream), n_base) ||
        !inside(h->gains_offset, n * KERN_TOKENS, n_base) || h->panels_offset % KERN_LINE ||
        !inside(h->panels_offset, (uint64_t)h->n_panel_lines * KERN_LINE, n_base) ||
        !inside(h->verdict_offset, h->n_verdict_bytes, n_base) ||
        !inside(h->raw_offset, h->n_raw_bytes, n_base))
        return fault_set(fault, DPQ_E_CORRUPT, "a part of the tile lies outside of it");
    return 0;
}

int tile_find_verdict(const void *base, size_t n_base, size_t *ret_offset, size_t *ret_n_bytes)
{
    struct tile_base_header h;

    if (n_base < sizeof(h))
        return DPQ_E_CORRUPT;
    memcpy(&h, base, sizeof(h));
    if (h.magic != TILE_BASE_MAGIC || h.n_bytes != n_base)
        return DPQ_E_CORRUPT;
    if (h.version != TILE_VERSION)
        return DPQ_E_VERSION;
    if (!inside(h.verdict_offset, h.n_verdict_bytes, n_base))
        return DPQ_E_CORRUPT;
    *ret_offset = h.verdict_offset;
    *ret_n_bytes = h.n_verdict_bytes;
    return 0;
}

static int check_stream(const struct tile_view *v, const struct profile_stream *s, uint32_t i,
                        uint32_t head_dim, struct dpq_fault *fault)
{
    const struct tile_stream *t = &v->streams[i];

    if (t->dsub != s->dsub || (t->reference != REFERENCE_NONE && t->reference != s->reference) ||
        t->bits & ~STREAM_KNOWN_BITS || t->group_log2 < 3 || t->group_log2 > 7)
        return fault_set(fault, DPQ_E_CORRUPT, "the directory entry of stream %u is out of range",
                         i);
    if (!inside(t->panel, head_dim / t->dsub, v->header.n_panel_lines))
        return fault_set(fault, DPQ_E_CORRUPT, "the panel of stream %u lies outside the tile", i);
    return 0;
}

static int set_streams(struct tile_view *v, const struct dpq_profile *p, struct dpq_fault *fault)
{
    uint64_t kinds = v->header.kinds_offset, n_masks = 0;
    int r;

    memcpy(v->streams, v->base + v->header.directory_offset, p->n_streams * sizeof(*v->streams));
    for (uint32_t i = 0; i < p->n_streams; i++) {
        r = check_stream(v, &p->streams[i], i, p->geometry.head_dim, fault);
        if (r)
            return r;
        v->kinds[i] = 0;
        if (v->streams[i].bits & STREAM_HAS_KINDS) {
            if (!kinds || !inside(kinds, KINDS_BYTES, v->header.n_bytes))
                return fault_set(fault, DPQ_E_CORRUPT, "frame kinds lie outside the tile");
            v->kinds[i] = (uint32_t)kinds;
            kinds += KINDS_BYTES;
        }
        n_masks += !(v->streams[i].bits & STREAM_ALL_DROPPABLE);
    }
    if (!inside(v->header.droppable_offset, n_masks * sizeof(uint16_t), v->header.n_bytes))
        return fault_set(fault, DPQ_E_CORRUPT, "the droppable mask lies outside the tile");
    return 0;
}

static int set_raw(struct tile_view *v, uint32_t n_streams, struct dpq_fault *fault)
{
    uint64_t at = v->header.raw_offset, end = at + v->header.n_raw_bytes;
    uint32_t n = 0, stream = 0;

    v->first_raw[0] = 0;
    while (at < end) {
        struct tile_raw raw;
        uint64_t n_bytes;

        if (!inside(at, sizeof(raw), end))
            return fault_set(fault, DPQ_E_CORRUPT, "a raw entry is cut off");
        memcpy(&raw, v->base + at, sizeof(raw));
        if (raw.type > RAW_INT8 || raw.stream < stream || raw.stream >= n_streams ||
            n == v->max_raw)
            return fault_set(fault, DPQ_E_CORRUPT, "raw entry %u is out of range", n);
        n_bytes =
            (uint64_t)raw_row_bytes(raw.type, v->header.head_dim, v->header.dtype) *
            (uint64_t)(__builtin_popcountll(raw.tokens[0]) + __builtin_popcountll(raw.tokens[1]));
        if (!inside(at + sizeof(raw), n_bytes, end))
            return fault_set(fault, DPQ_E_CORRUPT, "the rows of raw entry %u are cut off", n);
        for (; stream < raw.stream; stream++)
            v->first_raw[stream + 1] = n;
        v->raw[n++] = (struct tile_raw_view){ .type = raw.type,
                                              .tokens = { raw.tokens[0], raw.tokens[1] },
                                              .rows = (uint32_t)(at + sizeof(raw)) };
        at = align_up(at + sizeof(raw) + n_bytes, 8);
    }
    for (; stream < n_streams; stream++)
        v->first_raw[stream + 1] = n;
    return 0;
}

static int check_fine_header(const struct tile_fine_header *h, const struct tile_view *v,
                             size_t n_fine, struct dpq_fault *fault)
{
    uint64_t n = v->header.n_streams;

    if (h->magic != TILE_FINE_MAGIC)
        return fault_set(fault, DPQ_E_CORRUPT,
                         "this is not a tile's fine object: the magic is "
                         "missing");
    if (h->version != TILE_VERSION)
        return fault_set(fault, DPQ_E_VERSION, "fine version %u; this library reads version %d",
                         h->version, TILE_VERSION);
    if (memcmp(h->profile, v->header.profile, sizeof(h->profile)) ||
        h->first_index != v->header.first_index)
        return fault_set(fault, DPQ_E_MISMATCH, "base and fine object are not of the same tile");
    if (h->n_bytes != n_fine || h->n_streams != n || h->panels_offset % KERN_LINE ||
        !inside(sizeof(*h), n * sizeof(uint32_t), n_fine) ||
        !inside(h->panels_offset, (uint64_t)h->n_panel_lines * KERN_LINE, n_fine))
        return fault_set(fault, DPQ_E_CORRUPT, "the fine object's header contradicts itself");
    return 0;
}

static int set_fine(struct tile_view *v, size_t n_fine, struct dpq_fault *fault)
{
    struct tile_fine_header h;
    int r;

    if (n_fine < sizeof(h))
        return fault_set(fault, DPQ_E_CORRUPT, "%zu bytes are too few for a fine object", n_fine);
    memcpy(&h, v->fine, sizeof(h));
    r = check_fine_header(&h, v, n_fine, fault);
    if (r)
        return r;
    for (uint32_t i = 0; i < h.n_streams; i++) {
        uint32_t panel;

        memcpy(&panel, v->fine + sizeof(h) + i * sizeof(panel), sizeof(panel));
        if (panel == TILE_NO_PANEL)
            continue;
        if (!(v->streams[i].bits & STREAM_HAS_FINE) ||
            !inside(panel, v->header.head_dim / v->streams[i].dsub, h.n_panel_lines))
            return fault_set(fault, DPQ_E_CORRUPT,
                             "the fine panel of stream %u lies outside the object", i);
        v->fine_panel[i] = h.panels_offset + panel * KERN_LINE;
    }
    return 0;
}

int tile_view_set(struct tile_view *v, const struct dpq_profile *profile, const void *base,
                  size_t n_base, const void *fine, size_t n_fine, struct dpq_fault *ret_fault)
{
    int r;

    if (n_base < sizeof(v->header) || n_base > UINT32_MAX || n_fine > UINT32_MAX)
        return fault_set(ret_fault, DPQ_E_CORRUPT, "%zu bytes can't be a tile's base object",
                         n_base);
    memcpy(&v->header, base, sizeof(v->header));
    v->base = base;
    v->fine = fine;
    r = check_header(&v->header, profile, n_base, ret_fault);
    if (r)
        return r;
    r = set_streams(v, profile, ret_fault);
    if (r)
        return r;
    r = set_raw(v, profile->n_streams, ret_fault);
    if (r)
        return r;
    memset(v->fine_panel, 0, profile->n_streams * sizeof(*v->fine_panel));
    return fine ? set_fine(v, n_fine, ret_fault) : 0;
}

int dpq_tile_fine(const void *base, size_t n_base, bool *ret_made, bool *ret_droppable)
{
    struct tile_base_header h;
    bool made = false, droppable = true;

    if (n_base < sizeof(h))
        return DPQ_E_CORRUPT;
    memcpy(&h, base, sizeof(h));
    if (h.magic != TILE_BASE_MAGIC || h.version != TILE_VERSION ||
        !inside(h.directory_offset, h.n_streams * sizeof(struct tile_stream), n_base))
        return DPQ_E_CORRUPT;
    for (uint32_t i = 0; i < h.n_streams; i++) {
        struct tile_stream t;

        memcpy(&t, (const uint8_t *)base + h.directory_offset + i * sizeof(t), sizeof(t));
        if (!(t.bits & STREAM_HAS_FINE))
            continue;
        made = true;
        droppable = droppable && t.bits & STREAM_ALL_DROPPABLE;
    }
    *ret_made = made;
    *ret_droppable = droppable;
    return 0;
}
