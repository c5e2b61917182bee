/*
 * Every kernel of rows, of every instruction set, against the portable table, and the portable
 * table against plain arithmetic
 *
 * Everything has to be equal to the bit but one thing: fp16 rows that an instruction set with fp16
 * arithmetic delivers may be as far off as kern.h says.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <math.h>

#include "lib/deltapq.h"
#include "tests/kern/kerncheck.h"

static const size_t DIMS[] = { 16, 32, 48, 64, 80, 96, 128, 256 };

static size_t any_dim(struct rng *r)
{
    return DIMS[rng_below(r, sizeof(DIMS) / sizeof(DIMS[0]))];
}

/* A stream with random codes and books; every array stands at an odd place. */
struct stream {
    size_t n_subspaces, dsub, d;
    struct box base, fine, books[4], scales[2], gain, leak;
    struct kern_panel panel;
    float gains[256], inverse[256];
};

static struct kern_mask any_mask(struct rng *r)
{
    struct kern_mask m = { { 0 } };

    switch (rng_below(r, 4)) {
    case 0:
        return m;
    case 1:
        return (struct kern_mask){ { UINT64_MAX, UINT64_MAX } };
    case 2: /* keys on a grid */
        for (size_t t = 0; t < T; t++)
            m.bits[t / 64] |= (uint64_t)(t % 32 != 0) << t % 64;
        return m;
    default:
        return (struct kern_mask){ { rng_next(r), rng_next(r) } };
    }
}

static struct box box_floats(struct rng *r, size_t n, double least, double most)
{
    struct box b = box_new(n * sizeof(float), 4 * rng_below(r, 8));

    for (size_t i = 0; i < n; i++) {
        float v = (float)(least + (most - least) * rng_unit(r));

        memcpy(b.p + 4 * i, &v, 4);
    }
    return b;
}

/* As profiles have them, Q15. */
static struct box box_leaks(struct rng *r, size_t n)
{
    struct box b = box_new(n * sizeof(float), 4 * rng_below(r, 8));
    bool most = rng_below(r, 2);

    for (size_t i = 0; i < n; i++) {
        uint64_t q = most ? 32000 + rng_below(r, 768) : rng_below(r, 32768);
        float v = (float)q * 0x1p-15f;

        memcpy(b.p + 4 * i, &v, 4);
    }
    return b;
}

static struct stream *stream_new(struct rng *r)
{
    struct stream *s = calloc(1, sizeof(*s));
    uint64_t least = rng_below(r, 2) ? 50 : 0;  /* of 50: 2^-14, as small as fp16 has in full */
    uint64_t end = rng_below(r, 2) ? 256 : 170; /* of 170: what is summed may stay in its range */
    double widest = rng_below(r, 2) ? 0.05 : 7;

    assert_non_null(s);
    s->d = any_dim(r);
    s->dsub = rng_below(r, 2) ? 2 : 4;
    s->n_subspaces = s->d / s->dsub;
    s->base = box_new(s->n_subspaces * KERN_LINE, 1 + rng_below(r, 7));
    s->fine = box_new(s->n_subspaces * KERN_LINE, 1 + rng_below(r, 7));
    fill_bytes(r, s->base.p, s->base.n);
    fill_bytes(r, s->fine.p, s->fine.n);
    for (int i = 0; i < 4; i++) {
        s->books[i] = box_new(s->d * (i % 2 ? 256 : 16), 1 + rng_below(r, 7));
        fill_bytes(r, s->books[i].p, s->books[i].n);
    }
    for (int i = 0; i < 2; i++)
        s->scales[i] = box_floats(r, s->n_subspaces, 0.01, widest);
    s->leak = box_leaks(r, s->n_subspaces);
    s->gain = box_floats(r, T, 0, 4);
    for (int i = 1; i < 256; i++) {
        s->gains[i] = (float)exp2((i - 161) / 8.0);
        s->inverse[i] = 1 / s->gains[i];
    }
    for (size_t t = 0; t < T; t++) /* as the codec's: 0, tiny, huge */
        memcpy(s->gain.p + 4 * t, &s->gains[least + rng_below(r, end - least)], 4);
    s->panel = (struct kern_panel){
        .base = s->base.p,
        .fine = rng_below(r, 2) ? s->fine.p : NULL,
        .n_subspaces = s->n_subspaces,
        .dsub = s->dsub,
        .gain = (float *)s->gain.p,
        .intra = { (float *)s->scales[0].p, (int8_t *)s->books[0].p, (int8_t *)s->books[1].p },
        .delta = { (float *)s->scales[1].p, (int8_t *)s->books[2].p, (int8_t *)s->books[3].p },
        .predicted = any_mask(r),
        .leak = rng_below(r, 2) ? (float *)s->leak.p : NULL,
    };
    return s;
}

static void stream_free(struct stream *s)
{
    struct box *boxes[] = { &s->base,     &s->fine,      &s->books[0],  &s->books[1], &s->books[2],
                            &s->books[3], &s->scales[0], &s->scales[1], &s->gain,     &s->leak };

    for (size_t i = 0; i < sizeof(boxes) / sizeof(boxes[0]); i++) {
        box_check(boxes[i]);
        free(boxes[i]->all);
    }
    free(s);
}

/* The code of a token, by FORMAT.md. */
static size_t code_of(const uint8_t *panel, size_t m, size_t t)
{
    uint32_t dword;

    memcpy(&dword, panel + m * KERN_LINE + t % 16 * 4, 4);
    return dword >> t / 16 * 4 & 15;
}

static int word_of(const struct stream *s, bool fine, size_t m, size_t t, size_t i)
{
    const struct kern_tree *tree =
        kern_mask_has(&s->panel.predicted, t) ? &s->panel.delta : &s->panel.intra;
    size_t p = code_of(s->base.p, m, t);

    if (!fine)
        return tree->base[(m * 16 + p) * s->dsub + i];
    return tree->fine[((m * 16 + p) * 16 + code_of(s->fine.p, m, t)) * s->dsub + i];
}

/* fp32, one operation after the other, as kern.h has it */
static void expect_rows(const struct stream *s, float *ret_base, float *ret_fine)
{
    size_t d = s->d;

    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < d; i++) {
            size_t m = i / s->dsub, at = t * d + i;
            bool predicted = kern_mask_has(&s->panel.predicted, t);
            float scale = (predicted ? s->panel.delta : s->panel.intra).scale[m];
            float factor = scale * s->panel.gain[t], from = 0;

            ret_base[at] = (float)word_of(s, false, m, t, i % s->dsub) * factor;
            ret_fine[at] = (float)word_of(s, true, m, t, i % s->dsub) * factor;
            if (!predicted || !s->panel.leak)
                continue;
            from = s->panel.leak[m] * (t ? ret_base[at - d] : 0);
            ret_base[at] += from;
            ret_fine[at] += from;
        }
}

static void check_decode_rows(const struct pair *p, struct rng *r)
{
    struct stream *s = stream_new(r);
    size_t n = T * s->d;
    struct box base[2] = { box_new(n * 4, 4), box_new(n * 4, 12) };
    struct box fine[2] = { box_new(n * 4, 8), box_new(n * 4, 20) };
    float *expected = malloc(2 * n * sizeof(float));
    bool base_wanted = !s->panel.fine || rng_below(r, 2);

    assert_non_null(expected);
    expect_rows(s, expected, expected + n);
    for (int i = 0; i < 2; i++) {
        const struct kern *k = i ? &p->isa : &p->c;

        k->decode_rows(&s->panel, base_wanted ? (float *)base[i].p : NULL,
                       s->panel.fine ? (float *)fine[i].p : NULL);
        if (base_wanted)
            assert_memory_equal(base[i].p, expected, n * 4);
        if (s->panel.fine)
            assert_memory_equal(fine[i].p, expected + n, n * 4);
    }
    boxes_end(&base[0], &base[1]);
    boxes_end(&fine[0], &fine[1]);
    free(expected);
    stream_free(s);
}

static void test_decode_rows(void **state)
{
    (void)state;
    each(check_decode_rows, 100);
}

static void expect_half(float expected, uint16_t got, float allowed)
{
    float v = f32_from_f16(got);

    if (!allowed)
        assert_int_equal(got, f16_from_f32(expected));
    else if (isinf(v)) /* from 65520 on */
        assert_true((v > 0) == (expected > 0) && fabsf(expected) > 65520 - allowed);
    else
        assert_true(fabsf(v - expected) <= allowed);
}

/* As kern.h has it; rows: [2][128][d], base and what is delivered. */
static void allow_half(const struct stream *s, const float *rows, float *ret_allowed)
{
    size_t n = T * s->d;
    float *of_base = calloc(n, sizeof(float));

    assert_non_null(of_base);
    for (size_t at = 0; at < n; at++) {
        size_t t = at / s->d, m = at % s->d / s->dsub;
        bool adds = s->panel.leak && t && kern_mask_has(&s->panel.predicted, t);
        float a = adds ? s->panel.leak[m] : 0, from = adds ? a * rows[at - s->d] : 0;
        float before = adds ? a * of_base[at - s->d] : 0;
        float base = fmaxf(fabsf(from), fabsf(rows[at] - from));
        float out = fmaxf(fabsf(from), fabsf(rows[n + at] - from));

        of_base[at] = before + fmaxf(0x1p-8f * base, 0x1p-21f);
        ret_allowed[at] = before + fmaxf((s->panel.leak ? 0x1p-8f : 0x1p-9f) * out, 0x1p-21f);
    }
    free(of_base);
}

static void check_half_rows(const struct stream *s, const struct kern *k, const float *expected,
                            const float *allowed, struct rng *r)
{
    bool aligned = rng_below(r, 2), cold = rng_below(r, 2);
    size_t stride = 2 * s->d + (aligned ? 64 * rng_below(r, 2) : 1 + rng_below(r, 9));
    struct box rows = box_new(T * stride + 64, 0);
    uint8_t *first = rows.p + (aligned ? -(uintptr_t)rows.p % 64 : 1 + rng_below(r, 7));

    k->decode_half(&s->panel, first, (ptrdiff_t)stride, cold);
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; 2 * i < stride; i++) {
            uint16_t half;

            memcpy(&half, first + t * stride + 2 * i, 2);
            if (i < s->d)
                expect_half(expected[t * s->d + i], half, allowed ? allowed[t * s->d + i] : 0);
            else if (2 * i + 2 <= stride)
                assert_int_equal(half, 0xa5a5);
        }
    for (uint8_t *q = rows.p; q < first; q++)
        assert_int_equal(*q, 0xa5);
    for (uint8_t *q = first + T * stride; q < rows.p + rows.n; q++)
        assert_int_equal(*q, 0xa5);
    box_check(&rows);
    free(rows.all);
}

static void check_decode_half(const struct pair *p, struct rng *r)
{
    struct stream *s = stream_new(r);
    size_t n = T * s->d;
    float *rows = malloc(3 * n * sizeof(float)), *allowed = rows + 2 * n;

    assert_non_null(rows);
    expect_rows(s, rows, rows + n);
    if (!s->panel.fine)
        memcpy(rows + n, rows, n * sizeof(float));
    allow_half(s, rows, allowed);
    check_half_rows(s, &p->c, rows + n, NULL, r);
    check_half_rows(s, &p->isa, rows + n, p->cpu & KERN_CPU_FP16 ? allowed : NULL, r);
    free(rows);
    stream_free(s);
}

static void test_decode_half(void **state)
{
    (void)state;
    each(check_decode_half, 100);
}

/* The loop is what its steps are, each of which has its own check. */
static void expect_loop(const struct kern *k, const struct kern_loop *l, const float *y, size_t t,
                        bool predicted, const int32_t *gain, const uint8_t *code, const int16_t *q,
                        const float *base)
{
    size_t d = l->n_subspaces * l->dsub;
    int g = gain[t] < 256 ? gain[t] : 0;
    const struct kern_tree *tree = predicted ? &l->delta : &l->intra;
    float r[KERN_MAX_DIM], square;

    for (size_t i = 0; i < d; i++)
        r[i] = predicted ? y[t * d + i] - l->leak[i / l->dsub] * (t ? base[(t - 1) * d + i] : 0)
                         : y[t * d + i];
    k->squares(r, NULL, 1, d, &square);
    if (square > 0 && isfinite(square)) {
        double exact = 161 + 8 * log2(sqrt((double)square / (double)d));

        assert_true(gain[t] == 256 ? exact > 255.4 : fabs(fmax(exact, 0) - gain[t]) < 0.5001);
    }
    for (size_t m = 0; m < l->n_subspaces; m++) {
        float row[4 * KERN_TOKENS], inverse[KERN_TOKENS] = { l->inverse_gain[g] };
        int16_t expected[4 * KERN_TOKENS];
        uint8_t nearest[KERN_TOKENS];

        memset(row, 0, sizeof(row));
        for (size_t i = 0; i < l->dsub; i++)
            row[i * T] = r[m * l->dsub + i];
        k->quantize(row, l->dsub, inverse, 16 / tree->scale[m], expected);
        for (size_t i = 0; i < l->dsub; i++)
            assert_int_equal(q[(m * l->dsub + i) * T + t], expected[i * T]);
        k->search(expected, l->dsub, tree->base + m * 16 * l->dsub, nearest);
        assert_int_equal(code[m * T + t], nearest[0]);
    }
}

static void check_search_loop(const struct pair *p, struct rng *r)
{
    struct stream *s = stream_new(r);
    size_t d = s->d, n = T * d;
    struct box gain[2] = { box_new(T * 4, 4), box_new(T * 4, 8) };
    struct box code[2] = { box_new(s->n_subspaces * T, 1), box_new(s->n_subspaces * T, 7) };
    struct box q[2] = { box_new(n * 2, 2), box_new(n * 2, 6) };
    struct box base[2] = { box_new(n * 4, 4), box_new(n * 4, 12) };
    float *y = malloc(n * sizeof(float)), gains[T];
    uint8_t *panel = calloc(s->n_subspaces, KERN_LINE);
    struct kern_mask mask[2];
    struct kern_loop l = {
        .n_subspaces = s->n_subspaces,
        .dsub = s->dsub,
        .intra = s->panel.intra,
        .delta = s->panel.delta,
        .may_predict = s->panel.predicted,
        .strict = rng_below(r, 2),
        .leak = (float *)s->leak.p,
        .gain = s->gains,
        .inverse_gain = s->inverse,
    };

    assert_true(y && panel);
    fill_floats(r, y, n, false);
    if (rng_below(r, 4) == 0) /* what escapes */
        for (int i = 0; i < 20; i++)
            y[rng_below(r, n)] = random_float(r);
    for (int i = 0; i < 2; i++)
        (i ? p->isa : p->c)
            .search_loop(&l, y, &mask[i], (int32_t *)gain[i].p, code[i].p, (int16_t *)q[i].p,
                         (float *)base[i].p);
    for (size_t t = 0; t < T; t++) {
        int32_t g = ((int32_t *)gain[0].p)[t];

        expect_loop(&p->c, &l, y, t, kern_mask_has(&mask[0], t), (int32_t *)gain[0].p, code[0].p,
                    (int16_t *)q[0].p, (float *)base[0].p);
        gains[t] = s->gains[g < 256 ? g : 0];
    }
    for (size_t m = 0; m < s->n_subspaces; m++)
        p->c.pack(code[0].p + m * T, panel + m * KERN_LINE);
    s->panel.base = panel;
    s->panel.fine = NULL;
    s->panel.gain = gains;
    s->panel.leak = l.leak;
    s->panel.predicted = mask[0];
    p->c.decode_rows(&s->panel, y, NULL); /* no drift: the decoder has the same bits */
    assert_memory_equal(y, base[0].p, n * 4);
    assert_memory_equal(&mask[0], &mask[1], sizeof(mask[0]));
    boxes_end(&gain[0], &gain[1]);
    boxes_end(&code[0], &code[1]);
    boxes_end(&q[0], &q[1]);
    boxes_end(&base[0], &base[1]);
    free(panel);
    free(y);
    stream_free(s);
}

static void test_search_loop(void **state)
{
    (void)state;
    each(check_search_loop, 40);
}

struct turn {
    struct kern_turn turn;
    float cosine[5 * 33], sine[5 * 33];
    size_t d; /* of the rows that it is for: they may end where the turn does, or further on */
};

static void turn_fill(struct turn *t, struct rng *r, size_t n)
{
    t->turn =
        (struct kern_turn){ .interleaved = rng_below(r, 2),
                            .n_pairs = rng_below(r, 2) ? 8 * rng_below(r, 5) : rng_below(r, 33),
                            .cosine = t->cosine,
                            .sine = t->sine };
    fill_floats(r, t->cosine, n * t->turn.n_pairs, false);
    fill_floats(r, t->sine, n * t->turn.n_pairs, false);
    t->d = 2 * t->turn.n_pairs;
    if (!t->d || rng_below(r, 2))
        t->d += 1 + rng_below(r, 9);
}

/* take and give are what they are said to be made of */
static void check_take(const struct pair *p, struct rng *r)
{
    for (uint32_t dtype = 0; dtype < 3; dtype++) {
        size_t n = 1 + rng_below(r, 5), size = dpq_dtype_bytes(dtype);
        struct turn t;
        size_t d, stride;

        turn_fill(&t, r, n);
        d = t.d;
        stride = d * size + rng_below(r, 9);

        struct box rows = box_new(n * stride, 1 + rng_below(r, 7));
        struct box a = box_new(n * d * 4, 4), b = box_new(n * d * 4, 4 * rng_below(r, 8));
        float mean[80];

        fill_bytes(r, rows.p, rows.n);
        for (size_t i = 0; i < n * stride; i++) /* no NaN: whose payload survives is not defined */
            rows.p[i] &= 0xbb;
        fill_floats(r, mean, d, false);
        p->c.load[dtype](rows.p, (ptrdiff_t)stride, n, d, (float *)a.p);
        if (t.turn.n_pairs)
            p->c.rope[t.turn.interleaved ? DPQ_ROPE_INTERLEAVED : DPQ_ROPE_HALF](
                (float *)a.p, n, d, t.cosine, t.sine, t.turn.n_pairs);
        p->c.add((float *)a.p, n, d, mean, -1);
        p->isa.take[dtype](rows.p, (ptrdiff_t)stride, n, d, &t.turn, mean, (float *)b.p);
        boxes_end(&a, &b);
        box_check(&rows);
        free(rows.all);
    }
}

static void test_take(void **state)
{
    (void)state;
    each(check_take, 300);
}

static void check_give(const struct pair *p, struct rng *r)
{
    for (uint32_t dtype = 0; dtype < 3; dtype++) {
        size_t n = 1 + rng_below(r, 5), size = dpq_dtype_bytes(dtype), d, stride;
        struct turn t;

        turn_fill(&t, r, n);
        d = t.d;
        stride = d * size + rng_below(r, 9);

        struct box a = box_new(n * stride, 3), b = box_new(n * stride, 3);
        float x[5 * 80], turned[5 * 80];

        fill_floats(r, x, n * d, !t.turn.n_pairs);
        memcpy(turned, x, n * d * sizeof(float));
        if (t.turn.n_pairs)
            p->c.rope[t.turn.interleaved ? DPQ_ROPE_INTERLEAVED : DPQ_ROPE_HALF](
                turned, n, d, t.cosine, t.sine, t.turn.n_pairs);
        p->c.store[dtype](turned, n, d, a.p, (ptrdiff_t)stride);
        p->isa.give[dtype](x, n, d, &t.turn, b.p, (ptrdiff_t)stride);
        boxes_end(&a, &b);
    }
}

static void test_give(void **state)
{
    (void)state;
    each(check_give, 300);
}

static void check_squares(const struct pair *p, struct rng *r)
{
    size_t n = 1 + rng_below(r, 5), d = 1 + rng_below(r, 140);
    struct box a = box_new(n * 4, 4), b = box_new(n * 4, 8);
    float x[5 * 140], y[5 * 140];
    bool two = rng_below(r, 2);

    fill_floats(r, x, n * d, false);
    fill_floats(r, y, n * d, false);
    p->c.squares(x, two ? y : NULL, n, d, (float *)a.p);
    p->isa.squares(x, two ? y : NULL, n, d, (float *)b.p);
    for (size_t t = 0; t < n; t++) {
        double exact = 0;
        float got;

        for (size_t i = t * d; i < (t + 1) * d; i++)
            exact += pow((double)x[i] - (two ? (double)y[i] : 0), 2);
        memcpy(&got, a.p + 4 * t, 4);
        assert_true(fabs((double)got - exact) <= 1e-6 * exact);
    }
    boxes_end(&a, &b);
}

static void test_squares(void **state)
{
    (void)state;
    each(check_squares, 300);
}

/* A group as meters see it: any token may be of any kind, or all of one. */
static void check_sums(const struct pair *p, struct rng *r)
{
    struct box a = box_new(sizeof(struct kern_sums), 0), b = box_new(sizeof(struct kern_sums), 8);
    struct kern_meter meter = {
        .cap = 3, .per_tolerance = 3 * rng_unit(r), .clip = 8, .stake = rng_unit(r)
    };
    size_t at = rng_below(r, 8);
    float x[3][KERN_GROUP + 8];
    uint8_t token[KERN_GROUP + 8];
    struct kern_sums sums;
    double exact[4] = { 0 };

    for (size_t t = at; t < at + KERN_GROUP; t++) {
        token[t] = rng_below(r, 4) ? KERN_TOKEN_CODED : (uint8_t)rng_below(r, 4);
        for (size_t i = 0; i < 3; i++) /* large ones, and none at all, too */
            x[i][t] = (float)(rng_below(r, 8) ? 4 * rng_unit(r) : rng_below(r, 2) * 3e38);
        if (token[t] != KERN_TOKEN_SINK)
            exact[0] += fmin((double)x[0][t], meter.cap);
        if (token[t] != KERN_TOKEN_CODED)
            continue;
        exact[1] += (double)x[1][t];
        exact[2] += fmin((double)x[2][t], meter.cap);
        exact[3] += fmin(2 * (double)x[2][t] * meter.per_tolerance, 8) - 2;
    }
    assert_true(p->c.sum_energies(x[0] + at, token + at, meter.cap) ==
                p->isa.sum_energies(x[0] + at, token + at, meter.cap));
    assert_true(fabs(p->c.sum_energies(x[0] + at, token + at, meter.cap) - exact[0]) < 1e-12);
    p->c.sum_tokens(x[1] + at, x[2] + at, token + at, &meter, (struct kern_sums *)a.p);
    p->isa.sum_tokens(x[1] + at, x[2] + at, token + at, &meter, (struct kern_sums *)b.p);
    memcpy(&sums, a.p, sizeof(sums));
    assert_true(fabs(sums.d2 - exact[1]) <= 1e-12 * exact[1]);
    assert_true(fabs(sums.e2 - exact[2]) < 1e-12 && fabs(sums.excess - exact[3]) < 1e-12);
    boxes_end(&a, &b);
}

static void test_sums(void **state)
{
    (void)state;
    each(check_sums, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_rows), cmocka_unit_test(test_decode_half),
        cmocka_unit_test(test_search_loop), cmocka_unit_test(test_take),
        cmocka_unit_test(test_give),        cmocka_unit_test(test_squares),
        cmocka_unit_test(test_sums),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
