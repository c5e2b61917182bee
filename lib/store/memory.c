#include "lib/store/memory.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 + 64, N_LEVELS = 64 };

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

/* "/a/b" of the line "0::/a/b"; "" when there is none */
static void find_group(const char *proc, char ret_group[static PATH_MAX])
{
    char path[PATH_BYTES], line[PATH_MAX + 8];
    _cleanup_(close_file) FILE *f = NULL;

    *ret_group = '\0';
    snprintf(path, sizeof(path), "%s/self/cgroup", proc);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, "0::/", 4) || strstr(line, "/../"))
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(ret_group, PATH_MAX, "%.*s", PATH_MAX - 1, line + 3);
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
static uint64_t reclaimable(const char *root, const char *group)
{
    char path[2 * PATH_BYTES], line[128];
    _cleanup_(close_file) FILE *f = NULL;
    unsigned long long bytes;

    snprintf(path, sizeof(path), "%s%s/memory.stat", root, group);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "inactive_file %llu", &bytes) == 1)
            return bytes;
    return 0;
}

static uint64_t left_in(const char *root, const char *group, uint64_t limit)
{
    uint64_t used = 0, spare;

    if (!read_number(root, group, "memory.current", &used))
        return limit;
    spare = reclaimable(root, group);
    used -= spare < used ? spare : used;
    return used < limit ? limit - used : 0;
}

/* The least over all groups, from this process's to the root; of limits, or of what is left. */
static uint64_t least(const struct memory_paths *paths, bool left)
{
    char group[PATH_MAX], *end;
    uint64_t result = UINT64_MAX, limit;

    find_group(paths->proc, group);
    for (int i = 0; i < N_LEVELS; i++) {
        if (read_number(paths->cgroup, group, "memory.max", &limit)) {
            if (left)
                limit = left_in(paths->cgroup, group, limit);
            result = limit < result ? limit : result;
        }
        end = strrchr(group, '/');
        if (!end)
            break;
        *end = '\0';
    }
    return result;
}

uint64_t memory_limit_bytes(const struct memory_paths *paths)
{
    return least(paths, /* left= */ false);
}

uint64_t memory_available_bytes(const struct memory_paths *paths)
{
    uint64_t machine = machine_bytes(paths->proc), group = least(paths, /* left= */ true);

    return machine < group ? machine : group;
}
