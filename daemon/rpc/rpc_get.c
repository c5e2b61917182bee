#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_profile.h"
#include "daemon/rpc/rpc_state.h"

enum { MAX_PIECE_BYTES = 1 << 20 };

static void reply(struct rpc_call *call, const struct session_profile_info *info,
                  const Deltapq__V1__GetProfileRequest *request)
{
    Deltapq__V1__GetProfileReply reply = DELTAPQ__V1__GET_PROFILE_REPLY__INIT;
    uint64_t n_bytes = info->file_bytes - request->offset;
    Deltapq__V1__ProfileInfo profile;
    Deltapq__V1__Geometry geometry;

    if (n_bytes > MAX_PIECE_BYTES)
        n_bytes = MAX_PIECE_BYTES;
    if (request->max_bytes && n_bytes > request->max_bytes)
        n_bytes = request->max_bytes;
    reply.data =
        (ProtobufCBinaryData){ .len = n_bytes, .data = (uint8_t *)info->bytes + request->offset };
    reply.total_bytes = info->file_bytes;
    if (request->offset == 0) {
        rpc_profile_fill(&profile, &geometry, info);
        reply.info = &profile;
    }
    rpc_call_reply(call, &reply.base);
}

void rpc_get(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__GetProfileRequest *request = message;
    struct session *session = call->server->options.session;
    struct session_profile_info info;
    struct session_error error;
    uint8_t profile_id[32];

    if (rpc_check_profile_id(&request->profile_id, profile_id, &error)) {
        rpc_call_fail(call, &error);
        return;
    }
    if (session_profile(session, profile_id, &info)) {
        rpc_call_refuse(call, SESSION_NOT_FOUND, "PROFILE",
                        "profile_id names no installed profile");
        return;
    }
    if (request->offset > info.file_bytes)
        rpc_call_refuse(call, SESSION_OUT_OF_RANGE, "OFFSET",
                        "offset %llu is past the end: the file has %llu bytes",
                        (unsigned long long)request->offset, (unsigned long long)info.file_bytes);
    else
        reply(call, &info, request);
    session_profile_unref(session, &info);
}
