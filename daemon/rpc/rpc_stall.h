#pragma once

/*
 * Streams that hold something in the daemon, and whose client does not take what it is sent, or
 * does not send what is waited for
 *
 * A message that is still on its way after the limit ends its call, and with it what the call
 * holds: tiles, which are neither evicted nor made worse meanwhile, and a chunk in memory.
 * Connections that are dead are found by core's pings, and much earlier; this is for clients that
 * are alive. A call waits for one message at a time, either way.
 *
 * One list, in the order in which the waits began, hence in that of their ends. Thread: any.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct rpc_call;

struct rpc_stalls {
    pthread_mutex_t mutex;
    uint32_t limit_seconds;
    struct rpc_call *first, *last;
};

/* A call's place in the list; the mutex's. */
struct rpc_stall {
    struct rpc_call *prev, *next;
    uint64_t until_ns; /* by session_now_ns() */
    bool is_listed, is_sending;
};

void rpc_stalls_init(struct rpc_stalls *stalls, uint32_t limit_seconds);
void rpc_stalls_deinit(struct rpc_stalls *stalls);

/** rpc_stalls_begin() - a message is about to be sent, or waited for; then rpc_stalls_end() comes
 */
void rpc_stalls_begin(struct rpc_stalls *stalls, struct rpc_call *call, bool is_sending);

/** rpc_stalls_end() - it was taken, or came, or the call is dead. The caller has a reference */
void rpc_stalls_end(struct rpc_stalls *stalls, struct rpc_call *call);

/** rpc_stalls_run() - ends what is due, as UNAVAILABLE: as a connection that broke, which a reader
 *  knows how to go on after */
void rpc_stalls_run(struct rpc_stalls *stalls, uint64_t now_ns);
