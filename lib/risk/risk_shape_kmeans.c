/*
 * The direct way: train a small code on two thirds of the samples, see what it leaves of the rest
 *
 * The nearest word is the one with the largest <z, c> - |c|²/2, searched for all samples of a block
 * at once, word by word, so that the inner loop is over samples.
 */

#include <assert.h>
#include <math.h>
#include <string.h>

#include "lib/risk/risk_random.h"
#include "lib/risk/risk_shape.h"

enum { BLOCK = 64 };

static void search_block(const double *z, size_t stride, size_t n, uint32_t k, const double *words,
                         uint32_t n_words, double *ret_score, uint8_t *ret_label)
{
    double score[BLOCK];
    int64_t label[BLOCK];

    for (size_t t = 0; t < BLOCK; t++)
        ret_score[t] = -INFINITY, label[t] = 0;
    for (uint32_t w = 0; w < n_words; w++) {
        const double *c = words + w * k;
        double half = 0;

        for (uint32_t i = 0; i < k; i++)
            half += .5 * c[i] * c[i];
        for (size_t t = 0; t < BLOCK; t++)
            score[t] = -half;
        for (uint32_t i = 0; i < k; i++)
            for (size_t t = 0; t < n; t++)
                score[t] += z[i * stride + t] * c[i];
        for (size_t t = 0; t < BLOCK; t++) {
            label[t] = score[t] > ret_score[t] ? w : label[t];
            ret_score[t] = score[t] > ret_score[t] ? score[t] : ret_score[t];
        }
    }
    for (size_t t = 0; t < n; t++)
        ret_label[t] = (uint8_t)label[t];
}

static double distance_to(const double *z, size_t stride, uint32_t k, const double *word)
{
    double d2 = 0;

    for (uint32_t i = 0; i < k; i++)
        d2 += (z[i * stride] - word[i]) * (z[i * stride] - word[i]);
    return d2;
}

double risk_shape_distances(const double *z, size_t stride, size_t n, uint32_t k,
                            const double *words, uint32_t n_words, double *ret_distance,
                            uint8_t *ret_label)
{
    double score[BLOCK], sum = 0;
    uint8_t label[BLOCK];

    assert(n_words && n_words <= RISK_SHAPE_MAX_WORDS);
    for (size_t from = 0; from < n; from += BLOCK) {
        size_t count = n - from < BLOCK ? n - from : BLOCK;

        search_block(z + from, stride, count, k, words, n_words, score, label);
        for (size_t t = 0; t < count; t++) {
            ret_distance[from + t] = distance_to(z + from + t, stride, k, words + label[t] * k);
            sum += ret_distance[from + t];
        }
        if (ret_label)
            memcpy(ret_label + from, label, count);
    }
    return sum;
}

/* The first sample at which the running sum of distances reaches @share of all. */
static size_t draw(const double *distance, size_t n, double share)
{
    double all = 0, sum = 0;

    for (size_t t = 0; t < n; t++)
        all += distance[t];
    for (size_t t = 0; t < n; t++) {
        sum += distance[t];
        if (sum >= share * all)
            return t;
    }
    return n - 1;
}

/* Arthur and Vassilvitskii: each word is a sample, drawn by its distance to those before. */
static void start(const double *z, size_t n, uint32_t k, uint32_t n_words, uint64_t seed,
                  double *distance, double *ret_words)
{
    struct risk_random random = { seed };
    size_t chosen = (size_t)(risk_random_unit(&random) * (double)n);

    for (size_t t = 0; t < n; t++)
        distance[t] = INFINITY;
    for (uint32_t w = 0; w < n_words; w++) {
        if (w)
            chosen = draw(distance, n, risk_random_unit(&random));
        for (uint32_t i = 0; i < k; i++)
            ret_words[w * k + i] = z[i * n + chosen];
        for (size_t t = 0; t < n; t++)
            distance[t] = fmin(distance[t], distance_to(z + t, n, k, ret_words + w * k));
    }
}

static void improve(const double *z, size_t n, uint32_t k, uint32_t n_words, double *words)
{
    double sum[RISK_SHAPE_MAX_WORDS * RISK_MAX_DIM], score[BLOCK];
    size_t count[RISK_SHAPE_MAX_WORDS] = { 0 };
    uint8_t label[BLOCK];

    memset(sum, 0, n_words * k * sizeof(*sum));
    for (size_t from = 0; from < n; from += BLOCK) {
        size_t n_block = n - from < BLOCK ? n - from : BLOCK;

        search_block(z + from, n, n_block, k, words, n_words, score, label);
        for (size_t t = 0; t < n_block; t++) {
            count[label[t]]++;
            for (uint32_t i = 0; i < k; i++)
                sum[label[t] * k + i] += z[i * n + from + t];
        }
    }
    for (uint32_t w = 0; w < n_words; w++)
        for (uint32_t i = 0; count[w] && i < k; i++)
            words[w * k + i] = sum[w * k + i] / (double)count[w];
}

void risk_shape_kmeans(const double *z, size_t n, uint32_t k, uint32_t n_words, int n_iterations,
                       uint64_t seed, double *distance, double *ret_words)
{
    assert(n && k && k <= RISK_MAX_DIM && n_words && n_words <= RISK_SHAPE_MAX_WORDS);
    start(z, n, k, n_words, seed, distance, ret_words);
    for (int i = 0; i < n_iterations; i++)
        improve(z, n, k, n_words, ret_words);
}
