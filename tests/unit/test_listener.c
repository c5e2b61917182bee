/* listener: a path has one server; what is left over is replaced, what is alive is not */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/listener.h"

static char directory[] = "/tmp/test_listener.XXXXXX";
static char path[64];

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof path, "%s/s", directory);
    return 0;
}

static int tear_down(void **state)
{
    char lock[80];

    (void)state;
    snprintf(lock, sizeof lock, "%s.lock", path);
    unlink(lock);
    unlink(path);
    return rmdir(directory);
}

static int connect_to(const char *to)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

    strcpy(address.sun_path, to);
    r = connect(fd, (struct sockaddr *)&address, sizeof address);
    close(fd);
    return r;
}

static void test_one_server(void **state)
{
    struct listener first, second;
    long pid = -1;
    struct stat st;

    (void)state;
    assert_int_equal(listener_open(path, &first, &pid), 0);
    assert_int_equal(pid, -1);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    assert_int_equal(connect_to(path), 0);
    assert_int_equal(listener_open(path, &second, &pid), LISTENER_E_TAKEN);
    assert_int_equal(pid, getpid());
    assert_int_equal(connect_to(path), 0); /* the second try has broken nothing */
    listener_close(&first, path);
    assert_int_equal(first.fd, -1);
    assert_int_equal(connect_to(path), -1);
    assert_int_equal(listener_open(path, &second, &pid), 0);
    listener_close(&second, path);
}

/* Who is killed leaves path and lock file behind, but not the lock. */
static void test_left_over(void **state)
{
    struct listener listener;
    long pid = 0;
    pid_t child;
    int status;

    (void)state;
    child = fork();
    if (!child) {
        if (!listener_open(path, &listener, &pid))
            kill(getpid(), SIGKILL);
        _exit(1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(listener_open(path, &listener, &pid), 0);
    assert_int_equal(connect_to(path), 0);
    listener_close(&listener, path);
}

static void test_bad_paths(void **state)
{
    struct listener listener;
    char lock[80], name[200];
    long pid;

    (void)state;
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(listener_open(path, &listener, &pid), LISTENER_E_PATH);
    assert_int_equal(errno, EEXIST);
    assert_int_equal(access(path, F_OK), 0); /* not ours to remove */
    unlink(path);

    memset(name, 'x', sizeof name);
    name[0] = '/';
    name[sizeof name - 1] = '\0';
    assert_int_equal(listener_open(name, &listener, &pid), LISTENER_E_PATH);
    assert_int_equal(errno, ENAMETOOLONG);
    assert_int_equal(listener_open("/nowhere/s", &listener, &pid), LISTENER_E_PATH);
    assert_int_equal(errno, ENOENT);

    snprintf(lock, sizeof lock, "%s.lock", path);
    unlink(lock);
    assert_int_equal(symlink("/tmp/elsewhere", lock), 0); /* planted: not followed */
    assert_int_equal(listener_open(path, &listener, &pid), LISTENER_E_PATH);
    assert_int_equal(errno, ELOOP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_server),
        cmocka_unit_test(test_left_over),
        cmocka_unit_test(test_bad_paths),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
