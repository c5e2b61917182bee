/*
 * Start, signals, stop
 *
 *     start:  sockets (bound, not yet served: a second daemon stops here),
 *             hub, pool, session (arenas: taken over, or made and given to the manager to keep),
 *             gRPC server, HTTP, the loop, READY=1
 *     stop:   no new connections -> the gRPC server ends its calls -> after the grace time they are
 *             cancelled -> down -> side socket, HTTP -> pool -> gRPC server -> session -> hub
 *
 * Everything made is freed at the end, also when the start fails half-way.
 */
#include "daemon/life.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "daemon/accept.h"
#include "daemon/config.h"
#include "daemon/fatal.h"
#include "daemon/handout.h"
#include "daemon/http.h"
#include "daemon/hub.h"
#include "daemon/keeper.h"
#include "daemon/log.h"
#include "daemon/options.h"
#include "daemon/reload.h"
#include "daemon/rpc/rpc_server.h"
#include "daemon/sd.h"
#include "daemon/session.h"
#include "daemon/work.h"
#include "lib/codec/blas.h"
#include "lib/kern/kern.h"

enum {
    SILENT_MS = 10000, /* on the side socket */
    MAX_STREAMS = 256, /* calls at a time on one connection */
    N_SIGNALS = 3,
};

struct daemon {
    const char *config_path;
    struct config config;
    uv_loop_t loop;
    uv_signal_t signals[N_SIGNALS];
    uv_timer_t tick, grace;
    uv_async_t down; /* sent by the gRPC server's thread */

    struct sd_sockets passed;
    struct session_keeper keeper;
    struct acceptor *grpc, *side;
    struct handout *handout;
    struct http *http;
    struct http_sources sources;
    struct hub *hub;
    struct pool *pool;
    struct session *session;
    struct rpc_server *rpc;
    bool stopping, is_down;
};

static uint64_t unix_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* --- stop ------------------------------------------------------------------------------------- */

static void on_down_sent(uv_async_t *async)
{
    struct daemon *daemon = async->data;

    daemon->is_down = true;
    uv_stop(async->loop);
}

static void on_server_down(void *user)
{
    struct daemon *daemon = user;

    uv_async_send(&daemon->down);
}

static void on_grace_over(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;

    log_warning("calls did not end within %u s: they are cancelled", daemon->config.grace_seconds);
    rpc_server_cancel_all(daemon->rpc);
}

static void begin_shutdown(struct daemon *daemon)
{
    daemon->stopping = true;
    daemon->sources.state = HTTP_STOPPING;
    acceptor_stop(daemon->grpc);
    acceptor_stop(daemon->side);
    rpc_server_shutdown_begin(daemon->rpc, on_server_down, daemon);
    hub_close(daemon->hub); /* watchers end once they have what is left */
    uv_timer_start(&daemon->grace, on_grace_over, daemon->config.grace_seconds * UINT64_C(1000), 0);
}

static void begin_stop(struct daemon *daemon, int signal_number)
{
    if (daemon->is_down)
        return;
    if (daemon->stopping) {
        log_warning("second signal %d: calls are cancelled now", signal_number);
        rpc_server_cancel_all(daemon->rpc);
        return;
    }
    log_info("signal %d: stopping", signal_number);
    sd_stopping();
    begin_shutdown(daemon);
}

/* --- signals and the tick --------------------------------------------------------------------- */

static void on_signal(uv_signal_t *handle, int number)
{
    struct daemon *daemon = handle->data;

    if (number == SIGHUP)
        reload_config(daemon->config_path, &daemon->config, daemon->session);
    else
        begin_stop(daemon, number);
}

static void on_tick(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;

    session_tick(daemon->session, session_now_ns());
    rpc_server_tick(daemon->rpc);
}

/* --- sockets ---------------------------------------------------------------------------------- */

static bool admit(void *user, const struct session_peer *peer)
{
    struct daemon *daemon = user;
    uint32_t tenant;

    return !session_tenant(daemon->session, peer, &tenant);
}

static void on_grpc_connected(void *user, int fd)
{
    struct daemon *daemon = user;

    rpc_server_add_fd(daemon->rpc, fd);
}

static void on_side_connected(void *user, int fd)
{
    struct daemon *daemon = user;
    struct session_peer peer;

    if (acceptor_peer(daemon->side, fd, &peer)) {
        close(fd);
        return;
    }
    handout_add_fd(daemon->handout, fd, &peer);
}

static int rpc_peer(void *user, int fd, struct session_peer *ret_peer)
{
    struct daemon *daemon = user;

    return acceptor_peer(daemon->grpc, fd, ret_peer);
}

/* Clients are told runtime_dir's fd.sock, so a socket that was passed had better be that one. */
static void check_passed_path(int fd, const char *path)
{
    struct sockaddr_un address = { 0 };
    socklen_t n = sizeof address - 1;

    if (!getsockname(fd, (struct sockaddr *)&address, &n) && strcmp(address.sun_path, path))
        log_warning("the side socket that was passed is %s, but clients will be told %s: "
                    "set runtime_dir to its directory",
                    address.sun_path, path);
}

/* Return: 0, or an exit code. */
static int make_acceptor(struct daemon *daemon, const char *name, int *passed_fd,
                         void (*connected)(void *user, int fd), struct acceptor **ret_acceptor)
{
    const struct config *config = &daemon->config;
    const struct accept_options options = { .name = name,
                                            .allow_same_uid = config->allow_same_uid,
                                            .max_per_uid = config->max_connections_per_uid,
                                            .admit = admit,
                                            .connected = connected,
                                            .user = daemon };
    char path[CONFIG_PATH_BYTES + 16];
    long pid = 0;
    int r;

    snprintf(path, sizeof path, "%s/%s.sock", config->runtime_dir, name);
    if (*passed_fd >= 0) {
        if (passed_fd == &daemon->passed.memfd)
            check_passed_path(*passed_fd, path);
        r = acceptor_new_fd(&daemon->loop, *passed_fd, &options, ret_acceptor);
        *passed_fd = -1;
    } else {
        r = acceptor_new(&daemon->loop, path, &options, ret_acceptor, &pid);
    }
    if (r == ACCEPTOR_E_TAKEN) {
        log_error("another deltapqd (pid %ld) serves %s", pid, path);
        return EXIT_TAKEN;
    }
    if (r)
        log_error("%s: %s", path, strerror(r < 0 ? -r : errno));
    return r ? EXIT_FAULT : 0;
}

static int make_sockets(struct daemon *daemon)
{
    const char *dir = daemon->config.runtime_dir;
    int r;

    if (sd_take_sockets(&daemon->passed))
        return EXIT_FAULT;
    if ((daemon->passed.grpc < 0 || daemon->passed.memfd < 0) && mkdir(dir, 0755) &&
        errno != EEXIST) {
        log_error("runtime_dir %s cannot be made: %s", dir, strerror(errno));
        return EXIT_FAULT;
    }
    r = make_acceptor(daemon, "grpc", &daemon->passed.grpc, on_grpc_connected, &daemon->grpc);
    if (r)
        return r;
    return make_acceptor(daemon, "fd", &daemon->passed.memfd, on_side_connected, &daemon->side);
}

/* --- start ------------------------------------------------------------------------------------ */

/* Return: 0, or an exit code, after saying why. */
static int say(int r, const char *what)
{
    if (!r)
        return 0;
    if (r < 0)
        log_error("%s: %s", what, strerror(-r));
    return EXIT_FAULT; /* r > 0: it was said where it happened */
}

static int make_core(struct daemon *daemon)
{
    const struct config *config = &daemon->config;
    uint64_t incarnation = unix_ms();
    int r;

    (void)!getrandom(&incarnation, sizeof incarnation, 0); /* else the time does */
    r = say(hub_new(config->n_tenants, config->event_history, incarnation, unix_ms, &daemon->hub),
            "events");
    if (!r)
        r = say(pool_new(config_n_workers(config), config->max_queued_jobs, &daemon->pool),
                "workers");
    if (!r)
        r = say(
            session_new_kept(config, daemon->hub, daemon->pool, &daemon->keeper, &daemon->session),
            "session");
    sd_close_kept(&daemon->passed);
    return r;
}

static int make_servers(struct daemon *daemon)
{
    const struct rpc_server_options rpc = {
        .session = daemon->session,
        .hub = daemon->hub,
        .pool = daemon->pool,
        .peer = rpc_peer,
        .user = daemon,
        .idle_ms = daemon->config.connection_idle_seconds * 1000,
        .stall_seconds = daemon->config.stall_seconds,
        .max_streams = MAX_STREAMS,
        .message_bytes = config_message_bytes(&daemon->config),
    };
    const struct handout_options side = { .session = daemon->session, .silent_ms = SILENT_MS };
    int r;

    r = say(rpc_server_new(&rpc, &daemon->rpc), "gRPC server");
    return r ? r : say(handout_new(&daemon->loop, &side, &daemon->handout), "side socket");
}

static int make_http(struct daemon *daemon)
{
    const char *where = daemon->config.http_listen;
    int fd = daemon->passed.http, r;

    daemon->sources = (struct http_sources){ .config = &daemon->config,
                                             .session = daemon->session,
                                             .grpc = daemon->grpc,
                                             .side = daemon->side };
    if (fd < 0 && !strcmp(where, "off"))
        return 0;
    daemon->passed.http = -1;
    r = http_new(&daemon->loop, fd, &daemon->sources, &daemon->http);
    if (r) {
        log_error("status pages on %s: %s", fd < 0 ? where : "the socket passed",
                  strerror(r < 0 ? -r : errno));
        return EXIT_FAULT;
    }
    if (fd >= 0)
        log_info("status pages on the socket that was passed");
    else
        log_info("status pages on http://%.*s:%u/", (int)(strrchr(where, ':') - where), where,
                 http_port(daemon->http));
    return 0;
}

/* The loop and what in it is ours. Nothing is called before it runs. */
static int make_loop(struct daemon *daemon)
{
    static const int numbers[N_SIGNALS] = { SIGTERM, SIGINT, SIGHUP };
    int r;

    r = uv_loop_init(&daemon->loop);
    if (r)
        return r;
    uv_timer_init(&daemon->loop, &daemon->tick);
    uv_timer_init(&daemon->loop, &daemon->grace);
    daemon->tick.data = daemon->grace.data = daemon->down.data = daemon;
    r = uv_async_init(&daemon->loop, &daemon->down, on_down_sent);
    for (int i = 0; i < N_SIGNALS && !r; i++) {
        daemon->signals[i].data = daemon;
        r = uv_signal_init(&daemon->loop, &daemon->signals[i]);
        if (!r)
            r = uv_signal_start(&daemon->signals[i], on_signal, numbers[i]);
    }
    return r;
}

static void warn_blas(void)
{
    const char *better = blas_better_core(blas_core(), kern_cpu_detect());

    if (better)
        log_warning("OpenBLAS does not know this CPU and has kernels for %s: with "
                    "OPENBLAS_CORETYPE=%s in the environment of the daemon and of its clients "
                    "tiles take half of the time or less",
                    blas_core(), better);
}

static void say_ready(struct daemon *daemon)
{
    const struct config *config = &daemon->config;
    uint64_t arena_bytes = 0;
    char text[128];

    for (uint32_t i = 0; i < config->n_tenants; i++)
        arena_bytes += config->tenants[i].arena_bytes;
    snprintf(text, sizeof text, "serving; tenants: %u, arenas: %.1f MiB", config->n_tenants,
             (double)arena_bytes / 1048576);
    daemon->sources.state = HTTP_READY;
    session_ready(daemon->session);
    warn_blas();
    log_info("ready: %s", text);
    sd_ready(text);
}

/* --- end -------------------------------------------------------------------------------------- */

static void close_handle(uv_handle_t *handle, void *user)
{
    (void)user;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* In the order of the top of this file; what was never made is NULL. */
static void free_all(struct daemon *daemon)
{
    acceptor_stop(daemon->grpc);
    acceptor_stop(daemon->side);
    handout_stop(daemon->handout);
    http_stop(daemon->http);
    uv_walk(&daemon->loop, close_handle, NULL);
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
    daemon->handout = handout_free(daemon->handout);
    daemon->http = http_free(daemon->http);
    daemon->pool = pool_free(daemon->pool);
    daemon->rpc = rpc_server_free(daemon->rpc);
    daemon->session = session_free(daemon->session);
    daemon->hub = hub_free(daemon->hub);
    daemon->grpc = acceptor_free(daemon->grpc);
    daemon->side = acceptor_free(daemon->side);
    if (daemon->passed.grpc >= 0)
        close(daemon->passed.grpc);
    if (daemon->passed.memfd >= 0)
        close(daemon->passed.memfd);
    if (daemon->passed.http >= 0)
        close(daemon->passed.http);
    sd_close_kept(&daemon->passed);
    uv_loop_close(&daemon->loop);
}

/* Return: an exit code. */
static int serve(struct daemon *daemon)
{
    int r;

    r = make_loop(daemon);
    if (r) {
        log_error("the loop cannot be made: %s", uv_strerror(r));
        return EXIT_FAULT; /* nothing else is there yet */
    }
    r = make_sockets(daemon);
    if (!r)
        r = make_core(daemon);
    if (!r)
        r = make_servers(daemon);
    if (!r)
        r = make_http(daemon);
    if (!r) {
        uv_timer_start(&daemon->tick, on_tick, 1000, 1000);
        say_ready(daemon);
    } else if (daemon->rpc) {
        begin_shutdown(daemon); /* a server ends in order, or not at all */
    }
    if (!r || daemon->rpc)
        uv_run(&daemon->loop, UV_RUN_DEFAULT); /* until on_down_sent() */
    free_all(daemon);
    if (!r)
        log_info("stopped");
    return r;
}

int life_run(const char *config_path, const struct config *config)
{
    struct daemon *daemon = calloc(1, sizeof *daemon);
    int r;

    if (!daemon)
        return say(-ENOMEM, "start");
    daemon->config_path = config_path;
    daemon->config = *config;
    daemon->passed = (struct sd_sockets){ -1, -1, -1, NULL, 0 };
    daemon->keeper = keeper_of(&daemon->passed);
    fatal_install();
    r = serve(daemon);
    free(daemon);
    return r;
}
