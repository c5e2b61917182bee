/*
 * One subspace: sixteen parents, sixteen children of each, rounded to int8
 *
 * Nearest means largest x·c - |c|²/2, samples as lanes, with a running maximum over the words.
 * k-means starts from k-means++ with a few candidates a step; a word that loses all its samples
 * moves to the sample that is served worst. Parents settle on some of the samples, with twice the
 * iterations, and are then adjusted to all.
 */

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/base/half.h"
#include "lib/codec/train.h"

enum {
    WORDS = KERN_WORDS,
    MAX_DSUB = 4,
    BLOCK = 512,
    N_SEED_SAMPLES = 2048, /* k-means++ looks at so many at most */
    N_SEEDS = 3,
    MIN_SAMPLES = 2 * WORDS, /* a parent with fewer gets children by rule */
    N_SCALES = 128,
    N_PARENT_SAMPLES = 4096, /* sixteen words need no more to settle */
};

#define SETTLED 1e-4 /* k-means ends when an iteration takes off less than this share */

/* Samples of one subspace: coordinate i of sample t at x[i * stride + t]. */
struct samples {
    const float *x;
    size_t stride, n;
    uint32_t dsub;
};

int train_book_scratch_init(struct train_book_scratch *s, size_t n)
{
    *s = (struct train_book_scratch){
        .x = malloc((n + 1) * MAX_DSUB * sizeof(float)),
        .distance = malloc((n + 1) * sizeof(float)),
        .label = malloc(n + 1),
        .child = malloc(n + 1),
    };
    if (!s->x || !s->distance || !s->label || !s->child)
        return error_origin(-ENOMEM);
    return 0;
}

void train_book_scratch_deinit(struct train_book_scratch *s)
{
    free(s->x);
    free(s->distance);
    free(s->label);
    free(s->child);
    *s = (struct train_book_scratch){ 0 };
}

/* distance becomes the smaller of itself and |x - c|^2; returns the sum */
static double approach(const struct samples *s, size_t n, size_t step, const float *c,
                       const float *distance, float *ret_distance)
{
    double sum = 0;

    for (size_t t = 0; t < n; t++) {
        float e = 0;

        for (uint32_t i = 0; i < s->dsub; i++) {
            float u = s->x[i * s->stride + t * step] - c[i];

            e += u * u;
        }
        ret_distance[t] = distance && distance[t] < e ? distance[t] : e;
        sum += (double)ret_distance[t];
    }
    return sum;
}

static void take(const struct samples *s, size_t t, float *c)
{
    for (uint32_t i = 0; i < s->dsub; i++)
        c[i] = s->x[i * s->stride + t];
}

static size_t draw(const float *distance, size_t n, double total, struct rng *rng)
{
    double left = rng_unit(rng) * total;
    size_t t;

    for (t = 0; t + 1 < n; t++) {
        left -= (double)distance[t];
        if (left < 0)
            break;
    }
    return t;
}

/* k-means++ with the best of a few candidates at each step */
static void seed_words(const struct samples *s, struct rng *rng, float *distance,
                       float words[WORDS][MAX_DSUB])
{
    size_t step = s->n > N_SEED_SAMPLES ? s->n / N_SEED_SAMPLES : 1;
    size_t n = s->n > N_SEED_SAMPLES ? N_SEED_SAMPLES : s->n;
    float trial[N_SEED_SAMPLES];
    double total;

    take(s, rng_below(rng, n) * step, words[0]);
    total = approach(s, n, step, words[0], NULL, distance);
    for (int w = 1; w < WORDS; w++) {
        double best = INFINITY;

        for (int k = 0; k < N_SEEDS; k++) {
            float c[MAX_DSUB];
            double sum;

            take(s, draw(distance, n, total, rng) * step, c);
            sum = approach(s, n, step, c, distance, trial);
            if (sum < best) {
                best = sum;
                memcpy(words[w], c, sizeof(c));
            }
        }
        total = approach(s, n, step, words[w], distance, distance);
    }
}

/* The word with the largest score, for each of n samples. Its number takes the place of the score's
 * last four bits, so that one maximum finds both. */
static void find_largest(const float *block, uint32_t dsub, float table[WORDS][MAX_DSUB + 1],
                         size_t n, float *ret_best, uint8_t *ret_label)
{
    float score[BLOCK];

    for (size_t t = 0; t < n; t++)
        ret_best[t] = -INFINITY;
    for (uint32_t w = 0; w < WORDS; w++) {
        for (size_t t = 0; t < n; t++)
            score[t] = table[w][dsub] + table[w][0] * block[t];
        for (uint32_t i = 1; i < dsub; i++)
            for (size_t t = 0; t < n; t++)
                score[t] += table[w][i] * block[i * BLOCK + t];
        for (size_t t = 0; t < n; t++) {
            float marked = f32_from_bits((f32_bits(score[t]) & ~15u) | w);

            ret_best[t] = marked > ret_best[t] ? marked : ret_best[t];
        }
    }
    for (size_t t = 0; t < n; t++)
        ret_label[t] = (uint8_t)(f32_bits(ret_best[t]) & 15);
}

/* label and squared distance of samples from … from + n - 1, n ≤ BLOCK */
static void assign_block(const struct samples *s, size_t from, size_t n,
                         float table[WORDS][MAX_DSUB + 1], uint8_t *ret_label, float *ret_distance)
{
    float block[MAX_DSUB * BLOCK], best[BLOCK], norm[BLOCK] = { 0 };

    for (uint32_t i = 0; i < s->dsub; i++) {
        memcpy(block + (size_t)i * BLOCK, s->x + i * s->stride + from, n * sizeof(float));
        for (size_t t = 0; t < n; t++)
            norm[t] += block[i * BLOCK + t] * block[i * BLOCK + t];
    }
    find_largest(block, s->dsub, table, n, best, ret_label);
    for (size_t t = 0; t < n; t++) {
        float e = norm[t] - 2 * best[t];

        ret_distance[t] = e > 0 ? e : 0;
    }
}

/* Label all; returns the sum of squared distances. */
static double assign(const struct samples *s, float words[WORDS][MAX_DSUB], uint8_t *ret_label,
                     float *ret_distance)
{
    float table[WORDS][MAX_DSUB + 1];
    double sum = 0;

    for (int w = 0; w < WORDS; w++) {
        float norm = 0;

        for (uint32_t i = 0; i < s->dsub; i++) {
            table[w][i] = words[w][i];
            norm += words[w][i] * words[w][i];
        }
        table[w][s->dsub] = norm / -2;
    }
    for (size_t t = 0; t < s->n; t += BLOCK)
        assign_block(s, t, s->n - t < BLOCK ? s->n - t : BLOCK, table, ret_label + t,
                     ret_distance + t);
    for (size_t t = 0; t < s->n; t++)
        sum += (double)ret_distance[t];
    return sum;
}

static void count(const uint8_t *label, size_t n, uint32_t ret_count[WORDS])
{
    memset(ret_count, 0, WORDS * sizeof(*ret_count));
    for (size_t t = 0; t < n; t++)
        ret_count[label[t]]++;
}

static size_t worst(const float *distance, size_t n)
{
    size_t at = 0;

    for (size_t t = 1; t < n; t++)
        if (distance[t] > distance[at])
            at = t;
    return at;
}

/* Each word to the middle of its samples. */
static void update(const struct samples *s, const uint8_t *label, float *distance,
                   float words[WORDS][MAX_DSUB])
{
    double sum[WORDS][MAX_DSUB] = { 0 };
    uint32_t n[WORDS];

    count(label, s->n, n);
    for (uint32_t i = 0; i < s->dsub; i++)
        for (size_t t = 0; t < s->n; t++)
            sum[label[t]][i] += (double)s->x[i * s->stride + t];
    for (int w = 0; w < WORDS; w++) {
        if (n[w]) {
            for (uint32_t i = 0; i < s->dsub; i++)
                words[w][i] = (float)(sum[w][i] / n[w]);
        } else {
            size_t t = worst(distance, s->n);

            take(s, t, words[w]);
            distance[t] = 0;
        }
    }
}

/* n ≥ 1. Leaves labels and distances of the final words; returns the error. */
static double k_means(const struct samples *s, uint32_t n_iterations, struct rng *rng,
                      struct train_book_scratch *scratch, uint8_t *ret_label,
                      float ret_words[WORDS][MAX_DSUB])
{
    double error, before = INFINITY;

    seed_words(s, rng, scratch->distance, ret_words);
    error = assign(s, ret_words, ret_label, scratch->distance);
    for (uint32_t i = 0; i < n_iterations && error < before * (1 - SETTLED); i++) {
        before = error;
        update(s, ret_label, scratch->distance, ret_words);
        error = assign(s, ret_words, ret_label, scratch->distance);
    }
    return error;
}

/* Where there is nothing to learn from: two rings, at the rms of a gain-normalised vector. */
static void default_words(uint32_t dsub, float words[WORDS][MAX_DSUB])
{
    for (int w = 0; w < WORDS; w++)
        for (uint32_t i = 0; i < dsub; i++) {
            double angle = (w % 8 + (w < 8 ? 0 : .5)) * .78539816339744831 + i / 2 * 1.2;
            double radius = w < 8 ? .8 : 1.8;

            words[w][i] = (float)(radius * (i % 2 ? sin(angle) : cos(angle)));
        }
}

/* The children of a parent that has hardly any samples: the parents' pattern, shrunken. */
static void default_children(float base[WORDS][MAX_DSUB], uint32_t dsub, int parent,
                             float children[WORDS][MAX_DSUB])
{
    for (uint32_t i = 0; i < dsub; i++) {
        float mean = 0;

        for (int w = 0; w < WORDS; w++)
            mean += base[w][i] / WORDS;
        for (int w = 0; w < WORDS; w++)
            children[w][i] = base[parent][i] + (base[w][i] - mean) / 4;
    }
}

static size_t gather_children(const struct samples *s, const uint8_t *label, int parent, float *x)
{
    size_t n = 0;

    for (size_t t = 0; t < s->n; t++) {
        if (label[t] != parent)
            continue;
        for (uint32_t i = 0; i < s->dsub; i++)
            x[i * s->n + n] = s->x[i * s->stride + t];
        n++;
    }
    return n;
}

/* Evenly spread over all. */
static struct samples thin_out(const struct samples *all, float *x)
{
    size_t n = all->n < N_PARENT_SAMPLES ? all->n : N_PARENT_SAMPLES;

    for (uint32_t i = 0; i < all->dsub; i++)
        for (size_t t = 0; t < n; t++)
            x[i * n + t] = all->x[i * all->stride + t * all->n / n];
    return (struct samples){ x, n, n, all->dsub };
}

static void learn_parents(const struct samples *all, uint32_t n_iterations, struct rng *rng,
                          struct train_book_scratch *scratch, struct train_book *b)
{
    struct samples some = thin_out(all, scratch->x);

    b->base_error = k_means(&some, 2 * n_iterations, rng, scratch, scratch->label, b->base);
    if (some.n < all->n) {
        assign(all, b->base, scratch->label, scratch->distance);
        update(all, scratch->label, scratch->distance, b->base);
        b->base_error = assign(all, b->base, scratch->label, scratch->distance);
    }
    count(scratch->label, all->n, b->n_base);
}

void train_book_learn(const float *x, size_t stride, size_t n, uint32_t dsub, uint32_t n_iterations,
                      bool children, struct rng *rng, struct train_book_scratch *scratch,
                      struct train_book *ret_book)
{
    struct samples all = { x, stride, n, dsub };
    struct train_book *b = ret_book;

    *b = (struct train_book){ 0 };
    if (n < MIN_SAMPLES)
        default_words(dsub, b->base);
    else
        learn_parents(&all, n_iterations, rng, scratch, b);
    for (int p = 0; p < WORDS && children; p++) {
        struct samples own = { scratch->x, n, b->n_base[p], dsub };

        if (own.n < MIN_SAMPLES) {
            default_children(b->base, dsub, p, b->fine[p]);
            continue;
        }
        gather_children(&all, scratch->label, p, scratch->x);
        b->fine_error += k_means(&own, n_iterations, rng, scratch, scratch->child, b->fine[p]);
        count(scratch->child, own.n, b->n_fine[p]);
    }
}

static float round_to(float value, float scale)
{
    float q = rintf(value / scale);

    return q > 127 ? 127 : q < -127 ? -127 : q;
}

/* What rounding adds to the error of words that stand for n samples each. */
static double rounding_error(float (*words)[MAX_DSUB], const uint32_t *n, int n_words,
                             uint32_t dsub, float scale)
{
    double sum = 0;

    for (int w = 0; w < n_words; w++) {
        float e = 0;

        for (uint32_t i = 0; i < dsub; i++) {
            float u = words[w][i] - scale * round_to(words[w][i], scale);

            e += u * u;
        }
        sum += (double)e * n[w];
    }
    return sum;
}

static float choose_scale(struct train_book *b, uint32_t dsub, float widest)
{
    double least = INFINITY;
    float best = widest / 127;

    for (int k = 0; k < N_SCALES; k++) {
        float scale = widest / 127 * (1 - .6f * (float)k / N_SCALES);
        double base = rounding_error(b->base, b->n_base, WORDS, dsub, scale);
        double fine = rounding_error(b->fine[0], b->n_fine[0], WORDS * WORDS, dsub, scale);
        double cost = base / (b->base_error + 1e-30) + fine / (b->fine_error + 1e-30);

        if (cost < least) {
            least = cost;
            best = scale;
        }
    }
    return best;
}

float train_book_round(const struct train_book *book, uint32_t dsub, int8_t *ret_base,
                       int8_t *ret_fine)
{
    struct train_book b = *book;
    float widest = 0, scale;

    for (int w = 0; w < WORDS; w++)
        for (uint32_t i = 0; i < dsub; i++) {
            widest = fmaxf(widest, fabsf(b.base[w][i]));
            for (int c = 0; c < WORDS; c++)
                widest = fmaxf(widest, fabsf(b.fine[w][c][i]));
        }
    scale = choose_scale(&b, dsub, fmaxf(widest, 1e-6f));
    for (int w = 0; w < WORDS; w++)
        for (uint32_t i = 0; i < dsub; i++) {
            *ret_base++ = (int8_t)round_to(b.base[w][i], scale);
            for (int c = 0; c < WORDS; c++)
                ret_fine[((size_t)w * WORDS + c) * dsub + i] =
                    (int8_t)round_to(b.fine[w][c][i], scale);
        }
    return scale;
}
