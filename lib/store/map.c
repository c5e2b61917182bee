/*
 * Memory that several processes see
 *
 * A memfd is made once, with its final size and every page, and then sealed against resizing: no
 * holder of a descriptor can make another one's access fault. Mode 0600 and the daemon's own uid
 * keep a read-only descriptor read-only: /proc/self/fd/N can't be reopened for writing by anybody
 * else.
 *
 * A file on a tmpfs is the same without seals. It gets its name only when what is in it is whole,
 * so that a process that dies before leaves nothing behind.
 */

#include "lib/store/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "lib/base/error.h"
#include "lib/deltapq.h"
#include "lib/store/memory.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum {
    MUCH_BYTES = 8 << 20, /* from here on huge pages are worth it */
    PAGE_BYTES = 4096,
    SIZE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW,
    TMPFS = 0x01021994, /* f_type; of memfds as well */
};

static int make_memfd(const char *name, int *ret_fd)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, flags); /* a kernel before 6.3 */
    if (fd < 0)
        return error_origin(-errno);
    *ret_fd = fd;
    return 0;
}

static bool is_shortage(int error)
{
    return error == ENOMEM || error == ENOSPC || error == EFBIG;
}

uint64_t map_available_bytes(void)
{
    const struct memory_paths paths = MEMORY_PATHS;

    return memory_available_bytes(&paths);
}

/* mmap(), of much so that its huge pages are huge pages here, too: they are, only where address and
 * offset agree to 2 MiB. MAP_FAILED as mmap() */
static void *map_shared(uint64_t n_bytes, int protection, int flags, int fd)
{
    uint64_t whole = align_up(n_bytes, PAGE_BYTES);
    uint8_t *room, *at;

    if (n_bytes < MAP_HUGE_BYTES)
        return mmap(NULL, n_bytes, protection, flags, fd, 0);
    room = mmap(NULL, whole + MAP_HUGE_BYTES, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) /* no room for that much, but for the memory alone, perhaps */
        return mmap(NULL, n_bytes, protection, flags, fd, 0);
    at = room + (MAP_HUGE_BYTES - (uintptr_t)room % MAP_HUGE_BYTES) % MAP_HUGE_BYTES;
    if (mmap(at, n_bytes, protection, flags | MAP_FIXED, fd, 0) == MAP_FAILED) {
        int error = errno;

        munmap(room, whole + MAP_HUGE_BYTES);
        errno = error;
        return MAP_FAILED;
    }
    if (at > room)
        munmap(room, (size_t)(at - room));
    munmap(at + whole, MAP_HUGE_BYTES - (size_t)(at - room));
    return at;
}

/* On failure the caller closes what is half made. */
static int map_writable(struct map *m, uint64_t n_bytes)
{
    void *bytes = map_shared(n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd);

    if (bytes == MAP_FAILED)
        return is_shortage(errno) ? MAP_E_MEMORY : error_origin(-errno);
    m->bytes = bytes;
    m->n_bytes = n_bytes;
    madvise(bytes, n_bytes, MADV_DONTDUMP);
    return 0;
}

static int fill(struct map *m, uint64_t n_bytes)
{
    /* fallocate() on a memfd has no limit of its own: it goes on until the kernel begins to kill */
    if (n_bytes > map_available_bytes())
        return MAP_E_MEMORY;
    if (fchmod(m->fd, 0600) || ftruncate(m->fd, (off_t)n_bytes) ||
        fallocate(m->fd, 0, 0, (off_t)n_bytes))
        return is_shortage(errno) ? MAP_E_MEMORY : error_origin(-errno);
    return map_writable(m, n_bytes);
}

int map_create(const char *name, uint64_t n_bytes, struct map *ret_map)
{
    _cleanup_(map_close) struct map m = MAP_NULL;
    int r;

    if (!n_bytes || n_bytes > INT64_MAX - PAGE_BYTES)
        return MAP_E_MEMORY;
    r = make_memfd(name, &m.fd);
    if (r)
        return error_fold(r);
    r = fill(&m, align_up(n_bytes, PAGE_BYTES));
    if (r)
        return r;
    if (fcntl(m.fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_SEAL))
        return error_origin(-errno);
    *ret_map = m;
    m = (struct map)MAP_NULL;
    return 0;
}

int map_create_sealed(const char *name, const void *bytes, uint64_t n_bytes, struct map *ret_map)
{
    _cleanup_(map_close) struct map m = MAP_NULL;
    void *read_only;
    int r;

    r = make_memfd(name, &m.fd);
    if (r)
        return error_fold(r);
    r = fill(&m, n_bytes);
    if (r)
        return r;
    memcpy(m.bytes, bytes, n_bytes);
    munmap(m.bytes, m.n_bytes); /* no writable mapping may be left when it is sealed */
    m.bytes = NULL;
    if (fcntl(m.fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_WRITE | F_SEAL_SEAL))
        return error_origin(-errno);
    read_only = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE, m.fd, 0); /* see map_open() */
    if (read_only == MAP_FAILED)
        return is_shortage(errno) ? MAP_E_MEMORY : error_origin(-errno);
    m.bytes = read_only;
    *ret_map = m;
    m = (struct map)MAP_NULL;
    return 0;
}

/*
 * Of the two ways to huge pages this takes transparent ones:
 *
 *     MADV_HUGEPAGE    counts where /sys/kernel/mm/transparent_hugepage/shmem_enabled is "advise"
 *     MADV_COLLAPSE    Linux 6.1 and later: at once, whatever shmem_enabled says but "deny"
 *
 * Pages of a pool (MFD_HUGETLB) would have to be set aside by an administrator, are not charged to
 * a control group, don't exist for files on a tmpfs, and are a file system of their own, which an
 * earlier or later daemon would not take the memory from.
 */
int map_make_huge(const struct map *map)
{
    uint64_t n_bytes = map->n_bytes / MAP_HUGE_BYTES * MAP_HUGE_BYTES;

    if (!n_bytes)
        return -EINVAL;
    (void)madvise(map->bytes, n_bytes, MADV_HUGEPAGE);
    return madvise(map->bytes, n_bytes, MADV_COLLAPSE) ? -errno : 0;
}

/* --- files on a tmpfs, and what an earlier process left -----------------------------------------
 */

static bool is_tmpfs(int fd)
{
    struct statfs fs;

    return !fstatfs(fd, &fs) && (uint64_t)fs.f_type == TMPFS;
}

static int lock_file(int fd)
{
    if (!flock(fd, LOCK_EX | LOCK_NB))
        return 0;
    return errno == EWOULDBLOCK ? MAP_E_TAKEN : error_origin(-errno);
}

int map_create_file(int dir_fd, uint64_t n_bytes, struct map *ret_map)
{
    _cleanup_(map_close) struct map m = MAP_NULL;
    int r;

    if (!n_bytes || n_bytes > INT64_MAX - PAGE_BYTES)
        return MAP_E_MEMORY;
    if (!is_tmpfs(dir_fd))
        return MAP_E_KIND;
    m.fd = openat(dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (m.fd < 0)
        return error_origin(-errno);
    r = fill(&m, align_up(n_bytes, PAGE_BYTES));
    if (!r)
        r = lock_file(m.fd);
    if (r)
        return r;
    *ret_map = m;
    m = (struct map)MAP_NULL;
    return 0;
}

int map_publish_file(const struct map *map, int dir_fd, const char *name)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", map->fd);
    if (linkat(AT_FDCWD, path, dir_fd, name, AT_SYMLINK_FOLLOW))
        return error_origin(-errno);
    return 0;
}

/* The seals of a memfd, or the name of a file, are what tells them from something half-made. */
static bool is_ours(int fd, struct stat *ret_st)
{
    int seals = fcntl(fd, F_GET_SEALS);
    struct stat st;

    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
        (st.st_mode & 07777) != 0600 || st.st_size <= 0 || st.st_size % PAGE_BYTES ||
        !is_tmpfs(fd) || seals < 0)
        return false;
    if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
        return false;
    if (!st.st_nlink && (seals & SIZE_SEALS) != SIZE_SEALS)
        return false;
    *ret_st = st;
    return true;
}

int map_adopt(int fd, struct map *ret_map)
{
    struct map m = { .fd = fd };
    struct stat st;
    int r;

    if (!is_ours(fd, &st))
        return MAP_E_KIND;
    if (st.st_blocks < st.st_size / 512 && fallocate(fd, 0, 0, st.st_size))
        return is_shortage(errno) ? MAP_E_MEMORY : error_origin(-errno);
    r = map_writable(&m, (uint64_t)st.st_size);
    if (r)
        return r;
    *ret_map = m;
    return 0;
}

int map_open_file(int dir_fd, const char *name, struct map *ret_map)
{
    int fd = openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int r;

    if (fd < 0 && errno == ENOENT)
        return MAP_E_NONE;
    if (fd < 0 && (errno == ELOOP || errno == EISDIR || errno == EACCES))
        return MAP_E_KIND;
    if (fd < 0)
        return error_origin(-errno);
    r = lock_file(fd);
    if (!r)
        r = map_adopt(fd, ret_map);
    if (r)
        close(fd);
    return r;
}

void *map_zeroed(uint64_t n_bytes)
{
    void *bytes;

    if (n_bytes < MUCH_BYTES)
        return calloc(1, n_bytes);
    bytes = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED)
        return NULL;
    madvise(bytes, n_bytes, MADV_HUGEPAGE);
    return bytes;
}

void map_zeroed_free(void *bytes, uint64_t n_bytes)
{
    if (n_bytes < MUCH_BYTES)
        free(bytes);
    else if (bytes)
        munmap(bytes, n_bytes);
}

/* --- read-only -------------------------------------------------------------------------------- */

int map_reopen_ro(const struct map *map, int *ret_fd)
{
    char path[32];
    int fd;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", map->fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_origin(-errno);
    *ret_fd = fd;
    return 0;
}

void map_close(struct map *map)
{
    if (map->bytes)
        munmap(map->bytes, map->n_bytes);
    if (map->fd >= 0)
        close(map->fd);
    *map = (struct map)MAP_NULL;
}

/* What is sealed against writing is mapped privately: before Linux 6.7 a shared mapping by a
 * descriptor that is open for writing is refused, and without writers it is the same. */
static int open_mapping(int fd, int seals, const struct stat *st, bool writable,
                        const void **ret_bytes, uint64_t *ret_n_bytes)
{
    void *bytes = map_shared((uint64_t)st->st_size, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                             seals & F_SEAL_WRITE ? MAP_PRIVATE : MAP_SHARED, fd);

    if (bytes == MAP_FAILED)
        return error_origin(-errno);
    *ret_bytes = bytes;
    *ret_n_bytes = (uint64_t)st->st_size;
    return 0;
}

int map_open(int fd, int seals, bool writable, const void **ret_bytes, uint64_t *ret_n_bytes)
{
    int have = fcntl(fd, F_GET_SEALS);
    struct stat st;

    if (have < 0 || (have & seals) != seals || fstat(fd, &st) || !S_ISREG(st.st_mode) ||
        st.st_size <= 0)
        return MAP_E_KIND;
    return open_mapping(fd, have, &st, writable, ret_bytes, ret_n_bytes);
}

int map_open_arena(int fd, const void **ret_bytes, uint64_t *ret_n_bytes)
{
    struct stat st;

    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size <= 0)
        return MAP_E_KIND;
    if (st.st_nlink && is_tmpfs(fd) && (st.st_mode & 07777) == 0600)
        return open_mapping(fd, 0, &st, false, ret_bytes, ret_n_bytes);
    return map_open(fd, SIZE_SEALS, false, ret_bytes, ret_n_bytes);
}

/* The public names; an outcome of map_open() is one of theirs. */
static int open_public(int fd, int seals, bool writable, const void **ret_bytes,
                       size_t *ret_n_bytes)
{
    uint64_t n_bytes = 0;
    int r;

    r = map_open(fd, seals, writable, ret_bytes, &n_bytes);
    if (r == MAP_E_KIND)
        return DPQ_E_CORRUPT;
    if (r)
        return error_fold(r);
    *ret_n_bytes = n_bytes;
    return 0;
}

int dpq_map_profile(int fd, const void **ret_bytes, size_t *ret_n_bytes)
{
    return open_public(fd, SIZE_SEALS | F_SEAL_WRITE, false, ret_bytes, ret_n_bytes);
}

int dpq_map_staging(int fd, void **ret_bytes, size_t *ret_n_bytes)
{
    return open_public(fd, SIZE_SEALS, true, (const void **)ret_bytes, ret_n_bytes);
}

void dpq_unmap(const void *bytes, size_t n_bytes)
{
    if (bytes)
        munmap((void *)bytes, n_bytes);
}
