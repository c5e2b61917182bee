#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/monitor.pb-c.h"

void rpc_ack(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__AckRequest *request = message;
    Deltapq__V1__AckReply reply = DELTAPQ__V1__ACK_REPLY__INIT;
    uint64_t acked = 0, last = 0;

    switch (hub_ack(call->server->options.hub, call->tenant, request->subscriber_id, request->seq,
                    &acked, &last)) {
    case 0:
        reply.acknowledged_seq = acked;
        reply.last_seq = last;
        rpc_call_reply(call, &reply.base);
        break;
    case 1:
        rpc_call_refuse(call, SESSION_NOT_FOUND, "SUBSCRIBER", "nobody watches by that id");
        break;
    default:
        rpc_call_refuse(call, SESSION_OUT_OF_RANGE, "SEQ",
                        "event %llu has not been sent to this subscriber",
                        (unsigned long long)request->seq);
    }
}
