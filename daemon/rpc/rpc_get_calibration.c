#include "daemon/rpc/rpc_error.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/profiles.pb-c.h"

static const Deltapq__V1__CalibrationState STATES[] = {
    [SESSION_CALIBRATION_COLLECTING] = DELTAPQ__V1__CALIBRATION_STATE__CALIBRATION_COLLECTING,
    [SESSION_CALIBRATION_TRAINING] = DELTAPQ__V1__CALIBRATION_STATE__CALIBRATION_TRAINING,
    [SESSION_CALIBRATION_DONE] = DELTAPQ__V1__CALIBRATION_STATE__CALIBRATION_DONE,
    [SESSION_CALIBRATION_FAILED] = DELTAPQ__V1__CALIBRATION_STATE__CALIBRATION_FAILED,
};

void rpc_get_calibration(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__GetCalibrationRequest *request = message;
    Deltapq__V1__GetCalibrationReply reply = DELTAPQ__V1__GET_CALIBRATION_REPLY__INIT;
    struct session_calibration_info info;
    struct session_error error;

    if (session_calibration_get(call->server->options.session, call->tenant,
                                request->calibration_id, &info, &error)) {
        rpc_call_fail(call, &error);
        return;
    }
    reply.state = STATES[info.state];
    reply.n_tokens = info.n_tokens;
    reply.wanted_tokens = info.wanted_tokens;
    reply.progress = info.progress;
    if (info.state == SESSION_CALIBRATION_DONE)
        reply.profile_id = (ProtobufCBinaryData){ .len = sizeof(info.result.profile_id),
                                                  .data = info.result.profile_id };
    if (info.state == SESSION_CALIBRATION_FAILED) {
        rpc_error_clean(&info.result.error);
        reply.error_reason = info.result.error.reason;
        reply.error = info.result.error.message;
    }
    rpc_call_reply(call, &reply.base);
}
