#pragma once

/*
 * Who watches, and when they are sent what has happened
 *
 *     quiet --an event--> due: in at most 10 ms --> flush, some at a time --> quiet
 *
 * Thread: the completion queue's.
 */

#include <grpc/slice.h>

#include "daemon/hub.h"

struct rpc_watcher;

struct rpc_watchers {
    struct rpc_watcher *first;
    uint32_t n_prompt;        /* of them, that did not ask for fewer messages */
    struct rpc_watcher *turn; /* next in the flush under way; NULL: none is */
    uint64_t due_ns;          /* of the next flush, by session_now_ns(); UINT64_MAX: none */
    uint64_t flushed_ns;      /* when the last one began */
    struct hub_batch *batch;  /* what the last one was sent */
    grpc_slice packed;        /* the same as bytes */
};

/** rpc_watchers_init() - 0, -ENOMEM */
int rpc_watchers_init(struct rpc_watchers *watchers) _must_check_;
void rpc_watchers_deinit(struct rpc_watchers *watchers);

/** rpc_watchers_due_ns() - when rpc_watchers_run() has something to do; UINT64_MAX: never */
uint64_t rpc_watchers_due_ns(const struct rpc_watchers *watchers);

/** rpc_watchers_run() - send to some of them, if it is time; some 100 us */
void rpc_watchers_run(struct rpc_watchers *watchers, struct hub *hub, uint64_t now_ns);
