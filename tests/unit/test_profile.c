/* profile: what is written comes back, and no damage or lie goes unnoticed */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/util/profile_file.h"
#include "tests/util/toy_profile.h"

static struct toy toy(uint32_t n_layers, uint32_t n_heads, uint32_t d, uint32_t reference,
                      uint32_t dsub)
{
    struct toy t = {
        .geometry = toy_geometry(n_layers, n_heads, d),
        .reference = reference,
        .dsub = dsub,
        .seed = 7,
    };

    assert_int_equal(toy_make(&t), 0);
    return t;
}

static int open_bytes(const void *bytes, size_t n, struct dpq_fault *fault)
{
    struct dpq_profile *p = NULL;
    int r = dpq_profile_open(bytes, n, &p, fault);

    if (!r)
        profile_walk(p);
    else
        assert_null(p);
    dpq_profile_free(p);
    return r;
}

static void compare(const struct profile_stream *a, const struct profile_stream *b, uint32_t d)
{
    struct profile_sizes n = profile_sizes(d, a->dsub, a->n_inputs);

    assert_int_equal(a->reference, b->reference);
    assert_int_equal(a->dsub, b->dsub);
    assert_int_equal(a->n_inputs, b->n_inputs);
    assert_memory_equal(a->mean, b->mean, n.vector);
    assert_memory_equal(a->encode, b->encode, n.matrix);
    assert_memory_equal(a->decode, b->decode, n.matrix);
    for (int t = 0; t < N_TREES; t++) {
        assert_int_equal(!a->tree[t].scale, !b->tree[t].scale);
        if (!a->tree[t].scale)
            continue;
        assert_memory_equal(a->tree[t].scale, b->tree[t].scale, n.scale);
        assert_memory_equal(a->tree[t].base, b->tree[t].base, n.base);
        assert_memory_equal(a->tree[t].fine, b->tree[t].fine, n.fine);
    }
    if (a->reference == REFERENCE_TEMPORAL)
        assert_memory_equal(a->leak, b->leak, n.leak);
    if (a->reference >= REFERENCE_DEPTH_HEAD) {
        assert_memory_equal(a->weight, b->weight, n.weight);
        assert_memory_equal(a->bias, b->bias, n.vector);
    }
}

/* The toy's own streams are gone: make them again from the seed, and compare with what was read. */
static void round_trip(uint32_t reference, uint32_t dsub, uint32_t d)
{
    struct toy t = toy(2, 2, d, reference, dsub);
    struct rng r = rng_seed(t.seed);

    assert_int_equal(t.profile->n_streams, 8);
    assert_string_equal(dpq_profile_name(t.profile), "toy");
    assert_string_equal(dpq_profile_info(t.profile), "{}");
    assert_memory_equal(dpq_profile_geometry(t.profile), &t.geometry, sizeof(t.geometry));
    for (uint32_t i = 0; i < 8; i++) {
        struct profile_stream s;

        toy_stream(&t, &r, i, &s);
        compare(&t.profile->streams[i], &s, d);
        assert_int_equal((uintptr_t)t.profile->streams[i].encode % PROFILE_ALIGN, 0);
        assert_int_equal((uintptr_t)t.profile->streams[i].decode % PROFILE_ALIGN, 0);
        toy_free_stream(&s);
    }
    toy_drop(&t);
}

static void test_round_trip(void **state)
{
    (void)state;
    for (uint32_t reference = REFERENCE_NONE; reference <= REFERENCE_DEPTH; reference++)
        for (uint32_t dsub = 2; dsub <= 4; dsub += 2)
            round_trip(reference, dsub, dsub == 2 ? 32 : 80);
}

/* A decode matrix that is not the transposed one is stored; so is all else that a toy lacks. */
static void test_own_decode(void **state)
{
    struct toy t = toy(1, 1, 32, REFERENCE_NONE, 2);
    struct profile_stream s[2] = { t.profile->streams[0], t.profile->streams[1] };
    struct dpq_profile *p = NULL;
    struct profile_head head = { .name = "two",
                                 .info_json = "{\"a\":1}",
                                 .group_log2 = 7,
                                 .bound = 9,
                                 .audit = "audit",
                                 .n_audit_bytes = 5 };
    float decode[32 * 32];
    uint8_t *bytes;
    size_t n;

    (void)state;
    memcpy(decode, s[1].decode, sizeof(decode));
    decode[5] += .25f;
    s[1].decode = decode;
    s[0].tolerance[TREE_INTRA][PLANE_FINE] = .5f;
    s[0].fine_rates = 5;
    s[1].importance = 7;
    s[1].strict = true;
    s[0].full = true;
    assert_int_equal(profile_write(&t.geometry, &head, s, &bytes, &n), 0);
    assert_true(n > t.n_bytes);
    assert_int_equal(dpq_profile_open(bytes, n, &p, NULL), 0);
    assert_memory_equal(p->streams[1].decode, decode, sizeof(decode));
    assert_memory_equal(p->streams[0].decode, t.profile->streams[0].decode, sizeof(decode));
    assert_true(p->streams[0].tolerance[TREE_INTRA][PLANE_FINE] == .5f);
    assert_int_equal(p->group_log2, 7);
    assert_true(p->bound == 9 && p->streams[0].fine_rates == 5 && p->streams[1].importance == 7);
    assert_true(p->streams[1].strict && !p->streams[0].strict);
    assert_true(p->streams[0].full && !p->streams[1].full);
    assert_int_equal(p->n_audit_bytes, 5);
    assert_memory_equal(p->audit, "audit", 5);
    assert_memory_not_equal(dpq_profile_digest(p), dpq_profile_digest(t.profile), 32);
    dpq_profile_free(p);
    free(bytes);
    toy_drop(&t);
}

static void test_unaligned_memory(void **state)
{
    struct toy t = toy(1, 1, 32, REFERENCE_NONE, 2);
    uint8_t *other = malloc(t.n_bytes + 1);
    struct dpq_profile *p = NULL;

    (void)state;
    memcpy(other + 1, t.bytes, t.n_bytes);
    assert_int_equal(dpq_profile_open(other + 1, t.n_bytes, &p, NULL), 0);
    compare(&p->streams[1], &t.profile->streams[1], 32);
    assert_int_equal((uintptr_t)p->streams[1].mean % PROFILE_ALIGN, 0);
    assert_memory_equal(dpq_profile_digest(p), dpq_profile_digest(t.profile), 32);
    dpq_profile_free(p);
    free(other);
    toy_drop(&t);
}

/* Every bit of header and directory, and one bit of every other byte. */
static void test_every_flip_is_seen(void **state)
{
    struct toy t = toy(1, 1, 32, REFERENCE_NONE, 2);
    size_t n_head =
        sizeof(struct profile_file_header) + 2 * sizeof(struct profile_file_stream) + 64;

    (void)state;
    for (size_t i = 0; i < t.n_bytes; i++)
        for (int bit = 0; bit < 8; bit++) {
            int r;

            if (i >= n_head && bit != (int)(i % 8))
                continue;
            t.bytes[i] ^= (uint8_t)(1 << bit);
            r = open_bytes(t.bytes, t.n_bytes, NULL);
            if (r != DPQ_E_CORRUPT && !(r == DPQ_E_VERSION && i / 4 == 2))
                fail_msg("byte %zu bit %d: %s", i, bit, dpq_outcome_name(r));
            t.bytes[i] ^= (uint8_t)(1 << bit);
        }
    assert_int_equal(open_bytes(t.bytes, t.n_bytes, NULL), 0);
    toy_drop(&t);
}

static void test_every_truncation_is_seen(void **state)
{
    struct toy t = toy(1, 1, 32, REFERENCE_NONE, 2);

    (void)state;
    for (size_t n = 0; n < t.n_bytes; n += n < 2048 ? 1 : 37) {
        uint8_t *cut = malloc(n ? n : 1);
        struct dpq_fault fault;

        memcpy(cut, t.bytes, n);
        assert_int_equal(open_bytes(cut, n, &fault), DPQ_E_CORRUPT);
        assert_true(fault.message[0]);
        free(cut);
    }
    toy_drop(&t);
}

static void test_version(void **state)
{
    struct toy t = toy(1, 1, 32, REFERENCE_NONE, 2);
    struct profile_file_header *h = (struct profile_file_header *)t.bytes;
    struct dpq_fault fault;

    (void)state;
    h->version = 2;
    profile_seal(t.bytes, t.n_bytes);
    assert_int_equal(open_bytes(t.bytes, t.n_bytes, &fault), DPQ_E_VERSION);
    assert_non_null(strstr(fault.message, "version 2"));
    toy_drop(&t);
}

/* Random bytes, and offsets moved a little, under a checksum that is right. */
static void test_sealed_lies_do_no_harm(void **state)
{
    (void)state;
    for (uint32_t reference = REFERENCE_NONE; reference <= REFERENCE_DEPTH; reference++) {
        struct toy t = toy(2, 1, 32, reference, 2);
        size_t n_head = sizeof(struct profile_file_header) + 64 +
                        t.profile->n_streams * sizeof(struct profile_file_stream);
        uint8_t *bytes = malloc(t.n_bytes);
        struct rng r = rng_seed(reference);
        int n_refused = 0;

        for (int k = 0; k < 3000; k++) {
            size_t at = 8 + rng_below(&r, n_head - 8);

            memcpy(bytes, t.bytes, t.n_bytes);
            bytes[at] = k % 2 ? (uint8_t)rng_next(&r) : (uint8_t)(bytes[at] + 1);
            profile_seal(bytes, t.n_bytes);
            n_refused += open_bytes(bytes, t.n_bytes, NULL) != 0;
        }
        assert_true(n_refused > 300);
        free(bytes);
        toy_drop(&t);
    }
}

/* One lie each; the profile has a temporal reference, so that every kind of array is there. */
struct lie {
    const char *name, *message;
    void (*tell)(uint8_t *bytes, struct profile_file_header *h, struct profile_file_stream *s);
};

#define LIE(name) \
    static void name(uint8_t *bytes, struct profile_file_header *h, struct profile_file_stream *s)
#define UNUSED (void)bytes, (void)h, (void)s

LIE(nan_mean)
{
    UNUSED;
    ((float *)(bytes + s->mean))[3] = NAN;
}

LIE(infinite_encode)
{
    UNUSED;
    ((float *)(bytes + s->encode))[1023] = INFINITY;
}

LIE(zero_scale)
{
    UNUSED;
    ((float *)(bytes + s->tree[TREE_DELTA].scale))[15] = 0;
}

LIE(negative_leak)
{
    UNUSED;
    ((int16_t *)(bytes + s->leak))[15] = -1;
}

LIE(negative_tolerance)
{
    UNUSED;
    s->tolerance[TREE_DELTA][PLANE_BASE] = -1;
}

LIE(importance_0)
{
    UNUSED;
    s->importance = 0;
}

LIE(rate_3)
{
    UNUSED;
    s->fine_rates = 8;
}

LIE(bound)
{
    UNUSED;
    h->bound = NAN;
}

LIE(group_length)
{
    UNUSED;
    h->group_log2 = 8;
}

LIE(audit_outside)
{
    UNUSED;
    h->audit_offset = h->streams_offset;
    h->audit_bytes = h->n_bytes;
}

LIE(dsub_3)
{
    UNUSED;
    s->dsub = 3;
}

LIE(reference_4)
{
    UNUSED;
    s->reference = 4;
}

LIE(depth_without_inputs)
{
    UNUSED;
    s->reference = REFERENCE_DEPTH;
    s->weight = s->bias = s->mean;
}

LIE(unknown_flag)
{
    UNUSED;
    s->flags |= 8;
}

LIE(no_leak)
{
    UNUSED;
    s->leak = 0;
}

LIE(no_delta_tree)
{
    UNUSED;
    s->tree[TREE_DELTA].fine = 0;
}

LIE(offset_past_end)
{
    UNUSED;
    s->encode = UINT64_MAX - 63;
}

LIE(offset_unaligned)
{
    UNUSED;
    s->mean += 4;
}

LIE(streams_3)
{
    UNUSED;
    h->n_streams = 3;
}

LIE(geometry)
{
    UNUSED;
    h->geometry.head_dim = 33;
}

LIE(directory_outside)
{
    UNUSED;
    h->streams_offset = h->n_bytes & ~63ull;
}

LIE(info_without_end)
{
    UNUSED;
    bytes[h->info_offset + h->info_bytes - 1] = '}';
}

LIE(info_empty)
{
    UNUSED;
    h->info_bytes = 0;
}

LIE(info_not_utf8)
{
    UNUSED;
    bytes[h->info_offset] = 0xc0;
}

LIE(name_without_end)
{
    UNUSED;
    memset(h->name, 'x', sizeof(h->name));
}

LIE(name_not_utf8)
{
    UNUSED;
    h->name[0] = (char)0xff;
}

static const struct lie LIES[] = {
    { "nan_mean", "not finite", nan_mean },
    { "infinite_encode", "not finite", infinite_encode },
    { "zero_scale", "scale", zero_scale },
    { "negative_leak", "leak is negative", negative_leak },
    { "negative_tolerance", "tolerance", negative_tolerance },
    { "importance_0", "importance", importance_0 },
    { "rate_3", "rates", rate_3 },
    { "bound", "bound", bound },
    { "group_length", "group length", group_length },
    { "audit_outside", "audit lies outside", audit_outside },
    { "dsub_3", "dsub", dsub_3 },
    { "reference_4", "reference", reference_4 },
    { "depth_without_inputs", "without references", depth_without_inputs },
    { "unknown_flag", "flags", unknown_flag },
    { "no_leak", "leak lies outside", no_leak },
    { "no_delta_tree", "codebook lies outside", no_delta_tree },
    { "offset_past_end", "outside", offset_past_end },
    { "offset_unaligned", "outside", offset_unaligned },
    { "streams_3", "streams", streams_3 },
    { "geometry", "head_dim", geometry },
    { "directory_outside", "directory", directory_outside },
    { "info_without_end", "info", info_without_end },
    { "info_empty", "info", info_empty },
    { "info_not_utf8", "info", info_not_utf8 },
    { "name_without_end", "name", name_without_end },
    { "name_not_utf8", "name", name_not_utf8 },
};

static void tell(struct toy *t, const struct lie *lie, const char *message)
{
    uint8_t *bytes = aligned_alloc(64, align_up(t->n_bytes, 64));
    struct profile_file_header *h = (struct profile_file_header *)bytes;
    struct dpq_fault fault = { .message = "" };

    memcpy(bytes, t->bytes, t->n_bytes);
    lie->tell(bytes, h, (struct profile_file_stream *)(bytes + h->streams_offset));
    profile_seal(bytes, t->n_bytes);
    if (open_bytes(bytes, t->n_bytes, &fault) != DPQ_E_CORRUPT || !strstr(fault.message, message))
        fail_msg("%s: '%s'", lie->name, fault.message);
    free(bytes);
}

static void test_each_lie_is_named(void **state)
{
    struct toy t = toy(1, 1, 32, REFERENCE_TEMPORAL, 2);

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(LIES); i++)
        tell(&t, &LIES[i], LIES[i].message);
    toy_drop(&t);
}

/* A small file whose 64 streams share one rotation must not cost 64 matrices of memory. */
static void test_shared_rotations(void **state)
{
    struct toy t = toy(32, 1, 256, REFERENCE_NONE, 2);
    struct profile_file_header h;
    struct profile_file_stream s, first;
    struct dpq_fault fault;
    size_t n_bytes;

    (void)state;
    memcpy(&h, t.bytes, sizeof(h));
    memcpy(&first, t.bytes + h.streams_offset, sizeof(first));
    for (uint32_t i = 1; i < h.n_streams; i++)
        memcpy(t.bytes + h.streams_offset + i * sizeof(s), &first, sizeof(s));
    n_bytes = align_up(first.tree[0].fine + 256ull * 128 * 2, 64);
    h.info_offset = n_bytes;
    h.info_bytes = 1;
    h.n_bytes = n_bytes + 1;
    t.bytes[n_bytes] = 0;
    memcpy(t.bytes, &h, sizeof(h));
    profile_seal(t.bytes, n_bytes + 1);
    assert_int_equal(open_bytes(t.bytes, n_bytes + 1, &fault), DPQ_E_CORRUPT);
    assert_non_null(strstr(fault.message, "share"));
    toy_drop(&t);
}

static void test_names(void **state)
{
    static const struct {
        const char *name;
        bool ok;
    } CASES[] = {
        { "", true },
        { "SmolLM2-135M-Instruct", true },
        { "modèle 模型 🚀", true },
        { "a\nb", false },
        { "\x7f", false },
        { "\x80", false },         /* a continuation alone */
        { "\xc0\xaf", false },     /* too long a form */
        { "\xed\xa0\x80", false }, /* a surrogate */
        { "\xf4\x90\x80\x80", false },
        { "\xe6\xa8", false }, /* cut short */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(CASES); i++) {
        char name[128] = { 0 };

        strcpy(name, CASES[i].name);
        if (profile_name_ok(name) != CASES[i].ok)
            fail_msg("case %zu", i);
    }
}

static void test_n_inputs(void **state)
{
    struct dpq_geometry g = toy_geometry(3, 4, 64);

    (void)state;
    assert_int_equal(profile_n_inputs(&g, REFERENCE_NONE, 1, DPQ_K), 0);
    assert_int_equal(profile_n_inputs(&g, REFERENCE_TEMPORAL, 1, DPQ_K), 0);
    assert_int_equal(profile_n_inputs(&g, REFERENCE_DEPTH_HEAD, 0, DPQ_K), 0);
    assert_int_equal(profile_n_inputs(&g, REFERENCE_DEPTH_HEAD, 0, DPQ_V), 64);
    assert_int_equal(profile_n_inputs(&g, REFERENCE_DEPTH_HEAD, 1, DPQ_K), 128);
    assert_int_equal(profile_n_inputs(&g, REFERENCE_DEPTH_HEAD, 2, DPQ_V), 192);
    assert_int_equal(profile_n_inputs(&g, REFERENCE_DEPTH, 0, DPQ_V), 256);
    assert_int_equal(profile_n_inputs(&g, REFERENCE_DEPTH, 2, DPQ_K), 512);
    assert_int_equal(profile_n_inputs(&g, REFERENCE_DEPTH, 2, DPQ_V), 768);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_own_decode),
        cmocka_unit_test(test_unaligned_memory),
        cmocka_unit_test(test_every_flip_is_seen),
        cmocka_unit_test(test_every_truncation_is_seen),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_sealed_lies_do_no_harm),
        cmocka_unit_test(test_each_lie_is_named),
        cmocka_unit_test(test_shared_rotations),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_n_inputs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
