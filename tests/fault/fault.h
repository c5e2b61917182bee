#pragma once

/*
 * Calls into the C library that fail when they are told to: linked with -Wl,--wrap=NAME
 *
 * fault_arm(call, n, error): the n-th call from now on fails with this errno, once. Calls that were
 * not armed go through. One thread.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>

enum fault_call {
    FAULT_NONE,
    FAULT_MALLOC, /* malloc, calloc, realloc */
    FAULT_MMAP,
    FAULT_MEMFD_CREATE,
    FAULT_FTRUNCATE,
    FAULT_FALLOCATE,
    FAULT_LINKAT,
    FAULT_SENDMSG,
    FAULT_ACCEPT4,
    N_FAULT_CALLS
};

static struct {
    enum fault_call call;
    long left; /* 0: nothing is armed */
    int error;
    long n_failed;
} fault;

static inline void fault_arm(enum fault_call call, long n, int error)
{
    fault.call = call;
    fault.left = n;
    fault.error = error;
}

/* Return: did the armed call come? */
static inline bool fault_disarm(void)
{
    bool came = fault.call != FAULT_NONE && !fault.left;

    fault.call = FAULT_NONE;
    fault.left = 0;
    return came;
}

static inline bool fault_now(enum fault_call call)
{
    if (fault.call != call || !fault.left || --fault.left)
        return false;
    fault.n_failed++;
    errno = fault.error;
    return true;
}

static inline bool fault_check(bool good, const char *what, const char *file, int line)
{
    if (!good) {
        fprintf(stderr, "%s:%d: %s\n", file, line, what);
        return false;
    }
    return true;
}

#define MUST(condition) \
    do { \
        if (!fault_check((condition), #condition, __FILE__, __LINE__)) \
            _exit(1); \
    } while (0)

/* Open descriptors of this process: none may be lost on any way out. */
static inline int fault_n_fds(void)
{
    int n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}
