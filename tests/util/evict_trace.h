#pragma once

/*
 * Three days of requests, from a seed: what a policy for eviction is judged by
 *
 * A request asks for a chain of tiles, from a first one to its last; a tile is named by a number
 * and knows its parent. What is made of distributions here is what is said of such services, not a
 * recording of one: see docs/results/eviction.md.
 *
 *     chat       system prompts, shared by all conversations that begin with them; some are
 *                templates that are hardly ever answered, others are talked with. Conversations
 *                last the longer, the longer they have lasted; some are taken up hours later. Some
 *                prompts vanish at noon, others come.
 *     documents  long ones that are asked about in sessions; questions branch off the end, or off
 *                somewhere inside, and may be followed up
 *     scan       chat, and somebody who has long documents read all day, each twice at once, never
 *                again: three times the bytes of the chat
 */

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "lib/base/rng.h"

#define TRACE_NONE UINT32_MAX

struct trace_request {
    double seconds;
    uint32_t last; /* tile */
};

struct trace {
    struct rng rng;
    uint32_t *parent, *depth; /* [n_tiles] */
    uint32_t n_tiles, n_max_tiles;
    struct trace_request *requests; /* in the order of time */
    uint32_t n_requests, n_max_requests;
};

enum trace_kind {
    TRACE_CHAT,
    TRACE_DOCUMENTS,
    TRACE_SCAN,
};

static inline uint32_t trace_grow(struct trace *t, uint32_t parent, uint64_t n)
{
    for (; n; n--) {
        assert(t->n_tiles < t->n_max_tiles);
        t->parent[t->n_tiles] = parent;
        t->depth[t->n_tiles] = parent == TRACE_NONE ? 0 : t->depth[parent] + 1;
        parent = t->n_tiles++;
    }
    return parent;
}

static inline void trace_ask(struct trace *t, double seconds, uint32_t last)
{
    assert(t->n_requests < t->n_max_requests);
    t->requests[t->n_requests++] = (struct trace_request){ seconds, last };
}

/* Log-normal: half are below the median, two thirds within a factor of e^sigma. */
static inline double trace_gap(struct rng *rng, double median, double sigma)
{
    double u = rng_unit(rng), v = rng_unit(rng);

    return median * exp(sigma * sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v));
}

static inline uint64_t trace_between(struct rng *rng, uint64_t least, uint64_t most)
{
    return least + rng_below(rng, most - least + 1);
}

/* One of n, the k-th with a weight of 1 / (k + 1)^s. */
static inline uint32_t trace_zipf(struct rng *rng, uint32_t n, double s)
{
    double sum = 0, at;
    uint32_t k = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += pow(i + 1, -s);
    at = rng_unit(rng) * sum;
    while (k + 1 < n && (at -= pow(k + 1, -s)) > 0)
        k++;
    return k;
}

enum {
    TRACE_HOUR = 3600,
    TRACE_DAY = 24 * TRACE_HOUR,
    TRACE_DAYS = 2,
    TRACE_PROMPTS = 48,
    TRACE_MAX_DOCUMENTS = 1024,
};

/* In one of two days: most between 9 and 21 h. */
static inline double trace_time_of_day(struct rng *rng)
{
    return TRACE_HOUR * (9 + 12 * (rng_unit(rng) + rng_unit(rng)) / 2);
}

/* How long until they are back: for most some time later that day, or at that time on the next. */
static inline double trace_away(struct rng *rng)
{
    if (rng_unit(rng) < .45)
        return trace_gap(rng, 3 * TRACE_HOUR, .7);
    return TRACE_DAY + trace_gap(rng, 2 * TRACE_HOUR, .5) * (rng_unit(rng) < .5 ? -1 : 1);
}

/* Applications differ by how often somebody comes back: to a template hardly ever, to a chat now
 * and then, and rather who has done so before, to an assistant at work nearly always. A prompt is
 * there on both days, or on one of them. */
static inline bool trace_comes_back(struct rng *rng, uint32_t prompt, uint32_t visit)
{
    static const double chances[4][2] = { { .02, .1 }, { .15, .6 }, { .02, .1 }, { .75, .85 } };

    return rng_unit(rng) < chances[prompt % 4][visit > 1];
}

static inline void trace_converse(struct trace *t, const uint32_t *prompts)
{
    struct rng *rng = &t->rng;
    uint32_t prompt = trace_zipf(rng, TRACE_PROMPTS, 1), last = prompts[prompt], day;
    double at = trace_time_of_day(rng);

    day = prompt % 3 ? prompt % 3 - 1 : (uint32_t)rng_below(rng, TRACE_DAYS);
    at += day * TRACE_DAY;
    for (uint32_t visit = 1; at < TRACE_DAYS * TRACE_DAY; visit++) {
        last = trace_grow(t, last, trace_between(rng, 4, 24));
        trace_ask(t, at, last);
        if (visit == 40 || !trace_comes_back(rng, prompt, visit))
            return;
        at += trace_away(rng);
    }
}

static inline void trace_chat(struct trace *t, uint32_t n)
{
    uint32_t prompts[TRACE_PROMPTS];

    for (uint32_t i = 0; i < TRACE_PROMPTS; i++)
        prompts[i] = trace_grow(t, TRACE_NONE, trace_between(&t->rng, 1, 3));
    for (uint32_t i = 0; i < n; i++)
        trace_converse(t, prompts);
}

static inline uint32_t trace_inside(const struct trace *t, uint32_t last, uint64_t n_up)
{
    while (n_up-- && t->parent[last] != TRACE_NONE)
        last = t->parent[last];
    return last;
}

static inline void trace_session(struct trace *t, uint32_t document, double at)
{
    struct rng *rng = &t->rng;
    uint32_t branch = document;

    for (uint64_t n = trace_between(rng, 1, 6); n; n--) {
        if (rng_unit(rng) < .6)
            branch = rng_unit(rng) < .2
                         ? trace_inside(t, document, rng_below(rng, t->depth[document]))
                         : document;
        branch = trace_grow(t, branch, trace_between(rng, 1, 3));
        trace_ask(t, at, branch);
        at += trace_gap(rng, 40, 1);
    }
}

/* A document is asked about most in the hours after it came. */
static inline void trace_documents(struct trace *t, uint32_t n)
{
    uint32_t documents[TRACE_MAX_DOCUMENTS], n_documents = n / 6 + 1;
    double came[TRACE_MAX_DOCUMENTS];

    assert(n_documents <= TRACE_MAX_DOCUMENTS);
    for (uint32_t i = 0; i < n_documents; i++) {
        documents[i] = trace_grow(t, TRACE_NONE, trace_between(&t->rng, 32, 256));
        came[i] = rng_unit(&t->rng) * TRACE_DAY;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = trace_zipf(&t->rng, n_documents, .8);

        trace_session(t, documents[k], came[k] - 6 * 3600 * log(1 - rng_unit(&t->rng)));
    }
}

static inline void trace_scan(struct trace *t, uint32_t n)
{
    uint32_t n_end;

    trace_chat(t, n);
    n_end = 4 * t->n_tiles;
    while (t->n_tiles < n_end) {
        double at = trace_time_of_day(&t->rng) + (double)rng_below(&t->rng, TRACE_DAYS) * TRACE_DAY;
        uint32_t last = trace_grow(t, TRACE_NONE, trace_between(&t->rng, 64, 256));

        trace_ask(t, at, last);
        trace_ask(t, at + 1, last);
    }
}

static inline int trace_earlier(const void *a, const void *b)
{
    const struct trace_request *x = a, *y = b;

    if (x->seconds != y->seconds)
        return x->seconds < y->seconds ? -1 : 1;
    return (x->last > y->last) - (x->last < y->last);
}

/* @n: of conversations, or of sessions; the same for one kind, size and seed, everywhere */
static inline void trace_init(struct trace *t, enum trace_kind kind, uint32_t n, uint64_t seed)
{
    *t = (struct trace){ .rng = rng_seed(seed), .n_max_tiles = 256 * n, .n_max_requests = 64 * n };
    t->parent = malloc(t->n_max_tiles * sizeof(*t->parent));
    t->depth = malloc(t->n_max_tiles * sizeof(*t->depth));
    t->requests = malloc(t->n_max_requests * sizeof(*t->requests));
    assert(t->parent && t->depth && t->requests);
    if (kind == TRACE_CHAT)
        trace_chat(t, n);
    else if (kind == TRACE_DOCUMENTS)
        trace_documents(t, n);
    else
        trace_scan(t, n);
    qsort(t->requests, t->n_requests, sizeof(*t->requests), trace_earlier);
}

static inline void trace_deinit(struct trace *t)
{
    free(t->parent);
    free(t->depth);
    free(t->requests);
}
