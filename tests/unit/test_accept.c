/* accept: who is let in, who is behind a descriptor, and what happens when descriptors run out */
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/accept.h"
#include "daemon/log.h"

enum { MAX_FDS = 64 };

struct fixture {
    char directory[40], path[64];
    uv_loop_t loop;
    struct acceptor *acceptor;
    bool admitting;
    int fds[MAX_FDS]; /* accepted */
    int n_fds;
};

static bool admit(void *user, const struct session_peer *peer)
{
    struct fixture *f = user;

    assert_int_equal(peer->uid, geteuid());
    return f->admitting;
}

static void connected(void *user, int fd)
{
    struct fixture *f = user;

    assert_true(f->n_fds < MAX_FDS);
    f->fds[f->n_fds++] = fd;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    log_init("error");
    strcpy(f->directory, "/tmp/test_accept.XXXXXX");
    if (!mkdtemp(f->directory))
        return -1;
    snprintf(f->path, sizeof f->path, "%s/s", f->directory);
    f->admitting = true;
    *state = f;
    return uv_loop_init(&f->loop);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char lock[80];

    acceptor_stop(f->acceptor);
    acceptor_stop(f->acceptor);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    acceptor_free(f->acceptor);
    for (int i = 0; i < f->n_fds; i++)
        close(f->fds[i]);
    if (uv_loop_close(&f->loop) || !access(f->path, F_OK)) /* stopping has unlinked it */
        return -1;
    snprintf(lock, sizeof lock, "%s.lock", f->path);
    unlink(lock);
    rmdir(f->directory);
    free(f);
    return 0;
}

static void start(struct fixture *f, bool allow_same_uid, uint32_t max_per_uid)
{
    struct accept_options options = { .name = "test",
                                      .allow_same_uid = allow_same_uid,
                                      .max_per_uid = max_per_uid,
                                      .admit = admit,
                                      .connected = connected,
                                      .user = f };
    long pid;

    assert_int_equal(acceptor_new(&f->loop, f->path, &options, &f->acceptor, &pid), 0);
}

static int connect_to(const struct fixture *f)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(address.sun_path, f->path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Connects from another process, which then stays until it is let go. Its pid. */
static pid_t connect_from_child(const struct fixture *f, int n, int *ret_hold)
{
    int hold[2], ready[2];
    pid_t pid;
    char c;

    assert_int_equal(pipe(hold), 0);
    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (!pid) {
        close(hold[1]);
        for (int i = 0; i < n; i++)
            if (connect_to(f) < 0)
                _exit(1);
        close(ready[1]);
        _exit(read(hold[0], &c, 1) != 0);
    }
    close(hold[0]);
    close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 0);
    close(ready[0]);
    *ret_hold = hold[1];
    return pid;
}

static void let_go(pid_t pid, int hold)
{
    int status;

    close(hold);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void assert_counts(struct fixture *f, uint64_t accepted, uint64_t refused,
                          uint64_t exhausted)
{
    struct accept_counts counts;

    uv_run(&f->loop, UV_RUN_NOWAIT);
    acceptor_get_counts(f->acceptor, &counts);
    assert_int_equal(counts.accepted, accepted);
    assert_int_equal(counts.refused, refused);
    assert_int_equal(counts.exhausted, exhausted);
    assert_int_equal(f->n_fds, accepted);
}

static void test_own_uid_refused(void **state)
{
    struct fixture *f = *state;
    pid_t pid;
    int hold;

    start(f, false, 8);
    pid = connect_from_child(f, 2, &hold);
    assert_counts(f, 0, 2, 0);
    let_go(pid, hold);
}

/* The daemon's own process is no stranger, whatever its tenant. */
static void test_own_pid_admitted(void **state)
{
    struct fixture *f = *state;
    struct session_peer peer;
    int fd;

    start(f, false, 8);
    f->admitting = false;
    fd = connect_to(f);
    assert_counts(f, 1, 0, 0);
    assert_int_equal(acceptor_peer(f->acceptor, f->fds[0], &peer), 0);
    assert_int_equal(peer.pid, getpid());
    close(fd);
}

static void test_no_tenant(void **state)
{
    struct fixture *f = *state;
    pid_t pid;
    int hold;

    start(f, true, 8);
    f->admitting = false;
    pid = connect_from_child(f, 1, &hold);
    assert_counts(f, 0, 1, 0);
    let_go(pid, hold);
}

static void test_peer(void **state)
{
    struct fixture *f = *state;
    struct session_peer peer = { 0 };
    pid_t pid;
    int hold, fd, other[2];

    start(f, true, 8);
    pid = connect_from_child(f, 1, &hold);
    assert_counts(f, 1, 0, 0);
    fd = f->fds[0];
    assert_int_equal(acceptor_peer(f->acceptor, fd, &peer), 0);
    assert_int_equal(peer.uid, geteuid());
    assert_int_equal(peer.gid, getegid());
    assert_int_equal(peer.pid, pid);
    assert_int_equal(acceptor_peer(f->acceptor, -1, &peer), 1);
    assert_int_equal(acceptor_peer(f->acceptor, fd + 1, &peer), 1);
    assert_int_equal(acceptor_peer(f->acceptor, 1 << 30, &peer), 1);
    close(fd);
    assert_int_equal(acceptor_peer(f->acceptor, fd, &peer), 1);
    /* the same number, another socket: nobody's */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, other), 0);
    assert_true(other[0] == fd || dup2(other[0], fd) == fd);
    assert_int_equal(acceptor_peer(f->acceptor, fd, &peer), 1);
    if (other[0] != fd)
        close(other[0]);
    close(other[1]);
    let_go(pid, hold);
}

static void test_cap_per_uid(void **state)
{
    struct fixture *f = *state;
    int clients[5];

    start(f, true, 3);
    for (int i = 0; i < 5; i++)
        clients[i] = connect_to(f);
    assert_counts(f, 3, 2, 0);
    close(f->fds[1]); /* by gRPC, which does not tell */
    f->fds[1] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(clients[4]);
    clients[4] = connect_to(f);
    assert_counts(f, 4, 2, 0);
    for (int i = 0; i < 5; i++)
        close(clients[i]);
}

/* Valgrind lets the kernel accept beyond the limit, and closes what came: no test of ours. */
static bool has_own_limits(void)
{
    const char *preload = getenv("LD_PRELOAD");

    return !preload || !strstr(preload, "vgpreload");
}

static void test_descriptors_run_out(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, limit = { 64, 64 };
    int clients[4], fillers[64], n = 0, fd;

    if (!has_own_limits())
        skip();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    start(f, true, 64);
    for (int i = 0; i < 4; i++)
        clients[i] = connect_to(f);
    while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        fillers[n++] = fd;
    assert_int_equal(errno, EMFILE);
    assert_counts(f, 0, 0, 4); /* dropped, not left hanging */
    for (int i = 0; i < 4; i++) {
        char c;

        assert_int_equal(read(clients[i], &c, 1), 0);
        close(clients[i]);
    }
    while (n)
        close(fillers[--n]);
    clients[0] = connect_to(f);
    assert_counts(f, 1, 0, 4); /* and the next is served */
    close(clients[0]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

/* The last descriptors are not given to connections. */
static void test_descriptors_reserved(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, limit = { 64, 64 };
    int clients[1], fillers[64], n = 0, fd;

    if (!has_own_limits())
        skip();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    start(f, true, 64);
    clients[0] = connect_to(f);
    while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0 && fd < 64 - 16)
        fillers[n++] = fd;
    close(fd);
    assert_counts(f, 0, 1, 0);
    close(clients[0]);
    while (n)
        close(fillers[--n]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void test_taken(void **state)
{
    struct fixture *f = *state;
    struct accept_options options = { .name = "test", .connected = connected, .user = f };
    struct acceptor *second = NULL;
    long pid = 0;

    start(f, true, 8);
    assert_int_equal(acceptor_new(&f->loop, f->path, &options, &second, &pid), ACCEPTOR_E_TAKEN);
    assert_int_equal(pid, getpid());
    assert_null(second);
}

static void test_passed_socket(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct accept_options options = { .name = "test",
                                      .allow_same_uid = true,
                                      .max_per_uid = 8,
                                      .admit = admit,
                                      .connected = connected,
                                      .user = f };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), client;

    strcpy(address.sun_path, f->path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(acceptor_new_fd(&f->loop, fd, &options, &f->acceptor), 0);
    client = connect_to(f);
    assert_counts(f, 1, 0, 0);
    close(client);
    acceptor_stop(f->acceptor);
    assert_int_equal(access(f->path, F_OK), 0); /* its owner's to remove */
    unlink(f->path);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_own_uid_refused), TEST(test_own_pid_admitted),
        TEST(test_no_tenant),       TEST(test_peer),
        TEST(test_cap_per_uid),     TEST(test_descriptors_run_out),
        TEST(test_taken),           TEST(test_descriptors_reserved),
        TEST(test_passed_socket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
