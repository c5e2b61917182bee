#include "lib/store/memory.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 + 64, N_LEVELS = 64, NO_LIMIT_BYTES = 1 << 20 };

static void close_file(FILE **f)
{
    if (*f)
        fclose(*f);
}

/* --- the machine ------------------------------------------------------------------------------ */

static uint64_t machine_bytes(const char *proc)
{
    char path[PATH_BYTES], line[128];
    unsigned long long kib;
    _cleanup_(close_file) FILE *f = NULL;

    snprintf(path, sizeof(path), "%s/meminfo", proc);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            return kib << 10;
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* --- control groups --------------------------------------------------------------------------- */

/* Version 2, and 1, whose controllers have hierarchies of their own. */
static const struct hierarchy {
    const char *controller;           /* in /proc/self/cgroup; "" in version 2's line */
    const char *mount;                /* behind paths.cgroup */
    const char *limit, *used, *spare; /* the last is a line of memory.stat */
} HIERARCHIES[] = {
    { "", "", "memory.max", "memory.current", "inactive_file" },
    { "memory", "/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
      "total_inactive_file" },
};

/* Is it one of "a,b,c"? */
static bool is_listed(const char *list, const char *word)
{
    size_t n = strlen(word), n_item;

    for (;; list += n_item + 1) {
        n_item = strcspn(list, ",");
        if (n_item == n && !memcmp(list, word, n))
            return true;
        if (!list[n_item])
            return false;
    }
}

/* "/a/b" of the line "0::/a/b", or "4:memory:/a/b"; "" when there is none */
static void find_group(const char *proc, const char *controller, char ret_group[static PATH_MAX])
{
    char path[PATH_BYTES], line[PATH_MAX + 8], *controllers, *group;
    _cleanup_(close_file) FILE *f = NULL;

    *ret_group = '\0';
    snprintf(path, sizeof(path), "%s/self/cgroup", proc);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        controllers = strchr(line, ':');
        group = controllers ? strchr(++controllers, ':') : NULL;
        if (!group || group[1] != '/' || strstr(group, "/../"))
            continue;
        *group++ = '\0';
        if (!is_listed(controllers, controller))
            continue;
        group[strcspn(group, "\n")] = '\0';
        snprintf(ret_group, PATH_MAX, "%.*s", PATH_MAX - 1, group);
        return;
    }
}

/* Of "max" and whatever else is no number: false. */
static bool read_number(const char *root, const char *group, const char *name, uint64_t *ret_number)
{
    char path[2 * PATH_BYTES], text[32], *end;
    _cleanup_(close_file) FILE *f = NULL;
    unsigned long long number;

    snprintf(path, sizeof(path), "%s%s/%s", root, group, name);
    f = fopen(path, "re");
    if (!f || !fgets(text, sizeof(text), f) || *text < '0' || *text > '9')
        return false;
    number = strtoull(text, &end, 10);
    if (*end && *end != '\n')
        return false;
    *ret_number = number;
    return true;
}

/* What the group has that costs nothing to take from it. */
static uint64_t reclaimable(const struct hierarchy *h, const char *root, const char *group)
{
    char path[2 * PATH_BYTES], line[128];
    _cleanup_(close_file) FILE *f = NULL;
    size_t n = strlen(h->spare);

    snprintf(path, sizeof(path), "%s%s/memory.stat", root, group);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (!strncmp(line, h->spare, n) && line[n] == ' ')
            return strtoull(line + n, NULL, 10);
    return 0;
}

static uint64_t left_in(const struct hierarchy *h, const char *root, const char *group,
                        uint64_t limit)
{
    uint64_t used = 0, spare;

    if (!read_number(root, group, h->used, &used))
        return limit;
    spare = reclaimable(h, root, group);
    used -= spare < used ? spare : used;
    return used < limit ? limit - used : 0;
}

/* The least over all groups, from this process's to the root; of limits, or of what is left. A
 * limit of version 1 that was never set is the largest number of whole pages. */
static uint64_t least(const struct memory_paths *paths, const struct hierarchy *h, bool left)
{
    char root[PATH_BYTES], group[PATH_MAX], *end;
    uint64_t result = UINT64_MAX, limit;

    snprintf(root, sizeof(root), "%s%s", paths->cgroup, h->mount);
    find_group(paths->proc, h->controller, group);
    for (int i = 0; i < N_LEVELS; i++) {
        if (read_number(root, group, h->limit, &limit) && limit < INT64_MAX - NO_LIMIT_BYTES) {
            if (left)
                limit = left_in(h, root, group, limit);
            result = limit < result ? limit : result;
        }
        end = strrchr(group, '/');
        if (!end)
            break;
        *end = '\0';
    }
    return result;
}

static uint64_t least_of_all(const struct memory_paths *paths, bool left)
{
    uint64_t result = UINT64_MAX;

    for (size_t i = 0; i < ARRAY_SIZE(HIERARCHIES); i++) {
        uint64_t bytes = least(paths, &HIERARCHIES[i], left);

        result = bytes < result ? bytes : result;
    }
    return result;
}

uint64_t memory_limit_bytes(const struct memory_paths *paths)
{
    return least_of_all(paths, /* left= */ false);
}

uint64_t memory_available_bytes(const struct memory_paths *paths)
{
    uint64_t machine = machine_bytes(paths->proc), group = least_of_all(paths, /* left= */ true);

    return machine < group ? machine : group;
}
