/* What calibration was asked for: of all streams, of one, and what their errors cost. */

#include "lib/codec/train.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/fault.h"
#include "lib/codec/profile_file.h"

static bool dsub_ok(uint32_t dsub)
{
    return !dsub || dsub == 2 || dsub == 4;
}

static int check_codec_options(const struct dpq_train_options *o, struct dpq_fault *fault)
{
    uint32_t g = o->group_tokens;

    if (o->reference > DPQ_REFERENCE_DEPTH)
        return fault_set(fault, DPQ_E_INVALID, "reference %u is not within 0 … %d", o->reference,
                         DPQ_REFERENCE_DEPTH);
    for (int kind = 0; kind < 2; kind++)
        if (!dsub_ok(o->dsub[kind]))
            return fault_set(fault, DPQ_E_INVALID, "dsub %u is neither 2 nor 4", o->dsub[kind]);
    if (g && (g < 8 || g > 128 || g & (g - 1)))
        return fault_set(fault, DPQ_E_INVALID, "group_tokens %u is not 8, 16, 32, 64 or 128", g);
    if (!(o->leak >= 0 && o->leak <= 1))
        return fault_set(fault, DPQ_E_INVALID, "leak is not within 0 … 1");
    if (!isfinite(o->metric_lambda) || o->metric_lambda > 1e3f)
        return fault_set(fault, DPQ_E_INVALID, "metric_lambda is not at most 1000");
    if (o->balanced_bits != 0 && !(o->balanced_bits >= 1 && o->balanced_bits <= 4))
        return fault_set(fault, DPQ_E_INVALID, "balanced_bits is not within 1 … 4");
    if (!isfinite(o->bound) || (o->bound > 0 && o->bound < 1))
        return fault_set(fault, DPQ_E_INVALID,
                         "bound is between 0 and 1: less than the mean error");
    if (!(o->max_decode_mflop >= 0))
        return fault_set(fault, DPQ_E_INVALID, "max_decode_mflop is negative");
    return 0;
}

int train_check_options(const struct dpq_train_options *o, struct dpq_fault *fault)
{
    if (!profile_name_ok(o->model_name))
        return fault_set(
            fault, DPQ_E_INVALID,
            "the model's name is not UTF-8 of at most 127 bytes without control characters");
    if (o->n_iterations > 100)
        return fault_set(fault, DPQ_E_INVALID, "n_iterations %u is not within 0 … 100",
                         o->n_iterations);
    if (!o->n_threads || o->n_threads > 64)
        return fault_set(fault, DPQ_E_INVALID, "n_threads %u is not within 1 … 64", o->n_threads);
    return check_codec_options(o, fault);
}

static bool is_stream(const struct dpq_geometry *g, uint32_t layer, uint32_t kind, uint32_t head)
{
    return layer < g->n_layers && kind <= DPQ_V && head < g->n_kv_heads;
}

static int no_stream(uint32_t layer, uint32_t kind, uint32_t head, struct dpq_fault *fault)
{
    return fault_set(fault, DPQ_E_INVALID, "layer %u, kind %u, head %u is no stream", layer, kind,
                     head);
}

int dpq_trainer_metric(struct dpq_trainer *trainer, uint32_t layer, uint32_t kind, uint32_t head,
                       const float *metric, struct dpq_fault *ret_fault)
{
    const struct dpq_geometry *g = &trainer->geometry;
    size_t n = (size_t)g->head_dim * g->head_dim, n_all = n * dpq_n_streams(g);

    if (!is_stream(g, layer, kind, head))
        return no_stream(layer, kind, head, ret_fault);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(metric[i]))
            return fault_set_at(ret_fault, DPQ_E_NOT_FINITE, (int32_t)layer, (int32_t)kind,
                                (int32_t)head, -1, "the metric is not finite");
    if (!trainer->metric)
        trainer->metric = calloc(n_all, sizeof(float));
    if (!trainer->metric)
        return error_origin(-ENOMEM);
    memcpy(trainer->metric + n * dpq_stream_index(g, layer, kind, head), metric, n * sizeof(float));
    return 0;
}

/* --- of one stream --------------------------------------------------------------------------- */

static int check_stream(const struct dpq_geometry *g, uint32_t layer, uint32_t kind,
                        const struct dpq_stream_options *o, struct dpq_fault *fault)
{
    if (o->reference > DPQ_REFERENCE_DEPTH)
        return fault_set(fault, DPQ_E_INVALID, "reference %u is not within 0 … %d", o->reference,
                         DPQ_REFERENCE_DEPTH);
    if (o->reference > DPQ_REFERENCE_TEMPORAL &&
        !profile_n_inputs(g, o->reference - 1, layer, kind))
        return fault_set(fault, DPQ_E_INVALID,
                         "there is nothing below the keys of layer %u to predict them from", layer);
    if (!dsub_ok(o->dsub))
        return fault_set(fault, DPQ_E_INVALID, "dsub %u is neither 2 nor 4", o->dsub);
    if (o->planes > N_PLANES)
        return fault_set(fault, DPQ_E_INVALID, "planes %u is not within 0 … %d", o->planes,
                         N_PLANES);
    return 0;
}

int dpq_trainer_stream(struct dpq_trainer *trainer, uint32_t layer, uint32_t kind, uint32_t head,
                       const struct dpq_stream_options *options, struct dpq_fault *ret_fault)
{
    const struct dpq_geometry *g = &trainer->geometry;
    int r;

    if (!is_stream(g, layer, kind, head))
        return no_stream(layer, kind, head, ret_fault);
    r = check_stream(g, layer, kind, options, ret_fault);
    if (r)
        return r;
    if (!trainer->streams)
        trainer->streams = calloc(dpq_n_streams(g), sizeof(*trainer->streams));
    if (!trainer->streams)
        return error_origin(-ENOMEM);
    trainer->streams[dpq_stream_index(g, layer, kind, head)] = *options;
    return 0;
}

struct dpq_stream_options train_stream_options(const struct dpq_trainer *trainer, uint32_t index)
{
    struct dpq_stream_options own = { 0 };
    uint32_t kind = index / trainer->geometry.n_kv_heads % 2;

    if (trainer->streams)
        own = trainer->streams[index];
    if (!own.reference)
        own.reference = trainer->options.reference;
    if (!own.dsub)
        own.dsub = trainer->options.dsub[kind] ? trainer->options.dsub[kind] : 2;
    return own;
}

static bool wants_depth(uint32_t reference)
{
    return reference == DPQ_REFERENCE_AUTO || reference > DPQ_REFERENCE_TEMPORAL;
}

bool train_wants_depth(const struct dpq_trainer *trainer)
{
    bool wants = wants_depth(trainer->options.reference);

    for (uint32_t i = 0; trainer->streams && i < dpq_n_streams(&trainer->geometry); i++)
        wants |= wants_depth(train_stream_options(trainer, i).reference);
    return wants;
}
