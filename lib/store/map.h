#pragma once

/* The only mmap() calls of the project: arena, staging, profile, and their read-only views. */

#include <stdbool.h>

#include "lib/base/defs.h"

enum map_outcome {
    MAP_E_MEMORY = 1, /* the kernel would not give that much (ENOMEM, ENOSPC, EFBIG) */
    MAP_E_KIND = 2,   /* not a memfd of this size: wrong type, size or seals */
};

/* A memfd that this process made and mapped. fd < 0: none. */
struct map {
    int fd;
    uint8_t *bytes;
    uint64_t n_bytes;
};
#define MAP_NULL \
    { \
        .fd = -1 \
    }

/** map_available_bytes() - what can be had without swapping or killing anybody; all RAM if the
 * kernel does not say. map_create() refuses more than this. */
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
