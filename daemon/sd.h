#pragma once

/* The service manager: the only door to libsystemd. Built without it, nothing is told and no socket
 * is taken. */

#include "lib/base/defs.h"

struct sd_sockets {
    int grpc, memfd, http; /* -1: not passed */
};

/**
 * sd_take_sockets() - listening sockets that were passed to us, by their names
 * Others are closed, with a line in the log. Removes the variables from the environment.
 * Thread: main, before others start.
 * Return: 0; 1 when what was passed makes no sense (logged).
 */
int sd_take_sockets(struct sd_sockets *ret_sockets);

/* What is done with each: tell it to the manager, if there is one. */
void sd_ready(const char *status);
void sd_stopping(void);
void sd_status(const char *status);
