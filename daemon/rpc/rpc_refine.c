#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/profiles.pb-c.h"

void rpc_refine(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__RefineRequest *request = message;
    Deltapq__V1__RefineReply reply = DELTAPQ__V1__REFINE_REPLY__INIT;
    struct session_refine op = { .tenant = call->tenant,
                                 .sample_rate = request->sample_rate,
                                 .budget_tokens = request->budget_tokens };

    if (!rpc_check_profile_id(&request->profile_id, op.profile_id, &op.error))
        session_refine(call->server->options.session, &op);
    if (op.error.code != SESSION_OK) {
        rpc_call_fail(call, &op.error);
        return;
    }
    reply.calibration_id = op.calibration_id;
    rpc_call_reply(call, &reply.base);
}
