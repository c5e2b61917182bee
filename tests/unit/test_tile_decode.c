/* tile_decode: ranges, every reference, frame kind and raw type, against a naive reader */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/util/tile_fixture.h"

/* A range of tokens and layers has the very numbers of the whole, for every reference, on every
 * instruction set, with the fine object and without. */
static void test_ranges(void **state)
{
    static const struct dpq_range RANGES[] = { { 1, 2, 37, 50 }, { 2, 1, 0, 1 }, { 0, 3, 127, 1 },
                                               { 0, 1, 5, 64 },  { 3, 0, 0, 5 }, { 0, 3, 8, 0 } };

    (void)state;
    for (uint32_t n = 0; n < 5 * ARRAY_SIZE(RANGES) * 4; n++) {
        struct toy toy = { .geometry = toy_geometry(3, 2, 32), .seed = 5, .dsub = 2 };
        const struct dpq_range *range = &RANGES[n / 5 % ARRAY_SIZE(RANGES)];
        size_t row = dpq_row_bytes(&toy.geometry, DPQ_F32), part = row / 3 * range->n_layers;
        uint32_t cpu = n / 5 / ARRAY_SIZE(RANGES) % 2 ? ~0u : 0;
        struct craft craft;
        struct tile t;
        uint8_t *got = malloc(part * range->n_tokens + 1), *whole;

        toy.reference = n % 5;
        toy.mixed = n % 5 == 4;
        assert_int_equal(toy_make(&toy), 0);
        craft = craft_tile(&toy, DPQ_BF16, n);
        t = (struct tile){ craft.base, craft.fine, craft.n_base, craft.n_fine };
        if (n / 5 / ARRAY_SIZE(RANGES) / 2) {
            free(t.fine);
            t.fine = NULL;
            t.n_fine = 0;
        }
        whole = (uint8_t *)decode(&toy, &t, 0);
        assert_int_equal(decode_range(&toy, &t, range, DPQ_F32, cpu, got), 0);
        for (uint32_t k = 0; k < range->n_tokens; k++)
            assert_memory_equal(
                got + k * part,
                whole + (range->first_token + k) * row + row / 3 * range->first_layer, part);
        free(got);
        free(whole);
        tile_drop(&t);
        toy_drop(&toy);
    }
}

/* What a naive reader makes of a tile: one number after another, straight from the format. */
struct naive {
    const struct toy *toy;
    const uint8_t *base, *fine;
    double *below; /* base reconstructions [stream][token][dim] */
};

static int nibble(const uint8_t *line, uint32_t t)
{
    uint32_t word;

    memcpy(&word, line + 4 * (t % 16), 4);
    return (int)(word >> 4 * (t / 16) & 15);
}

static const struct tile_stream *naive_entry(const struct naive *n, uint32_t s)
{
    const struct tile_base_header *h = (const void *)n->base;

    return (const struct tile_stream *)(n->base + h->directory_offset) + s;
}

static void naive_stream(struct naive *n, uint32_t s, double *ret_out)
{
    const struct dpq_geometry *g = &n->toy->geometry;
    const struct profile_stream *p = &n->toy->profile->streams[s];
    const struct tile_base_header *h = (const void *)n->base;
    const struct tile_stream *e = naive_entry(n, s);
    const uint8_t *gains = n->base + h->gains_offset + s * T;
    const uint8_t *panel = n->base + h->panels_offset + e->panel * 64, *fine_panel = NULL;
    uint32_t d = g->head_dim, dsub = p->dsub, heads = g->n_kv_heads, layer = s / (2 * heads);
    uint32_t kind = s / heads % 2, head = s % heads;
    double yb[256] = { 0 }, yf[256];

    if (n->fine) {
        const struct tile_fine_header *f = (const void *)n->fine;
        uint32_t at;

        memcpy(&at, n->fine + sizeof(*f) + 4 * s, 4);
        if (at != TILE_NO_PANEL)
            fine_panel = n->fine + f->panels_offset + at * 64;
    }
    for (uint32_t t = 0; t < T; t++) {
        int frame = e->reference == REFERENCE_TEMPORAL && t % (1u << e->group_log2) == 0
                        ? FRAME_KEY
                        : FRAME_PREDICTED;
        double gain = gains[t] ? exp2((gains[t] - 161) / 8.0) : 0, p_t[256] = { 0 };
        bool pred;

        if (e->bits & STREAM_HAS_KINDS)
            frame = n->base[h->kinds_offset + 32 * s + t / 4] >> 2 * (t % 4) & 3;
        pred = e->reference && (frame == FRAME_PREDICTED || frame == FRAME_ESCAPE) &&
               !(e->reference == REFERENCE_TEMPORAL && !t);
        for (uint32_t i = 0; i < d; i++) {
            uint32_t m = i / dsub, j = i % dsub;
            const struct profile_tree *tree = &p->tree[pred ? TREE_DELTA : TREE_INTRA];
            int w = nibble(panel + 64 * m, t);
            double from =
                pred && e->reference == REFERENCE_TEMPORAL ? p->leak[m] / 32768.0 * yb[i] : 0;

            yb[i] = from + gain * tree->scale[m] * tree->base[(m * 16 + w) * dsub + j];
            yf[i] = yb[i];
            if (fine_panel) {
                int c = nibble(fine_panel + 64 * m, t);

                yf[i] =
                    from + gain * tree->scale[m] * tree->fine[((m * 16 + w) * 16 + c) * dsub + j];
            }
        }
        if (pred && e->reference >= REFERENCE_DEPTH_HEAD)
            for (uint32_t i = 0; i < d; i++) {
                uint32_t column = 0;

                p_t[i] = p->bias[i];
                for (int which = layer ? 0 : 2; which < (kind ? 3 : 2); which++)
                    for (uint32_t b = 0; b < heads; b++) {
                        uint32_t ref = which == 2 ? (layer * 2) * heads + b
                                                  : ((layer - 1) * 2 + (uint32_t)which) * heads + b;

                        if (e->reference == REFERENCE_DEPTH_HEAD && b != head)
                            continue;
                        for (uint32_t k = 0; k < d; k++)
                            p_t[i] += p->weight[i * p->n_inputs + column++] *
                                      n->below[((size_t)ref * T + t) * d + k];
                    }
            }
        for (uint32_t i = 0; i < d; i++) {
            double xb = p->mean[i] + p_t[i], xf = xb;

            for (uint32_t k = 0; k < d; k++) {
                xb += (double)p->decode[i * d + k] * yb[k];
                xf += (double)p->decode[i * d + k] * yf[k];
            }
            n->below[((size_t)s * T + t) * d + i] = xb;
            ret_out[t * d + i] = xf;
        }
    }
}

static void naive_rope(const struct dpq_geometry *g, double *x, double position)
{
    uint32_t n = g->rotary_dim / 2;

    for (uint32_t i = 0; i < n; i++) {
        double c = cos(position * (double)g->inv_freq[i]),
               s = sin(position * (double)g->inv_freq[i]);
        double a = x[i], b = x[i + n];

        x[i] = a * c - b * s;
        x[i + n] = b * c + a * s;
    }
}

/* Turn a tile made for reference none into one for toy's profile: same codes, other meaning. */
static void relabel(struct toy *toy, struct tile *t, bool kinds)
{
    struct tile_base_header h;
    uint32_t n = toy->profile->n_streams;
    size_t grown = t->n_base + 32 * n;
    struct rng r = rng_seed(77);

    memcpy(&h, t->base, sizeof(h));
    memcpy(h.profile, toy->profile->digest, 32);
    memcpy(t->fine + offsetof(struct tile_fine_header, profile), toy->profile->digest, 32);
    t->base = realloc(t->base, grown);
    if (kinds) {
        h.kinds_offset = (uint32_t)t->n_base;
        for (size_t i = t->n_base; i < grown; i++)
            t->base[i] = (uint8_t)rng_next(&r);
        t->n_base = grown;
        h.n_bytes = (uint32_t)grown;
    }
    memcpy(t->base, &h, sizeof(h));
    for (uint32_t s = 0; s < n; s++) {
        struct tile_stream *e = (struct tile_stream *)(t->base + h.directory_offset) + s;

        e->reference = (uint8_t)toy->profile->streams[s].reference;
        e->group_log2 = (uint8_t)(3 + s % 5);
        if (kinds)
            e->bits |= STREAM_HAS_KINDS;
    }
}

static void check_against_naive(struct toy *toy, const struct tile *t)
{
    const struct dpq_geometry *g = &toy->geometry;
    uint32_t d = g->head_dim;
    double *out = malloc(sizeof(double) * T * d);
    float *got = decode(toy, t, ~0u), *got_c = decode(toy, t, 0);
    struct naive n = { .toy = toy,
                       .base = t->base,
                       .fine = t->fine,
                       .below = calloc((size_t)toy->profile->n_streams * T * d, sizeof(double)) };

    assert_memory_equal(got, got_c, dpq_row_bytes(g, DPQ_F32) * T);
    for (uint32_t s = 0; s < toy->profile->n_streams; s++) {
        naive_stream(&n, s, out);
        for (uint32_t tok = 0; tok < T; tok++) {
            if (s / g->n_kv_heads % 2 == DPQ_K)
                naive_rope(g, out + tok * d, 1000.0 + tok);
            for (uint32_t i = 0; i < d; i++) {
                double x = got[((size_t)tok * toy->profile->n_streams + s) * d + i];

                assert_true(fabs(x - out[tok * d + i]) < 2e-4 * (1 + fabs(x)));
            }
        }
    }
    free(out);
    free(got);
    free(got_c);
    free(n.below);
}

/* Every reference and frame kind is decoded as the format says. */
static void test_references(void **state)
{
    (void)state;
    for (uint32_t reference = 0; reference <= REFERENCE_DEPTH; reference++)
        for (int kinds = 0; kinds < 2; kinds++)
            for (uint32_t dsub = 2; dsub <= 4; dsub += 2) {
                struct toy none = { .geometry = toy_geometry(3, 2, 32), .seed = 5, .dsub = dsub };
                struct toy toy = {
                    .geometry = none.geometry, .seed = 6, .dsub = dsub, .reference = reference
                };
                struct tile t;
                uint8_t *rows;

                none.geometry.n_sink = toy.geometry.n_sink = 0;
                assert_int_equal(toy_make(&none), 0);
                assert_int_equal(toy_make(&toy), 0);
                rows = random_rows(&none.geometry, DPQ_F32, 8);
                t = encode(&none, rows, DPQ_F32, 0, DPQ_RATE_BALANCED, ~0u);
                relabel(&toy, &t, kinds);
                check_against_naive(&toy, &t);
                tile_drop(&t);
                free(rows);
                toy_drop(&none);
                toy_drop(&toy);
            }
}

/* Raw rows of the other types: int8 and fp16 for some tokens of one stream. */
static void test_raw_types(void **state)
{
    struct toy toy = { .geometry = toy_geometry(1, 1, 32), .seed = 4, .dsub = 2 };
    struct {
        struct tile_raw head;
        float scale;
        int8_t row[32];
        uint8_t pad[4];
    } int8 = { .head = { .stream = 0, .type = RAW_INT8, .tokens = { 0, 1u << 3 } }, .scale = 0.5f };
    struct {
        struct tile_raw head;
        _Float16 rows[2][32];
    } f16 = { .head = { .stream = 1, .type = RAW_F16, .tokens = { 5, 0 } } };
    struct tile_base_header h;
    struct tile t;
    uint8_t *rows;
    float *got;

    (void)state;
    toy.geometry.n_sink = 0;
    assert_int_equal(toy_make(&toy), 0);
    rows = random_rows(&toy.geometry, DPQ_F32, 2);
    t = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_COMPACT, ~0u);
    memcpy(&h, t.base, sizeof(h));
    assert_int_equal(h.n_raw_bytes, 0);
    for (int i = 0; i < 32; i++) {
        int8.row[i] = (int8_t)(i * 3 - 60);
        f16.rows[0][i] = (_Float16)i;
        f16.rows[1][i] = (_Float16)(-2 * i);
    }
    h.n_raw_bytes = 64 + sizeof(f16);
    t.base = realloc(t.base, h.n_bytes + h.n_raw_bytes);
    memset(t.base + h.n_bytes, 0, h.n_raw_bytes);
    memcpy(t.base + h.n_bytes, &int8, 60);
    memcpy(t.base + h.n_bytes + 64, &f16, sizeof(f16));
    h.n_bytes += h.n_raw_bytes;
    t.n_base = h.n_bytes;
    memcpy(t.base, &h, sizeof(h));
    got = decode(&toy, &t, ~0u);
    for (int i = 0; i < 32; i++) {
        assert_true(got[67 * 64 + i] == 0.5f * (float)(i * 3 - 60));
        assert_true(got[0 * 64 + 32 + i] == (float)i);
        assert_true(got[2 * 64 + 32 + i] == (float)(-2 * i));
    }
    free(got);
    tile_drop(&t);
    free(rows);
    toy_drop(&toy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_raw_types),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
