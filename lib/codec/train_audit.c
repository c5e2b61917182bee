/*
 * What an audit is shown of a candidate: held-out tokens in the coordinates in which they were
 * coded
 *
 * Whoever audits is not known here: a hook gets the vectors, their closed-loop residuals and their
 * errors, and how much of an error comes back through the loop. In time that is a leak squared; in
 * depth it is omega (theory 5.4), the energy of W e over the energy of e, e the errors of what lies
 * below.
 */

#include <cblas.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/train.h"

struct show {
    const struct train_stream *s;
    struct train_worker *worker;
    float *x, *d, *e; /* [n_held][head_dim] */
    size_t n;
    float loop_gain[DPQ_MAX_HEAD_DIM / 2];
};

/* The tokens of a coded tile: y of x itself, then what was coded instead, then what was missed. */
static void show_tile(void *user, size_t tile, const struct encode_unit *u)
{
    struct show *show = user;
    const struct train_stream *s = show->s;
    const struct dpq_codec *c = show->worker->codec;
    size_t d = s->run->geometry->head_dim;
    float own[KERN_TOKENS * DPQ_MAX_HEAD_DIM];

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, KERN_TOKENS, (int)d, (int)d, 1,
                s->x + tile * KERN_TOKENS * d, (int)d, s->stream.encode, (int)d, 0, own, (int)d);
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        bool leaky = s->reference == REFERENCE_TEMPORAL && loop_is_predicted(&u->loop, (uint32_t)t);
        size_t to = show->n * d;

        if (!s->run->plan.valid[tile * KERN_TOKENS + t])
            continue;
        memcpy(show->x + to, own + t * d, d * sizeof(float));
        for (size_t k = 0; k < d; k++) {
            float y = c->y[k * KERN_TOKENS + t], b = c->y_base[k * KERN_TOKENS + t];

            show->e[to + k] = y - b;
            show->d[to + k] = y;
            if (leaky)
                show->d[to + k] -= (float)s->stream.leak[k / s->dsub] * LOOP_LEAK_UNIT *
                                   c->y_base[k * KERN_TOKENS + t - 1];
        }
        show->n++;
    }
}

/* Mean |e|^2 of the streams below that a predictor sees. */
static double error_below(const struct train_stream *s)
{
    const struct dpq_geometry *g = s->run->geometry;
    struct profile_below below = profile_below(s->layer, s->kind);
    double sum = 0;

    for (uint32_t which = below.first; which < below.end; which++)
        for (uint32_t head = 0; head < g->n_kv_heads; head++) {
            uint32_t layer = which == 2 ? s->layer : s->layer - 1;

            if (s->reference == REFERENCE_DEPTH || head == s->head)
                sum += s->run->results[dpq_stream_index(g, layer, which == 1 ? DPQ_V : DPQ_K, head)]
                           .mean_error[PLANE_BASE];
        }
    return sum;
}

/* Mean |E W e|^2 over held-out tokens. */
static double fed_back(struct show *show)
{
    const struct train_stream *s = show->s;
    const struct train_plan *plan = &s->run->plan;
    struct train_predictor w = { s->stream.n_inputs, (float *)s->stream.weight, NULL };
    size_t d = s->run->geometry->head_dim;
    float *p = show->worker->codec->p, *y = show->worker->codec->y;
    double sum = 0;

    for (size_t r = 0; r < plan->n_rows - plan->n_learn; r += KERN_TOKENS) {
        memset(p, 0, KERN_TOKENS * d * sizeof(float));
        train_apply(s->run, s->layer, s->kind, s->head, s->reference, &w,
                    s->run->ref_errors + r * 3 * s->run->width, KERN_TOKENS, p);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, KERN_TOKENS, (int)d, (int)d, 1, p,
                    (int)d, s->stream.encode, (int)d, 0, y, (int)d);
        for (size_t i = 0; i < KERN_TOKENS * d; i++)
            sum += (double)y[i] * (double)y[i];
    }
    return plan->n_valid[1] ? sum / (double)plan->n_valid[1] : 0;
}

static bool set_loop_gain(struct show *show)
{
    const struct train_stream *s = show->s;
    double gain = 0, below;

    if (s->reference == REFERENCE_NONE)
        return false;
    if (s->reference >= REFERENCE_DEPTH_HEAD) {
        below = error_below(s);
        gain = below > 0 ? fed_back(show) / below : 0;
    }
    for (uint32_t m = 0; m < s->run->geometry->head_dim / s->dsub; m++) {
        double a = s->reference == REFERENCE_TEMPORAL
                       ? (double)((float)s->stream.leak[m] * LOOP_LEAK_UNIT)
                       : 0;

        show->loop_gain[m] = (float)(s->reference == REFERENCE_TEMPORAL ? a * a : gain);
    }
    return true;
}

int train_show(const struct train_stream *s, struct train_worker *worker, enum candidate candidate,
               struct train_sums *ret_sums)
{
    const struct train_plan *plan = &s->run->plan;
    const struct dpq_audit_hooks *hooks = &plan->trainer->hooks;
    size_t d = s->run->geometry->head_dim, n = (plan->n_rows - plan->n_learn) * d;
    float *room = malloc(3 * n * sizeof(float));
    struct show show = { .s = s, .worker = worker, .x = room, .d = room + n, .e = room + 2 * n };
    struct dpq_candidate_view view = {
        .layer = s->layer,
        .kind = s->kind,
        .head = s->head,
        .candidate = candidate,
        .head_dim = (uint32_t)d,
        .dsub = s->dsub,
        .x = show.x,
        .d = show.d,
        .e = show.e,
    };

    if (!room)
        return error_origin(-ENOMEM);
    if (set_loop_gain(&show))
        view.loop_gain = show.loop_gain;
    train_held_out(s, worker, false, show_tile, &show, ret_sums);
    view.n_tokens = show.n;
    if (show.n)
        hooks->measure(hooks->user, &view);
    free(room);
    return 0;
}

int train_finish_audit(const struct train_run *run, uint8_t **ret_bytes, size_t *ret_n_bytes)
{
    const struct dpq_audit_hooks *hooks = &run->plan.trainer->hooks;
    uint32_t n = dpq_n_streams(run->geometry), per_layer = 2 * run->geometry->n_kv_heads;
    double d = run->geometry->head_dim;
    struct dpq_choice *choices;
    int r;

    if (!hooks->finish)
        return 0;
    choices = calloc(n, sizeof(*choices));
    if (!choices)
        return error_origin(-ENOMEM);
    for (uint32_t i = 0; i < n; i++) {
        const struct train_result *result = &run->results[i];

        choices[i] = (struct dpq_choice){
            .layer = i / per_layer,
            .kind = i / run->geometry->n_kv_heads % 2,
            .head = i % run->geometry->n_kv_heads,
            .candidate = result->choice,
            .forced = train_stream_options(run->plan.trainer, i).reference != DPQ_REFERENCE_AUTO,
            .error_base = result->mean_error[PLANE_BASE] / d,
            .error_fine = result->mean_error[PLANE_FINE] / d,
        };
    }
    r = hooks->finish(hooks->user, choices, n, ret_bytes, ret_n_bytes);
    free(choices);
    return r < 0 ? error_fold(r) : r;
}
