/* encode: closed loop in time and depth, planes, the hard bound, and layers coded one by one */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/codec/encode_unit.h"
#include "tests/util/tile_fixture.h"

static struct toy toy_of(uint32_t reference, uint32_t dsub, float bound)
{
    struct toy toy = { .geometry = toy_geometry(3, 2, 32),
                       .seed = 21 + reference,
                       .dsub = dsub,
                       .reference = reference,
                       .bound = bound,
                       .group_log2 = 3 + reference };

    if (reference > REFERENCE_DEPTH) {
        toy.reference = 0;
        toy.group_log2 = 5;
        toy.mixed = true;
    }
    toy.geometry.rope_pairing = DPQ_ROPE_NONE;
    toy.geometry.rotary_dim = 0;
    memset(toy.geometry.inv_freq, 0, sizeof(toy.geometry.inv_freq));
    assert_int_equal(toy_make(&toy), 0);
    return toy;
}

static float *vector(const struct toy *toy, float *rows, uint32_t t, uint32_t stream)
{
    return rows + ((size_t)t * toy->profile->n_streams + stream) * toy->geometry.head_dim;
}

/* The references of a depth stream, in the profile's order, of exact vectors. */
static void predict_exactly(const struct toy *toy, float *rows, uint32_t t, uint32_t stream,
                            float *x)
{
    const struct profile_stream *s = &toy->profile->streams[stream];
    uint32_t d = toy->geometry.head_dim, heads = toy->geometry.n_kv_heads, column = 0;
    uint32_t layer = stream / (2 * heads), kind = stream / heads % 2, head = stream % heads;

    for (uint32_t i = 0; i < d; i++)
        x[i] += s->bias[i];
    for (uint32_t which = layer ? 0 : 2; which < (kind ? 3u : 2u); which++)
        for (uint32_t b = 0; b < heads; b++) {
            uint32_t ref =
                which == 2 ? layer * 2 * heads + b : ((layer - 1) * 2 + which) * heads + b;
            const float *r = vector(toy, rows, t, ref);

            if (s->reference == REFERENCE_DEPTH_HEAD && b != head)
                continue;
            for (uint32_t k = 0; k < d; k++, column++)
                for (uint32_t i = 0; i < d; i++)
                    x[i] += s->weight[i * s->n_inputs + column] * r[k];
        }
}

/* Vectors that follow the profile's own model, nearly; every 16th token does not. */
static float *model_rows(const struct toy *toy, double noise, uint64_t seed)
{
    uint32_t d = toy->geometry.head_dim;
    float *rows = malloc(dpq_row_bytes(&toy->geometry, DPQ_F32) * T);
    struct rng r = rng_seed(seed);

    for (uint32_t t = 0; t < T; t++)
        for (uint32_t s = 0; s < toy->profile->n_streams; s++) {
            const struct profile_stream *p = &toy->profile->streams[s];
            double size = p->reference == REFERENCE_NONE || t % 16 == 9 ? 1 : noise;
            float *x = vector(toy, rows, t, s);

            for (uint32_t i = 0; i < d; i++)
                x[i] = p->mean[i] + (float)(size * toy_normal(&r));
            if (p->weight && t % 16 != 9)
                predict_exactly(toy, rows, t, s, x);
            if (p->reference == REFERENCE_TEMPORAL && t % 16 != 9)
                for (uint32_t i = 0; i < d; i++)
                    x[i] += t ? (vector(toy, rows, t - 1, s)[i] - p->mean[i]) * .5f : 0;
        }
    return rows;
}

static double square_error(const float *a, const float *b, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum;
}

static uint32_t count_kinds(const struct tile *t)
{
    const struct tile_base_header *h = (const struct tile_base_header *)t->base;
    const struct tile_stream *s = (const struct tile_stream *)(t->base + h->directory_offset);
    uint32_t n = 0;

    for (uint32_t i = 0; i < h->n_streams; i++)
        n += s[i].bits & STREAM_HAS_KINDS;
    return n;
}

/* Same bytes on every instruction set; what follows the model costs less than the same profile
 * without prediction would; the odd tokens are coded intra, and no worse for it. */
static void test_references(void **state)
{
    (void)state;
    for (uint32_t reference = REFERENCE_TEMPORAL; reference <= REFERENCE_DEPTH + 1; reference++)
        for (uint32_t dsub = 2; dsub <= 4; dsub += 2) {
            struct toy toy = toy_of(reference, dsub, 0), plain = toy_of(0, dsub, 0);
            size_t n = dpq_row_bytes(&toy.geometry, DPQ_F32) / 4;
            float *rows = model_rows(&toy, .2, 3), *got, *got_plain;
            double odd = 0, odd_plain = 0;
            struct tile c = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_QUALITY, 0);
            struct tile simd = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_QUALITY, ~0u);
            struct tile none = encode(&plain, rows, DPQ_F32, 128, DPQ_RATE_QUALITY, ~0u);

            assert_int_equal(c.n_base, simd.n_base);
            assert_memory_equal(c.base, simd.base, c.n_base);
            assert_memory_equal(c.fine, simd.fine, c.n_fine);
            got = decode(&toy, &simd, ~0u);
            got_plain = decode(&plain, &none, ~0u);
            /* mixed: with other subspaces than plain */
            assert_true(reference > REFERENCE_DEPTH ||
                        square_error(rows, got, n * T) <
                            .75 * square_error(rows, got_plain, n * T));
            assert_true(count_kinds(&simd) > 0);
            for (uint32_t t = 9; t < T; t += 16) {
                odd += square_error(rows + t * n, got + t * n, n);
                odd_plain += square_error(rows + t * n, got_plain + t * n, n);
            }
            assert_true(reference > REFERENCE_DEPTH || odd < 1.3 * odd_plain);
            free(got);
            free(got_plain);
            free(rows);
            tile_drop(&c);
            tile_drop(&simd);
            tile_drop(&none);
            toy_drop(&toy);
            toy_drop(&plain);
        }
}

/* The base plane is the only reference: with and without a fine plane it has the same codes, and
 * dropping the fine object leaves exactly the 2-bit tile. */
static void test_planes(void **state)
{
    (void)state;
    for (uint32_t reference = 0; reference <= REFERENCE_DEPTH + 1; reference++) {
        struct toy toy = toy_of(reference, 2, 0);
        float *rows = model_rows(&toy, .3, 4), *dropped, *native, *both;
        size_t n = dpq_row_bytes(&toy.geometry, DPQ_F32) / 4;
        struct tile full = encode(&toy, rows, DPQ_F32, 0, DPQ_RATE_QUALITY, ~0u);
        struct tile compact = encode(&toy, rows, DPQ_F32, 0, DPQ_RATE_COMPACT, ~0u);

        assert_null(compact.fine);
        both = decode(&toy, &full, ~0u);
        free(full.fine);
        full.fine = NULL;
        full.n_fine = 0;
        dropped = decode(&toy, &full, ~0u);
        native = decode(&toy, &compact, ~0u);
        assert_memory_equal(dropped, native, n * T * 4);
        assert_true(square_error(rows, both, n * T) < .5 * square_error(rows, native, n * T));
        tile_drop(&full);
        tile_drop(&compact);
        free(rows);
        free(both);
        free(dropped);
        free(native);
        toy_drop(&toy);
    }
}

/* fine_rates says which streams keep the fine plane, one by one. */
static void test_fine_rates(void **state)
{
    struct toy toy = toy_of(REFERENCE_DEPTH, 2, 0);
    struct tile t;
    uint8_t *rows = random_rows(&toy.geometry, DPQ_F16, 2);
    const struct tile_stream *s;

    (void)state;
    for (uint32_t i = 0; i < toy.profile->n_streams; i++)
        toy.profile->streams[i].fine_rates = i % 3 ? 0 : 1u << DPQ_RATE_BALANCED;
    t = encode(&toy, rows, DPQ_F16, 0, DPQ_RATE_BALANCED, ~0u);
    s = (const struct tile_stream *)(t.base +
                                     ((struct tile_base_header *)t.base)->directory_offset);
    for (uint32_t i = 0; i < toy.profile->n_streams; i++)
        assert_int_equal(!!(s[i].bits & STREAM_HAS_FINE), i % 3 == 0);
    assert_int_equal(((struct tile_fine_header *)t.fine)->n_panel_lines, 4 * 16);
    free(decode(&toy, &t, ~0u));
    tile_drop(&t);
    t = encode(&toy, rows, DPQ_F16, 0, DPQ_RATE_QUALITY, ~0u);
    assert_null(t.fine);
    tile_drop(&t);
    free(rows);
    toy_drop(&toy);
}

/* What no codebook expects: ramps, bursts, jumps of scale, flips of sign, one channel exploding. */
static float *adverse_rows(const struct toy *toy, uint32_t kind, uint64_t seed)
{
    uint32_t d = toy->geometry.head_dim;
    float *rows = model_rows(toy, .3, seed);

    for (uint32_t t = 0; t < T; t++)
        for (uint32_t s = 0; s < toy->profile->n_streams; s++) {
            float *x = vector(toy, rows, t, s);

            for (uint32_t i = 0; i < d; i++) {
                if (kind == 0)
                    x[i] += .3f * (float)t;
                if (kind == 1 && t % 11 == 3)
                    x[i] *= 40;
                if (kind == 2 && t > 60)
                    x[i] *= 1000;
                if (kind == 3 && t % 2)
                    x[i] = -5 * x[i];
                if (kind == 4 && i == s % d)
                    x[i] += ldexpf(1, (int)t / 8);
            }
        }
    return rows;
}

static double coded_error(const struct profile_stream *s, const float *a, const float *b,
                          uint32_t d)
{
    double sum = 0;

    for (uint32_t i = 0; i < d; i++) {
        double y = 0;

        for (uint32_t k = 0; k < d; k++)
            y += (double)s->encode[i * d + k] * ((double)a[k] - b[k]);
        sum += y * y;
    }
    return sum;
}

/* No token beyond the bound, with both planes and, where the masks allow it, with one. */
static void check_bound(const struct toy *toy, float *rows, struct tile *t, bool whole)
{
    const struct tile_base_header *h = (const struct tile_base_header *)t->base;
    const uint8_t *masks = t->base + h->droppable_offset;
    float *got = decode(toy, t, ~0u);
    uint32_t d = toy->geometry.head_dim;

    for (uint32_t s = 0; s < toy->profile->n_streams; s++) {
        const struct profile_stream *p = &toy->profile->streams[s];
        const struct tile_stream *entry =
            (const struct tile_stream *)(t->base + h->directory_offset) + s;
        uint16_t mask = 0xffff;

        if (!(entry->bits & STREAM_ALL_DROPPABLE)) {
            memcpy(&mask, masks, sizeof(mask));
            masks += sizeof(mask);
        }
        for (uint32_t k = 0; k < T; k++) {
            double e = coded_error(p, vector(toy, rows, k, s), vector(toy, got, k, s), d);

            if (whole || mask >> k / 8 & 1)
                assert_true(e <= 1.0001 * toy->bound *
                                     p->tolerance[TREE_INTRA][whole ? PLANE_FINE : PLANE_BASE]);
        }
    }
    free(got);
}

static void test_hard_bound(void **state)
{
    (void)state;
    for (uint32_t reference = 0; reference <= REFERENCE_DEPTH + 1; reference++)
        for (uint32_t kind = 0; kind < 5; kind++) {
            struct toy toy = toy_of(reference, 2, 24);
            float *rows = adverse_rows(&toy, kind, 40 + kind);
            struct tile full = encode(&toy, rows, DPQ_F32, 0, DPQ_RATE_QUALITY, ~0u), base, other;

            other = encode(&toy, rows, DPQ_F32, 0, DPQ_RATE_QUALITY, 0);
            assert_int_equal(full.n_base, other.n_base);
            assert_memory_equal(full.base, other.base, full.n_base);
            check_bound(&toy, rows, &full, true);
            base = (struct tile){ .base = full.base, .n_base = full.n_base };
            check_bound(&toy, rows, &base, false);
            tile_drop(&full);
            tile_drop(&other);
            free(rows);
            toy_drop(&toy);
        }
}

/* A few tokens that need their fine codes are stored raw, so that the plane can go; with many it
 * has to stay. */
static void test_few_keep_no_plane(void **state)
{
    (void)state;
    for (uint32_t n_loud = 0; n_loud <= 9; n_loud += 3) {
        struct toy toy = toy_of(REFERENCE_NONE, 2, 0);
        float *rows = model_rows(&toy, .3, 8);
        const struct tile_base_header *h;
        const struct tile_stream *s;
        struct tile t;

        toy.profile->bound = 1;
        for (uint32_t i = 0; i < toy.profile->n_streams;
             i++) /* only base planes are ever too bad */
            for (uint32_t k = 0; k < N_TREES; k++) {
                toy.profile->streams[i].tolerance[k][PLANE_BASE] = n_loud ? 1.5f : 1e9f;
                toy.profile->streams[i].tolerance[k][PLANE_FINE] = 1e9f;
            }
        for (uint32_t k = 0; k < T; k++)
            for (uint32_t i = 0; i < toy.profile->n_streams; i++)
                for (uint32_t a = 0; a < toy.geometry.head_dim; a++)
                    vector(&toy, rows, k, i)[a] *= k < n_loud ? 30 : .01f;
        t = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_QUALITY, ~0u);
        h = (const struct tile_base_header *)t.base;
        s = (const struct tile_stream *)(t.base + h->directory_offset);
        for (uint32_t i = 0; i < h->n_streams; i++)
            assert_int_equal(!!(s[i].bits & STREAM_ALL_DROPPABLE), n_loud <= 4);
        assert_int_equal(h->n_raw_bytes > 0, n_loud == 3);
        tile_drop(&t);
        free(rows);
        toy_drop(&toy);
    }
}

static uint32_t raw_types_of(const struct tile *t)
{
    const struct tile_base_header *h = (const struct tile_base_header *)t->base;
    uint32_t types = 0, at = h->raw_offset;

    while (at < h->raw_offset + h->n_raw_bytes) {
        struct tile_raw raw;
        uint32_t n;

        memcpy(&raw, t->base + at, sizeof(raw));
        n = (uint32_t)(__builtin_popcountll(raw.tokens[0]) + __builtin_popcountll(raw.tokens[1]));
        types |= 1u << raw.type;
        at +=
            (uint32_t)align_up(sizeof(raw) + n * raw_row_bytes(raw.type, h->head_dim, h->dtype), 8);
    }
    return types;
}

/* The cheapest type that meets the bound: int8 for a little too much, the input's dtype when the
 * bound is nearly nothing, fp16 in between. */
static void test_raw_types(void **state)
{
    static const struct {
        float bound;
        uint32_t types;
    } CASES[] = { { .5f, 1u << RAW_INT8 }, { 1e-4f, 1u << RAW_F16 }, { 1e-11f, 1u << RAW_INPUT } };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(CASES); i++) {
        struct toy toy = toy_of(REFERENCE_NONE, 2, CASES[i].bound);
        uint8_t *rows = random_rows(&toy.geometry, DPQ_F32, 6);
        struct tile t = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_QUALITY, ~0u);

        assert_int_equal(raw_types_of(&t), CASES[i].types);
        check_bound(&toy, (float *)(void *)rows, &t, true);
        tile_drop(&t);
        free(rows);
        toy_drop(&toy);
    }
}

/* Layer by layer: the numbers of encode and decode, bit for bit. */
static void check_loop(struct toy *toy, uint32_t rate, uint32_t dtype)
{
    const struct dpq_geometry *g = &toy->geometry;
    struct dpq_tensor from = canonical(g, dtype, g->n_layers),
                      to = canonical(g, DPQ_F32, g->n_layers);
    uint8_t *rows = random_rows(g, dtype, 12);
    float *got = malloc(dpq_row_bytes(g, DPQ_F32) * T), *want;
    struct tile t = encode(toy, rows, dtype, 0, rate, ~0u);
    struct dpq_layer_loop *loop = NULL;
    struct dpq_codec *c = NULL;

    assert_int_equal(dpq_codec_new(toy->profile, ~0u, &c), 0);
    assert_int_equal(dpq_layer_loop_new(c, 1000, 0, 3, &loop), DPQ_E_INVALID);
    assert_int_equal(dpq_layer_loop_new(c, 1000, 0, rate, &loop), 0);
    for (uint32_t layer = 0; layer < g->n_layers; layer++) {
        assert_int_equal(dpq_layer_loop_next(loop, c, &from, rows, &to, got, NULL), 0);
        from.offset += (uint64_t)from.stride_layer;
        to.offset += (uint64_t)to.stride_layer;
    }
    assert_int_equal(dpq_layer_loop_next(loop, c, &from, rows, &to, got, NULL), DPQ_E_INVALID);
    want = decode(toy, &t, ~0u);
    assert_memory_equal(got, want, dpq_row_bytes(g, DPQ_F32) * T);
    free(want);
    free(got);
    free(rows);
    tile_drop(&t);
    dpq_layer_loop_free(loop);
    dpq_codec_free(c);
}

/* Nothing of a full tile's fine object is droppable, and without it nothing is decoded. */
static void check_unreadable(struct toy *toy, const struct tile *t)
{
    const struct dpq_geometry *g = &toy->geometry;
    const struct tile_base_header *h = (const struct tile_base_header *)t->base;
    const struct tile_stream *s = (const struct tile_stream *)(t->base + h->directory_offset);
    struct dpq_tensor to = canonical(g, DPQ_F32, g->n_layers);
    struct dpq_range all = { .n_layers = g->n_layers, .n_tokens = T };
    float *got = malloc(dpq_row_bytes(g, DPQ_F32) * T);
    struct dpq_codec *c = NULL;

    for (uint32_t i = 0; i < h->n_streams; i++)
        assert_int_equal(s[i].bits, s[i].bits & ~STREAM_ALL_DROPPABLE);
    assert_int_equal(dpq_codec_new(toy->profile, ~0u, &c), 0);
    assert_int_equal(dpq_tile_decode(c, t->base, t->n_base, NULL, 0, &all, &to, got, NULL),
                     DPQ_E_INVALID);
    dpq_codec_free(c);
    free(got);
}

/* Full references: later streams see both planes, so the fine object can't be done without, but
 * what comes back is nearer; and the layer loop agrees. */
static void test_full_references(void **state)
{
    (void)state;
    for (uint32_t reference = REFERENCE_DEPTH_HEAD; reference <= REFERENCE_DEPTH; reference++) {
        struct toy toy = toy_of(reference, 2, 0);
        float *rows = model_rows(&toy, .02, 4), *base_only, *both;
        size_t n = dpq_row_bytes(&toy.geometry, DPQ_F32) / 4;
        struct tile plain = encode(&toy, rows, DPQ_F32, 0, DPQ_RATE_QUALITY, ~0u), full;

        base_only = decode(&toy, &plain, ~0u);
        for (uint32_t i = 0; i < toy.profile->n_streams; i++)
            toy.profile->streams[i].full = true;
        full = encode(&toy, rows, DPQ_F32, 0, DPQ_RATE_QUALITY, ~0u);
        both = decode(&toy, &full, ~0u);
        assert_true(square_error(rows, both, n * T) < .97 * square_error(rows, base_only, n * T));
        check_loop(&toy, DPQ_RATE_QUALITY, DPQ_F16);
        check_loop(&toy, DPQ_RATE_COMPACT, DPQ_F16);
        check_unreadable(&toy, &full);
        tile_drop(&plain);
        tile_drop(&full);
        free(rows);
        free(base_only);
        free(both);
        toy_drop(&toy);
    }
}

static void test_layer_loop(void **state)
{
    (void)state;
    for (uint32_t reference = 0; reference <= REFERENCE_DEPTH + 1; reference++) {
        struct toy toy = toy_of(reference, 2, 3);

        for (uint32_t rate = 0; rate <= DPQ_RATE_COMPACT; rate++)
            check_loop(&toy, rate, (reference + rate) % 3);
        toy_drop(&toy);
    }
}

/* Copies of the first token, right after the sinks, are sinks as well; a copy further on is not. */
static void test_sink_run(void **state)
{
    struct toy toy = toy_of(REFERENCE_DEPTH, 2, 0);
    size_t n = dpq_row_bytes(&toy.geometry, DPQ_F32) / 4;
    float *rows = model_rows(&toy, 1, 8), *got;
    struct tile t;

    (void)state;
    for (uint32_t k = 1; k < T; k++)
        if (k < 9 || k == 20)
            for (size_t i = 0; i < n; i++)
                rows[k * n + i] = rows[i] * (1 + .01f * (float)(k % 3));
    t = encode(&toy, rows, DPQ_F32, 0, DPQ_RATE_COMPACT, ~0u);
    got = decode(&toy, &t, ~0u);
    assert_memory_equal(got, rows, 9 * n * sizeof(float));
    assert_memory_not_equal(got + 9 * n, rows + 9 * n, n * sizeof(float));
    assert_memory_not_equal(got + 20 * n, rows + 20 * n, n * sizeof(float));
    free(got);
    tile_drop(&t);
    t = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_COMPACT, ~0u);
    got = decode(&toy, &t, ~0u);
    assert_memory_not_equal(got + 5 * n, rows + 5 * n, n * sizeof(float));
    free(got);
    tile_drop(&t);
    free(rows);
    toy_drop(&toy);
}

static void test_layer_loop_names_the_layer(void **state)
{
    struct toy toy = toy_of(REFERENCE_DEPTH, 2, 0);
    struct dpq_tensor from = canonical(&toy.geometry, DPQ_F32, 1);
    float *rows = calloc(T, dpq_row_bytes(&toy.geometry, DPQ_F32));
    struct dpq_fault fault = { 0 };
    struct dpq_layer_loop *loop = NULL;
    struct dpq_codec *c = NULL;

    (void)state;
    assert_int_equal(dpq_codec_new(toy.profile, ~0u, &c), 0);
    assert_int_equal(dpq_layer_loop_new(c, 0, 0, 0, &loop), 0);
    assert_int_equal(dpq_layer_loop_next(loop, c, &from, rows, &from, rows, NULL), 0);
    rows[7] = NAN;
    assert_int_equal(dpq_layer_loop_next(loop, c, &from, rows, &from, rows, &fault),
                     DPQ_E_NOT_FINITE);
    assert_int_equal(fault.layer, 1);
    dpq_layer_loop_free(loop);
    dpq_codec_free(c);
    free(rows);
    toy_drop(&toy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_references),        cmocka_unit_test(test_planes),
        cmocka_unit_test(test_fine_rates),        cmocka_unit_test(test_hard_bound),
        cmocka_unit_test(test_few_keep_no_plane), cmocka_unit_test(test_raw_types),
        cmocka_unit_test(test_layer_loop),        cmocka_unit_test(test_full_references),
        cmocka_unit_test(test_sink_run),          cmocka_unit_test(test_layer_loop_names_the_layer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
