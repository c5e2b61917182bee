/*
 * Opening a profile: the one place where a profile file's bytes are distrusted
 *
 * The CRC finds accidents; everything after it assumes a file made by an enemy who knows CRC32C.
 * Each array is located once, by want(), which checks alignment and bounds; then its values are
 * judged. What passes is used by pointer, without a copy if the memory is aligned; only a decode
 * matrix that is the transposed encode matrix is made here.
 */

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/crc32c.h"
#include "lib/base/error.h"
#include "lib/base/hash.h"
#include "lib/codec/fault.h"
#include "lib/codec/profile_file.h"

struct opened {
    struct dpq_profile profile; /* first: the public pointer is this one */
    void *copy;                 /* of the file, when it came unaligned */
    float *transposed;          /* n_transposed matrices */
    size_t n_transposed;
};

DEFINE_CLEANUP(struct dpq_profile *, dpq_profile_free);

struct dpq_profile *dpq_profile_free(struct dpq_profile *profile)
{
    struct opened *o = (struct opened *)profile;

    if (!o)
        return NULL;
    free(o->copy);
    free(o->transposed);
    free(o->profile.streams);
    free(o);
    return NULL;
}

uint32_t profile_n_inputs(const struct dpq_geometry *g, uint32_t reference, uint32_t layer,
                          uint32_t kind)
{
    struct profile_below below = profile_below(layer, kind);
    uint32_t n_vectors = below.end - below.first;

    if (reference == REFERENCE_DEPTH_HEAD)
        return n_vectors * g->head_dim;
    if (reference == REFERENCE_DEPTH)
        return n_vectors * g->head_dim * g->n_kv_heads;
    return 0;
}

uint32_t profile_default_fine(uint32_t kind)
{
    return 1u << DPQ_RATE_QUALITY | (kind == DPQ_K ? 1u << DPQ_RATE_BALANCED : 0);
}

/* Bytes of the UTF-8 sequence that begins at s, at most n; 0 when it is none. */
static size_t utf8_length(const uint8_t *s, size_t n)
{
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

    if (!length || length > n || s[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || /* too long; surrogate */
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))   /* too long; too large */
        return 0;
    return length;
}

static bool is_utf8(const char *text, size_t n)
{
    const uint8_t *s = (const uint8_t *)text;

    for (size_t i = 0; i < n;) {
        size_t length = utf8_length(s + i, n - i);

        if (!length)
            return false;
        i += length;
    }
    return true;
}

bool profile_name_ok(const char name[128])
{
    size_t n = strnlen(name, 128);

    if (n == 128 || !is_utf8(name, n))
        return false;
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return true;
}

static int check_header(const struct profile_file_header *h, const void *bytes, size_t n_bytes,
                        struct dpq_fault *fault)
{
    int r;

    if (memcmp(h->magic, PROFILE_MAGIC, sizeof(h->magic)))
        return fault_set(fault, DPQ_E_CORRUPT, "this is not a profile file: the magic is missing");
    if (h->version != PROFILE_VERSION)
        return fault_set(fault, DPQ_E_VERSION, "profile version %u; this library reads version %d",
                         h->version, PROFILE_VERSION);
    if (h->n_bytes != n_bytes)
        return fault_set(fault, DPQ_E_CORRUPT, "the file says it has %llu bytes, but has %zu",
                         (unsigned long long)h->n_bytes, n_bytes);
    if (crc32c(0, (const uint8_t *)bytes + PROFILE_CRC_FROM, n_bytes - PROFILE_CRC_FROM) !=
        h->crc32c)
        return fault_set(fault, DPQ_E_CORRUPT, "the checksum is wrong: the file is damaged");
    r = dpq_geometry_check(&h->geometry, fault);
    if (r)
        return DPQ_E_CORRUPT;
    if (h->n_streams != dpq_n_streams(&h->geometry) ||
        h->stream_bytes != sizeof(struct profile_file_stream))
        return fault_set(fault, DPQ_E_CORRUPT, "%u streams do not fit the geometry", h->n_streams);
    if (!profile_name_ok(h->name))
        return fault_set(fault, DPQ_E_CORRUPT, "the model's name has no end or is not UTF-8");
    if (!(h->bound >= 0 && isfinite(h->bound)) || h->group_log2 < 3 || h->group_log2 > 7)
        return fault_set(fault, DPQ_E_CORRUPT, "the bound or the group length is out of range");
    return 0;
}

/* An array of n_bytes at offset; NULL when it is not wholly inside the file, or not aligned. */
static const void *want(const struct dpq_profile *p, uint64_t offset, size_t n_bytes)
{
    if (!offset || offset % PROFILE_ALIGN || offset > p->n_bytes || n_bytes > p->n_bytes - offset)
        return NULL;
    return (const uint8_t *)p->bytes + offset;
}

static bool all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static const char *locate_tree(const struct dpq_profile *p, const struct profile_file_tree *f,
                               const struct profile_sizes *n, struct profile_tree *tree)
{
    tree->scale = want(p, f->scale, n->scale);
    tree->base = want(p, f->base, n->base);
    tree->fine = want(p, f->fine, n->fine);
    if (!tree->scale || !tree->base || !tree->fine)
        return "a codebook lies outside the file";
    for (size_t m = 0; m < n->scale / sizeof(float); m++)
        if (!(tree->scale[m] > 0 && isfinite(tree->scale[m])))
            return "a codebook's scale is not positive";
    return NULL;
}

static const char *locate_reference(const struct dpq_profile *p,
                                    const struct profile_file_stream *f,
                                    const struct profile_sizes *n, struct profile_stream *s)
{
    if (s->reference == REFERENCE_TEMPORAL) {
        s->leak = want(p, f->leak, n->leak);
        if (!s->leak)
            return "the leak lies outside the file";
        for (size_t m = 0; m < n->leak / sizeof(int16_t); m++)
            if (s->leak[m] < 0)
                return "a leak is negative";
    } else if (s->reference != REFERENCE_NONE) {
        s->weight = want(p, f->weight, n->weight);
        s->bias = want(p, f->bias, n->vector);
        if (!s->n_inputs)
            return "a stream without references below has a depth predictor";
        if (!s->weight || !s->bias)
            return "a predictor lies outside the file";
        if (!all_finite(s->weight, n->weight / sizeof(float)) ||
            !all_finite(s->bias, n->vector / sizeof(float)))
            return "a predictor is not finite";
    }
    return NULL;
}

static const char *locate_stream(const struct dpq_profile *p, const struct profile_file_stream *f,
                                 uint32_t n_inputs, struct profile_stream *s)
{
    uint32_t d = p->geometry.head_dim;
    struct profile_sizes n = profile_sizes(d, f->dsub, n_inputs);
    const char *wrong;

    *s = (struct profile_stream){
        .reference = f->reference,
        .dsub = f->dsub,
        .fine_rates = f->fine_rates,
        .strict = f->flags & PROFILE_STRICT,
        .full = f->flags & PROFILE_FULL,
        .importance = f->importance,
        .mean = want(p, f->mean, n.vector),
        .encode = want(p, f->encode, n.matrix),
        .n_inputs = n_inputs,
    };
    memcpy(s->tolerance, f->tolerance, sizeof(s->tolerance));
    for (int t = 0; t < N_TREES * N_PLANES; t++)
        if (!(s->tolerance[t / N_PLANES][t % N_PLANES] >= 0 &&
              isfinite(s->tolerance[t / N_PLANES][t % N_PLANES])))
            return "a tolerance is negative or not finite";
    if (!(s->importance > 0 && isfinite(s->importance)))
        return "an importance is not positive";
    if (!s->mean || !s->encode)
        return "a mean or rotation lies outside the file";
    if (!all_finite(s->mean, d) || !all_finite(s->encode, (size_t)d * d))
        return "a mean or rotation is not finite";
    if (!(f->flags & PROFILE_DECODE_IS_TRANSPOSED)) {
        s->decode = want(p, f->decode, n.matrix);
        if (!s->decode || !all_finite(s->decode, (size_t)d * d))
            return "a decode matrix lies outside the file or is not finite";
    }
    for (int t = 0; t < (s->reference == REFERENCE_NONE ? 1 : N_TREES); t++) {
        wrong = locate_tree(p, &f->tree[t], &n, &s->tree[t]);
        if (wrong)
            return wrong;
    }
    return locate_reference(p, f, &n, s);
}

static int locate_streams(struct opened *o, const struct profile_file_header *h,
                          struct dpq_fault *fault)
{
    struct dpq_profile *p = &o->profile;
    const struct dpq_geometry *g = &p->geometry;
    const uint8_t *directory;

    directory = want(p, h->streams_offset, (size_t)h->n_streams * h->stream_bytes);
    if (!directory)
        return fault_set(fault, DPQ_E_CORRUPT, "the stream directory lies outside the file");
    for (uint32_t i = 0; i < p->n_streams; i++) {
        uint32_t layer = i / (2 * g->n_kv_heads), kind = i / g->n_kv_heads % 2;
        struct profile_file_stream f;
        const char *wrong;

        memcpy(&f, directory + (size_t)i * sizeof(f), sizeof(f));
        if ((f.dsub != 2 && f.dsub != 4) || f.reference > REFERENCE_DEPTH || f.fine_rates >> 3 ||
            (f.flags & ~(uint32_t)PROFILE_FLAGS))
            wrong = "dsub, reference, rates or flags are out of range";
        else
            wrong =
                locate_stream(p, &f, profile_n_inputs(g, f.reference, layer, kind), &p->streams[i]);
        if (wrong)
            return fault_set_at(fault, DPQ_E_CORRUPT, (int32_t)layer, (int32_t)kind,
                                (int32_t)(i % g->n_kv_heads), -1, "%s", wrong);
        o->n_transposed += !p->streams[i].decode;
    }
    return 0;
}

/* decode = encode^T for the streams that have none of their own */
static int transpose(struct opened *o, struct dpq_fault *fault)
{
    uint32_t d = o->profile.geometry.head_dim;
    size_t n_bytes = o->n_transposed * d * d * sizeof(float);
    float *to;

    if (!n_bytes)
        return 0;
    if (n_bytes > o->profile.n_bytes) /* a small file must not ask for much memory */
        return fault_set(fault, DPQ_E_CORRUPT, "streams share a rotation");
    to = aligned_alloc(PROFILE_ALIGN, n_bytes);
    if (!to)
        return error_origin(-ENOMEM);
    o->transposed = to;
    for (uint32_t s = 0; s < o->profile.n_streams; s++) {
        struct profile_stream *stream = &o->profile.streams[s];

        if (stream->decode)
            continue;
        for (uint32_t i = 0; i < d; i++)
            for (uint32_t j = 0; j < d; j++)
                to[j * d + i] = stream->encode[i * d + j];
        stream->decode = to;
        stream->is_orthogonal = true;
        to += (size_t)d * d;
    }
    return 0;
}

/* Kernels may count on sections that are aligned in memory too. A mapping is; other memory need not
 * be, and is then copied. */
static int adopt(struct opened *o, const void *bytes)
{
    size_t n_bytes = o->profile.n_bytes;

    o->profile.bytes = bytes;
    if (!((uintptr_t)bytes % PROFILE_ALIGN))
        return 0;
    o->copy = aligned_alloc(PROFILE_ALIGN, align_up(n_bytes, PROFILE_ALIGN));
    if (!o->copy)
        return error_origin(-ENOMEM);
    memcpy(o->copy, bytes, n_bytes);
    o->profile.bytes = o->copy;
    return 0;
}

static int locate_all(struct opened *o, const struct profile_file_header *h,
                      struct dpq_fault *fault)
{
    struct dpq_profile *p = &o->profile;
    int r;

    p->info = want(p, h->info_offset, h->info_bytes);
    if (!p->info || !h->info_bytes || strnlen(p->info, h->info_bytes) != h->info_bytes - 1 ||
        !is_utf8(p->info, h->info_bytes))
        return fault_set(fault, DPQ_E_CORRUPT,
                         "the info lies outside the file, has no end or is not UTF-8");
    p->audit = h->audit_bytes ? want(p, h->audit_offset, h->audit_bytes) : NULL;
    p->n_audit_bytes = h->audit_bytes;
    if (h->audit_bytes && !p->audit)
        return fault_set(fault, DPQ_E_CORRUPT, "the audit lies outside the file");
    p->streams = calloc(p->n_streams, sizeof(*p->streams));
    if (!p->streams)
        return error_origin(-ENOMEM);
    r = locate_streams(o, h, fault);
    if (r)
        return r;
    return transpose(o, fault);
}

int dpq_profile_open(const void *bytes, size_t n_bytes, struct dpq_profile **ret_profile,
                     struct dpq_fault *ret_fault)
{
    _cleanup_(dpq_profile_freep) struct dpq_profile *p = NULL;
    struct profile_file_header h;
    struct opened *o;
    int r;

    if (n_bytes < sizeof(h))
        return fault_set(ret_fault, DPQ_E_CORRUPT, "%zu bytes are too few for a profile file",
                         n_bytes);
    memcpy(&h, bytes, sizeof(h));
    r = check_header(&h, bytes, n_bytes, ret_fault);
    if (r)
        return r;
    o = calloc(1, sizeof(*o));
    if (!o)
        return error_origin(-ENOMEM);
    p = &o->profile;
    p->geometry = h.geometry;
    p->n_bytes = n_bytes;
    p->n_streams = h.n_streams;
    p->bound = h.bound;
    p->group_log2 = h.group_log2;
    memcpy(p->name, h.name, sizeof(p->name));
    r = adopt(o, bytes);
    if (r)
        return error_fold(r);
    r = locate_all(o, &h, ret_fault);
    if (r)
        return r;
    r = hash_sha256(bytes, n_bytes, p->digest);
    if (r)
        return error_fold(r);
    *ret_profile = steal_ptr(p);
    return 0;
}

const struct dpq_geometry *dpq_profile_geometry(const struct dpq_profile *profile)
{
    return &profile->geometry;
}

const uint8_t *dpq_profile_digest(const struct dpq_profile *profile)
{
    return profile->digest;
}

const char *dpq_profile_name(const struct dpq_profile *profile)
{
    return profile->name;
}

const void *dpq_profile_audit(const struct dpq_profile *profile, size_t *ret_n_bytes)
{
    *ret_n_bytes = profile->n_audit_bytes;
    return profile->audit;
}

const char *dpq_profile_info(const struct dpq_profile *profile)
{
    return profile->info;
}
