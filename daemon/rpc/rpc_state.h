#pragma once

/* What the files of this folder share of the server. */

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdbool.h>

#include "daemon/rpc/rpc_health.h"
#include "daemon/rpc/rpc_install.h"
#include "daemon/rpc/rpc_room.h"
#include "daemon/rpc/rpc_server.h"
#include "daemon/rpc/rpc_stall.h"
#include "daemon/rpc/rpc_watch.h"

/* libgrpc is not instrumented: ThreadSanitizer can't see that a tag, or memory passed as a slice,
 * orders what is before and behind. Release before handing over, acquire on getting back. */
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *p);
void __tsan_release(void *p);
#define RPC_ACQUIRE(p) __tsan_acquire(p)
#define RPC_RELEASE(p) __tsan_release(p)
#else
#define RPC_ACQUIRE(p) ((void)(p))
#define RPC_RELEASE(p) ((void)(p))
#endif

enum {
    RPC_MAX_MESSAGE_BYTES = 4 << 20,
    RPC_ENVELOPE_BYTES = 4096, /* the limit is for whole messages: room for the other fields */
};

struct rpc_server {
    struct rpc_server_options options;
    grpc_server *core;
    grpc_completion_queue *queue;
    grpc_server_credentials *credentials;
    pthread_t thread;      /* on the completion queue */
    pthread_mutex_t start; /* keeps the thread from looking until everything is made */
    bool stopping;         /* atomic: no more calls are asked for */
    uint32_t n_live;       /* atomic: calls, and one for the server itself until it is shut down */
    uint32_t n_waiting;    /* calls that core may fill; completion-queue thread */
    bool disconnected;     /* atomic: no call was left, and connections were closed */
    void (*down)(void *user);
    void *down_user;
    char shutdown_tag; /* its address is the tag */
    struct rpc_health health;
    struct rpc_uploads uploads;
    struct rpc_watchers watchers;
    struct rpc_stalls stalls;
    struct rpc_room room;
};

/** rpc_server_top_up() - ask core for as many calls as should be waiting */
void rpc_server_top_up(struct rpc_server *server);

/** rpc_server_release() - one call fewer; the last one says down() */
void rpc_server_release(struct rpc_server *server);
