/*
 * Which reference a stream gets
 *
 * Every candidate is tried in closed loop on held-out tokens, with codebooks of parents only from a
 * few tiles: an error that is comparable between candidates, if not the final one. The choice takes
 * the smallest, but a reference must pay for what it costs its readers: a leaky loop a key-frame
 * grid, a depth reference the layers below.
 */

#include <math.h>
#include <stdlib.h>

#include "lib/base/error.h"
#include "lib/codec/train.h"

/* The error has to fall below this share of what the cheaper candidates leave. */
#define TEMPORAL_PAYS .95
#define DEPTH_PAYS    .95

static int learn_parents(struct train_stream *s, struct train_worker *w)
{
    uint32_t n_subspaces = s->run->geometry->head_dim / s->dsub;
    int r;

    r = train_rotation(s, w);
    if (r)
        return error_fold(r);
    for (int t = 0; t < (s->reference == REFERENCE_NONE ? 1 : N_TREES); t++) {
        train_project(s, w, (enum tree_index)t);
        for (uint32_t m = 0; m < n_subspaces; m++)
            train_tree(s, w, (enum tree_index)t, m, false);
    }
    return 0;
}

int train_measure_candidate(struct train_run *run, struct train_worker *worker, uint32_t layer,
                            uint32_t kind, uint32_t head, enum candidate candidate,
                            const struct train_predictor *predictor,
                            struct train_measure *ret_measure)
{
    uint32_t reference = candidate == CANDIDATE_PURE_DELTA ? REFERENCE_TEMPORAL : candidate;
    struct train_result scrap = { 0 };
    struct train_sums sums;
    struct train_stream s;
    uint64_t n;
    int r;

    r = train_stream_init(&s, run, layer, kind, head, reference, TRAIN_QUICK_ROWS, predictor,
                          &scrap);
    if (r)
        return error_fold(r);
    s.pure = s.stream.strict = candidate == CANDIDATE_PURE_DELTA;
    r = learn_parents(&s, worker);
    if (!r && run->plan.trainer->hooks.measure)
        r = train_show(&s, worker, candidate, &sums);
    else if (!r)
        train_held_out(&s, worker, false, NULL, NULL, &sums);
    if (!r && (n = sums.n[TREE_INTRA] + sums.n[TREE_DELTA]))
        *ret_measure = (struct train_measure){
            .measured = true,
            .error = (sums.error[TREE_INTRA][PLANE_BASE] + sums.error[TREE_DELTA][PLANE_BASE]) /
                     (double)n,
        };
    train_stream_deinit(&s);
    free(scrap.memory);
    return r ? error_fold(r) : 0;
}

static double flops(const struct dpq_geometry *g, enum candidate c)
{
    double heads = c == CANDIDATE_DEPTH ? g->n_kv_heads : 1;

    if (c != CANDIDATE_DEPTH_HEAD && c != CANDIDATE_DEPTH)
        return 0;
    return 2.0 * g->head_dim * heads * g->head_dim * (5.0 * g->n_layers - 4) * g->n_kv_heads;
}

static bool allowed(const struct train_run *run, enum candidate c)
{
    double limit = (double)run->options->max_decode_mflop * 1e6;

    return !(limit > 0) || flops(run->geometry, c) <= limit;
}

enum candidate train_choose(const struct train_run *run, const struct train_result *result)
{
    static const struct {
        enum candidate candidate;
        double pays;
    } ORDER[] = {
        { CANDIDATE_TEMPORAL, TEMPORAL_PAYS },
        { CANDIDATE_DEPTH_HEAD, DEPTH_PAYS },
        { CANDIDATE_DEPTH, DEPTH_PAYS },
    };
    enum candidate best = CANDIDATE_NONE;

    for (size_t i = 0; i < ARRAY_SIZE(ORDER); i++) {
        const struct train_measure *m = &result->measure[ORDER[i].candidate];

        if (m->measured && allowed(run, ORDER[i].candidate) &&
            m->error < ORDER[i].pays * result->measure[best].error)
            best = ORDER[i].candidate;
    }
    return best;
}
