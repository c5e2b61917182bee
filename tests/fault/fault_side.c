/*
 * Connections whose accepting or answering fails: the one that it hits is closed or waits, the
 * others are served, no descriptor is lost, and a client that was attached is gone when its
 * connection is
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/accept.h"
#include "daemon/handout.h"
#include "daemon/log.h"
#include "lib/base/side_wire.h"
#include "tests/fault/fault.h"

int __real_accept4(int fd, struct sockaddr *address, socklen_t *n, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *n, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *n, int flags)
{
    return fault_now(FAULT_ACCEPT4) ? -1 : __real_accept4(fd, address, n, flags);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    return fault_now(FAULT_SENDMSG) ? -1 : __real_sendmsg(fd, message, flags);
}

/* Stands for the session: any ticket is good. */
struct session {
    int arena_fd;
    long n_attached, n_gone;
};

int session_redeem(struct session *session, const uint8_t ticket[16],
                   const struct session_peer *peer, struct session_fds *ret_fds,
                   struct session_error *ret_error)
{
    (void)ticket;
    (void)peer;
    (void)ret_error;
    session->n_attached++;
    *ret_fds = (struct session_fds){
        .client_id = 1, .staging_fd = -1, .arena_fd = session->arena_fd, .arena_bytes = 4096
    };
    return 0;
}

void session_client_gone(struct session *session, uint64_t client_id)
{
    (void)client_id;
    session->n_gone++;
}

int session_profile(struct session *session, const uint8_t profile_id[32],
                    struct session_profile_info *ret_info)
{
    (void)session;
    (void)profile_id;
    (void)ret_info;
    return 1;
}

void session_profile_unref(struct session *session, struct session_profile_info *info)
{
    (void)session;
    (void)info;
}

struct side {
    uv_loop_t loop;
    struct acceptor *acceptor;
    struct handout *handout;
    struct session session;
    char path[64];
};

static void connected(void *user, int fd)
{
    struct side *side = user;
    struct session_peer peer = { .pid = getpid() };

    handout_add_fd(side->handout, fd, &peer);
}

static void turn(struct side *side)
{
    for (int i = 0; i < 6; i++)
        uv_run(&side->loop, UV_RUN_NOWAIT);
}

static int connect_to(const struct side *side)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(address.sun_path, side->path);
    MUST(!connect(fd, (struct sockaddr *)&address, sizeof(address)));
    return fd;
}

/* Ask to be attached. Return: 1 answered, with a descriptor; 0 closed; -1 neither, yet */
static int ask(struct side *side, int fd)
{
    struct side_request request = { .magic = SIDE_MAGIC, .op = SIDE_ATTACH };
    char control[CMSG_SPACE(4 * sizeof(int))];
    struct side_reply reply;
    struct iovec iov = { .iov_base = &reply, .iov_len = sizeof(reply) };
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
    };
    struct cmsghdr *header;
    int passed;
    ssize_t n;

    if (send(fd, &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request))
        return 0;
    turn(side);
    n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EAGAIN ? -1 : 0;
    if (!n)
        return 0;
    header = CMSG_FIRSTHDR(&message);
    MUST(n == sizeof(reply) && !reply.status && header);
    memcpy(&passed, CMSG_DATA(header), sizeof(passed));
    close(passed);
    return 1;
}

/* Three clients one after the other; the n-th call fails. Then all that are there are served. */
static bool three(struct side *side, enum fault_call call, long n, int error)
{
    int fds[3], answers[3], last;
    bool came;

    fault_arm(call, n, error);
    for (int i = 0; i < 3; i++) {
        fds[i] = connect_to(side);
        turn(side);
        answers[i] = ask(side, fds[i]);
    }
    came = fault_disarm();
    for (int i = 0; i < 3; i++) {
        MUST(came || answers[i] == 1);
        close(fds[i]);
    }
    last = connect_to(side);
    turn(side);
    MUST(ask(side, last) == 1);
    close(last);
    turn(side);
    MUST(side->session.n_gone == side->session.n_attached);
    return came;
}

static void open_side(struct side *side, const char *dir)
{
    const struct accept_options accepting = { .name = "fault",
                                              .allow_same_uid = true,
                                              .max_per_uid = 16,
                                              .connected = connected,
                                              .user = side };
    const struct handout_options handing = { .session = &side->session, .silent_ms = 10000 };
    long pid;

    snprintf(side->path, sizeof(side->path), "%s/s", dir);
    side->session.arena_fd = memfd_create("arena", MFD_CLOEXEC);
    MUST(!uv_loop_init(&side->loop));
    MUST(!handout_new(&side->loop, &handing, &side->handout));
    MUST(!acceptor_new(&side->loop, side->path, &accepting, &side->acceptor, &pid));
}

static void close_side(struct side *side)
{
    acceptor_stop(side->acceptor);
    handout_stop(side->handout);
    uv_run(&side->loop, UV_RUN_DEFAULT);
    acceptor_free(side->acceptor);
    handout_free(side->handout);
    close(side->session.arena_fd);
    MUST(!uv_loop_close(&side->loop));
}

int main(void)
{
    static const int accept_errors[] = { EMFILE, ENFILE, ECONNABORTED, EINTR, ENOBUFS, ENOMEM };
    static const int send_errors[] = { EAGAIN, EPIPE, ENOBUFS, ETOOMANYREFS, EMFILE, EINTR };
    char dir[] = "/tmp/deltapq-fault.XXXXXX", lock[64];
    struct side *side = calloc(1, sizeof(*side));
    long n_ways = 0;
    int n_fds;

    log_init("error");
    MUST(side && mkdtemp(dir));
    open_side(side, dir);
    three(side, FAULT_NONE, 0, 0);
    n_fds = fault_n_fds();
    for (size_t i = 0; i < sizeof(accept_errors) / sizeof(accept_errors[0]); i++)
        for (long n = 1; three(side, FAULT_ACCEPT4, n, accept_errors[i]); n++)
            n_ways++;
    for (size_t i = 0; i < sizeof(send_errors) / sizeof(send_errors[0]); i++)
        for (long n = 1; three(side, FAULT_SENDMSG, n, send_errors[i]); n++)
            n_ways++;
    MUST(fault_n_fds() == n_fds);
    MUST(n_ways >= 36);
    printf("%ld ways to fail, each of them survived\n", n_ways);
    close_side(side);
    snprintf(lock, sizeof(lock), "%s/s.lock", dir);
    unlink(lock);
    rmdir(dir);
    free(side);
    return 0;
}
