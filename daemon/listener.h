#pragma once

/* A listening unix socket that no second daemon can take over, and a live one never loses. */

#include "lib/base/defs.h"

enum listener_outcome {
    LISTENER_E_TAKEN = 1, /* another process holds the lock */
    LISTENER_E_PATH = 2,  /* the path cannot be used: errno says why */
};

/* Both descriptors are -1 where there is none; the lock lasts as long as lock_fd is open. */
struct listener {
    int fd, lock_fd;
};

#define LISTENER_NULL \
    { \
        .fd = -1, .lock_fd = -1 \
    }

/**
 * listener_open() - lock "<path>.lock", bind path (a left-over socket there is replaced), listen
 * @ret_pid: with LISTENER_E_TAKEN the holder's pid, 0 when it cannot be read; else not touched
 *
 * The lock, not the path, is what tells a stale socket from a live one. It goes when its holder
 * ends, however it ends. The socket has mode 0660.
 *
 * Return: 0, an outcome, a fault.
 */
int listener_open(const char *path, struct listener *ret_listener, long *ret_pid) _must_check_;

/** listener_close() - closes both; @path: unlinked first, NULL to leave it */
void listener_close(struct listener *listener, const char *path);
