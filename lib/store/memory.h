#pragma once

/*
 * How much memory there is to have, before the kernel begins to kill
 *
 * A control group counts a page to whoever touched it first, and kills in the group when it has
 * more than its limit. So what is taken has to fit into that of each group above this process, too.
 * Both versions of control groups: memory.max, and memory.limit_in_bytes below memory/. Where there
 * is none, or it can't be read, it sets no limit.
 */

#include <stdbool.h>

#include "lib/base/defs.h"

struct memory_paths {
    const char *proc;   /* "/proc" */
    const char *cgroup; /* "/sys/fs/cgroup" */
};

#define MEMORY_PATHS \
    { \
        "/proc", "/sys/fs/cgroup" \
    }

/** memory_limit_bytes() - the least limit from this process's group up; UINT64_MAX: none */
uint64_t memory_limit_bytes(const struct memory_paths *paths);

/** memory_available_bytes() - what can be had now: of the machine (MemAvailable; all of its memory,
 * if /proc does not say), and under each limit */
uint64_t memory_available_bytes(const struct memory_paths *paths);
