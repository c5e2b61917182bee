#pragma once

/*
 * The gRPC server as main.c sees it. Life:
 *
 *   rpc_server_new -> add_fd … -> shutdown_begin -> (down() on the CQ thread) -> pool and hub
 *   stopped by main -> rpc_server_free
 *
 * If calls do not end within the grace period, main calls rpc_server_cancel_all().
 */

#include <stdint.h>

#include "daemon/hub.h"
#include "daemon/session.h"

struct rpc_server;

struct rpc_server_options {
    struct session *session;
    struct hub *hub;
    /* Who is behind descriptor fd (acceptor_peer)? 0, or 1 when unknown: the call is refused. */
    int (*peer)(void *user, int fd, struct session_peer *ret_peer);
    void *user;
    uint32_t idle_ms;     /* connections without a call are closed after this */
    uint32_t max_streams; /* per connection */
};

int rpc_server_new(const struct rpc_server_options *options, struct rpc_server **ret_server);

/** takes the connected socket; any thread before shutdown_begin */
void rpc_server_add_fd(struct rpc_server *server, int fd);

/** health says NOT_SERVING, watchers end with UNAVAILABLE, no new calls; down() when all are out */
void rpc_server_shutdown_begin(struct rpc_server *server, void (*down)(void *user), void *user);
void rpc_server_cancel_all(struct rpc_server *server);

/** after down(), when nobody who answers or kicks calls is left. Accepts NULL, returns NULL */
struct rpc_server *rpc_server_free(struct rpc_server *server);
