/* handout: requests on the side socket, descriptors in replies, and a connection's end */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/handout.h"
#include "daemon/log.h"
#include "lib/base/side_wire.h"

enum { SILENT_MS = 150 };

/* Stands for the session: ticket 1 is good, ticket 2 good without staging, digest 9 is known. */
struct session {
    int arena_fd, staging_fd;
    uint64_t gone[8];
    int n_gone, n_profile_refs;
};

int session_redeem(struct session *session, const uint8_t ticket[16],
                   const struct session_peer *peer, struct session_fds *ret_fds,
                   struct session_error *ret_error)
{
    assert_int_equal(peer->pid, 77);
    if (ticket[0] != 1 && ticket[0] != 2) {
        strcpy(ret_error->message, "the ticket is unknown or has expired");
        return 1;
    }
    *ret_fds = (struct session_fds){ .client_id = ticket[0],
                                     .staging_fd = ticket[0] == 1 ? session->staging_fd : -1,
                                     .staging_bytes = 4096,
                                     .arena_fd = session->arena_fd,
                                     .arena_bytes = 8192 };
    return 0;
}

void session_client_gone(struct session *session, uint64_t client_id)
{
    session->gone[session->n_gone++] = client_id;
}

int session_profile(struct session *session, const uint8_t profile_id[32],
                    struct session_profile_info *ret_info)
{
    if (profile_id[31] != 9)
        return 1;
    *ret_info = (struct session_profile_info){ .fd = session->staging_fd, .file_bytes = 123 };
    session->n_profile_refs++;
    return 0;
}

void session_profile_unref(struct session *session, struct session_profile_info *info)
{
    assert_int_equal(info->file_bytes, 123);
    session->n_profile_refs--;
}

struct fixture {
    uv_loop_t loop;
    struct session session;
    struct handout *handout;
    int client; /* our end of a connection */
};

static int add_client(struct fixture *f)
{
    struct session_peer peer = { .uid = 5, .gid = 6, .pid = 77 };
    int ends[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    handout_add_fd(f->handout, ends[0], &peer);
    return ends[1];
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct handout_options options = { .session = &f->session, .silent_ms = SILENT_MS };

    log_init("error");
    f->session.arena_fd = memfd_create("arena", MFD_CLOEXEC);
    f->session.staging_fd = memfd_create("staging", MFD_CLOEXEC);
    if (uv_loop_init(&f->loop) || handout_new(&f->loop, &options, &f->handout))
        return -1;
    f->client = add_client(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    handout_stop(f->handout);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    handout_free(f->handout);
    close(f->client);
    close(f->session.arena_fd);
    close(f->session.staging_fd);
    if (uv_loop_close(&f->loop))
        return -1;
    free(f);
    return 0;
}

static void turn(struct fixture *f)
{
    for (int i = 0; i < 4; i++)
        uv_run(&f->loop, UV_RUN_NOWAIT);
}

static struct side_request make_request(enum side_op op, uint8_t ticket, uint8_t digest)
{
    struct side_request request = { .magic = SIDE_MAGIC, .op = op, .ticket = { ticket } };

    request.digest[31] = digest;
    return request;
}

static void ask(struct fixture *f, struct side_request request)
{
    assert_int_equal(send(f->client, &request, sizeof request, 0), sizeof request);
    turn(f);
}

/* Return: the number of descriptors, which are closed after noting what they are. */
static int receive(struct fixture *f, struct side_reply *ret_reply, ino_t inodes[2])
{
    char control[CMSG_SPACE(4 * sizeof(int))];
    struct iovec iov = { .iov_base = ret_reply, .iov_len = sizeof *ret_reply };
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
    };
    struct cmsghdr *header;
    struct stat st;
    int n, fds[4];

    assert_int_equal(recvmsg(f->client, &message, MSG_CMSG_CLOEXEC), sizeof *ret_reply);
    header = CMSG_FIRSTHDR(&message);
    if (!header)
        return 0;
    n = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(header), (size_t)n * sizeof(int));
    for (int i = 0; i < n; i++) {
        assert_int_equal(fstat(fds[i], &st), 0);
        inodes[i] = st.st_ino;
        close(fds[i]);
    }
    return n;
}

static ino_t inode_of(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return st.st_ino;
}

static void assert_closed(struct fixture *f, bool expected)
{
    char c;
    ssize_t n = recv(f->client, &c, 1, 0);

    if (expected)
        assert_int_equal(n, 0);
    else
        assert_true(n < 0 && errno == EAGAIN);
}

static void assert_refused(struct fixture *f, uint32_t status, const char *message)
{
    struct side_reply reply;
    ino_t inodes[2];

    assert_int_equal(receive(f, &reply, inodes), 0);
    assert_int_equal(reply.magic, SIDE_MAGIC);
    assert_int_equal(reply.status, status);
    assert_int_equal(reply.n_fds, 0);
    assert_string_equal(reply.message, message);
    assert_closed(f, true);
}

static void test_attach(void **state)
{
    struct fixture *f = *state;
    struct side_reply reply;
    ino_t inodes[2];

    ask(f, make_request(SIDE_ATTACH, 1, 0));
    assert_int_equal(receive(f, &reply, inodes), 2);
    assert_int_equal(reply.status, 0);
    assert_int_equal(reply.n_fds, 2);
    assert_int_equal(reply.sizes[0], 8192);
    assert_int_equal(reply.sizes[1], 4096);
    assert_int_equal(inodes[0], inode_of(f->session.arena_fd));
    assert_int_equal(inodes[1], inode_of(f->session.staging_fd));
    assert_int_equal(f->session.n_gone, 0);
    close(f->client);
    turn(f);
    assert_int_equal(f->session.n_gone, 1);
    assert_int_equal(f->session.gone[0], 1);
    f->client = add_client(f);
}

static void test_attach_without_staging(void **state)
{
    struct fixture *f = *state;
    struct side_reply reply;
    ino_t inodes[2];

    ask(f, make_request(SIDE_ATTACH, 2, 0));
    assert_int_equal(receive(f, &reply, inodes), 1);
    assert_int_equal(reply.n_fds, 1);
    assert_int_equal(reply.sizes[0], 8192);
    assert_int_equal(reply.sizes[1], 0);
    handout_stop(f->handout); /* the daemon ends: so does the client */
    assert_int_equal(f->session.n_gone, 1);
    assert_closed(f, true);
}

/* An attached connection is a life line: it may be silent, and it may ask for profiles. */
static void test_attached_is_silent(void **state)
{
    struct fixture *f = *state;
    struct side_reply reply;
    ino_t inodes[2];

    ask(f, make_request(SIDE_ATTACH, 1, 0));
    assert_int_equal(receive(f, &reply, inodes), 2);
    ask(f, make_request(SIDE_PROFILE, 0, 9));
    assert_int_equal(receive(f, &reply, inodes), 1);
    assert_int_equal(reply.sizes[0], 123);
    usleep(2 * SILENT_MS * 1000);
    turn(f);
    assert_closed(f, false);
    ask(f, make_request(SIDE_ATTACH, 2, 0));
    assert_refused(f, EALREADY, "this connection is attached already");
    assert_int_equal(f->session.n_gone, 1);
}

static void test_profile(void **state)
{
    struct fixture *f = *state;
    struct side_reply reply;
    ino_t inodes[2];

    for (int i = 0; i < 3; i++) {
        ask(f, make_request(SIDE_PROFILE, 0, 9));
        assert_int_equal(receive(f, &reply, inodes), 1);
        assert_int_equal(inodes[0], inode_of(f->session.staging_fd));
    }
    ask(f, make_request(SIDE_PROFILE, 0, 8));
    assert_refused(f, ENOENT, "there is no profile with this digest");
    assert_int_equal(f->session.n_profile_refs, 0);
    assert_int_equal(f->session.n_gone, 0);
}

static void test_bytes_one_by_one(void **state)
{
    struct fixture *f = *state;
    struct side_request request = make_request(SIDE_PROFILE, 0, 9);
    struct side_reply reply;
    ino_t inodes[2];

    for (size_t i = 0; i < sizeof request; i++) {
        assert_int_equal(send(f->client, (char *)&request + i, 1, 0), 1);
        turn(f);
    }
    assert_int_equal(receive(f, &reply, inodes), 1);
}

static void test_bad_requests(void **state)
{
    struct fixture *f = *state;
    struct side_request request;

    ask(f, make_request(SIDE_ATTACH, 3, 0));
    assert_refused(f, EACCES, "the ticket is unknown or has expired");

    close(f->client);
    f->client = add_client(f);
    request = make_request(SIDE_ATTACH, 1, 0);
    request.magic++;
    ask(f, request);
    assert_refused(f, EPROTO, "not a request of this protocol: wrong magic");

    close(f->client);
    f->client = add_client(f);
    request = make_request(SIDE_ATTACH, 1, 0);
    request.reserved[7] = 1;
    ask(f, request);
    assert_refused(f, EPROTO, "reserved bytes of the request are not 0");

    close(f->client);
    f->client = add_client(f);
    ask(f, make_request(3, 1, 0));
    assert_refused(f, EOPNOTSUPP, "unknown operation");
    assert_int_equal(f->session.n_gone, 0);
}

static void test_silent(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(send(f->client, "DPQ1", 4, 0), 4);
    turn(f);
    assert_closed(f, false);
    usleep(SILENT_MS * 1300);
    turn(f);
    assert_closed(f, true);
}

/* Who asks and asks and never reads is let go, and nothing grows meanwhile. */
static void test_never_reads(void **state)
{
    struct fixture *f = *state;
    struct side_request request = make_request(SIDE_PROFILE, 0, 9);
    char drain[4096];
    ssize_t n = 1;

    for (int i = 0; i < 100000 && n > 0; i++) {
        n = send(f->client, &request, sizeof request, MSG_NOSIGNAL);
        uv_run(&f->loop, UV_RUN_NOWAIT);
        if (n < 0 && errno == EAGAIN)
            n = 1;
    }
    assert_true(n < 0); /* EPIPE */
    while ((n = recv(f->client, drain, sizeof drain, 0)) > 0)
        ;
    turn(f);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_attach),
        TEST(test_attach_without_staging),
        TEST(test_attached_is_silent),
        TEST(test_profile),
        TEST(test_bytes_one_by_one),
        TEST(test_bad_requests),
        TEST(test_silent),
        TEST(test_never_reads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
