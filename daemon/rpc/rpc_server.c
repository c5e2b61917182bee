/*
 * The server: core's objects, the completion-queue thread, the order of the end
 *
 *     serving --shutdown_begin()--> core tells clients to go away, waiting calls come back empty
 *     --> n_live comes down, call by call --> connections are closed --> core's shutdown tag
 *     --> down() --free()--> gone
 *
 * n_live has one for the server itself, taken back with the shutdown tag, so that it cannot reach 0
 * while calls may still come. A batch that is started after the queue was shut down ends the
 * process: hence down() first, then everybody who could answer or wake a call, then this.
 */
#include "daemon/rpc/rpc_server.h"

#include <assert.h>
#include <errno.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/rpc/rpc_call.h"
#include "daemon/rpc/rpc_state.h"
#include "lib/base/error.h"

enum {
    N_WAITING = 64, /* calls that core can hand over before it must ask */
    WAKE_US = 5000,
};

/* --- the completion-queue thread -------------------------------------------------------------- */

/* The last call of a server that is stopping takes the connections with it: core's shutdown waits
 * for clients to close theirs, and a silent one does not. Done before the call gives up its place:
 * then the server is still there. */
void rpc_server_release(struct rpc_server *server)
{
    uint32_t n = __atomic_load_n(&server->n_live, __ATOMIC_ACQUIRE);

    do {
        if (n == 2 && __atomic_load_n(&server->stopping, __ATOMIC_ACQUIRE) &&
            !__atomic_exchange_n(&server->disconnected, true, __ATOMIC_ACQ_REL))
            grpc_server_cancel_all_calls(server->core);
    } while (!__atomic_compare_exchange_n(&server->n_live, &n, n - 1, false, __ATOMIC_ACQ_REL,
                                          __ATOMIC_ACQUIRE));
    if (n == 1)
        server->down(server->down_user); /* the server may be gone afterwards */
}

void rpc_server_top_up(struct rpc_server *server)
{
    while (server->n_waiting < N_WAITING && !__atomic_load_n(&server->stopping, __ATOMIC_RELAXED)) {
        if (rpc_call_request(server)) {
            log_warning("no memory for another call"); /* tried again with the next one */
            return;
        }
        server->n_waiting++;
    }
}

static void dispatch(struct rpc_server *server, void *tag, bool ok)
{
    struct rpc_tag *t = tag;

    RPC_ACQUIRE(tag);
    if (tag == &server->shutdown_tag) {
        rpc_server_release(server);
        return;
    }
    t->fn(t->call, ok);
    rpc_call_unref(t->call); /* the tag's */
}

/* When something of ours is due, in the clock of the completion queue. */
static gpr_timespec next_deadline(struct rpc_server *server)
{
    uint64_t due_ns = rpc_uploads_due_ns(&server->uploads), now_ns = session_now_ns();
    uint64_t flush_ns = rpc_watchers_due_ns(&server->watchers);

    if (flush_ns < due_ns)
        due_ns = flush_ns;
    if (due_ns == UINT64_MAX)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(
        gpr_now(GPR_CLOCK_MONOTONIC),
        gpr_time_from_nanos(due_ns > now_ns ? (int64_t)(due_ns - now_ns) : 0, GPR_TIMESPAN));
}

static void *serve(void *argument)
{
    struct rpc_server *server = argument;

    pthread_mutex_lock(&server->start); /* until the core is made */
    pthread_mutex_unlock(&server->start);
    for (;;) {
        grpc_event event = grpc_completion_queue_next(server->queue, next_deadline(server), NULL);

        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        rpc_uploads_expire(&server->uploads, session_now_ns());
        if (event.type == GRPC_OP_COMPLETE)
            dispatch(server, event.tag, event.success);
        rpc_watchers_run(&server->watchers, server->options.hub, session_now_ns());
    }
}

/* --- start ------------------------------------------------------------------------------------ */

static void log_core(gpr_log_func_args *args)
{
    log_line(args->severity == GPR_LOG_SEVERITY_ERROR ? LOG_WARNING : LOG_DEBUG, "grpc: %s",
             args->message);
}

static void make_core(struct rpc_server *server)
{
    const struct {
        const char *key;
        int value;
    } values[] = {
        { GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RPC_MAX_MESSAGE_BYTES + RPC_ENVELOPE_BYTES },
        { GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, RPC_MAX_MESSAGE_BYTES + RPC_ENVELOPE_BYTES },
        { GRPC_ARG_MAX_METADATA_SIZE, 16384 },
        { GRPC_ARG_MAX_CONCURRENT_STREAMS, (int)server->options.max_streams },
        /* what closes connections on which nothing ever comes: there is no handshake limit here */
        { GRPC_ARG_MAX_CONNECTION_IDLE_MS, (int)server->options.idle_ms },
        { GRPC_ARG_KEEPALIVE_TIME_MS, 30000 },
        { GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000 },
        { GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1 },
        { GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000 },
        /* streams: what is sent ahead of the message that is waited for stays with the client */
        { GRPC_ARG_HTTP2_BDP_PROBE, 0 },
        /* identity only: a message must not grow behind the limit above */
        { GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 },
    };
    grpc_resource_quota *quota = grpc_resource_quota_create("messages");
    grpc_arg args[ARRAY_SIZE(values) + 1];

    for (size_t i = 0; i < ARRAY_SIZE(values); i++)
        args[i] = (grpc_arg){ .type = GRPC_ARG_INTEGER,
                              .key = (char *)values[i].key,
                              .value.integer = values[i].value };
    /* Whole messages have room or are refused (rpc_room.h); this is for those that are not whole
     * yet. Beyond it gRPC cancels calls, as RESOURCE_EXHAUSTED, and not sparingly. */
    grpc_resource_quota_resize(quota, server->options.message_bytes / 2);
    args[ARRAY_SIZE(values)] = (grpc_arg){
        .type = GRPC_ARG_POINTER,
        .key = (char *)GRPC_ARG_RESOURCE_QUOTA,
        .value.pointer = { .p = quota, .vtable = grpc_resource_quota_arg_vtable() },
    };
    gpr_set_log_function(log_core); /* process-wide, as gRPC's log is */
    server->core = grpc_server_create(
        &(grpc_channel_args){ .num_args = ARRAY_SIZE(args), .args = args }, NULL);
    grpc_resource_quota_unref(quota);
    server->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(server->core, server->queue, NULL);
    server->credentials = grpc_insecure_server_credentials_create();
}

/* The thread first: once core serves, there is no way back but a shutdown in order. */
int rpc_server_new(const struct rpc_server_options *options, struct rpc_server **ret_server)
{
    struct rpc_server *server = calloc(1, sizeof(*server));
    int r;

    if (!server)
        return error_origin(-ENOMEM);
    server->options = *options;
    server->n_live = 1;
    r = rpc_watchers_init(&server->watchers);
    if (r) {
        free(server);
        return error_fold(r);
    }
    pthread_mutex_init(&server->start, NULL);
    pthread_mutex_lock(&server->start);
    r = pthread_create(&server->thread, NULL, serve, server);
    if (r) {
        pthread_mutex_unlock(&server->start);
        pthread_mutex_destroy(&server->start);
        rpc_watchers_deinit(&server->watchers);
        free(server);
        return error_origin(-r);
    }
    pthread_setname_np(server->thread, "rpc");
    rpc_health_init(&server->health);
    rpc_uploads_init(&server->uploads);
    rpc_stalls_init(&server->stalls, options->stall_seconds);
    server->room.limit_bytes = options->message_bytes / 2;
    grpc_init();
    make_core(server);
    grpc_server_start(server->core);
    rpc_server_top_up(server);
    pthread_mutex_unlock(&server->start);
    *ret_server = server;
    return 0;
}

void rpc_server_add_fd(struct rpc_server *server, int fd)
{
    grpc_server_add_channel_from_fd(server->core, fd, server->credentials);
}

void rpc_server_tick(struct rpc_server *server)
{
    rpc_stalls_run(&server->stalls, session_now_ns());
}

/* --- end -------------------------------------------------------------------------------------- */

void rpc_server_shutdown_begin(struct rpc_server *server, void (*down)(void *user), void *user)
{
    server->down = down;
    server->down_user = user;
    __atomic_store_n(&server->stopping, true, __ATOMIC_RELEASE);
    rpc_health_stop(&server->health);
    RPC_RELEASE(&server->shutdown_tag);
    grpc_server_shutdown_and_notify(server->core, server->queue, &server->shutdown_tag);
}

void rpc_server_cancel_all(struct rpc_server *server)
{
    grpc_server_cancel_all_calls(server->core);
}

/*
 * Wake gRPC's own poller. After a write that had to wait, a thread of gRPC's polls for 10 s on its
 * own, in case nobody else does, and grpc_shutdown() waits for it. Any event ends it, if its work
 * is done: a new connection that can be written to is one.
 */
static void wake_core(void)
{
    grpc_channel_credentials *credentials;
    grpc_channel *channel;
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return; /* then it takes 10 s */
    credentials = grpc_insecure_credentials_create();
    channel = grpc_channel_create_from_fd("wake", fds[0], credentials, NULL);
    usleep(WAKE_US); /* it may be on its way to polling just now */
    grpc_channel_destroy(channel);
    grpc_channel_credentials_release(credentials);
    close(fds[1]);
}

struct rpc_server *rpc_server_free(struct rpc_server *server)
{
    if (!server)
        return NULL;
    assert(__atomic_load_n(&server->n_live, __ATOMIC_ACQUIRE) == 0);
    grpc_server_destroy(server->core);
    grpc_completion_queue_shutdown(server->queue);
    pthread_join(server->thread, NULL);
    grpc_completion_queue_destroy(server->queue);
    grpc_server_credentials_release(server->credentials);
    wake_core();
    grpc_shutdown();
    rpc_watchers_deinit(&server->watchers);
    rpc_uploads_deinit(&server->uploads);
    rpc_stalls_deinit(&server->stalls);
    rpc_health_deinit(&server->health);
    pthread_mutex_destroy(&server->start);
    free(server);
    return NULL;
}
