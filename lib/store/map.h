#pragma once

/* The only mmap() calls of the project: arena, staging, profile, and their read-only views. */

#include <stdbool.h>

#include "lib/base/defs.h"

enum map_outcome {
    MAP_E_MEMORY = 1, /* the kernel would not give that much (ENOMEM, ENOSPC, EFBIG) */
    MAP_E_KIND = 2,   /* wrong type, owner, mode, size or seals; or not on a tmpfs */
    MAP_E_NONE = 3,   /* no such file */
    MAP_E_TAKEN = 4,  /* another process has this file locked */
};

/* A memfd, or a file on a tmpfs, that this process made or took over, and mapped. fd < 0: none. */
struct map {
    int fd;
    uint8_t *bytes;
    uint64_t n_bytes;
};
#define MAP_NULL \
    { \
        .fd = -1 \
    }

enum { MAP_HUGE_BYTES = 2 << 20 }; /* a huge page */

/** map_available_bytes() - what can be had without swapping or killing anybody: of the machine, and
 *  of the control groups that this process is in. map_create() refuses more than this. */
uint64_t map_available_bytes(void);

/**
 * map_create() - memfd of n_bytes, mode 0600, fully allocated, sealed SHRINK|GROW|SEAL, mapped RW
 * @n_bytes: rounded up to pages
 * Return: 0, MAP_E_MEMORY, a fault.
 */
int map_create(const char *name, uint64_t n_bytes, struct map *ret_map) _must_check_;

/**
 * map_create_sealed() - memfd that holds a copy of bytes and can't be written by anybody any more
 * Mapped read-only afterwards (struct map's bytes must not be written).
 */
int map_create_sealed(const char *name, const void *bytes, uint64_t n_bytes,
                      struct map *ret_map) _must_check_;

/**
 * map_create_file() - the same as an unnamed file on a tmpfs, for where no manager keeps memfds
 * @dir_fd: of a directory that only this user can write to
 * It cannot be sealed: only this uid can resize it. It is locked against other processes that use
 * these functions, and gone with its last descriptor unless map_publish_file() gives it a name.
 * Return: 0; MAP_E_MEMORY; MAP_E_KIND, the directory is not on a tmpfs; a fault.
 */
int map_create_file(int dir_fd, uint64_t n_bytes, struct map *ret_map) _must_check_;

/** map_publish_file() - from now on @name in the directory; nothing of that name may be there */
int map_publish_file(const struct map *map, int dir_fd, const char *name) _must_check_;

/** map_open_file() - the file again, in a later process, by map_adopt()'s conditions, and locked.
 *  Return: 0; MAP_E_NONE, MAP_E_TAKEN, MAP_E_KIND, MAP_E_MEMORY; a fault. */
int map_open_file(int dir_fd, const char *name, struct map *ret_map) _must_check_;

/**
 * map_adopt() - map for writing what an earlier process made: map_create(), or map_create_file()
 * @fd: taken over when 0 is returned. Must be this user's, mode 0600, whole pages, sealed against
 *      resizing but not against writing, or a file with a name on a tmpfs; holes are filled
 * Return: 0, MAP_E_KIND, MAP_E_MEMORY, a fault.
 */
int map_adopt(int fd, struct map *ret_map) _must_check_;

/**
 * map_make_huge() - have the kernel put the memory into pages of 2 MiB, as far as it will
 * What is in it stays, and so do its seals. Takes some seconds a GiB of 4 KiB pages.
 * Return: 0, all of it but a rest; -errno of the kernel's last no, which is no fault: the memory
 *         serves as it is, and a part of it may be huge. EINVAL: also from kernels before 6.1.
 */
int map_make_huge(const struct map *map);

/** map_reopen_ro() - a second descriptor of the same memfd, O_RDONLY, made to be handed out */
int map_reopen_ro(const struct map *map, int *ret_fd) _must_check_;

/** map_close() - unmap and close; works on MAP_NULL, leaves MAP_NULL */
void map_close(struct map *map);

/**
 * map_open() - map a memfd that came from elsewhere
 * @seals: those that it must have (F_SEAL_…)
 * Unmap with munmap() by way of dpq_unmap(). Return: 0, MAP_E_KIND, a fault.
 */
int map_open(int fd, int seals, bool writable, const void **ret_bytes,
             uint64_t *ret_n_bytes) _must_check_;

/**
 * map_zeroed() - private zeroed memory, in huge pages where it is much and the kernel has some
 * A start that touches all of it has fewer pages to wait for. NULL: there is none.
 */
void *map_zeroed(uint64_t n_bytes) _must_check_;
void map_zeroed_free(void *bytes, uint64_t n_bytes); /* NULL is fine */

/** map_open_arena() - read-only, of either kind; a file can be resized by the daemon's user only */
int map_open_arena(int fd, const void **ret_bytes, uint64_t *ret_n_bytes) _must_check_;
