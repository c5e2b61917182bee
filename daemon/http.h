#pragma once

/*
 * The status pages: /, /healthz, /readyz, /status, /metrics
 *
 * libmicrohttpd without threads: its epoll descriptor is one of the loop's, so the pages are made
 * on the loop thread. GET and HEAD only; 16 connections, 8 KiB of memory and 5 s each; loopback or
 * a socket that was passed. Nothing here names a key, a path or a machine.
 *
 * No page waits for anything but the session's mutex.
 */

#include <stdbool.h>
#include <uv.h>

#include "daemon/accept.h"
#include "daemon/config.h"
#include "daemon/session.h"
#include "daemon/text.h"

enum http_state {
    HTTP_STARTING, /* /healthz 200, /readyz 503 */
    HTTP_READY,    /* both 200 */
    HTTP_STOPPING, /* both 503 */
};

/* What the pages are made from; all of it outlives the server. acceptors may be NULL. */
struct http_sources {
    const struct config *config;
    struct session *session;
    const struct acceptor *grpc, *side;
    enum http_state state;
};

enum http_outcome {
    HTTP_E_ADDRESS = 1, /* the address cannot be listened on: errno says why */
};

struct http;

/**
 * http_new() - serve the pages
 * @fd:      a listening socket, which it takes; -1: listen on the configuration's address
 * @sources: read whenever a page is made
 * Return: 0; HTTP_E_ADDRESS; a fault.
 */
int http_new(uv_loop_t *loop, int fd, const struct http_sources *sources,
             struct http **ret_http) _must_check_;

/** http_port() - where it listens; 0 when that is no TCP port */
uint16_t http_port(const struct http *http);

/** http_stop() - closes everything. Then run the loop once, and free. Accepts NULL. */
void http_stop(struct http *http);

/** http_free() - accepts NULL, returns NULL */
struct http *http_free(struct http *http);

/* A page's body. http_status.c and http_metrics.c */
void http_write_status(const struct http_sources *sources, struct text *body);
void http_write_metrics(const struct http_sources *sources, struct text *body);
