/*
 * Encoding a tile, stream by stream
 *
 *   rows -> fp32, K un-rotated -> minus mean -> Y = E X (GEMM, dim-major) -> gains -> integers
 *        -> for each subspace: nearest parent -> line of the base panel; nearest child -> fine
 * panel
 *
 * Where everything goes is known before the first number is read, except the raw area, which comes
 * last: what escapes is only noted on the way. A token that escapes has gain code 0: its codes mean
 * the zero vector, and its raw row overrides the output.
 */

#include <cblas.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/codec.h"
#include "lib/codec/tile_file.h"

struct encoder {
    struct dpq_codec *codec;
    const struct dpq_profile *profile;
    const uint8_t *rows;
    size_t row_bytes, head_bytes;
    uint32_t dtype, rate;
    uint64_t first_index;
    uint64_t (*raw_tokens)[2]; /* [n_streams] */
    uint8_t *base, *fine;
    struct tile_base_header header;
    struct tile_fine_header fine_header;
};

static bool keeps_fine(uint32_t rate, uint32_t kind)
{
    return rate == DPQ_RATE_QUALITY || (rate == DPQ_RATE_BALANCED && kind == DPQ_K);
}

static uint32_t stream_kind(const struct dpq_profile *p, uint32_t stream)
{
    return stream / p->geometry.n_kv_heads % 2;
}

/* Offsets of everything but the raw area. */
static void lay_out(struct encoder *e)
{
    const struct dpq_profile *p = e->profile;
    struct tile_base_header *h = &e->header;
    struct tile_fine_header *f = &e->fine_header;
    uint32_t n = p->n_streams, d = p->geometry.head_dim;

    for (uint32_t i = 0; i < n; i++) {
        h->n_panel_lines += d / p->streams[i].dsub;
        if (keeps_fine(e->rate, stream_kind(p, i)))
            f->n_panel_lines += d / p->streams[i].dsub;
    }
    h->directory_offset = sizeof(*h);
    h->gains_offset = h->directory_offset + n * (uint32_t)sizeof(struct tile_stream);
    h->panels_offset = (uint32_t)align_up(h->gains_offset + n * KERN_TOKENS, KERN_LINE);
    h->raw_offset = h->panels_offset + h->n_panel_lines * KERN_LINE;
    h->droppable_offset = h->verdict_offset = h->raw_offset;
    f->panels_offset = (uint32_t)align_up(sizeof(*f) + n * sizeof(uint32_t), KERN_LINE);
    f->n_bytes = f->panels_offset + f->n_panel_lines * KERN_LINE;
}

/* One stream's rows, as y: rotated, centred, dim-major. */
static void transform(struct encoder *e, const struct profile_stream *s, uint32_t stream)
{
    struct dpq_codec *c = e->codec;
    const struct dpq_geometry *g = &e->profile->geometry;
    int d = (int)g->head_dim;

    /* adding to zeroes is faster than BLAS' way of overwriting */
    memset(c->y, 0, (size_t)KERN_TOKENS * g->head_dim * sizeof(float));
    c->kern.load[e->dtype](e->rows + stream * e->head_bytes, (ptrdiff_t)e->row_bytes, KERN_TOKENS,
                           g->head_dim, c->x);
    if (stream_kind(e->profile, stream) == DPQ_K)
        rope_undo(&c->kern, g, &c->rope, c->x, KERN_TOKENS);
    c->kern.add(c->x, KERN_TOKENS, g->head_dim, s->mean, -1);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, d, KERN_TOKENS, d, 1, s->encode, d, c->x,
                d, 1, c->y, KERN_TOKENS);
}

static void set_token(uint64_t tokens[2], uint32_t t)
{
    tokens[t / 64] |= (uint64_t)1 << t % 64;
}

/* Gain codes to the object, inverse gains to inverse[]; notes what has to be stored raw. */
static void encode_gains(struct encoder *e, uint32_t stream, float inverse[KERN_TOKENS])
{
    struct dpq_codec *c = e->codec;
    uint8_t *to = e->base + e->header.gains_offset + stream * KERN_TOKENS;
    int32_t code[KERN_TOKENS];

    c->kern.gains(c->y, e->profile->geometry.head_dim, code);
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        bool escapes = code[t] >= GAIN_CODES;

        if (escapes || e->first_index + t < e->profile->geometry.n_sink)
            set_token(e->raw_tokens[stream], t);
        to[t] = code[t] <= 0 || escapes ? 0 : (uint8_t)code[t];
        inverse[t] = c->inverse_gain[to[t]];
    }
}

static void encode_panels(struct encoder *e, const struct profile_stream *s,
                          const float inverse[KERN_TOKENS], uint8_t *base, uint8_t *fine)
{
    struct dpq_codec *c = e->codec;
    const struct profile_tree *tree = &s->tree[TREE_INTRA];
    uint32_t n_subspaces = e->profile->geometry.head_dim / s->dsub;

    for (uint32_t m = 0; m < n_subspaces; m++) {
        const float *y = c->y + (size_t)m * s->dsub * KERN_TOKENS;
        uint8_t parent[KERN_TOKENS], child[KERN_TOKENS];

        c->kern.quantize(y, s->dsub, inverse, 16 / tree->scale[m], c->q);
        c->kern.search(c->q, s->dsub, tree->base + (size_t)m * KERN_WORDS * s->dsub, parent);
        c->kern.pack(parent, base + (size_t)m * KERN_LINE);
        if (!fine)
            continue;
        c->kern.search_child(c->q, s->dsub,
                             tree->fine + (size_t)m * KERN_WORDS * KERN_WORDS * s->dsub, parent,
                             child);
        c->kern.pack(child, fine + (size_t)m * KERN_LINE);
    }
}

static void encode_streams(struct encoder *e)
{
    const struct dpq_profile *p = e->profile;
    uint32_t line = 0, fine_line = 0;

    for (uint32_t i = 0; i < p->n_streams; i++) {
        const struct profile_stream *s = &p->streams[i];
        uint32_t n_lines = p->geometry.head_dim / s->dsub, panel = TILE_NO_PANEL;
        bool has_fine = keeps_fine(e->rate, stream_kind(p, i));
        struct tile_stream entry = {
            .panel = line,
            .reference = REFERENCE_NONE,
            .dsub = (uint8_t)s->dsub,
            .bits = (uint8_t)(STREAM_ALL_DROPPABLE | (has_fine ? STREAM_HAS_FINE : 0)),
            .group_log2 = 7,
        };
        float inverse[KERN_TOKENS];
        uint8_t *fine = NULL;

        if (has_fine) {
            panel = fine_line;
            fine = e->fine + e->fine_header.panels_offset + (size_t)fine_line * KERN_LINE;
            fine_line += n_lines;
        }
        transform(e, s, i);
        encode_gains(e, i, inverse);
        encode_panels(e, s, inverse, e->base + e->header.panels_offset + (size_t)line * KERN_LINE,
                      fine);
        memcpy(e->base + e->header.directory_offset + i * sizeof(entry), &entry, sizeof(entry));
        if (e->fine)
            memcpy(e->fine + sizeof(e->fine_header) + i * sizeof(panel), &panel, sizeof(panel));
        line += n_lines;
    }
}

static uint64_t n_raw_bytes(const struct encoder *e, uint32_t stream)
{
    const uint64_t *tokens = e->raw_tokens[stream];
    uint64_t n = (uint64_t)(__builtin_popcountll(tokens[0]) + __builtin_popcountll(tokens[1]));

    return n ? align_up(sizeof(struct tile_raw) + n * e->head_bytes, 8) : 0;
}

static void write_raw(struct encoder *e, uint32_t stream, uint8_t *to)
{
    const uint64_t *tokens = e->raw_tokens[stream];
    struct tile_raw raw = {
        .stream = stream,
        .type = RAW_INPUT,
        .tokens = { tokens[0], tokens[1] },
    };

    memcpy(to, &raw, sizeof(raw));
    to += sizeof(raw);
    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        if (tokens[t / 64] >> t % 64 & 1) {
            memcpy(to, e->rows + t * e->row_bytes + stream * e->head_bytes, e->head_bytes);
            to += e->head_bytes;
        }
}

/* The base object grows by its raw area. */
static int append_raw(struct encoder *e)
{
    uint64_t n = 0, at = e->header.raw_offset;
    uint8_t *grown;

    for (uint32_t i = 0; i < e->profile->n_streams; i++)
        n += n_raw_bytes(e, i);
    if (at + n > UINT32_MAX)
        return error_origin(-EFBIG);
    grown = realloc(e->base, at + n);
    if (!grown)
        return error_origin(-ENOMEM);
    e->base = grown;
    memset(e->base + at, 0, n);
    for (uint32_t i = 0; i < e->profile->n_streams; i++) {
        if (n_raw_bytes(e, i))
            write_raw(e, i, e->base + at);
        at += n_raw_bytes(e, i);
    }
    e->header.n_raw_bytes = (uint32_t)n;
    e->header.n_bytes = (uint32_t)at;
    return 0;
}

static int allocate(struct encoder *e)
{
    e->raw_tokens = calloc(e->profile->n_streams, sizeof(*e->raw_tokens));
    e->base = calloc(1, e->header.raw_offset);
    if (e->fine_header.n_panel_lines)
        e->fine = calloc(1, e->fine_header.n_bytes);
    if (!e->raw_tokens || !e->base || (e->fine_header.n_panel_lines && !e->fine))
        return error_origin(-ENOMEM);
    return 0;
}

static void encoder_clear(struct encoder *e)
{
    free(e->raw_tokens);
    free(e->base);
    free(e->fine);
}

static int check_arguments(const struct dpq_profile *p, uint32_t dtype, uint64_t first_index,
                           uint32_t rate)
{
    if (!dpq_dtype_bytes(dtype) || rate > DPQ_RATE_COMPACT || first_index % KERN_TOKENS)
        return DPQ_E_INVALID;
    for (uint32_t i = 0; i < p->n_streams; i++)
        if (p->streams[i].reference != REFERENCE_NONE)
            return DPQ_E_INVALID;
    return 0;
}

int dpq_tile_encode(struct dpq_codec *codec, const void *rows, uint32_t dtype,
                    uint64_t first_position, uint64_t first_index, uint32_t rate,
                    uint8_t **ret_base, size_t *ret_n_base, uint8_t **ret_fine, size_t *ret_n_fine)
{
    const struct dpq_profile *p = codec->profile;
    _cleanup_(encoder_clear) struct encoder e = {
        .codec = codec,
        .profile = p,
        .rows = rows,
        .row_bytes = dpq_row_bytes(&p->geometry, dtype),
        .head_bytes = p->geometry.head_dim * dpq_dtype_bytes(dtype),
        .dtype = dtype,
        .rate = rate,
        .first_index = first_index,
        .header = {
            .magic = TILE_BASE_MAGIC,
            .version = TILE_VERSION,
            .dtype = (uint8_t)dtype,
            .rate = (uint8_t)rate,
            .first_position = first_position,
            .first_index = first_index,
            .n_streams = p->n_streams,
            .head_dim = p->geometry.head_dim,
        },
        .fine_header = {
            .magic = TILE_FINE_MAGIC,
            .version = TILE_VERSION,
            .first_index = first_index,
            .n_streams = p->n_streams,
        },
    };
    int r;

    r = check_arguments(p, dtype, first_index, rate);
    if (r)
        return r;
    memcpy(e.header.profile, p->digest, sizeof(e.header.profile));
    memcpy(e.fine_header.profile, p->digest, sizeof(e.fine_header.profile));
    lay_out(&e);
    r = allocate(&e);
    if (r)
        return error_fold(r);
    codec_rope(codec, first_position);
    encode_streams(&e);
    r = append_raw(&e);
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
