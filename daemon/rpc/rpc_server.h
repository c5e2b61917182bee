#pragma once

/*
 * The gRPC server as main.c sees it. Life:
 *
 *   rpc_server_new -> add_fd … -> shutdown_begin -> down() -> pool and hub stopped by main
 *   -> rpc_server_free
 *
 * If calls do not end within the grace period, main calls rpc_server_cancel_all().
 */

#include <stdint.h>

#include "daemon/hub.h"
#include "daemon/session.h"
#include "daemon/work.h"

struct rpc_server;

struct rpc_server_options {
    struct session *session;
    struct hub *hub;
    struct pool *pool; /* for what takes longer than a handler may: profiles, samples */
    /* Who is behind descriptor fd (acceptor_peer)? 0, or 1 when unknown: the call is refused. */
    int (*peer)(void *user, int fd, struct session_peer *ret_peer);
    void *user;
    uint32_t idle_ms;       /* connections without a call are closed after this */
    uint32_t stall_seconds; /* in which the client of a stream has to take a message */
    uint32_t max_streams;   /* per connection */
    uint64_t message_bytes; /* that messages may take: a half those that calls hold, the other
                             * those that come in */
};

/**
 * rpc_server_new() - start serving; connections come by rpc_server_add_fd()
 * @options: copied; what it points to must live until rpc_server_free()
 * Return: 0; a fault.
 */
int rpc_server_new(const struct rpc_server_options *options,
                   struct rpc_server **ret_server) _must_check_;

/** takes the connected socket; any thread before shutdown_begin */
void rpc_server_add_fd(struct rpc_server *server, int fd);

/** rpc_server_tick() - once a second: streams that nobody takes end. The loop thread */
void rpc_server_tick(struct rpc_server *server);

/**
 * rpc_server_shutdown_begin() - health says NOT_SERVING, its watchers end, no new calls
 * @down: called once, when the last call is gone, on whichever thread let go of it; may only pass
 *        the word on
 * Event watchers end when main closes the hub.
 */
void rpc_server_shutdown_begin(struct rpc_server *server, void (*down)(void *user), void *user);

/** no more grace: calls in flight are cancelled. Any thread, before rpc_server_free() */
void rpc_server_cancel_all(struct rpc_server *server);

/** after down(), when nobody who answers or wakes calls is left. Accepts NULL, returns NULL */
struct rpc_server *rpc_server_free(struct rpc_server *server);
