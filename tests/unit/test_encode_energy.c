/* encode_energy: what a tile shows of its streams, and what verdicts do to it */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/codec/encode_unit.h"
#include "tests/util/tile_fixture.h"

enum { MAX_STREAMS = 16 };

struct shown {
    struct tile_energies of[MAX_STREAMS];
    uint32_t n, last;
    uint32_t wants; /* bit s: the fine plane of stream s */
};

static bool take(void *user, uint32_t stream, const struct tile_energies *energies)
{
    struct shown *shown = user;

    assert_true(stream < MAX_STREAMS && (!shown->n || stream == shown->last + 1));
    shown->of[stream] = *energies;
    shown->last = stream;
    shown->n++;
    return shown->wants >> stream & 1;
}

static struct toy toy_of(uint32_t reference, float bound)
{
    struct toy toy = { .geometry = toy_geometry(3, 2, 32),
                       .seed = 5 + reference,
                       .dsub = 2,
                       .reference = reference,
                       .mixed = reference > REFERENCE_DEPTH,
                       .bound = bound };

    toy.reference %= 4;
    assert_int_equal(toy_make(&toy), 0);
    return toy;
}

static struct tile encode_watched(const struct toy *toy, const void *rows, uint64_t index,
                                  uint32_t rate, const struct tile_watch *watch)
{
    struct dpq_codec *c = NULL;
    struct tile t;

    assert_int_equal(dpq_codec_new(toy->profile, ~0u, &c), 0);
    assert_int_equal(tile_encode_watched(c, rows, DPQ_F32, 1000 + index, index, rate, watch,
                                         &t.base, &t.n_base, &t.fine, &t.n_fine),
                     0);
    dpq_codec_free(c);
    return t;
}

static const struct tile_stream *entry_of(const struct tile *t, uint32_t stream)
{
    const struct tile_base_header *h = (const struct tile_base_header *)t->base;

    return (const struct tile_stream *)(t->base + h->directory_offset) + stream;
}

/* |v|^2 of a head vector */
static double square(const float *v, uint32_t d)
{
    double sum = 0;

    for (uint32_t i = 0; i < d; i++)
        sum += (double)v[i] * (double)v[i];
    return sum;
}

/* Being looked at changes no byte. Energies are those of what a reader gets: e2 is the error of
 * the base plane where it was stored, x2 the vector's own; residuals are never above what they are
 * chosen over. */
static void test_measured(void **state)
{
    (void)state;
    for (uint32_t reference = 0; reference <= REFERENCE_DEPTH + 1; reference++) {
        struct toy toy = toy_of(reference, 0);
        uint32_t d = toy.geometry.head_dim, n = toy.profile->n_streams;
        float *rows = (float *)random_rows(&toy.geometry, DPQ_F32, 7);
        struct shown shown = { 0 };
        struct tile_watch watch = { .user = &shown, .measured = take };
        struct tile plain = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_COMPACT, ~0u);
        struct tile seen = encode_watched(&toy, rows, 128, DPQ_RATE_COMPACT, &watch);
        float *got = decode(&toy, &seen, ~0u);

        assert_int_equal(plain.n_base, seen.n_base);
        assert_memory_equal(plain.base, seen.base, seen.n_base);
        assert_int_equal(shown.n, n);
        for (uint32_t s = 0; s < n; s++)
            for (uint32_t t = 0; t < T; t++) {
                const struct tile_energies *e = &shown.of[s];
                float difference[64];
                double error;

                for (uint32_t i = 0; i < d; i++)
                    difference[i] = rows[(t * n + s) * d + i] - got[(t * n + s) * d + i];
                error = square(difference, d);
                if (e->part[t] == TILE_TOKEN_KEY) {
                    assert_true(toy.profile->streams[s].reference == REFERENCE_TEMPORAL &&
                                !(t % 32));
                    continue;
                }
                /* equal where predicted; where not, the loop's own is in proportion, and larger */
                assert_true((double)e->e2[t] > .999 * error);
                if (e->d2[t] <= e->x2[t])
                    assert_true(fabs((double)e->e2[t] / error - 1) < 1e-3);
                assert_true(e->x2[t] > 0 && e->d2[t] > 0 && e->e2[t] > 0);
            }
        free(got);
        free(rows);
        tile_drop(&plain);
        tile_drop(&seen);
        toy_drop(&toy);
    }
}

/* No reference; a plane more, which may not be dropped; shorter groups. Any of them is decoded. */
static void test_verdicts(void **state)
{
    static const struct tile_verdict VERDICTS[] = {
        { .mode = TILE_VERDICT_BETTER, .keeps_fine = 1, .group_log2 = 4 },
        { .mode = TILE_VERDICT_INTRA, .keeps_fine = 1, .group_log2 = 3 },
        { .mode = TILE_VERDICT_RAW },
    };

    (void)state;
    for (uint32_t reference = 0; reference <= REFERENCE_DEPTH + 1; reference++)
        for (size_t v = 0; v < ARRAY_SIZE(VERDICTS); v++) {
            struct toy toy = toy_of(reference, 24);
            uint32_t d = toy.geometry.head_dim, n = toy.profile->n_streams;
            float *rows = (float *)random_rows(&toy.geometry, DPQ_F32, 9), *got, *got_plain;
            struct tile_verdict verdicts[MAX_STREAMS] = { 0 };
            struct shown shown = { 0 };
            struct tile_watch watch = { .verdicts = verdicts, .user = &shown, .measured = take };
            struct tile plain = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_COMPACT, ~0u), t;
            double error[2] = { 0 };

            verdicts[3] = VERDICTS[v];
            t = encode_watched(&toy, rows, 128, DPQ_RATE_COMPACT, &watch);
            assert_true((t.fine != NULL) == VERDICTS[v].keeps_fine);
            for (uint32_t s = 0; s < n; s++) {
                const struct tile_stream *e = entry_of(&t, s);

                assert_int_equal(!!(e->bits & STREAM_HAS_FINE), s == 3 && VERDICTS[v].keeps_fine);
                assert_int_equal(e->reference, s == 3 && VERDICTS[v].mode >= TILE_VERDICT_INTRA
                                                   ? REFERENCE_NONE
                                                   : toy.profile->streams[s].reference);
                if (s == 3 && VERDICTS[v].keeps_fine)
                    assert_false(e->bits & STREAM_ALL_DROPPABLE);
                assert_int_equal(e->group_log2,
                                 s == 3 && VERDICTS[v].group_log2 ? VERDICTS[v].group_log2 : 5);
            }
            got = decode(&toy, &t, ~0u);
            got_plain = decode(&toy, &plain, ~0u);
            for (uint32_t k = 0; k < T; k++)
                for (uint32_t i = 0; i < d; i++) {
                    size_t at = (k * n + 3) * d + i;

                    error[0] += pow((double)(rows[at] - got[at]), 2);
                    error[1] += pow((double)(rows[at] - got_plain[at]), 2);
                }
            if (VERDICTS[v].mode == TILE_VERDICT_RAW)
                assert_true(error[0] < 1e-3 * error[1]);
            else
                assert_true(error[0] < error[1]);
            for (uint32_t k = 0; VERDICTS[v].mode == TILE_VERDICT_RAW && k < T; k++)
                assert_int_not_equal(shown.of[3].part[k], TILE_TOKEN_ESCAPED);
            free(got);
            free(got_plain);
            free(rows);
            tile_drop(&plain);
            tile_drop(&t);
            toy_drop(&toy);
        }
}

/* Raw rows or a fine plane, whichever the rate has not yet. */
static void test_raw_where_fine_is_not_enough(void **state)
{
    (void)state;
    for (int rate = 0; rate < 2; rate++) {
        struct toy toy = toy_of(REFERENCE_NONE, 24);
        void *rows = random_rows(&toy.geometry, DPQ_F32, 9);
        struct tile_verdict verdicts[MAX_STREAMS] = { 0 };
        struct tile_watch watch = { .verdicts = verdicts };
        struct tile t;

        verdicts[3] = (struct tile_verdict){ .mode = TILE_VERDICT_RAW, .keeps_fine = 1 };
        t = encode_watched(&toy, rows, 128, rate ? DPQ_RATE_QUALITY : DPQ_RATE_COMPACT, &watch);
        for (uint32_t s = 0; s < toy.profile->n_streams; s++) {
            uint32_t bits = entry_of(&t, s)->bits;

            assert_int_equal(!!(bits & STREAM_HAS_FINE), rate || s == 3);
            if (s == 3)
                assert_int_equal(!!(bits & STREAM_ALL_DROPPABLE), rate);
        }
        assert_int_equal(((const struct tile_base_header *)t.base)->n_raw_bytes >=
                             T * toy.geometry.head_dim,
                         rate);
        free(rows);
        tile_drop(&t);
        toy_drop(&toy);
    }
}

/* Verdicts that come layer by layer. */
struct late {
    const struct toy *toy;
    const struct tile_verdict *all;
    struct tile_verdict now[MAX_STREAMS]; /* nonsense but for the layer's */
    uint32_t n_layers;
};

static void before_layer(void *user, uint32_t layer)
{
    struct late *late = user;
    uint32_t n = 2 * late->toy->geometry.n_kv_heads;

    assert_int_equal(layer, late->n_layers++);
    memset(late->now, 0xff, sizeof(late->now));
    memcpy(late->now + layer * n, late->all + layer * n, n * sizeof(late->now[0]));
}

/* They make the same tile as those that are there from the start. */
static void test_late_verdicts(void **state)
{
    static const struct tile_verdict SOME[] = { { 0 },
                                                { .keeps_fine = 1 },
                                                { .mode = TILE_VERDICT_INTRA, .keeps_fine = 1 },
                                                { .mode = TILE_VERDICT_RAW } };

    (void)state;
    for (uint32_t n = 0; n < 5 * 3 * 3; n++) {
        struct toy toy = toy_of(n % 5, 24);
        void *rows = random_rows(&toy.geometry, DPQ_F32, n);
        struct tile_verdict verdicts[MAX_STREAMS] = { 0 };
        struct tile_watch watch = { .verdicts = verdicts, .n_verdict_bytes = 40 };
        struct late late = { .toy = &toy, .all = verdicts };
        struct tile early, t;
        struct dpq_codec *c = NULL;

        for (uint32_t s = 0; n / 15 && s < toy.profile->n_streams; s++)
            verdicts[s] = SOME[n / 15 == 1 ? (s == 5) : (s * 7 + n) % ARRAY_SIZE(SOME)];
        early = encode_watched(&toy, rows, 128, n / 5 % 3, &watch);
        watch = (struct tile_watch){ late.now, &late, before_layer, NULL, 40 };
        t = encode_watched(&toy, rows, 128, n / 5 % 3, &watch);
        assert_int_equal(late.n_layers, toy.geometry.n_layers);
        assert_int_equal(t.n_base, early.n_base);
        assert_memory_equal(t.base, early.base, t.n_base);
        assert_int_equal(t.n_fine, early.n_fine);
        assert_int_equal(!t.fine, !early.fine);
        if (t.fine)
            assert_memory_equal(t.fine, early.fine, t.n_fine);
        tile_drop(&t);
        verdicts[toy.profile->n_streams - 1].mode = 4;
        late.n_layers = 0;
        assert_int_equal(dpq_codec_new(toy.profile, ~0u, &c), 0);
        assert_int_equal(tile_encode_watched(c, rows, DPQ_F32, 0, 0, 0, &watch, &t.base, &t.n_base,
                                             &t.fine, &t.n_fine),
                         DPQ_E_INVALID);
        dpq_codec_free(c);
        free(rows);
        tile_drop(&early);
        toy_drop(&toy);
    }
}

/* A fine plane that the watcher finds missing: the tile is the one that a verdict would have made
 * so, also for what is predicted from the stream; where the plane is there anyway, nothing. */
static void test_fine_in_the_same_tile(void **state)
{
    (void)state;
    for (uint32_t reference = 0; reference <= REFERENCE_DEPTH + 1; reference++)
        for (int full = 0; full < 2; full++) {
            struct toy toy = toy_of(reference, 24);
            void *rows = random_rows(&toy.geometry, DPQ_F32, 9);
            struct tile_verdict verdicts[MAX_STREAMS] = { 0 };
            struct shown shown = { .wants = 1 << 3 | 1 << 10 };
            struct tile_watch seen = { .user = &shown, .measured = take };
            struct tile_watch told = { .verdicts = verdicts };
            struct tile want, got;

            for (uint32_t s = 0; s < toy.profile->n_streams; s++)
                toy.profile->streams[s].full = full;
            verdicts[3].keeps_fine = verdicts[10].keeps_fine = 1;
            got = encode_watched(&toy, rows, 128, DPQ_RATE_COMPACT, &seen);
            want = encode_watched(&toy, rows, 128, DPQ_RATE_COMPACT, &told);
            assert_int_equal(got.n_base, want.n_base);
            assert_memory_equal(got.base, want.base, want.n_base);
            assert_int_equal(got.n_fine, want.n_fine);
            assert_memory_equal(got.fine, want.fine, want.n_fine);
            tile_drop(&got);
            tile_drop(&want);
            shown = (struct shown){ .wants = ~0u };
            got = encode_watched(&toy, rows, 128, DPQ_RATE_QUALITY, &seen);
            want = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_QUALITY, ~0u);
            assert_int_equal(got.n_base, want.n_base);
            assert_memory_equal(got.base, want.base, want.n_base);
            tile_drop(&got);
            tile_drop(&want);
            free(rows);
            toy_drop(&toy);
        }
}

/* A predictor that is noise shows as such, also while its stream does without it. */
static void test_loop_is_watched(void **state)
{
    (void)state;
    for (uint32_t reference = REFERENCE_TEMPORAL; reference <= REFERENCE_DEPTH; reference++)
        for (int intra = 0; intra < 2; intra++) {
            struct toy toy = toy_of(reference, 0);
            float *rows = (float *)random_rows(&toy.geometry, DPQ_F32, 11);
            struct tile_verdict verdicts[MAX_STREAMS] = { 0 };
            struct shown good = { 0 }, bad = { 0 };
            struct tile_watch watch = { .verdicts = verdicts, .measured = take };
            struct profile_stream *s = &toy.profile->streams[7];
            double sum[2] = { 0 };
            float *weight = NULL;
            struct tile t;

            verdicts[7].mode = intra ? TILE_VERDICT_INTRA : 0;
            watch.user = &good;
            t = encode_watched(&toy, rows, 128, DPQ_RATE_COMPACT, &watch);
            tile_drop(&t);
            if (s->weight) {
                weight = malloc(32 * s->n_inputs * sizeof(float));
                for (uint32_t i = 0; i < 32 * s->n_inputs; i++)
                    weight[i] = 30 * s->weight[i];
                s->weight = weight;
            }
            watch.user = &bad;
            t = encode_watched(&toy, rows, 128, DPQ_RATE_COMPACT, &watch);
            tile_drop(&t);
            for (uint32_t k = 0; k < T; k++) {
                sum[0] += (double)good.of[7].e2[k];
                sum[1] += (double)bad.of[7].e2[k];
            }
            if (reference != REFERENCE_TEMPORAL)
                assert_true(sum[1] > 20 * sum[0]);
            free(weight);
            free(rows);
            toy_drop(&toy);
        }
}

/* Sinks, escapes and keys are told apart. */
static void test_parts(void **state)
{
    struct toy toy = toy_of(REFERENCE_TEMPORAL, 24);
    uint32_t d = toy.geometry.head_dim, n = toy.profile->n_streams;
    float *rows = (float *)random_rows(&toy.geometry, DPQ_F32, 13);
    struct shown shown = { 0 };
    struct tile_watch watch = { .user = &shown, .measured = take };
    struct tile t;

    (void)state;
    for (uint32_t i = 0; i < d; i++)
        rows[(70 * n + 2) * d + i] = i % 2 ? 3e38f : -1e30f;
    t = encode_watched(&toy, rows, 0, DPQ_RATE_COMPACT, &watch);
    for (uint32_t k = 0; k < T; k++) {
        assert_int_equal(shown.of[1].part[k], k < 4    ? TILE_TOKEN_SINK
                                              : k % 32 ? TILE_TOKEN_CODED
                                                       : TILE_TOKEN_KEY);
        assert_true(isfinite(shown.of[2].x2[k]) && isfinite(shown.of[2].d2[k]) &&
                    isfinite(shown.of[2].e2[k]));
    }
    assert_int_equal(shown.of[2].part[70], TILE_TOKEN_ESCAPED);
    tile_drop(&t);
    free(rows);
    toy_drop(&toy);
}

/* Room for the next tile's verdict, found again; and what is refused. */
static void test_verdict_bytes(void **state)
{
    struct toy toy = toy_of(REFERENCE_DEPTH, 0);
    uint8_t *rows = random_rows(&toy.geometry, DPQ_F32, 1);
    struct tile_verdict verdicts[MAX_STREAMS] = { 0 };
    struct tile_watch watch = { .verdicts = verdicts, .n_verdict_bytes = 100 };
    struct tile t = encode_watched(&toy, rows, 0, DPQ_RATE_QUALITY, &watch), again, bare;
    struct dpq_codec *c = NULL;
    size_t at = 0, n = 0;
    float *before, *after;

    (void)state;
    assert_int_equal(tile_find_verdict(t.base, t.n_base, &at, &n), 0);
    assert_int_equal(n, 100);
    before = decode(&toy, &t, ~0u);
    memset(t.base + at, 0xee, n);
    after = decode(&toy, &t, ~0u);
    assert_memory_equal(before, after, dpq_row_bytes(&toy.geometry, DPQ_F32) * T);
    assert_int_equal(tile_find_verdict(t.base, t.n_base - 1, &at, &n), DPQ_E_CORRUPT);
    assert_int_equal(tile_find_verdict(t.base, 40, &at, &n), DPQ_E_CORRUPT);
    t.base[4] = 9;
    assert_int_equal(tile_find_verdict(t.base, t.n_base, &at, &n), DPQ_E_VERSION);
    bare = encode(&toy, rows, DPQ_F32, 0, DPQ_RATE_QUALITY, ~0u);
    assert_int_equal(tile_find_verdict(bare.base, bare.n_base, &at, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(dpq_codec_new(toy.profile, ~0u, &c), 0);
    for (int i = 0; i < 3; i++) {
        verdicts[2] = (struct tile_verdict){ .mode = i == 0 ? 4 : 0,
                                             .keeps_fine = i == 1 ? 2 : 0,
                                             .group_log2 = i == 2 ? 8 : 0 };
        assert_int_equal(tile_encode_watched(c, rows, DPQ_F32, 0, 0, 0, &watch, &again.base,
                                             &again.n_base, &again.fine, &again.n_fine),
                         DPQ_E_INVALID);
    }
    dpq_codec_free(c);
    free(before);
    free(after);
    free(rows);
    tile_drop(&t);
    tile_drop(&bare);
    toy_drop(&toy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measured),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_raw_where_fine_is_not_enough),
        cmocka_unit_test(test_late_verdicts),
        cmocka_unit_test(test_fine_in_the_same_tile),
        cmocka_unit_test(test_loop_is_watched),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_verdict_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
