#pragma once

/* Messages of Monitor.Watch. */

#include <grpc/byte_buffer.h>
#include <grpc/slice.h>

#include "daemon/hub.h"

/** rpc_event_pack() - n ≤ HUB_BATCH events as the field of an Events message; less than 64 KiB */
grpc_slice rpc_event_pack(const struct event *events, uint32_t n);

struct rpc_event_head { /* message Events */
    uint64_t subscriber_id, incarnation, lost, next_seq;
};

/** rpc_event_message() - an Events message; @packed: by rpc_event_pack(), stays the caller's */
grpc_byte_buffer *rpc_event_message(const struct rpc_event_head *head, grpc_slice packed);
