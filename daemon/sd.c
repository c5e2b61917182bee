#include "daemon/sd.h"

#if HAVE_SYSTEMD

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "daemon/log.h"

static int *slot_of(struct sd_sockets *sockets, const char *name)
{
    if (!strcmp(name, "grpc"))
        return &sockets->grpc;
    if (!strcmp(name, "memfd"))
        return &sockets->memfd;
    if (!strcmp(name, "http"))
        return &sockets->http;
    return NULL;
}

/* http may be TCP, the others are unix sockets: only they say who is at the other end. */
static int take(struct sd_sockets *sockets, int fd, const char *name)
{
    int *slot = slot_of(sockets, name);
    int family = slot == &sockets->http ? AF_UNSPEC : AF_UNIX;

    if (!slot || *slot >= 0) {
        log_warning("closed a passed descriptor %d: its name \"%s\" is %s", fd, name,
                    slot ? "there twice" : "none of grpc, memfd, http");
        close(fd);
        return 0;
    }
    if (sd_is_socket(fd, family, SOCK_STREAM, 1) <= 0) {
        log_error("passed descriptor %d, \"%s\", is not a listening %s socket", fd, name,
                  family == AF_UNIX ? "unix stream" : "stream");
        close(fd);
        return 1;
    }
    (void)!fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); /* cannot fail: it is a socket */
    *slot = fd;
    return 0;
}

int sd_take_sockets(struct sd_sockets *ret_sockets)
{
    struct sd_sockets sockets = { -1, -1, -1 };
    char **names = NULL;
    int bad = 0, n = sd_listen_fds_with_names(1, &names);

    if (n < 0) {
        log_error("LISTEN_FDS: %s", strerror(-n));
        return 1;
    }
    for (int i = 0; i < n; i++) {
        bad |= take(&sockets, SD_LISTEN_FDS_START + i, names && names[i] ? names[i] : "");
        if (names)
            free(names[i]);
    }
    free(names);
    *ret_sockets = sockets;
    return bad;
}

void sd_ready(const char *status)
{
    sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void sd_stopping(void)
{
    sd_notify(0, "STOPPING=1\nSTATUS=stopping");
}

void sd_status(const char *status)
{
    sd_notifyf(0, "STATUS=%s", status);
}

#else

int sd_take_sockets(struct sd_sockets *ret_sockets)
{
    *ret_sockets = (struct sd_sockets){ -1, -1, -1 };
    return 0;
}

void sd_ready(const char *status)
{
    (void)status;
}

void sd_stopping(void)
{
}

void sd_status(const char *status)
{
    (void)status;
}

#endif
