/* The side socket: where descriptors come from (wire: lib/base/side_wire.h) */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clients/c/client.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "side_wire.h needs conversions here");

void side_gift_close(struct side_gift *gift)
{
    for (int i = 0; i < SIDE_MAX_FDS; i++)
        if (gift->fds[i] >= 0)
            close(gift->fds[i]);
    *gift = (struct side_gift)SIDE_GIFT_NULL;
}

static int unavailable(struct dpq_client_error *error, const char *what)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return client_error_set(error, DPQ_CLIENT_DEADLINE_EXCEEDED, "SIDE_SOCKET",
                                "the side socket did not answer in time");
    return client_error_set(error, DPQ_CLIENT_UNAVAILABLE, "SIDE_SOCKET", "side socket: %s: %s",
                            what, strerror(errno));
}

int side_connect(const char *path, uint32_t timeout_ms, int *ret_fd, struct dpq_client_error *error)
{
    struct timeval timeout = { .tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000 };
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd, r;

    if (!*path || strlen(path) >= sizeof(address.sun_path))
        return client_error_set(error, DPQ_CLIENT_INVALID_ARGUMENT, "SIDE_SOCKET",
                                "the side socket's path has %zu bytes; 1 to %zu can be used",
                                strlen(path), sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return unavailable(error, "socket");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) ||
        connect(fd, (struct sockaddr *)&address, sizeof(address))) {
        r = unavailable(error, "connect");
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static int send_request(int fd, const struct side_request *request, struct dpq_client_error *error)
{
    size_t done = 0;

    while (done < sizeof(*request)) {
        ssize_t n = send(fd, (const char *)request + done, sizeof(*request) - done, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return unavailable(error, "send");
        done += (size_t)n;
    }
    return 0;
}

/* The control data of one recvmsg(). Descriptors that nobody expects are closed. */
static void keep_fds(struct msghdr *message, struct side_gift *gift)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        size_t n;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (gift->n_fds < SIDE_MAX_FDS)
                gift->fds[gift->n_fds++] = fd;
            else
                close(fd);
        }
    }
}

static int receive_reply(int fd, struct side_reply *reply, struct side_gift *gift,
                         struct dpq_client_error *error)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(SIDE_MAX_FDS * sizeof(int))];
    } control;
    size_t done = 0;

    while (done < sizeof(*reply)) {
        struct iovec iov = { .iov_base = (char *)reply + done, .iov_len = sizeof(*reply) - done };
        struct msghdr message = { .msg_iov = &iov,
                                  .msg_iovlen = 1,
                                  .msg_control = control.bytes,
                                  .msg_controllen = sizeof(control.bytes) };
        ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return unavailable(error, "receive");
        keep_fds(&message, gift);
        if (!n)
            return client_error_set(error, DPQ_CLIENT_UNAVAILABLE, "SIDE_SOCKET",
                                    "the daemon closed the side socket");
        if (message.msg_flags & MSG_CTRUNC)
            return client_error_set(error, DPQ_CLIENT_RESOURCE_EXHAUSTED, "SIDE_SOCKET",
                                    "descriptors were lost: are too many files open?");
        done += (size_t)n;
    }
    return 0;
}

static int refusal(const struct side_reply *reply, struct dpq_client_error *error)
{
    int code = reply->status == ENOENT     ? DPQ_CLIENT_NOT_FOUND
               : reply->status == EACCES   ? DPQ_CLIENT_PERMISSION_DENIED
               : reply->status == EALREADY ? DPQ_CLIENT_FAILED_PRECONDITION
                                           : DPQ_CLIENT_INTERNAL;

    return client_error_set(error, code, "SIDE_SOCKET", "%.*s", (int)sizeof(reply->message),
                            reply->message);
}

int side_ask(int fd, const struct side_request *request, struct side_gift *ret_gift,
             struct dpq_client_error *error)
{
    _cleanup_(side_gift_close) struct side_gift gift = SIDE_GIFT_NULL;
    struct side_reply reply;
    int r;

    r = send_request(fd, request, error);
    if (r)
        return r;
    r = receive_reply(fd, &reply, &gift, error);
    if (r)
        return r;
    if (reply.magic == SIDE_MAGIC && reply.status)
        return refusal(&reply, error);
    if (reply.magic != SIDE_MAGIC || reply.n_fds != gift.n_fds)
        return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "SIDE_SOCKET",
                                "the side socket's reply is malformed");
    memcpy(gift.sizes, reply.sizes, sizeof(gift.sizes));
    *ret_gift = gift;
    gift = (struct side_gift)SIDE_GIFT_NULL;
    return 0;
}
