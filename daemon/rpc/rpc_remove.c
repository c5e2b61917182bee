#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/profiles.pb-c.h"

struct remove_state {
    struct rpc_work work;
    uint8_t profile_id[32];
};

static void rpc_remove_run(struct rpc_call *call)
{
    struct remove_state *state = call->state;
    Deltapq__V1__RemoveProfileReply reply = DELTAPQ__V1__REMOVE_PROFILE_REPLY__INIT;
    struct session_error error;

    if (session_profile_remove(call->server->options.session, call->tenant, state->profile_id,
                               &error))
        rpc_call_fail(call, &error);
    else
        rpc_call_reply(call, &reply.base);
}

void rpc_remove(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__RemoveProfileRequest *request = message;
    struct remove_state *state = rpc_call_state(call, sizeof(*state));
    struct session_error error;

    if (!state)
        return;
    if (rpc_check_profile_id(&request->profile_id, state->profile_id, &error)) {
        rpc_call_fail(call, &error);
        return;
    }
    rpc_call_work(call, &state->work, rpc_remove_run);
}
