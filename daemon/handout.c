#include "daemon/handout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"
#include "lib/base/error.h"
#include "lib/base/side_wire.h"

enum { MAX_REPLY_FDS = 2 };

struct conn {
    struct handout *handout;
    struct conn *previous, *next;
    uv_poll_t poll;
    uv_timer_t timer;
    int n_handles; /* not closed yet by the loop */
    int fd;        /* -1: closing */
    struct session_peer peer;
    uint64_t client_id; /* once attached */
    bool attached;
    size_t n_request; /* bytes of it that are here */
    struct side_request request;
};

struct handout {
    uv_loop_t *loop;
    struct handout_options options;
    struct conn *conns;
};

/* Integers on the wire are little-endian; so are the machines that this is built for. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "side_wire.h needs conversions here");

/* --- the end of a connection ------------------------------------------------------------------ */

static void on_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;

    if (!--conn->n_handles)
        free(conn);
}

static void conn_close(struct conn *conn)
{
    if (conn->fd < 0)
        return;
    uv_close((uv_handle_t *)&conn->poll, on_closed);
    uv_close((uv_handle_t *)&conn->timer, on_closed);
    close(conn->fd);
    conn->fd = -1;
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        conn->handout->conns = conn->next;
    if (conn->next)
        conn->next->previous = conn->previous;
    if (conn->attached)
        session_client_gone(conn->handout->options.session, conn->client_id);
}

static void on_silent(uv_timer_t *timer)
{
    conn_close(timer->data);
}

static void await_request(struct conn *conn)
{
    conn->n_request = 0;
    if (!conn->attached)
        uv_timer_start(&conn->timer, on_silent, conn->handout->options.silent_ms, 0);
    else
        uv_timer_stop(&conn->timer);
}

/* --- replies ---------------------------------------------------------------------------------- */

/* The reply is small and the peer must take each before it asks again: a full socket means that it
 * does not, and ends the connection. Return: sent? */
static bool send_reply(struct conn *conn, const struct side_reply *reply, const int *fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(MAX_REPLY_FDS * sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = (void *)(uintptr_t)reply, .iov_len = sizeof *reply };
    struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
    size_t n_bytes = reply->n_fds * sizeof(int);
    ssize_t n;

    if (reply->n_fds) {
        memset(&control, 0, sizeof control);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(n_bytes);
        memcpy(CMSG_DATA(&control.header), fds, n_bytes);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(n_bytes);
    }
    do
        n = sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof *reply)
        return true;
    if (n < 0 && errno != EPIPE && errno != ECONNRESET)
        log_warning("fd: no reply to pid %ld: %s", (long)conn->peer.pid, strerror(errno));
    return false;
}

static void refuse(struct conn *conn, int status, const char *message)
{
    struct side_reply reply = { .magic = SIDE_MAGIC, .status = (uint32_t)status };

    snprintf(reply.message, sizeof reply.message, "%.95s", message);
    log_info("fd: refused pid %ld, uid %ld: %s", (long)conn->peer.pid, (long)conn->peer.uid,
             reply.message);
    (void)!send_reply(conn, &reply, NULL); /* it is closed either way */
    conn_close(conn);
}

/* --- requests --------------------------------------------------------------------------------- */

static void answer_attach(struct conn *conn)
{
    struct side_reply reply = { .magic = SIDE_MAGIC };
    struct session_error error;
    struct session_fds fds;
    int out[MAX_REPLY_FDS];

    if (conn->attached) {
        refuse(conn, EALREADY, "this connection is attached already");
        return;
    }
    if (session_redeem(conn->handout->options.session, conn->request.ticket, &conn->peer, &fds,
                       &error)) {
        refuse(conn, EACCES, error.message);
        return;
    }
    conn->attached = true;
    conn->client_id = fds.client_id;
    out[reply.n_fds] = fds.arena_fd;
    reply.sizes[reply.n_fds++] = fds.arena_bytes;
    if (fds.staging_fd >= 0) {
        out[reply.n_fds] = fds.staging_fd;
        reply.sizes[reply.n_fds++] = fds.staging_bytes;
    }
    if (send_reply(conn, &reply, out))
        await_request(conn);
    else
        conn_close(conn);
}

static void answer_profile(struct conn *conn)
{
    struct side_reply reply = { .magic = SIDE_MAGIC, .n_fds = 1 };
    struct session_profile_info info;
    bool sent;

    if (session_profile(conn->handout->options.session, conn->request.digest, &info)) {
        refuse(conn, ENOENT, "there is no profile with this digest");
        return;
    }
    reply.sizes[0] = info.file_bytes;
    sent = send_reply(conn, &reply, &info.fd);
    session_profile_unref(conn->handout->options.session, &info);
    if (sent)
        await_request(conn);
    else
        conn_close(conn);
}

static void answer(struct conn *conn)
{
    static const uint8_t zero[sizeof conn->request.reserved];

    if (conn->request.magic != SIDE_MAGIC)
        refuse(conn, EPROTO, "not a request of this protocol: wrong magic");
    else if (memcmp(conn->request.reserved, zero, sizeof zero))
        refuse(conn, EPROTO, "reserved bytes of the request are not 0");
    else if (conn->request.op == SIDE_ATTACH)
        answer_attach(conn);
    else if (conn->request.op == SIDE_PROFILE)
        answer_profile(conn);
    else
        refuse(conn, EOPNOTSUPP, "unknown operation");
}

/* One request a turn; what else is there makes the socket readable again. Descriptors that a client
 * sends along are dropped by the kernel, since no control buffer is given. */
static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct conn *conn = poll->data;
    ssize_t n;

    (void)events;
    if (status < 0) {
        conn_close(conn);
        return;
    }
    n = recv(conn->fd, (char *)&conn->request + conn->n_request,
             sizeof conn->request - conn->n_request, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        conn_close(conn);
        return;
    }
    conn->n_request += (size_t)n;
    if (conn->n_request == sizeof conn->request)
        answer(conn);
}

/* --- life ------------------------------------------------------------------------------------- */

int handout_new(uv_loop_t *loop, const struct handout_options *options,
                struct handout **ret_handout)
{
    struct handout *handout = calloc(1, sizeof *handout);

    if (!handout)
        return error_origin(-ENOMEM);
    handout->loop = loop;
    handout->options = *options;
    *ret_handout = handout;
    return 0;
}

void handout_add_fd(struct handout *handout, int fd, const struct session_peer *peer)
{
    struct conn *conn = calloc(1, sizeof *conn);
    int r;

    if (!conn) {
        close(fd);
        return;
    }
    conn->handout = handout;
    conn->fd = fd;
    conn->peer = *peer;
    conn->poll.data = conn->timer.data = conn;
    r = uv_poll_init(handout->loop, &conn->poll, fd);
    if (r) {
        log_error("fd: a connection cannot be watched: %s", uv_strerror(r));
        close(fd);
        free(conn);
        return;
    }
    uv_timer_init(handout->loop, &conn->timer); /* cannot fail */
    conn->n_handles = 2;
    conn->next = handout->conns;
    if (conn->next)
        conn->next->previous = conn;
    handout->conns = conn;
    r = uv_poll_start(&conn->poll, UV_READABLE | UV_DISCONNECT, on_readable);
    if (r)
        conn_close(conn);
    else
        await_request(conn);
}

void handout_stop(struct handout *handout)
{
    while (handout && handout->conns)
        conn_close(handout->conns);
}

struct handout *handout_free(struct handout *handout)
{
    free(handout);
    return NULL;
}
