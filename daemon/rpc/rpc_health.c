#include "daemon/rpc/rpc_health.h"

#include <assert.h>
#include <string.h>

#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "grpc/health/v1/health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;

#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

/* A call's state: its place in the list, and what its client knows. */
struct health_watcher {
    struct rpc_call *call;
    struct health_watcher *prev, *next;
    bool is_known; /* the service */
    serving_status sent;
};

void rpc_health_init(struct rpc_health *health)
{
    pthread_mutex_init(&health->mutex, NULL);
    health->stopping = false;
    health->watchers = NULL;
}

void rpc_health_deinit(struct rpc_health *health)
{
    assert(!health->watchers);
    pthread_mutex_destroy(&health->mutex);
}

void rpc_health_stop(struct rpc_health *health)
{
    pthread_mutex_lock(&health->mutex);
    health->stopping = true;
    for (struct health_watcher *w = health->watchers; w; w = w->next)
        rpc_call_wake(w->call);
    pthread_mutex_unlock(&health->mutex);
}

static bool is_stopping(struct rpc_health *health)
{
    bool stopping;

    pthread_mutex_lock(&health->mutex);
    stopping = health->stopping;
    pthread_mutex_unlock(&health->mutex);
    return stopping;
}

/* "" is the server as a whole */
static bool is_service(const char *name)
{
    static const char *const names[] = { "", "deltapq.v1.KvCache", "deltapq.v1.Profiles",
                                         "deltapq.v1.Monitor" };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (!strcmp(name, names[i]))
            return true;
    }
    return false;
}

void rpc_health_check(struct rpc_call *call, const void *message)
{
    const Grpc__Health__V1__HealthCheckRequest *request = message;
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    if (!is_service(request->service)) {
        rpc_call_refuse(call, SESSION_NOT_FOUND, "SERVICE", "there is no service \"%s\"",
                        request->service);
        return;
    }
    reply.status = is_stopping(&call->server->health) ? STATUS(NOT_SERVING) : STATUS(SERVING);
    rpc_call_reply(call, &reply.base);
}

/* --- Watch ------------------------------------------------------------------------------------ */

/* The newest state only, whatever came between. */
void rpc_health_pump(struct rpc_call *call)
{
    struct health_watcher *watcher = call->state;
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    bool stopping;

    if (!watcher || call->sending)
        return;
    stopping = is_stopping(&call->server->health);
    reply.status = !watcher->is_known ? STATUS(SERVICE_UNKNOWN)
                   : stopping         ? STATUS(NOT_SERVING)
                                      : STATUS(SERVING);
    if (reply.status != watcher->sent) {
        watcher->sent = reply.status;
        rpc_call_send(call, &reply.base);
    } else if (stopping) {
        rpc_call_refuse(call, SESSION_UNAVAILABLE, "SHUTDOWN", "the daemon is shutting down");
    }
}

void rpc_health_watch(struct rpc_call *call, const void *message)
{
    const Grpc__Health__V1__HealthCheckRequest *request = message;
    struct rpc_health *health = &call->server->health;
    struct health_watcher *watcher = rpc_call_state(call, sizeof(*watcher));

    if (!watcher)
        return;
    watcher->call = call;
    watcher->is_known = is_service(request->service);
    watcher->sent = STATUS(UNKNOWN);
    pthread_mutex_lock(&health->mutex);
    watcher->next = health->watchers;
    if (watcher->next)
        watcher->next->prev = watcher;
    health->watchers = watcher;
    pthread_mutex_unlock(&health->mutex);
    rpc_health_pump(call);
}

void rpc_health_over(struct rpc_call *call)
{
    struct health_watcher *watcher = call->state;
    struct rpc_health *health = &call->server->health;

    pthread_mutex_lock(&health->mutex);
    if (watcher->prev)
        watcher->prev->next = watcher->next;
    else
        health->watchers = watcher->next;
    if (watcher->next)
        watcher->next->prev = watcher->prev;
    pthread_mutex_unlock(&health->mutex);
}
