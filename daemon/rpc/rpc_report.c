#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/rpc/rpc_where.h"
#include "deltapq/v1/monitor.pb-c.h"

void rpc_report(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__ReportRequest *request = message;
    Deltapq__V1__ReportReply reply = DELTAPQ__V1__REPORT_REPLY__INIT;
    struct session_report op = { .where = rpc_where(call, request->sequence_id, request->streams),
                                 .ratio = request->error_ratio };

    session_report(call->server->options.session, &op);
    if (op.error.code != SESSION_OK) {
        rpc_call_fail(call, &op.error);
        return;
    }
    reply.first_token = op.first_token;
    rpc_call_reply(call, &reply.base);
}
