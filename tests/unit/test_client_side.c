/* client_side: descriptors and refusals over the side socket, from a daemon played here */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clients/c/client.h"

static int n_open(void)
{
    int n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* A piece with n_fds descriptors. */
static void send_piece(int fd, const void *bytes, size_t n_bytes, int n_fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control = { 0 };
    struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = n_bytes };
    struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (n_fds) {
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
        for (int i = 0; i < n_fds; i++)
            memcpy(CMSG_DATA(&control.header) + (size_t)i * sizeof(int), &fd, sizeof(fd));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
    }
    assert_int_equal(sendmsg(fd, &message, 0), n_bytes);
}

/* Put a reply into the other end beforehand: side_ask() sends, then finds it. first: how many bytes
 * go with the descriptors; the rest comes in a second piece. What follows is nobody's business. */
static void play(int fd, const struct side_reply *reply, int n_fds, size_t first, int n_late_fds)
{
    static const uint8_t MORE[500];

    send_piece(fd, reply, first, n_fds);
    if (first < sizeof(*reply))
        send_piece(fd, (const char *)reply + first, sizeof(*reply) - first, n_late_fds);
    send_piece(fd, MORE, sizeof(MORE), 0);
}

/* One exchange. Return: what side_ask() returned; nothing may stay open on an error. */
static int exchange_late(const struct side_reply *reply, int n_fds, size_t first, int n_late_fds,
                         struct side_gift *ret_gift, struct dpq_client_error *error)
{
    struct side_request request = { .magic = SIDE_MAGIC, .op = SIDE_PROFILE }, got;
    int ends[2], r, before = n_open();

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    play(ends[1], reply, n_fds, first, n_late_fds);
    r = side_ask(ends[0], &request, ret_gift, error);
    assert_int_equal(recv(ends[1], &got, sizeof(got), MSG_WAITALL), sizeof(got));
    assert_memory_equal(&got, &request, sizeof(got));
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(n_open(), before + (r ? 0 : n_fds));
    return r;
}

static int exchange(const struct side_reply *reply, int n_fds, size_t first,
                    struct side_gift *ret_gift, struct dpq_client_error *error)
{
    return exchange_late(reply, n_fds, first, 0, ret_gift, error);
}

static void test_gift(void **state)
{
    struct side_reply reply = { .magic = SIDE_MAGIC, .n_fds = 2, .sizes = { 11, 22 } };
    struct side_gift gift = SIDE_GIFT_NULL;
    struct dpq_client_error error;
    int before = n_open();

    (void)state;
    for (size_t first = 1; first <= sizeof(reply); first += 127) {
        assert_int_equal(exchange(&reply, 2, first, &gift, &error), 0);
        assert_int_equal(gift.n_fds, 2);
        assert_true(fcntl(gift.fds[0], F_GETFD) & FD_CLOEXEC);
        assert_int_equal(gift.sizes[1], 22);
        side_gift_close(&gift);
        assert_int_equal(n_open(), before);
    }
    side_gift_close(&gift);
}

static void test_refused(void **state)
{
    static const int STATUS[][2] = { { ENOENT, DPQ_CLIENT_NOT_FOUND },
                                     { EACCES, DPQ_CLIENT_PERMISSION_DENIED },
                                     { EALREADY, DPQ_CLIENT_FAILED_PRECONDITION },
                                     { EIO, DPQ_CLIENT_INTERNAL } };
    struct side_gift gift = SIDE_GIFT_NULL;
    struct dpq_client_error error;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(STATUS); i++) {
        struct side_reply reply = { .magic = SIDE_MAGIC, .status = (uint32_t)STATUS[i][0] };

        memset(reply.message, 'm', sizeof(reply.message)); /* without its NUL */
        assert_int_equal(exchange(&reply, 0, sizeof(reply), &gift, &error), STATUS[i][1]);
        assert_int_equal(error.code, STATUS[i][1]);
        assert_int_equal(strlen(error.message), sizeof(reply.message));
    }
    assert_int_equal(gift.n_fds, 0);
}

static void test_malformed(void **state)
{
    struct side_reply reply = { .magic = SIDE_MAGIC, .n_fds = 1 };
    struct side_gift gift = SIDE_GIFT_NULL;
    struct dpq_client_error error;

    (void)state;
    assert_int_equal(exchange(&reply, 0, 128, &gift, &error), DPQ_CLIENT_DATA_LOSS);
    assert_int_equal(exchange(&reply, 2, 128, &gift, &error), DPQ_CLIENT_DATA_LOSS);
    assert_int_equal(exchange(&reply, 4, 128, &gift, &error), DPQ_CLIENT_RESOURCE_EXHAUSTED);
    reply.n_fds = 2; /* more than was promised, and late: closed */
    assert_int_equal(exchange_late(&reply, 2, 60, 2, &gift, &error), 0);
    assert_int_equal(gift.n_fds, 2);
    side_gift_close(&gift);
    reply.magic++;
    assert_int_equal(exchange(&reply, 1, 128, &gift, &error), DPQ_CLIENT_DATA_LOSS);
    assert_int_equal(gift.n_fds, 0);
}

static void test_nobody(void **state)
{
    struct side_request request = { .magic = SIDE_MAGIC };
    struct side_gift gift = SIDE_GIFT_NULL;
    struct timeval timeout = { .tv_usec = 20000 };
    struct dpq_client_error error;
    char path[200];
    int ends[2], fd;

    (void)state;
    memset(path, 'p', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(side_connect(path, 100, &fd, &error), DPQ_CLIENT_INVALID_ARGUMENT);
    assert_int_equal(side_connect("", 100, &fd, &error), DPQ_CLIENT_INVALID_ARGUMENT);
    assert_int_equal(side_connect("/nonexistent/fd.sock", 100, &fd, &error),
                     DPQ_CLIENT_UNAVAILABLE);

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_int_equal(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), 0);
    assert_int_equal(side_ask(ends[0], &request, &gift, &error), DPQ_CLIENT_DEADLINE_EXCEEDED);
    close(ends[1]); /* and no SIGPIPE */
    assert_int_equal(side_ask(ends[0], &request, &gift, &error), DPQ_CLIENT_UNAVAILABLE);
    close(ends[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gift),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
