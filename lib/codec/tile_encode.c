/*
 * Encoding a tile, layer by layer, stream by stream (encode_unit.h)
 *
 * Where header, directory, gains and panels go is known before the first number is read. What is
 * not known (frame kinds that are not by rule, droppable masks, raw rows) is noted on the way and
 * follows them.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/encode_unit.h"

enum { KINDS_BYTES = KERN_TOKENS / 4 };

/* What is noted about a stream. */
struct note {
    uint64_t raw[N_RAW_TYPES][2];
    uint8_t kinds[KINDS_BYTES];
    uint16_t droppable;
    bool has_kinds;
};

struct encoder {
    struct dpq_codec *codec;
    const struct dpq_profile *profile;
    const uint8_t *rows;
    size_t row_bytes, head_bytes;
    uint32_t dtype, rate;
    const struct tile_watch *watch; /* may be NULL */
    struct note *notes;             /* [n_streams] */
    uint8_t *base, *fine;
    uint32_t line, fine_line; /* the next stream's */
    struct tile_base_header header;
    struct tile_fine_header fine_header;
};

/* Offsets of all that is known beforehand. Verdicts may come later, layer by layer, and who watches
 * may want any plane: then there is room for all fine ones, and cut_fine() says how much of it was
 * used. */
static void lay_out(struct encoder *e)
{
    const struct dpq_profile *p = e->profile;
    struct tile_base_header *h = &e->header;
    struct tile_fine_header *f = &e->fine_header;
    uint32_t n = p->n_streams, d = p->geometry.head_dim;

    for (uint32_t i = 0; i < n; i++) {
        h->n_panel_lines += d / p->streams[i].dsub;
        if ((e->watch && (e->watch->before_layer || e->watch->measured)) ||
            encode_keeps_fine(&p->streams[i], e->rate,
                              encode_verdict(e->watch, &p->streams[i], i, e->rate)))
            f->n_panel_lines += d / p->streams[i].dsub;
    }
    h->directory_offset = sizeof(*h);
    h->gains_offset = h->directory_offset + n * (uint32_t)sizeof(struct tile_stream);
    h->panels_offset = (uint32_t)align_up(h->gains_offset + n * KERN_TOKENS, KERN_LINE);
    h->kinds_offset = h->panels_offset + h->n_panel_lines * KERN_LINE;
    f->panels_offset = (uint32_t)align_up(sizeof(*f) + n * sizeof(uint32_t), KERN_LINE);
    f->n_bytes = f->panels_offset + f->n_panel_lines * KERN_LINE;
}

static void note_kinds(const struct loop_unit *u, uint32_t group_log2, struct note *note)
{
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        note->has_kinds |= u->frame[t] != loop_frame_by_rule(u->reference, group_log2, t);
        note->kinds[t / 4] |= (uint8_t)(u->frame[t] << 2 * (t % 4));
    }
}

static void place(void *user, bool has_fine, struct encode_unit *u)
{
    struct encoder *e = user;

    u->base_panel = e->base + e->header.panels_offset + (size_t)e->line * KERN_LINE;
    u->fine_panel = NULL;
    if (has_fine)
        u->fine_panel = e->fine + e->fine_header.panels_offset + (size_t)e->fine_line * KERN_LINE;
}

/* What encode_unit() said, to the tile's directory, gains and notes. */
static void take(void *user, const struct encode_input *in, const struct encode_unit *u)
{
    struct encoder *e = user;
    uint32_t i = u->loop.index, n_lines = e->header.head_dim / u->loop.stream->dsub;
    uint32_t panel = u->fine_panel ? e->fine_line : TILE_NO_PANEL;
    struct note *note = &e->notes[i];
    struct tile_stream entry = {
        .panel = e->line,
        .reference = (uint8_t)u->loop.reference,
        .dsub = (uint8_t)u->loop.stream->dsub,
        .bits = (uint8_t)(u->fine_panel ? STREAM_HAS_FINE : 0),
        .group_log2 = (uint8_t)in->group_log2,
    };

    note_kinds(&u->loop, in->group_log2, note);
    memcpy(note->raw, u->raw, sizeof(note->raw));
    note->droppable = (uint16_t)u->droppable;
    entry.bits |= (uint8_t)((note->has_kinds ? STREAM_HAS_KINDS : 0) |
                            (note->droppable == 0xffff ? STREAM_ALL_DROPPABLE : 0));
    memcpy(e->base + e->header.directory_offset + i * sizeof(entry), &entry, sizeof(entry));
    memcpy(e->base + e->header.gains_offset + i * KERN_TOKENS, u->gain_code, KERN_TOKENS);
    if (e->fine)
        memcpy(e->fine + sizeof(e->fine_header) + i * sizeof(panel), &panel, sizeof(panel));
    e->line += n_lines;
    e->fine_line += u->fine_panel ? n_lines : 0;
}

/* Of streams first … end - 1. */
static bool are_verdicts_valid(const struct tile_watch *watch, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; watch && watch->verdicts && i < end; i++) {
        struct tile_verdict v = watch->verdicts[i];

        if (v.mode > TILE_VERDICT_RAW || v.keeps_fine > 1 || v.reserved ||
            (v.group_log2 && (v.group_log2 < 3 || v.group_log2 > 7)))
            return false;
    }
    return true;
}

/* 0; DPQ_E_INVALID, a verdict is out of range */
static int encode_all(struct encoder *e, bool starts_sequence)
{
    const struct dpq_geometry *g = &e->profile->geometry;
    uint32_t n = 2 * g->n_kv_heads;
    struct encode_layer layer = {
        .rate = e->rate,
        .dtype = e->dtype,
        .rows = e->rows,
        .row_bytes = e->row_bytes,
        .starts_sequence = starts_sequence,
        .watch = e->watch,
        .user = e,
        .place = place,
        .take = take,
    };

    for (; layer.layer < g->n_layers; layer.layer++) {
        if (e->watch && e->watch->before_layer)
            e->watch->before_layer(e->watch->user, layer.layer);
        if (!are_verdicts_valid(e->watch, layer.layer * n, (layer.layer + 1) * n))
            return DPQ_E_INVALID;
        encode_layer(e->codec, &layer);
        layer.rows += n * e->head_bytes;
    }
    return 0;
}

static void cut_fine(struct encoder *e)
{
    struct tile_fine_header *f = &e->fine_header;

    if (f->n_panel_lines == e->fine_line)
        return;
    f->n_panel_lines = e->fine_line;
    f->n_bytes = f->panels_offset + f->n_panel_lines * KERN_LINE;
    if (!e->fine_line) {
        free(e->fine);
        e->fine = NULL;
    }
}

static uint64_t n_raw_bytes(const struct encoder *e, uint32_t stream, uint32_t type)
{
    const uint64_t *tokens = e->notes[stream].raw[type];
    uint64_t n = (uint64_t)(__builtin_popcountll(tokens[0]) + __builtin_popcountll(tokens[1]));

    return n ? align_up(sizeof(struct tile_raw) +
                            n * raw_row_bytes((uint8_t)type, e->header.head_dim, e->dtype),
                        8)
             : 0;
}

static void write_raw(struct encoder *e, uint32_t stream, uint32_t type, uint8_t *to)
{
    const uint64_t *tokens = e->notes[stream].raw[type];
    struct tile_raw raw = {
        .stream = stream,
        .type = (uint8_t)type,
        .tokens = { tokens[0], tokens[1] },
    };

    memcpy(to, &raw, sizeof(raw));
    to += sizeof(raw);
    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        if (encode_has_token(tokens, t)) {
            encode_raw_row(&e->codec->kern, e->rows + t * e->row_bytes + stream * e->head_bytes,
                           e->dtype, e->header.head_dim, (enum raw_type)type, to, NULL);
            to += raw_row_bytes((uint8_t)type, e->header.head_dim, e->dtype);
        }
}

/* Lengths and offsets of what follows the panels. */
static int lay_out_notes(struct encoder *e)
{
    struct tile_base_header *h = &e->header;
    uint64_t n_raw = 0;
    uint32_t n_kinds = 0, n_masks = 0;

    for (uint32_t i = 0; i < e->profile->n_streams; i++) {
        n_kinds += e->notes[i].has_kinds;
        n_masks += e->notes[i].droppable != 0xffff;
        for (uint32_t type = 0; type < N_RAW_TYPES; type++)
            n_raw += n_raw_bytes(e, i, type);
    }
    h->droppable_offset = h->kinds_offset + n_kinds * KINDS_BYTES;
    h->verdict_offset = h->droppable_offset + n_masks * (uint32_t)sizeof(uint16_t);
    h->n_verdict_bytes = e->watch ? e->watch->n_verdict_bytes : 0;
    h->raw_offset = (uint32_t)align_up((uint64_t)h->verdict_offset + h->n_verdict_bytes, 8);
    if (h->raw_offset + n_raw > UINT32_MAX)
        return error_origin(-EFBIG);
    h->n_raw_bytes = (uint32_t)n_raw;
    h->n_bytes = h->raw_offset + h->n_raw_bytes;
    return 0;
}

/* The base object grows by its notes. */
static int append_notes(struct encoder *e)
{
    const struct tile_base_header *h = &e->header;
    uint8_t *kinds, *masks, *raw, *grown;
    int r;

    r = lay_out_notes(e);
    if (r)
        return error_fold(r);
    grown = realloc(e->base, h->n_bytes);
    if (!grown)
        return error_origin(-ENOMEM);
    e->base = grown;
    memset(e->base + h->kinds_offset, 0, h->n_bytes - h->kinds_offset);
    kinds = e->base + h->kinds_offset;
    masks = e->base + h->droppable_offset;
    raw = e->base + h->raw_offset;
    for (uint32_t i = 0; i < e->profile->n_streams; i++) {
        const struct note *note = &e->notes[i];

        if (note->has_kinds)
            kinds = mempcpy(kinds, note->kinds, KINDS_BYTES);
        if (note->droppable != 0xffff)
            masks = mempcpy(masks, &note->droppable, sizeof(note->droppable));
        for (uint32_t type = 0; type < N_RAW_TYPES; type++) {
            if (n_raw_bytes(e, i, type))
                write_raw(e, i, type, raw);
            raw += n_raw_bytes(e, i, type);
        }
    }
    return 0;
}

static int allocate(struct encoder *e)
{
    e->notes = calloc(e->profile->n_streams, sizeof(*e->notes));
    e->base = malloc(e->header.kinds_offset);
    if (e->fine_header.n_panel_lines)
        e->fine = malloc(e->fine_header.n_bytes);
    if (!e->notes || !e->base || (e->fine_header.n_panel_lines && !e->fine))
        return error_origin(-ENOMEM);
    memset(e->base, 0, e->header.panels_offset); /* panels are written whole */
    if (e->fine)
        memset(e->fine, 0, e->fine_header.panels_offset);
    return 0;
}

static void encoder_clear(struct encoder *e)
{
    free(e->notes);
    free(e->base);
    free(e->fine);
}

static void fill_headers(struct encoder *e, uint64_t first_position, uint64_t first_index)
{
    const struct dpq_profile *p = e->profile;

    e->header = (struct tile_base_header){
        .magic = TILE_BASE_MAGIC,
        .version = TILE_VERSION,
        .dtype = (uint8_t)e->dtype,
        .rate = (uint8_t)e->rate,
        .first_position = first_position,
        .first_index = first_index,
        .n_streams = p->n_streams,
        .head_dim = p->geometry.head_dim,
    };
    e->fine_header = (struct tile_fine_header){
        .magic = TILE_FINE_MAGIC,
        .version = TILE_VERSION,
        .first_index = first_index,
        .n_streams = p->n_streams,
    };
    memcpy(e->header.profile, p->digest, sizeof(e->header.profile));
    memcpy(e->fine_header.profile, p->digest, sizeof(e->fine_header.profile));
}

int dpq_tile_encode(struct dpq_codec *codec, const void *rows, uint32_t dtype,
                    uint64_t first_position, uint64_t first_index, uint32_t rate,
                    uint8_t **ret_base, size_t *ret_n_base, uint8_t **ret_fine, size_t *ret_n_fine)
{
    return tile_encode_watched(codec, rows, dtype, first_position, first_index, rate, NULL,
                               ret_base, ret_n_base, ret_fine, ret_n_fine);
}

int tile_encode_watched(struct dpq_codec *codec, const void *rows, uint32_t dtype,
                        uint64_t first_position, uint64_t first_index, uint32_t rate,
                        const struct tile_watch *watch, uint8_t **ret_base, size_t *ret_n_base,
                        uint8_t **ret_fine, size_t *ret_n_fine)
{
    const struct dpq_geometry *g = &codec->profile->geometry;
    _cleanup_(encoder_clear) struct encoder e = {
        .codec = codec,
        .profile = codec->profile,
        .rows = rows,
        .row_bytes = dpq_row_bytes(g, dtype),
        .head_bytes = g->head_dim * dpq_dtype_bytes(dtype),
        .dtype = dtype,
        .rate = rate,
        .watch = watch,
    };
    int r;

    if (!dpq_dtype_bytes(dtype) || rate > DPQ_RATE_COMPACT || first_index % KERN_TOKENS ||
        (watch && watch->n_verdict_bytes > DPQ_MAX_STREAMS * 256u))
        return DPQ_E_INVALID;
    fill_headers(&e, first_position, first_index);
    lay_out(&e);
    r = allocate(&e);
    if (r)
        return error_fold(r);
    codec_rope(codec, first_position);
    r = encode_all(&e, !first_index);
    if (r)
        return r;
    cut_fine(&e);
    r = append_notes(&e);
    if (r)
        return error_fold(r);
    memcpy(e.base, &e.header, sizeof(e.header));
    if (e.fine)
        memcpy(e.fine, &e.fine_header, sizeof(e.fine_header));
    *ret_n_base = e.header.n_bytes;
    *ret_n_fine = e.fine ? e.fine_header.n_bytes : 0;
    *ret_base = steal_ptr(e.base);
    *ret_fine = steal_ptr(e.fine);
    return 0;
}
