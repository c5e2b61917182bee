#include "daemon/rpc/rpc_stall.h"

#include <stdio.h>

#include "daemon/log.h"
#include "daemon/rpc/rpc_call.h"
#include "daemon/rpc/rpc_state.h"

void rpc_stalls_init(struct rpc_stalls *stalls, uint32_t limit_seconds)
{
    *stalls = (struct rpc_stalls){ .limit_seconds = limit_seconds };
    pthread_mutex_init(&stalls->mutex, NULL);
}

void rpc_stalls_deinit(struct rpc_stalls *stalls)
{
    pthread_mutex_destroy(&stalls->mutex);
}

static void unlink_call(struct rpc_stalls *stalls, struct rpc_call *call)
{
    struct rpc_stall *stall = &call->stall;

    *(stall->prev ? &stall->prev->stall.next : &stalls->first) = stall->next;
    *(stall->next ? &stall->next->stall.prev : &stalls->last) = stall->prev;
    stall->is_listed = false;
}

void rpc_stalls_begin(struct rpc_stalls *stalls, struct rpc_call *call, bool is_sending)
{
    pthread_mutex_lock(&stalls->mutex);
    call->stall = (struct rpc_stall){
        .prev = stalls->last,
        .until_ns = session_now_ns() + stalls->limit_seconds * UINT64_C(1000000000),
        .is_listed = true,
        .is_sending = is_sending,
    };
    *(stalls->last ? &stalls->last->stall.next : &stalls->first) = call;
    stalls->last = call;
    pthread_mutex_unlock(&stalls->mutex);
}

void rpc_stalls_end(struct rpc_stalls *stalls, struct rpc_call *call)
{
    pthread_mutex_lock(&stalls->mutex);
    if (call->stall.is_listed)
        unlink_call(stalls, call);
    pthread_mutex_unlock(&stalls->mutex);
}

/* Not an answer, which would wait behind the message. What is listed is alive: the reference of the
 * message's tag goes after rpc_stalls_end(). */
static void cancel(struct rpc_stalls *stalls, struct rpc_call *call)
{
    char text[96];

    snprintf(text, sizeof(text), "the client %s nothing for %u s",
             call->stall.is_sending ? "took" : "sent", stalls->limit_seconds);
    log_debug("%s: %s", call->method->path, text);
    session_count_error(call->server->options.session, call->tenant);
    grpc_call_cancel_with_status(call->core, GRPC_STATUS_UNAVAILABLE, text, NULL);
}

void rpc_stalls_run(struct rpc_stalls *stalls, uint64_t now_ns)
{
    pthread_mutex_lock(&stalls->mutex);
    while (stalls->first && stalls->first->stall.until_ns <= now_ns) {
        struct rpc_call *call = stalls->first;

        unlink_call(stalls, call);
        cancel(stalls, call);
    }
    pthread_mutex_unlock(&stalls->mutex);
}
