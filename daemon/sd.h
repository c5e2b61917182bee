#pragma once

/* The service manager: the only door to libsystemd. Built without it, nothing is told and no socket
 * is taken. */

#include "lib/base/defs.h"

enum { SD_MAX_KEPT = 160, SD_NAME_BYTES = 80 };

/* A descriptor that an earlier process gave to the manager to keep. */
struct sd_kept {
    char name[SD_NAME_BYTES];
    int fd; /* -1: was taken */
};

struct sd_sockets {
    int grpc, memfd, http; /* -1: not passed */
    struct sd_kept *kept;  /* named arena-… and kept-…; malloc'ed, sd_close_kept() */
    size_t n_kept;
};

/**
 * sd_take_sockets() - listening sockets that were passed to us, by their names; kept descriptors
 * Others are closed, with a line in the log. Removes the variables from the environment.
 * Thread: main, before others start.
 * Return: 0; 1 when what was passed makes no sense (logged).
 */
int sd_take_sockets(struct sd_sockets *ret_sockets);

/** sd_close_kept() - those that nobody took: the manager keeps them on */
void sd_close_kept(struct sd_sockets *sockets);

/** sd_keep() - the manager keeps a duplicate under this name, from when this returns; if there is
 * one that can (systemd: FileDescriptorStoreMax=) */
void sd_keep(const char *name, int fd);
void sd_forget(const char *name);

/* What is done with each: tell it to the manager, if there is one. */
void sd_ready(const char *status);
void sd_stopping(void);
void sd_status(const char *status);
