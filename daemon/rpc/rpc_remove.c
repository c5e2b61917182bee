#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/work.h"
#include "deltapq/v1/profiles.pb-c.h"

enum { RETRY_MS = 200 };

struct remove_state {
    struct job job; /* first, see rpc_remove_run() */
    struct rpc_call *call;
    uint8_t profile_id[32];
};

static void rpc_remove_run(struct job *job, uint32_t worker)
{
    struct remove_state *state = (struct remove_state *)job;
    struct rpc_call *call = state->call;
    Deltapq__V1__RemoveProfileReply reply = DELTAPQ__V1__REMOVE_PROFILE_REPLY__INIT;
    struct session_error error;

    (void)worker;
    if (session_profile_remove(call->server->options.session, call->tenant, state->profile_id,
                               &error))
        rpc_call_fail(call, &error);
    else
        rpc_call_reply(call, &reply.base);
    rpc_call_unref(call);
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
    state->job.run = rpc_remove_run;
    state->call = rpc_call_ref(call);
    if (!pool_submit(call->server->options.pool, &state->job))
        return;
    session_error_set(&error, SESSION_RESOURCE_EXHAUSTED, "QUEUE",
                      "the workers' queue is full: come again");
    error.retry_ms = RETRY_MS;
    rpc_call_fail(call, &error);
    rpc_call_unref(call);
}
