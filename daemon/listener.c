#include "daemon/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/error.h"

enum { BACKLOG = 1024 };

static long read_pid(int lock_fd)
{
    char text[24] = { 0 };
    ssize_t n = pread(lock_fd, text, sizeof text - 1, 0);

    return n > 0 ? strtol(text, NULL, 10) : 0;
}

static int take_lock(const char *path, int *ret_fd, long *ret_pid)
{
    char lock[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 8], text[24];
    int fd, n;

    snprintf(lock, sizeof lock, "%s.lock", path);
    fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return LISTENER_E_PATH;
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        *ret_pid = read_pid(fd);
        close(fd);
        return LISTENER_E_TAKEN;
    }
    n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)n, 0) != n) {
        close(fd);
        return LISTENER_E_PATH;
    }
    *ret_fd = fd;
    return 0;
}

/* The lock is held: what is at the path is nobody's. Only a socket is removed, though. */
static int bind_path(const char *path, int *ret_fd)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct stat st;
    int fd, saved;

    if (!lstat(path, &st) && !S_ISSOCK(st.st_mode)) {
        errno = EEXIST;
        return LISTENER_E_PATH;
    }
    if (unlink(path) && errno != ENOENT)
        return LISTENER_E_PATH;
    strcpy(address.sun_path, path); /* its length was checked */
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_origin(-errno);
    /* Nobody can connect before listen(), so the mode between bind() and chmod() does not matter.
     */
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || chmod(path, 0660) ||
        listen(fd, BACKLOG)) {
        saved = errno;
        close(fd);
        errno = saved;
        return LISTENER_E_PATH;
    }
    *ret_fd = fd;
    return 0;
}

int listener_open(const char *path, struct listener *ret_listener, long *ret_pid)
{
    struct listener listener = LISTENER_NULL;
    int r, saved;

    if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
        errno = ENAMETOOLONG;
        return LISTENER_E_PATH;
    }
    r = take_lock(path, &listener.lock_fd, ret_pid);
    if (r)
        return r;
    r = bind_path(path, &listener.fd);
    if (r) {
        saved = errno;
        listener_close(&listener, NULL);
        errno = saved;
        return r < 0 ? error_fold(r) : r;
    }
    *ret_listener = listener;
    return 0;
}

void listener_close(struct listener *listener, const char *path)
{
    if (path && listener->fd >= 0)
        unlink(path);
    if (listener->fd >= 0)
        close(listener->fd);
    if (listener->lock_fd >= 0)
        close(listener->lock_fd);
    *listener = (struct listener)LISTENER_NULL;
}
