/*
 * Profiles.Calibrate: one request at a time
 *
 *     begin -> samples -> job: they are copied -> only then the next request -> … -> half-close
 *     -> training, on threads of the session's -> reply
 *
 * The client is read no faster than its samples are taken. When the call is over while training
 * goes on, training is told to stop.
 */
#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/profiles.pb-c.h"

struct calibrate_state {
    struct job job; /* takes samples; first, see take() */
    struct rpc_call *call;
    struct session_calibration *calibration;
    struct session_numbers numbers;
    uint64_t first_position;
    uint32_t n_tokens;
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

/* --- samples ---------------------------------------------------------------------------------- */

static void take(struct job *job, uint32_t worker)
{
    struct calibrate_state *state = (struct calibrate_state *)job;
    struct rpc_call *call = state->call;
    struct session_error error;

    (void)worker;
    if (session_calibration_add(state->calibration, &state->numbers, state->first_position,
                                state->n_tokens, &error))
        rpc_call_fail(call, &error);
    else
        rpc_call_receive(call);
    rpc_call_unref(call);
}

static void samples(struct rpc_call *call, const Deltapq__V1__CalibrateSamples *request)
{
    struct calibrate_state *state = call->state;
    struct session_error error;

    if (!state || !state->calibration) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "STEP",
                        "samples came before the CalibrateBegin");
        return;
    }
    if (rpc_check_numbers(request->tensor, request->client_id, &request->inline_data,
                          &state->numbers, &error)) {
        rpc_call_fail(call, &error);
        return;
    }
    state->first_position = request->first_position;
    state->n_tokens = request->n_tokens;
    state->call = rpc_call_ref(call);
    state->job.run = take;
    pool_resubmit(call->server->options.pool, &state->job); /* one a call: admitted by begin */
}

/* --- begin ------------------------------------------------------------------------------------ */

static void begin(struct rpc_call *call, const Deltapq__V1__CalibrateBegin *request)
{
    struct dpq_train_options options = { .seed = request->seed,
                                         .n_iterations = request->n_iterations };
    struct calibrate_state *state;
    struct dpq_geometry geometry;
    struct session_error error;
    char label[64];

    if (call->state) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "STEP",
                        "there was a CalibrateBegin already");
        return;
    }
    state = rpc_call_state(call, sizeof(*state));
    if (!state)
        return;
    if (rpc_check_text(request->model_name, "model_name", options.model_name,
                       sizeof(options.model_name), &error) ||
        rpc_check_text(request->label, "label", label, sizeof(label), &error) ||
        rpc_check_geometry(request->geometry, &geometry, &error) ||
        session_calibration_begin(call->server->options.session, call->tenant, &geometry, &options,
                                  label, &state->calibration, &error)) {
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
    default:
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "STEP",
                        "the request has neither begin nor samples");
    }
}
