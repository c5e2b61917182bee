/*
 * Profiles.Calibrate: one request at a time
 *
 *     begin -> options of streams -> samples, metrics -> job: they are copied -> only then the next
 * request -> …
 *     -> half-close -> training, on threads of the session's -> reply
 *
 * The client is read no faster than its samples are taken. When the call is over while training
 * goes on, the session decides what becomes of it: without an id it stops.
 */
#include <string.h>

#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/profiles.pb-c.h"

struct calibrate_state {
    struct job job; /* takes samples or a metric; first, see take() */
    struct rpc_call *call;
    struct session_calibration *calibration;
    struct session_samples samples;
    const Deltapq__V1__CalibrateMetric
        *metric; /* the call's message; NULL: samples are to be taken */
};

void rpc_calibrate_over(struct rpc_call *call)
{
    struct calibrate_state *state = call->state;

    if (state->calibration)
        session_calibration_cancel(state->calibration);
}

void rpc_calibrate_deinit(void *argument)
{
    struct calibrate_state *state = argument;

    session_calibration_free(state->calibration);
}

/* --- the end ---------------------------------------------------------------------------------- */

static void rpc_calibrate_done(void *user, const struct session_calibrated *result)
{
    struct rpc_call *call = user;
    Deltapq__V1__CalibrateReply reply = DELTAPQ__V1__CALIBRATE_REPLY__INIT;

    if (result->error.code == SESSION_OK) {
        reply.profile_id = (ProtobufCBinaryData){ .len = sizeof(result->profile_id),
                                                  .data = (uint8_t *)result->profile_id };
        reply.n_tokens = result->n_tokens;
        reply.train_seconds = result->train_seconds;
        reply.info_json = (char *)result->info_json;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_fail(call, &result->error);
    }
    rpc_call_unref(call);
}

void rpc_calibrate_run(struct rpc_call *call)
{
    struct calibrate_state *state = call->state;

    if (!state || !state->calibration) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "STEP",
                        "the stream ended before a CalibrateBegin");
        return;
    }
    session_calibration_run(state->calibration, rpc_calibrate_done, rpc_call_ref(call));
}

/* --- samples and metrics ---------------------------------------------------------------------- */

static void take(struct job *job, uint32_t worker)
{
    struct calibrate_state *state = (struct calibrate_state *)job;
    const Deltapq__V1__CalibrateMetric *metric = state->metric;
    struct rpc_call *call = state->call;
    struct session_error error;
    int r;

    (void)worker;
    if (metric)
        r = session_calibration_metric(state->calibration, metric->layer, metric->kind,
                                       metric->head, metric->matrix.data, metric->matrix.len,
                                       &error);
    else
        r = session_calibration_add(state->calibration, &state->samples, &error);
    if (r)
        rpc_call_fail(call, &error);
    else
        rpc_call_receive(call);
    rpc_call_unref(call);
}

/* the state, for a request that belongs behind a begin; NULL: refused */
static struct calibrate_state *begun(struct rpc_call *call, const char *what)
{
    struct calibrate_state *state = call->state;

    if (state && state->calibration)
        return state;
    rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "STEP", "%s came before the CalibrateBegin",
                    what);
    return NULL;
}

static void submit(struct rpc_call *call, struct calibrate_state *state)
{
    state->call = rpc_call_ref(call);
    state->job.run = take;
    pool_resubmit(call->server->options.pool, &state->job); /* one a call: admitted by begin */
}

static void samples(struct rpc_call *call, const Deltapq__V1__CalibrateSamples *request)
{
    struct calibrate_state *state = begun(call, "samples");
    struct session_error error;

    if (!state)
        return;
    if (rpc_check_numbers(request->tensor, request->client_id, &request->inline_data,
                          &state->samples.from, &error)) {
        rpc_call_fail(call, &error);
        return;
    }
    state->samples.first_position = request->first_position;
    state->samples.n_tokens = request->n_tokens;
    state->samples.first_token = request->first_token;
    state->metric = NULL;
    submit(call, state);
}

static void metric(struct rpc_call *call, const Deltapq__V1__CalibrateMetric *request)
{
    struct calibrate_state *state = begun(call, "a metric");

    if (!state)
        return;
    state->metric = request;
    submit(call, state);
}

static void stream(struct rpc_call *call, const Deltapq__V1__CalibrateStream *request)
{
    struct calibrate_state *state = begun(call, "options of a stream");
    struct dpq_stream_options options = { .reference = (uint32_t)request->reference,
                                          .dsub = request->dsub,
                                          .planes = request->planes };
    struct session_error error;

    if (!state)
        return;
    if (session_calibration_stream(state->calibration, request->layer, request->kind, request->head,
                                   &options, &error))
        rpc_call_fail(call, &error);
    else
        rpc_call_receive(call);
}

/* --- begin ------------------------------------------------------------------------------------ */

/* coordinates a code that a preset stands for; 0: there is no such */
static uint32_t preset_dsub(const char *preset)
{
    static const struct {
        const char *name;
        uint32_t dsub;
    } PRESETS[] = {
        { "", 2 }, { "quality", 2 }, { "balanced", 2 }, { "compact", 2 }, { "tiny", 4 }
    };

    for (size_t i = 0; i < ARRAY_SIZE(PRESETS); i++)
        if (!strcmp(preset, PRESETS[i].name))
            return PRESETS[i].dsub;
    return 0;
}

static int fill_options(const Deltapq__V1__CalibrateBegin *request,
                        struct dpq_train_options *ret_options, struct session_error *ret_error)
{
    uint32_t dsub = preset_dsub(request->preset);

    if (!dsub) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "OPTIONS",
                          "preset \"%.40s\" is none of quality, balanced, compact, tiny",
                          request->preset);
        return 1;
    }
    ret_options->seed = request->seed;
    ret_options->n_iterations = request->n_iterations;
    ret_options->reference = (uint32_t)request->reference;
    ret_options->dsub[DPQ_K] = request->dsub_k ? request->dsub_k : dsub;
    ret_options->dsub[DPQ_V] = request->dsub_v ? request->dsub_v : dsub;
    ret_options->group_tokens = request->group_tokens;
    ret_options->leak = request->leak;
    ret_options->metric_lambda = request->metric_lambda;
    ret_options->balanced_bits = request->balanced_bits;
    ret_options->bound = request->bound;
    ret_options->full_references = request->full_references;
    ret_options->max_decode_mflop = request->max_decode_mflop;
    return rpc_check_text(request->model_name, "model_name", ret_options->model_name,
                          sizeof(ret_options->model_name), ret_error);
}

static void begin(struct rpc_call *call, const Deltapq__V1__CalibrateBegin *request)
{
    struct session_calibrate ask = { .tenant = call->tenant,
                                     .calibration_id = request->calibration_id };
    struct calibrate_state *state;
    struct session_error error;

    if (call->state) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "STEP",
                        "there was a CalibrateBegin already");
        return;
    }
    state = rpc_call_state(call, sizeof(*state));
    if (!state)
        return;
    if (rpc_check_text(request->label, "label", ask.label, sizeof(ask.label), &error) ||
        rpc_check_geometry(request->geometry, &ask.geometry, &error) ||
        fill_options(request, &ask.options, &error) ||
        session_calibration_begin(call->server->options.session, &ask, &state->calibration,
                                  &error)) {
        rpc_call_fail(call, &error);
        return;
    }
    rpc_call_receive(call);
}

void rpc_calibrate(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__CalibrateRequest *request = message;

    switch (request->step_case) {
    case DELTAPQ__V1__CALIBRATE_REQUEST__STEP_BEGIN:
        begin(call, request->begin);
        break;
    case DELTAPQ__V1__CALIBRATE_REQUEST__STEP_SAMPLES:
        samples(call, request->samples);
        break;
    case DELTAPQ__V1__CALIBRATE_REQUEST__STEP_METRIC:
        metric(call, request->metric);
        break;
    case DELTAPQ__V1__CALIBRATE_REQUEST__STEP_STREAM:
        stream(call, request->stream);
        break;
    default:
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "STEP",
                        "the request has neither begin nor samples, metric or stream");
    }
}
