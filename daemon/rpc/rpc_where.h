#pragma once

/* Which streams a request of Monitor's means. */

#include "daemon/rpc/rpc_call.h"
#include "daemon/session_risk.h"
#include "deltapq/v1/monitor.pb-c.h"

/* what is too large for any layer stays too large */
static inline int32_t rpc_where_one(protobuf_c_boolean is_one, uint32_t index)
{
    return !is_one ? -1 : index < INT32_MAX ? (int32_t)index : INT32_MAX;
}

/** rpc_where() - @choice: NULL for all of the sequence's streams */
static inline struct session_where rpc_where(const struct rpc_call *call, uint64_t sequence_id,
                                             const Deltapq__V1__StreamChoice *choice)
{
    struct session_where where = {
        .tenant = call->tenant, .sequence_id = sequence_id, .layer = -1, .kind = -1, .head = -1
    };

    if (choice) {
        where.layer = rpc_where_one(choice->one_layer, choice->layer);
        where.kind = rpc_where_one(choice->one_kind, choice->kind);
        where.head = rpc_where_one(choice->one_head, choice->head);
    }
    return where;
}
