/*
 * Writing a profile: header, stream directory, arrays, info. Two passes over the same walk: one
 * that counts, one that copies.
 */

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/crc32c.h"
#include "lib/base/error.h"
#include "lib/codec/profile_file.h"

struct writer {
    uint8_t *bytes; /* NULL in the pass that counts */
    uint64_t at;
};

static uint64_t place(struct writer *w, const void *bytes, size_t n_bytes)
{
    uint64_t at = align_up(w->at, PROFILE_ALIGN);

    if (w->bytes)
        memcpy(w->bytes + at, bytes, n_bytes);
    w->at = at + n_bytes;
    return at;
}

static bool is_transposed(const float *encode, const float *decode, uint32_t d)
{
    for (uint32_t i = 0; i < d; i++)
        for (uint32_t j = 0; j < d; j++)
            if (encode[i * d + j] != decode[j * d + i])
                return false;
    return true;
}

static struct profile_file_stream write_stream(struct writer *w, const struct profile_stream *s,
                                               uint32_t d)
{
    struct profile_sizes n = profile_sizes(d, s->dsub, s->n_inputs);
    struct profile_file_stream f = {
        .reference = s->reference,
        .dsub = s->dsub,
        .fine_rates = s->fine_rates,
        .importance = s->importance,
        .flags = (s->strict ? PROFILE_STRICT : 0) | (s->full ? PROFILE_FULL : 0),
    };

    memcpy(f.tolerance, s->tolerance, sizeof(f.tolerance));
    f.mean = place(w, s->mean, n.vector);
    f.encode = place(w, s->encode, n.matrix);
    if (is_transposed(s->encode, s->decode, d))
        f.flags |= PROFILE_DECODE_IS_TRANSPOSED;
    else
        f.decode = place(w, s->decode, n.matrix);
    for (int t = 0; t < N_TREES; t++) {
        if (!s->tree[t].scale)
            continue;
        f.tree[t].scale = place(w, s->tree[t].scale, n.scale);
        f.tree[t].base = place(w, s->tree[t].base, n.base);
        f.tree[t].fine = place(w, s->tree[t].fine, n.fine);
    }
    if (s->leak)
        f.leak = place(w, s->leak, n.leak);
    if (s->weight) {
        f.weight = place(w, s->weight, n.weight);
        f.bias = place(w, s->bias, n.vector);
    }
    return f;
}

static void write_all(struct writer *w, const struct dpq_geometry *g,
                      const struct profile_head *head, const struct profile_stream *streams)
{
    uint32_t n_streams = dpq_n_streams(g);
    struct profile_file_header h = {
        .magic = PROFILE_MAGIC,
        .version = PROFILE_VERSION,
        .n_streams = n_streams,
        .stream_bytes = sizeof(struct profile_file_stream),
        .info_bytes = strlen(head->info_json) + 1,
        .geometry = *g,
        .audit_bytes = head->n_audit_bytes,
        .bound = head->bound,
        .group_log2 = head->group_log2,
    };

    strncpy(h.name, head->name, sizeof(h.name) - 1);
    w->at = sizeof(h);
    h.streams_offset = align_up(w->at, PROFILE_ALIGN);
    w->at = h.streams_offset + (uint64_t)n_streams * h.stream_bytes;
    for (uint32_t i = 0; i < n_streams; i++) {
        struct profile_file_stream f = write_stream(w, &streams[i], g->head_dim);

        if (w->bytes)
            memcpy(w->bytes + h.streams_offset + (uint64_t)i * sizeof(f), &f, sizeof(f));
    }
    if (head->n_audit_bytes)
        h.audit_offset = place(w, head->audit, head->n_audit_bytes);
    h.info_offset = place(w, head->info_json, h.info_bytes);
    h.n_bytes = w->at;
    if (!w->bytes)
        return;
    memcpy(w->bytes, &h, sizeof(h));
    h.crc32c = crc32c(0, w->bytes + PROFILE_CRC_FROM, h.n_bytes - PROFILE_CRC_FROM);
    memcpy(w->bytes, &h, sizeof(h));
}

/* What the reader would refuse for its structure is our own mistake here. */
static void check_stream(const struct dpq_geometry *g, uint32_t index,
                         const struct profile_stream *s)
{
    uint32_t layer = index / (2 * g->n_kv_heads), kind = index / g->n_kv_heads % 2;

    assert(s->dsub == 2 || s->dsub == 4);
    assert(s->reference <= REFERENCE_DEPTH);
    assert(s->n_inputs == profile_n_inputs(g, s->reference, layer, kind));
    assert(s->mean && s->encode && s->decode && s->tree[TREE_INTRA].scale);
    assert(s->reference == REFERENCE_NONE || s->tree[TREE_DELTA].scale);
    assert(s->reference != REFERENCE_TEMPORAL || s->leak);
    assert(s->reference < REFERENCE_DEPTH_HEAD || (s->n_inputs && s->weight && s->bias));
    assert(s->importance > 0);
}

int profile_write(const struct dpq_geometry *geometry, const struct profile_head *head,
                  const struct profile_stream *streams, uint8_t **ret_bytes, size_t *ret_n_bytes)
{
    struct writer w = { 0 };

    assert(!dpq_geometry_check(geometry, NULL));
    assert(head->group_log2 >= 3 && head->group_log2 <= 7 && head->bound >= 0);
    for (uint32_t i = 0; i < dpq_n_streams(geometry); i++)
        check_stream(geometry, i, &streams[i]);
    write_all(&w, geometry, head, streams);
    w.bytes = aligned_alloc(PROFILE_ALIGN, align_up(w.at, PROFILE_ALIGN));
    if (!w.bytes)
        return error_origin(-ENOMEM);
    memset(w.bytes, 0, w.at);
    *ret_n_bytes = w.at;
    write_all(&w, geometry, head, streams);
    *ret_bytes = w.bytes;
    return 0;
}
