#include "daemon/sd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"

#if HAVE_SYSTEMD

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

enum { BARRIER_US = 5000000 };

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

static bool is_kept(const char *name)
{
    return (!strncmp(name, "arena-", 6) || !strncmp(name, "kept-", 5)) &&
           strlen(name) < SD_NAME_BYTES;
}

static int take_kept(struct sd_sockets *sockets, int fd, const char *name)
{
    struct sd_kept *kept;

    if (sockets->n_kept == SD_MAX_KEPT) {
        close(fd);
        return 0;
    }
    kept = realloc(sockets->kept, (sockets->n_kept + 1) * sizeof(*kept));
    if (!kept) {
        log_error("no memory to take what the service manager kept");
        return 1; /* the start fails, and the manager keeps it on */
    }
    sockets->kept = kept;
    kept += sockets->n_kept++;
    strcpy(kept->name, name);
    kept->fd = fd;
    return 0;
}

int sd_take_sockets(struct sd_sockets *ret_sockets)
{
    struct sd_sockets sockets = { -1, -1, -1, NULL, 0 };
    char **names = NULL;
    int bad = 0, n = sd_listen_fds_with_names(1, &names);

    if (n < 0) {
        log_error("LISTEN_FDS: %s", strerror(-n));
        return 1;
    }
    for (int i = 0; i < n; i++) {
        const char *name = names && names[i] ? names[i] : "";

        if (is_kept(name))
            bad |= take_kept(&sockets, SD_LISTEN_FDS_START + i, name);
        else
            bad |= take(&sockets, SD_LISTEN_FDS_START + i, name);
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

/* It has the descriptor when it has closed its end of the barrier: then a kill comes too late. */
void sd_keep(const char *name, int fd)
{
    char text[SD_NAME_BYTES + 64];
    int r;

    snprintf(text, sizeof text, "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
    r = sd_pid_notify_with_fds(0, 0, text, &fd, 1);
    if (r > 0)
        r = sd_notify_barrier(0, BARRIER_US);
    if (r < 0)
        log_warning("the service manager did not take %s to keep: %s", name, strerror(-r));
}

void sd_forget(const char *name)
{
    sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

#else

int sd_take_sockets(struct sd_sockets *ret_sockets)
{
    *ret_sockets = (struct sd_sockets){ -1, -1, -1, NULL, 0 };
    return 0;
}

void sd_keep(const char *name, int fd)
{
    (void)name;
    (void)fd;
}

void sd_forget(const char *name)
{
    (void)name;
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

void sd_close_kept(struct sd_sockets *sockets)
{
    for (size_t i = 0; i < sockets->n_kept; i++) {
        if (sockets->kept[i].fd < 0)
            continue;
        if (!strncmp(sockets->kept[i].name, "arena-", 6))
            log_warning("the service manager keeps %s, which this configuration has no use for: it "
                        "takes memory until the service is stopped",
                        sockets->kept[i].name);
        close(sockets->kept[i].fd);
    }
    free(sockets->kept);
    sockets->kept = NULL;
    sockets->n_kept = 0;
}
