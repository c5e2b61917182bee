#pragma once

/*
 * The server's health and who watches it
 *
 * SERVING from the start to the beginning of the shutdown. Services that are not there are
 * NOT_FOUND for Check and SERVICE_UNKNOWN for Watch.
 */

#include <pthread.h>
#include <stdbool.h>

struct health_watcher;

struct rpc_health {
    pthread_mutex_t mutex; /* after a call's, before none */
    bool stopping;
    struct health_watcher *watchers;
};

void rpc_health_init(struct rpc_health *health);
void rpc_health_deinit(struct rpc_health *health);

/** rpc_health_stop() - watchers get NOT_SERVING, then UNAVAILABLE. Thread: any. */
void rpc_health_stop(struct rpc_health *health);
