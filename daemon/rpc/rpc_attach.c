#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/kv_cache.pb-c.h"

static void rpc_attach_done(struct rpc_call *call, struct session_attach *op)
{
    Deltapq__V1__AttachReply reply = DELTAPQ__V1__ATTACH_REPLY__INIT;

    if (op->error.code != SESSION_OK) {
        rpc_call_fail(call, &op->error);
        return;
    }
    reply.client_id = op->client_id;
    reply.ticket = (ProtobufCBinaryData){ .len = sizeof(op->ticket), .data = op->ticket };
    reply.side_socket = (char *)op->side_socket;
    reply.staging_bytes = op->ret_staging_bytes;
    reply.arena_bytes = op->arena_bytes;
    reply.epoch = op->epoch;
    reply.tenant = (char *)op->tenant_name;
    reply.daemon_version = (char *)dpq_version();
    reply.max_inline_bytes = op->max_inline_bytes;
    rpc_call_reply(call, &reply.base);
}

void rpc_attach(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__AttachRequest *request = message;
    struct session_attach op = { .tenant = call->tenant,
                                 .peer = call->peer,
                                 .protocol = request->protocol,
                                 .staging_bytes = request->staging_bytes };

    if (rpc_check_text(request->client_name, "client_name", op.client_name, sizeof(op.client_name),
                       &op.error)) {
        rpc_call_fail(call, &op.error);
        return;
    }
    session_attach(call->server->options.session, &op);
    rpc_attach_done(call, &op);
}
