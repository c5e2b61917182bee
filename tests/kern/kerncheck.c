/*
 * Every kernel of panels, of every instruction set against the portable table, which is the
 * definition, and the definition against arithmetic that is too simple to be wrong
 *
 * Everything has to be equal to the bit. Buffers stand at odd offsets between guard bytes, sizes
 * are odd where a kernel takes a size, and values include zeroes of both signs, subnormals, ties,
 * infinities and NaN.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <math.h>

#include "lib/deltapq.h"
#include "tests/kern/kerncheck.h"

static void check_load(const struct pair *p, struct rng *r)
{
    for (uint32_t dtype = 0; dtype < 3; dtype++) {
        size_t size = dpq_dtype_bytes(dtype), n = 1 + rng_below(r, 5), d = 1 + rng_below(r, 70);
        size_t stride = d * size + rng_below(r, 9);
        struct box rows = box_new(n * stride, 1 + rng_below(r, 7));
        struct box a = box_new(n * d * 4, 4), b = box_new(n * d * 4, 4 * rng_below(r, 8));
        ptrdiff_t step = (ptrdiff_t)stride;
        const uint8_t *first = rows.p;

        fill_bytes(r, rows.p, rows.n);
        if (rng_below(r, 2)) { /* backwards */
            first += (n - 1) * stride;
            step = -step;
        }
        p->c.load[dtype](first, step, n, d, (float *)a.p);
        p->isa.load[dtype](first, step, n, d, (float *)b.p);
        boxes_end(&a, &b);
        box_check(&rows);
        free(rows.all);
    }
}

static void test_load(void **state)
{
    (void)state;
    each(check_load, 300);
}

static void check_store(const struct pair *p, struct rng *r)
{
    for (uint32_t dtype = 0; dtype < 3; dtype++) {
        size_t size = dpq_dtype_bytes(dtype), n = 1 + rng_below(r, 5), d = 1 + rng_below(r, 70);
        size_t stride = d * size + rng_below(r, 9), at = 1 + rng_below(r, 7);
        struct box a = box_new(n * stride, at), b = box_new(n * stride, at);
        float x[5 * 70];

        fill_floats(r, x, n * d, true);
        p->c.store[dtype](x, n, d, a.p, (ptrdiff_t)stride);
        p->isa.store[dtype](x, n, d, b.p, (ptrdiff_t)stride);
        for (size_t t = 0; t < n; t++) /* between the rows, too, nothing is written */
            for (size_t i = d * size; i < stride; i++)
                assert_int_equal(b.p[t * stride + i], 0xa5);
        boxes_end(&a, &b);
    }
}

static void test_store(void **state)
{
    (void)state;
    each(check_store, 300);
}

/* All 2^16 numbers of both half formats survive load and store; NaN may become a quiet one. */
static void test_every_half(void **state)
{
    static uint16_t in[65536], out[65536];
    static float x[65536];

    (void)state;
    for (uint32_t i = 0; i < 65536; i++)
        in[i] = (uint16_t)i;
    for (size_t isa = 0; isa < sizeof(ISAS) / sizeof(ISAS[0]); isa++)
        for (uint32_t dtype = DPQ_F16; dtype <= DPQ_BF16; dtype++) {
            uint16_t quiet = dtype == DPQ_F16 ? 0x200 : 0x40;
            uint16_t exponent = dtype == DPQ_F16 ? 0x7c00 : 0x7f80;
            struct kern k;

            kern_init(&k, ISAS[isa].cpu & kern_cpu_detect());
            k.load[dtype](in, 2 * 65536, 1, 65536, x);
            k.store[dtype](x, 1, 65536, out, 2 * 65536);
            for (uint32_t i = 0; i < 65536; i++) {
                bool nan = (i & exponent) == exponent && (i & (exponent >> 1 | 1 | 0x3f));

                nan = nan && isnan(x[i]);
                assert_int_equal(out[i], nan ? (i | quiet) : i);
            }
        }
}

static void check_rope(const struct pair *p, struct rng *r)
{
    for (int pairing = DPQ_ROPE_HALF; pairing <= DPQ_ROPE_INTERLEAVED; pairing++) {
        size_t n = 1 + rng_below(r, 5), n_pairs = rng_below(r, 33),
               d = 2 * n_pairs + rng_below(r, 9);
        struct box a = box_new(n * d * 4, 4), b = box_new(n * d * 4, 4);
        float cosine[5 * 33], sine[5 * 33];

        fill_floats(r, (float *)a.p, n * d, false);
        memcpy(b.p, a.p, a.n);
        fill_floats(r, cosine, n * n_pairs, false);
        fill_floats(r, sine, n * n_pairs, false);
        p->c.rope[pairing]((float *)a.p, n, d, cosine, sine, n_pairs);
        p->isa.rope[pairing]((float *)b.p, n, d, cosine, sine, n_pairs);
        boxes_end(&a, &b);
    }
}

static void test_rope(void **state)
{
    (void)state;
    each(check_rope, 300);
}

static void check_add(const struct pair *p, struct rng *r)
{
    size_t n = 1 + rng_below(r, 5), d = 1 + rng_below(r, 70);
    struct box a = box_new(n * d * 4, 4), b = box_new(n * d * 4, 4);
    float v[70], sign = rng_below(r, 2) ? 1 : -1;

    fill_floats(r, (float *)a.p, n * d, false);
    memcpy(b.p, a.p, a.n);
    fill_floats(r, v, d, false);
    p->c.add((float *)a.p, n, d, v, sign);
    p->isa.add((float *)b.p, n, d, v, sign);
    boxes_end(&a, &b);
}

static void test_add(void **state)
{
    (void)state;
    each(check_add, 300);
}

static void check_gains(const struct pair *p, struct rng *r)
{
    size_t d = 1 + rng_below(r, 64);
    struct box a = box_new(T * 4, 4), b = box_new(T * 4, 8);
    float *y = malloc(d * T * sizeof(float)), square[2][T], summed[T] = { 0 };

    fill_floats(r, y, d * T, rng_below(r, 2));
    for (size_t t = 0; t < T; t++) /* octaves far apart */
        for (size_t i = 0, e = rng_below(r, 120); i < d; i++)
            y[i * T + t] *= ldexpf(1, (int)e - 60);
    p->c.gains(y, d, square[0], (int32_t *)a.p);
    p->isa.gains(y, d, square[1], (int32_t *)b.p);
    p->c.add_squares(y, NULL, d, summed);
    for (size_t t = 0; t < T; t++) {
        assert_true(square[0][t] == summed[t] || isnan(summed[t]));
        assert_true(square[1][t] == summed[t] || (isnan(summed[t]) && isnan(square[1][t])));
    }
    for (size_t t = 0; t < T; t++) { /* the definition: nearest eighth of an octave */
        int32_t code = ((int32_t *)a.p)[t];
        double sum = 0, exact;

        for (size_t i = 0; i < d; i++)
            sum += (double)y[i * T + t] * (double)y[i * T + t];
        exact = 161 + 8 * log2(sqrt(sum / (double)d));
        exact = !(exact > 0) ? 0 : exact > 256 ? 256 : exact;
        assert_true(fabs((isfinite(sum) ? exact : 256) - code) < 0.5 + 1e-4);
    }
    boxes_end(&a, &b);
    free(y);
}

static void test_gains(void **state)
{
    (void)state;
    each(check_gains, 100);
}

/* In the order of the dimensions, on top of what is there: to the bit. */
static void check_add_squares(const struct pair *p, struct rng *r)
{
    size_t n = 1 + rng_below(r, 40);
    struct box a = box_new(T * 4, 4), b = box_new(T * 4, 8);
    struct box x = box_new(n * T * 4, 4), y = box_new(n * T * 4, 12);
    bool two = rng_below(r, 2);
    float expected[T];

    fill_floats(r, expected, T, false);
    fill_floats(r, (float *)x.p, n * T, false);
    fill_floats(r, (float *)y.p, n * T, false);
    memcpy(a.p, expected, sizeof(expected));
    memcpy(b.p, expected, sizeof(expected));
    p->c.add_squares((float *)x.p, two ? (float *)y.p : NULL, n, (float *)a.p);
    p->isa.add_squares((float *)x.p, two ? (float *)y.p : NULL, n, (float *)b.p);
    for (size_t i = 0; i < n * T; i++) {
        float v = ((float *)x.p)[i];

        v = two ? v - ((float *)y.p)[i] : v;
        expected[i % T] += v * v;
    }
    assert_memory_equal(a.p, expected, sizeof(expected));
    boxes_end(&a, &b);
    box_check(&x);
    box_check(&y);
    free(x.all);
    free(y.all);
}

static void test_add_squares(void **state)
{
    (void)state;
    each(check_add_squares, 100);
}

static void check_quantize(const struct pair *p, struct rng *r)
{
    size_t n = 1 + rng_below(r, 4);
    struct box a = box_new(n * T * 2, 2), b = box_new(n * T * 2, 6);
    float y[4 * T], inverse[T], factor = (float)(1 + 700 * rng_unit(r));
    bool special = rng_below(r, 2);

    fill_floats(r, y, n * T, special);
    fill_floats(r, inverse, T, false);
    if (!special) { /* ties */
        factor = 0.5f;
        for (size_t i = 0; i < n * T; i++)
            y[i] = (float)((int)rng_below(r, 64) - 32);
        for (size_t t = 0; t < T; t++)
            inverse[t] = 1;
    }
    p->c.quantize(y, n, inverse, factor, (int16_t *)a.p);
    p->isa.quantize(y, n, inverse, factor, (int16_t *)b.p);
    for (size_t i = 0; i < n * T; i++) {
        float v = y[i] * inverse[i % T] * factor;
        int16_t q;

        memcpy(&q, a.p + 2 * i, 2);
        if (v >= -KERN_Q_MAX && v <= KERN_Q_MAX)
            assert_int_equal(q, lrintf(v));
        else
            assert_true(q == -KERN_Q_MAX || q == KERN_Q_MAX);
    }
    boxes_end(&a, &b);
}

static void test_quantize(void **state)
{
    (void)state;
    each(check_quantize, 200);
}

/* The nearest word by trying all: 16 q·c - 8 |16 c|²/16 in 64 bits, the first of equals. */
static int nearest(const int16_t *q, size_t dsub, const int8_t *book)
{
    int64_t best = INT64_MIN;
    int at = 0;

    for (int w = 0; w < KERN_WORDS; w++) {
        int64_t score = 0;

        for (size_t i = 0; i < dsub; i++) {
            int64_t c = book[(size_t)w * dsub + i];

            score += c * q[i * T] - 8 * c * c;
        }
        if (score > best) {
            best = score;
            at = w;
        }
    }
    return at;
}

/* q and words at their limits, words that are equal, small words (ties). */
static void fill_search(struct rng *r, int16_t *q, size_t n_q, int8_t *book, size_t n_book)
{
    int range = 1 << (3 + rng_below(r, 11));

    for (size_t i = 0; i < n_q; i++) {
        q[i] = (int16_t)((int)rng_below(r, (uint64_t)(2 * range)) - range);
        if (q[i] < -KERN_Q_MAX || rng_below(r, 50) == 0)
            q[i] = rng_below(r, 2) ? KERN_Q_MAX : -KERN_Q_MAX;
    }
    fill_bytes(r, book, n_book);
    if (rng_below(r, 3) == 0)
        for (size_t i = 0; i < n_book; i++)
            book[i] = (int8_t)(book[i] % 3);
    if (rng_below(r, 3) == 0)
        for (size_t i = 0; i < n_book; i++)
            book[i] = book[i] & 1 ? 127 : -128;
}

static void check_search(const struct pair *p, struct rng *r)
{
    for (size_t dsub = 1; dsub <= 4; dsub++) {
        struct box a = box_new(T, 1), b = box_new(T, 5), q = box_new(dsub * T * 2, 2);
        struct box book = box_new(KERN_WORDS * dsub, 3);

        fill_search(r, (int16_t *)q.p, dsub * T, (int8_t *)book.p, book.n);
        p->c.search((int16_t *)q.p, dsub, (int8_t *)book.p, a.p);
        p->isa.search((int16_t *)q.p, dsub, (int8_t *)book.p, b.p);
        for (size_t t = 0; t < T; t++)
            assert_int_equal(a.p[t], nearest((int16_t *)q.p + t, dsub, (int8_t *)book.p));
        boxes_end(&a, &b);
        free(q.all);
        free(book.all);
    }
}

static void test_search(void **state)
{
    (void)state;
    each(check_search, 300);
}

static void check_search_child(const struct pair *p, struct rng *r)
{
    for (size_t dsub = 1; dsub <= 4; dsub++) {
        struct box a = box_new(T, 1), b = box_new(T, 5), q = box_new(dsub * T * 2, 2);
        struct box book = box_new(KERN_WORDS * KERN_WORDS * dsub, 3), parent = box_new(T, 7);

        fill_search(r, (int16_t *)q.p, dsub * T, (int8_t *)book.p, book.n);
        for (size_t t = 0; t < T; t++)
            parent.p[t] = (uint8_t)rng_below(r, KERN_WORDS);
        p->c.search_child((int16_t *)q.p, dsub, (int8_t *)book.p, parent.p, a.p);
        p->isa.search_child((int16_t *)q.p, dsub, (int8_t *)book.p, parent.p, b.p);
        for (size_t t = 0; t < T; t++)
            assert_int_equal(a.p[t], nearest((int16_t *)q.p + t, dsub,
                                             (int8_t *)book.p + parent.p[t] * KERN_WORDS * dsub));
        boxes_end(&a, &b);
        free(q.all);
        free(book.all);
        free(parent.all);
    }
}

static void test_search_child(void **state)
{
    (void)state;
    each(check_search_child, 300);
}

static void check_lines(const struct pair *p, struct rng *r)
{
    struct box code = box_new(T, 3), a = box_new(KERN_LINE, 1), b = box_new(KERN_LINE, 5);
    struct box back_a = box_new(T, 1), back_b = box_new(T, 9);

    for (size_t t = 0; t < T; t++)
        code.p[t] = (uint8_t)rng_below(r, KERN_WORDS);
    p->c.pack(code.p, a.p);
    p->isa.pack(code.p, b.p);
    for (size_t t = 0; t < T; t++) { /* nibble j of dword l is token 16 j + l */
        size_t j = t / 16, l = t % 16;

        assert_int_equal(a.p[4 * l + j / 2] >> 4 * (j % 2) & 15, code.p[t]);
    }
    p->c.unpack(a.p, back_a.p);
    p->isa.unpack(a.p, back_b.p);
    assert_memory_equal(back_a.p, code.p, T);
    boxes_end(&a, &b);
    boxes_end(&back_a, &back_b);
    free(code.all);
}

static void test_lines(void **state)
{
    (void)state;
    each(check_lines, 300);
}

static void check_decode(const struct pair *p, struct rng *r)
{
    for (size_t dsub = 1; dsub <= 4; dsub++)
        for (size_t n_words = KERN_WORDS; n_words <= 256; n_words *= KERN_WORDS) {
            struct box code = box_new(T, 3), book = box_new(n_words * dsub, 1);
            struct box a = box_new(dsub * T * 4, 4), b = box_new(dsub * T * 4, 12);
            float gain[T], scale = (float)rng_unit(r);

            fill_bytes(r, book.p, book.n);
            fill_floats(r, gain, T, false);
            for (size_t t = 0; t < T; t++)
                code.p[t] = (uint8_t)rng_below(r, n_words);
            p->c.decode(code.p, dsub, (int8_t *)book.p, n_words, scale, gain, (float *)a.p);
            p->isa.decode(code.p, dsub, (int8_t *)book.p, n_words, scale, gain, (float *)b.p);
            for (size_t t = 0; t < T; t++)
                for (size_t i = 0; i < dsub; i++) {
                    float c = (float)(int8_t)book.p[code.p[t] * dsub + i];
                    float got;

                    memcpy(&got, a.p + 4 * (i * T + t), 4);
                    assert_true(got == c * (scale * gain[t]));
                }
            boxes_end(&a, &b);
            free(code.all);
            free(book.all);
        }
}

static void test_decode(void **state)
{
    (void)state;
    each(check_decode, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load),         cmocka_unit_test(test_store),
        cmocka_unit_test(test_every_half),   cmocka_unit_test(test_rope),
        cmocka_unit_test(test_add),          cmocka_unit_test(test_gains),
        cmocka_unit_test(test_quantize),     cmocka_unit_test(test_search),
        cmocka_unit_test(test_search_child), cmocka_unit_test(test_lines),
        cmocka_unit_test(test_decode),       cmocka_unit_test(test_add_squares),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
