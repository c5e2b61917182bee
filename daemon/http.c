#include "daemon/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/config_keys.h"
#include "daemon/log.h"
#include "lib/base/error.h"

enum {
    MAX_CONNECTIONS = 16,
    CONNECTION_BYTES = 8192,
    CONNECTION_SECONDS = 5,
    BACKLOG = 64,
};

struct http {
    const struct http_sources *sources;
    struct MHD_Daemon *mhd;
    uint16_t port;
    uv_poll_t poll;
    uv_timer_t timer; /* MHD's timeouts */
    bool polling;
    int n_handles; /* not closed yet by the loop */
};

/* --- pages ------------------------------------------------------------------------------------ */

/* Each writes a body and returns the status. */
static unsigned write_index(const struct http_sources *sources, struct text *body)
{
    (void)sources;
    text_printf(body, "deltapqd " DELTAPQ_VERSION "\n\n"
                      "/healthz  200 while the daemon serves, 503 when it is stopping\n"
                      "/readyz   200 when requests are answered\n"
                      "/status   what it holds, as JSON\n"
                      "/metrics  the same for Prometheus\n");
    return MHD_HTTP_OK;
}

static unsigned write_health(const struct http_sources *sources, struct text *body)
{
    bool ok = sources->state != HTTP_STOPPING;

    text_printf(body, ok ? "ok\n" : "stopping\n");
    return ok ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
}

static unsigned write_ready(const struct http_sources *sources, struct text *body)
{
    static const char *const texts[] = { "starting\n", "ready\n", "stopping\n" };

    text_add(body, texts[sources->state], strlen(texts[sources->state]));
    return sources->state == HTTP_READY ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
}

static unsigned write_status(const struct http_sources *sources, struct text *body)
{
    http_write_status(sources, body);
    return MHD_HTTP_OK;
}

static unsigned write_metrics(const struct http_sources *sources, struct text *body)
{
    http_write_metrics(sources, body);
    return MHD_HTTP_OK;
}

#define TEXT_PLAIN "text/plain; charset=utf-8"
#define TEXT_JSON  "application/json"

static const struct page {
    const char *path, *type;
    unsigned (*write)(const struct http_sources *sources, struct text *body);
} pages[] = {
    { "/", TEXT_PLAIN, write_index },
    { "/healthz", TEXT_PLAIN, write_health },
    { "/readyz", TEXT_PLAIN, write_ready },
    { "/status", TEXT_JSON, write_status },
    { "/metrics", "text/plain; version=0.0.4; charset=utf-8", write_metrics },
};

/* --- answers ---------------------------------------------------------------------------------- */

/* Takes the text's bytes. */
static enum MHD_Result send_text(struct MHD_Connection *connection, unsigned status,
                                 const char *type, struct text *body)
{
    struct MHD_Response *response;
    enum MHD_Result r;

    if (body->failed || !body->bytes) {
        text_deinit(body);
        return MHD_NO; /* closes the connection */
    }
    response = MHD_create_response_from_buffer(body->n, body->bytes, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        text_deinit(body);
        return MHD_NO;
    }
    *body = (struct text)TEXT_NULL;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    r = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return r;
}

static enum MHD_Result send_error(struct MHD_Connection *connection, unsigned status,
                                  const char *message)
{
    struct text body = TEXT_NULL;

    text_printf(&body, "{\"error\":{\"status\":%u,\"message\":", status);
    text_json_string(&body, message);
    text_printf(&body, "}}\n");
    return send_text(connection, status, TEXT_JSON, &body);
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *n_upload, void **connection_data)
{
    struct http *http = user;
    struct text body = TEXT_NULL;

    (void)version;
    (void)upload;
    (void)n_upload;
    (void)connection_data;
    if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
        return send_error(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD");
    for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
        if (!strcmp(url, pages[i].path)) {
            unsigned status = pages[i].write(http->sources, &body);

            return send_text(connection, status, pages[i].type, &body);
        }
    return send_error(connection, MHD_HTTP_NOT_FOUND, "no such page: / lists them");
}

/* --- in the loop ------------------------------------------------------------------------------ */

static void on_turn(struct http *http);

static void on_timer(uv_timer_t *timer)
{
    on_turn(timer->data);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    on_turn(poll->data);
}

static unsigned n_connections(struct http *http)
{
    return MHD_get_daemon_info(http->mhd, MHD_DAEMON_INFO_CURRENT_CONNECTIONS)->num_connections;
}

/* At the limit MHD takes the listening socket out of its epoll set. It puts it back at the start of
 * a run, but closes connections at the end of one: hence another run after each that did. */
static void on_turn(struct http *http)
{
    MHD_UNSIGNED_LONG_LONG timeout_ms;
    unsigned before;

    do {
        before = n_connections(http);
        MHD_run(http->mhd);
    } while (n_connections(http) < before);
    if (MHD_get_timeout(http->mhd, &timeout_ms) == MHD_YES)
        uv_timer_start(&http->timer, on_timer, timeout_ms, 0);
    else
        uv_timer_stop(&http->timer);
}

/* --- life ------------------------------------------------------------------------------------- */

static int listen_on(const char *value, int *ret_fd)
{
    struct sockaddr_storage address;
    socklen_t n;
    int fd, saved, one = 1;

    if (config_listen(value, &address, &n)) {
        errno = EINVAL;
        return HTTP_E_ADDRESS;
    }
    fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return HTTP_E_ADDRESS;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(fd, (struct sockaddr *)&address, n) || listen(fd, BACKLOG)) {
        saved = errno;
        close(fd);
        errno = saved;
        return HTTP_E_ADDRESS;
    }
    *ret_fd = fd;
    return 0;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t n = sizeof address;

    if (getsockname(fd, (struct sockaddr *)&address, &n))
        return 0;
    if (address.ss_family == AF_INET)
        return ntohs(((struct sockaddr_in *)&address)->sin_port);
    if (address.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return 0;
}

/* MHD's own messages: a printf-like line with a newline at its end. */
static void on_mhd_log(void *user, const char *format, va_list args) _printf_(2, 0);
static void on_mhd_log(void *user, const char *format, va_list args)
{
    char line[256];

    (void)user;
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    log_debug("http: %s", line);
}

static struct MHD_Daemon *start_mhd(struct http *http, int fd)
{
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, http,
        MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL, /* first: later options may have to say it */
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)CONNECTION_SECONDS, MHD_OPTION_END);
}

static void on_closed(uv_handle_t *handle)
{
    struct http *http = handle->data;

    http->n_handles--;
}

/* The handles point into http: on failure they must be closed by the loop before it is freed. */
static int watch(struct http *http, uv_loop_t *loop)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    int r;

    if (!info)
        return error_origin(-ENOTSUP);
    http->poll.data = http->timer.data = http;
    r = uv_poll_init(loop, &http->poll, info->epoll_fd);
    if (r)
        return error_origin(r);
    uv_timer_init(loop, &http->timer);
    http->n_handles = 2;
    http->polling = true;
    r = uv_poll_start(&http->poll, UV_READABLE, on_poll);
    return r ? error_origin(r) : 0;
}

int http_new(uv_loop_t *loop, int fd, const struct http_sources *sources, struct http **ret_http)
{
    struct http *http;
    int r;

    if (fd < 0) {
        r = listen_on(sources->config->http_listen, &fd);
        if (r)
            return r;
    }
    http = calloc(1, sizeof *http);
    if (!http) {
        close(fd);
        return error_origin(-ENOMEM);
    }
    http->sources = sources;
    http->port = port_of(fd);
    http->mhd = start_mhd(http, fd);
    if (!http->mhd) {
        close(fd);
        free(http);
        return error_origin(-EIO);
    }
    r = watch(http, loop);
    if (r) {
        http_stop(http);
        while (http->n_handles)
            uv_run(loop, UV_RUN_NOWAIT);
        http_free(http);
        return error_fold(r);
    }
    *ret_http = http;
    return 0;
}

uint16_t http_port(const struct http *http)
{
    return http->port;
}

void http_stop(struct http *http)
{
    if (!http || !http->mhd)
        return;
    if (http->polling) {
        uv_close((uv_handle_t *)&http->poll, on_closed);
        uv_close((uv_handle_t *)&http->timer, on_closed);
        http->polling = false;
    }
    MHD_stop_daemon(http->mhd); /* closes the listening socket too */
    http->mhd = NULL;
}

struct http *http_free(struct http *http)
{
    free(http);
    return NULL;
}
