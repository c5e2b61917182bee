/*
 * One stage: the K, or the V, of one layer
 *
 * Small tasks, so that two threads are busy with three heads: gathering by chunks, Gram matrices by
 * heads' columns, candidates by (head, candidate), trees by subspaces, coding by runs of tiles.
 * Between these steps everybody waits for everybody.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/train.h"

enum { TILES_A_TASK = 8 };

/* A vector that reaches this far is beyond the largest gain: the codec stores it raw, and whoever
 * learned from it would learn nothing else. */
#define TOO_LARGE 65536.f

struct stage {
    struct train_run *run;
    uint32_t layer, kind, n_heads;
    float *mean;                           /* [n_heads][head_dim] */
    struct train_predictor *predictors[2]; /* [n_heads] each: depth-head, depth */
    struct train_stream *streams;          /* [n_heads] */
};

static struct train_result *result_of(const struct stage *s, uint32_t head)
{
    return &s->run->results[dpq_stream_index(s->run->geometry, s->layer, s->kind, head)];
}

/* --- samples -------------------------------------------------------------------------------- */

static int gather_task(void *user, uint32_t chunk, uint32_t worker)
{
    struct stage *s = user;
    struct train_worker *w = &s->run->workers[worker];

    return train_gather(&s->run->plan, &w->codec->kern, chunk, s->layer, s->kind, w->slab,
                        w->codec->x, s->run->x);
}

static bool is_too_large(const float *x, size_t d)
{
    for (size_t i = 0; i < d; i++)
        if (!(x[i] <= TOO_LARGE && x[i] >= -TOO_LARGE))
            return true;
    return false;
}

/* The mean of what is learned from; then all rows less the mean, and 0 for those that are too
 * large and for sinks. */
static int centre_task(void *user, uint32_t head, uint32_t worker)
{
    struct stage *s = user;
    const struct train_plan *plan = &s->run->plan;
    size_t d = s->run->geometry->head_dim, n = 0;
    float *x = s->run->x + head * plan->n_rows * d, *mean = s->mean + head * d;
    double sum[DPQ_MAX_HEAD_DIM] = { 0 };

    (void)worker;
    for (size_t r = 0; r < plan->n_learn; r++) {
        if (!plan->valid[r] || is_too_large(x + r * d, d))
            continue;
        for (size_t i = 0; i < d; i++)
            sum[i] += (double)x[r * d + i];
        n++;
    }
    for (size_t i = 0; i < d; i++)
        mean[i] = n ? (float)(sum[i] / (double)n) : 0;
    for (size_t r = 0; r < plan->n_rows; r++) {
        bool counts = plan->valid[r] && !is_too_large(x + r * d, d);

        for (size_t i = 0; i < d; i++)
            x[r * d + i] = counts ? x[r * d + i] - mean[i] : 0;
    }
    return 0;
}

/* --- references ----------------------------------------------------------------------------- */

/* enum dpq_reference: what was asked for one head */
static uint32_t wanted(const struct stage *s, uint32_t head)
{
    return train_stream_options(s->run->plan.trainer,
                                dpq_stream_index(s->run->geometry, s->layer, s->kind, head))
        .reference;
}

static bool has_below(const struct stage *s, uint32_t reference)
{
    return profile_n_inputs(s->run->geometry, reference, s->layer, s->kind) != 0;
}

/* Is there anything below, and may a head be predicted from it? */
static bool depth_is_possible(const struct stage *s, uint32_t reference)
{
    bool any = false;

    for (uint32_t head = 0; head < s->n_heads; head++)
        any |= wanted(s, head) == DPQ_REFERENCE_AUTO || wanted(s, head) == reference + 1;
    return any && has_below(s, reference);
}

static int predict(struct stage *s)
{
    int r = 0;

    /* for this stage, or for that of the same layer's V */
    if (s->run->refs && has_below(s, REFERENCE_DEPTH))
        r = train_gram(s->run, s->layer, s->kind);
    for (uint32_t k = 0; k < 2 && !r; k++)
        if (depth_is_possible(s, REFERENCE_DEPTH_HEAD + k))
            r = train_predict(s->run, s->layer, s->kind, REFERENCE_DEPTH_HEAD + k,
                              s->predictors[k]);
    return r < 0 ? error_fold(r) : r;
}

static const struct train_predictor *predictor_of(const struct stage *s, uint32_t reference,
                                                  uint32_t head)
{
    return reference == REFERENCE_DEPTH_HEAD || reference == REFERENCE_DEPTH
               ? &s->predictors[reference - REFERENCE_DEPTH_HEAD][head]
               : NULL;
}

static int measure_task(void *user, uint32_t index, uint32_t worker)
{
    struct stage *s = user;
    uint32_t head = index / N_CANDIDATES;
    enum candidate candidate = index % N_CANDIDATES;
    const struct train_predictor *p = predictor_of(s, candidate, head);

    if (p && !p->n_inputs)
        return 0;
    if (wanted(s, head) != DPQ_REFERENCE_AUTO && !s->run->plan.trainer->hooks.measure)
        return 0;
    return train_measure_candidate(s->run, &s->run->workers[worker], s->layer, s->kind, head,
                                   candidate, p, &result_of(s, head)->measure[candidate]);
}

/* The reference of each head: what was asked for, if there is anything below, or what pays. */
static int choose(struct stage *s)
{
    int r = train_pool_run(s->run->pool, s->n_heads * N_CANDIDATES, measure_task, s);

    for (uint32_t head = 0; head < s->n_heads && !r; head++) {
        struct train_result *result = result_of(s, head);
        uint32_t asked = wanted(s, head);

        if (asked == DPQ_REFERENCE_AUTO)
            result->choice = train_choose(s->run, result);
        else if (asked == DPQ_REFERENCE_TEMPORAL || has_below(s, asked - 1))
            result->choice = asked - 1;
        else
            result->choice = CANDIDATE_NONE;
    }
    return r < 0 ? error_fold(r) : r;
}

/* --- codebooks ------------------------------------------------------------------------------ */

static int begin_task(void *user, uint32_t head, uint32_t worker)
{
    struct stage *s = user;
    struct train_worker *w = &s->run->workers[worker];
    struct train_result *result = result_of(s, head);
    struct train_stream *stream = &s->streams[head];
    size_t d = s->run->geometry->head_dim;
    int r;

    r = train_stream_init(stream, s->run, s->layer, s->kind, head, result->choice, TRAIN_BOOK_ROWS,
                          predictor_of(s, result->choice, head), result);
    if (r)
        return error_fold(r);
    memcpy((float *)stream->stream.mean, s->mean + head * d, d * sizeof(float));
    r = train_rotation(stream, w);
    if (r)
        return error_fold(r);
    train_project(stream, w, TREE_INTRA);
    if (stream->reference != REFERENCE_NONE)
        train_project(stream, w, TREE_DELTA);
    return 0;
}

/* Subspaces are counted as if dsub were 2: with 4, half of the numbers are nobody's. */
static int tree_task(void *user, uint32_t index, uint32_t worker)
{
    struct stage *s = user;
    uint32_t n = s->run->geometry->head_dim / 2, subspace = index % n;
    enum tree_index tree = index / n % N_TREES;
    struct train_stream *stream = &s->streams[index / n / N_TREES];

    if ((tree == TREE_INTRA || stream->reference != REFERENCE_NONE) &&
        subspace < s->run->geometry->head_dim / stream->dsub)
        train_tree(stream, &s->run->workers[worker], tree, subspace, true);
    return 0;
}

static int loop_task(void *user, uint32_t head, uint32_t worker)
{
    struct stage *s = user;

    if (s->streams[head].reference != REFERENCE_TEMPORAL)
        return 0;
    return train_retrain(&s->streams[head], &s->run->workers[worker]);
}

/* --- what it came to ------------------------------------------------------------------------ */

/* What the intra tree leaves of all tokens. Those that take it while there is a reference are no
 * sample of them: they are the small ones. */
static void judge_intra(struct train_stream *stream, struct train_worker *w)
{
    struct train_stream intra = *stream;
    struct train_sums sums;

    intra.reference = REFERENCE_NONE;
    intra.p = NULL;
    train_held_out(&intra, w, true, NULL, NULL, &sums);
    for (int p = 0; p < N_PLANES && sums.n[TREE_INTRA]; p++)
        stream->stream.tolerance[TREE_INTRA][p] =
            (float)(sums.error[TREE_INTRA][p] / (double)sums.n[TREE_INTRA]);
}

static int judge_task(void *user, uint32_t head, uint32_t worker)
{
    struct stage *s = user;
    struct train_stream *stream = &s->streams[head];
    struct train_result *result = result_of(s, head);
    struct train_sums sums;
    double n_all, *all = result->mean_error;

    train_held_out(stream, &s->run->workers[worker], true, NULL, NULL, &sums);
    n_all = (double)(sums.n[TREE_INTRA] + sums.n[TREE_DELTA]);
    for (int p = 0; p < N_PLANES; p++)
        all[p] = n_all > 0 ? (sums.error[TREE_INTRA][p] + sums.error[TREE_DELTA][p]) / n_all : 0;
    for (int t = 0; t < N_TREES; t++)
        for (int p = 0; p < N_PLANES; p++) {
            /* too few tokens took this tree to say anything: what is known of all */
            stream->stream.tolerance[t][p] =
                (float)(sums.n[t] < KERN_TOKENS ? all[p] : sums.error[t][p] / (double)sums.n[t]);
        }
    if (stream->reference != REFERENCE_NONE)
        judge_intra(stream, &s->run->workers[worker]);
    result->power = n_all > 0 ? train_power(stream, &s->run->workers[worker]) / n_all : 0;
    if (stream->reference == REFERENCE_NONE)
        stream->stream.tree[TREE_DELTA] = (struct profile_tree){ 0 };
    result->stream = stream->stream;
    return 0;
}

/* Of a held-out tile: how far its base reconstructions are off. */
static void keep_errors(const struct stage *s, uint32_t head, size_t tile, const float *kept,
                        size_t stride)
{
    struct train_run *run = s->run;
    size_t d = run->geometry->head_dim, first = (tile - run->plan.n_learn_tiles) * KERN_TOKENS;
    float *to = s->kind == DPQ_K ? run->ref_errors + first * stride + 2 * run->width
                                 : run->value_errors + first * stride;
    const float *x = s->streams[head].x + tile * KERN_TOKENS * d;

    for (size_t t = 0; t < KERN_TOKENS; t++)
        for (size_t i = 0; i < d; i++)
            to[t * stride + head * d + i] =
                run->plan.valid[tile * KERN_TOKENS + t]
                    ? x[t * d + i] + s->mean[head * d + i] - kept[t * stride + i]
                    : 0;
}

/* Reconstructions of a run of tiles, for the stages to come. */
static int keep_task(void *user, uint32_t index, uint32_t worker)
{
    struct stage *s = user;
    struct train_run *run = s->run;
    uint32_t head = index % s->n_heads;
    size_t d = run->geometry->head_dim, first = (size_t)index / s->n_heads * TILES_A_TASK;
    size_t stride = s->kind == DPQ_K ? 3 * run->width : run->width;
    float *to = s->kind == DPQ_K ? run->refs + 2 * run->width : run->values;
    struct encode_unit u;

    for (size_t tile = first; tile < first + TILES_A_TASK && tile < run->plan.n_tiles; tile++) {
        float *tile_to = to + tile * KERN_TOKENS * stride + head * d;

        train_code_tile(&s->streams[head], &run->workers[worker], tile,
                        run->options->full_references, NULL, tile_to, stride, &u);
        if (run->ref_errors && tile >= run->plan.n_learn_tiles)
            keep_errors(s, head, tile, tile_to, stride);
    }
    return 0;
}

static void shift(float *refs, const float *values, size_t n_rows, size_t w)
{
    for (size_t r = 0; r < n_rows; r++) {
        memcpy(refs + r * 3 * w, refs + r * 3 * w + 2 * w, w * sizeof(float));
        memcpy(refs + r * 3 * w + w, values + r * w, w * sizeof(float));
    }
}

/* What was learned of this layer is below the next one. */
static void next_layer(struct train_run *run)
{
    shift(run->refs, run->values, run->plan.n_rows, run->width);
    if (run->ref_errors)
        shift(run->ref_errors, run->value_errors, run->plan.n_rows - run->plan.n_learn, run->width);
}

static int learn(struct stage *s)
{
    struct train_run *run = s->run;
    uint32_t n_subspaces = run->geometry->head_dim / 2;
    uint32_t n_runs = (uint32_t)((run->plan.n_tiles + TILES_A_TASK - 1) / TILES_A_TASK);
    int r;

    memset(run->x, 0, run->plan.n_rows * run->width * sizeof(float));
    r = train_pool_run(run->pool, (uint32_t)run->plan.trainer->n_chunks, gather_task, s);
    r = r ? r : train_pool_run(run->pool, s->n_heads, centre_task, s);
    r = r ? r : predict(s);
    r = r ? r : choose(s);
    r = r ? r : train_pool_run(run->pool, s->n_heads, begin_task, s);
    r = r ? r : train_pool_run(run->pool, s->n_heads * N_TREES * n_subspaces, tree_task, s);
    r = r ? r : train_pool_run(run->pool, s->n_heads, loop_task, s);
    r = r ? r : train_pool_run(run->pool, s->n_heads, judge_task, s);
    if (!r && run->refs)
        r = train_pool_run(run->pool, s->n_heads * n_runs, keep_task, s);
    if (!r && run->refs && s->kind == DPQ_V)
        next_layer(run);
    return r < 0 ? error_fold(r) : r;
}

int train_stage(struct train_run *run, uint32_t layer, uint32_t kind)
{
    uint32_t n_heads = run->geometry->n_kv_heads;
    struct stage s = {
        .run = run,
        .layer = layer,
        .kind = kind,
        .n_heads = n_heads,
        .mean = calloc((size_t)n_heads * run->geometry->head_dim, sizeof(float)),
        .predictors = { calloc(n_heads, sizeof(struct train_predictor)),
                        calloc(n_heads, sizeof(struct train_predictor)) },
        .streams = calloc(n_heads, sizeof(struct train_stream)),
    };
    int r = -ENOMEM;

    if (s.mean && s.predictors[0] && s.predictors[1] && s.streams)
        r = learn(&s);
    for (uint32_t head = 0; head < n_heads; head++) {
        for (int k = 0; k < 2 && s.predictors[k]; k++)
            train_predictor_free(&s.predictors[k][head]);
        if (s.streams)
            train_stream_deinit(&s.streams[head]);
    }
    free(s.mean);
    free(s.predictors[0]);
    free(s.predictors[1]);
    free(s.streams);
    return r < 0 ? error_fold(r) : r;
}
