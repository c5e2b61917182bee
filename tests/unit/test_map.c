/* map: what a descriptor that is handed out can be used for, and which ones are taken */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/deltapq.h"
#include "lib/store/map.h"

static void assert_fails(long r, int error)
{
    assert_int_equal(r, -1);
    assert_int_equal(errno, error);
}

/* Fully allocated, 0600, and neither holder can change its size or its seals. */
static void test_create(void **state)
{
    struct map map = MAP_NULL;
    struct stat st;

    (void)state;
    assert_int_equal(map_create("t", 10000, &map), 0);
    assert_int_equal(map.n_bytes, 12288);
    assert_int_equal(fstat(map.fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_size, 12288);
    assert_int_equal(st.st_blocks, 12288 / 512); /* before anybody has touched it */
    assert_true(fcntl(map.fd, F_GETFD) & FD_CLOEXEC);
    for (int i = 0; i < 12288; i++)
        assert_int_equal(map.bytes[i], 0);
    assert_fails(ftruncate(map.fd, 4096), EPERM);
    assert_fails(ftruncate(map.fd, 1 << 20), EPERM);
    assert_fails(fcntl(map.fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    map_close(&map);
    assert_int_equal(map.fd, -1);
    map_close(&map);
}

/* The descriptor that clients get: nothing but reading. (As another user it can't be reopened for
 * writing either: that is what mode 0600 is for.) */
static void test_reopen(void **state)
{
    struct map map = MAP_NULL;
    uint8_t byte = 0;
    void *view;
    int fd = -1;

    (void)state;
    assert_int_equal(map_create("t", 4096, &map), 0);
    assert_int_equal(map_reopen_ro(&map, &fd), 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(errno, EACCES);
    assert_fails(pwrite(fd, "x", 1, 0), EBADF);
    assert_fails(ftruncate(fd, 0), EINVAL);
    assert_fails(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), EPERM);
    assert_true(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0);
    view = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(view, MAP_FAILED);
    assert_fails(mprotect(view, 4096, PROT_READ | PROT_WRITE), EACCES);
    map.bytes[77] = 5;
    assert_int_equal(pread(fd, &byte, 1, 77), 1);
    assert_int_equal(byte, 5);
    munmap(view, 4096);
    close(fd);
    map_close(&map);
}

static void test_sealed(void **state)
{
    static const char TEXT[] = "a profile's bytes";
    struct map map = MAP_NULL;
    const void *bytes = NULL;
    size_t n = 0;
    int fd = -1;

    (void)state;
    assert_int_equal(map_create_sealed("t", TEXT, sizeof(TEXT), &map), 0);
    assert_int_equal(map.n_bytes, sizeof(TEXT)); /* exactly: its digest depends on it */
    assert_memory_equal(map.bytes, TEXT, sizeof(TEXT));
    assert_fails(pwrite(map.fd, "x", 1, 0), EPERM);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map.fd, 0), MAP_FAILED);
    assert_int_equal(map_reopen_ro(&map, &fd), 0);
    for (int i = 0; i < 2; i++) { /* by either descriptor */
        assert_int_equal(dpq_map_profile(i ? fd : map.fd, &bytes, &n), 0);
        assert_int_equal(n, sizeof(TEXT));
        assert_memory_equal(bytes, TEXT, n);
        dpq_unmap(bytes, n);
    }
    close(fd);
    map_close(&map);
}

static void test_staging(void **state)
{
    struct map map = MAP_NULL;
    void *bytes = NULL;
    size_t n = 0;

    (void)state;
    assert_int_equal(map_create("t", 8192, &map), 0);
    assert_int_equal(dpq_map_staging(map.fd, &bytes, &n), 0);
    assert_int_equal(n, 8192);
    ((uint8_t *)bytes)[8191] = 9;
    assert_int_equal(map.bytes[8191], 9);
    dpq_unmap(bytes, n);
    dpq_unmap(NULL, 0);
    assert_int_equal(dpq_map_profile(map.fd, (const void **)&bytes, &n), DPQ_E_CORRUPT);
    map_close(&map);
}

/* Anything that could shrink under our feet is refused: SIGBUS is for nobody. */
static void test_strangers(void **state)
{
    int fds[4], pipe_fds[2];
    void *bytes = NULL;
    size_t n = 0;
    FILE *file = tmpfile();

    (void)state;
    assert_non_null(file);
    assert_int_equal(pipe(pipe_fds), 0);
    fds[0] = fileno(file);
    fds[1] = pipe_fds[0];
    fds[2] = memfd_create("unsealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    fds[3] = memfd_create("empty", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    assert_int_equal(ftruncate(fds[0], 4096), 0);
    assert_int_equal(ftruncate(fds[2], 4096), 0);
    assert_int_equal(fcntl(fds[2], F_ADD_SEALS, F_SEAL_SHRINK), 0);
    assert_int_equal(fcntl(fds[3], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        assert_int_equal(dpq_map_staging(fds[i], &bytes, &n), DPQ_E_CORRUPT);
        assert_int_equal(dpq_map_profile(fds[i], (const void **)&bytes, &n), DPQ_E_CORRUPT);
    }
    assert_int_equal(dpq_map_staging(-1, &bytes, &n), DPQ_E_CORRUPT);
    assert_null(bytes);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    close(fds[2]);
    close(fds[3]);
    fclose(file);
}

static void test_too_large(void **state)
{
    struct map map = MAP_NULL;

    (void)state;
    assert_int_equal(map_create("t", 0, &map), MAP_E_MEMORY);
    assert_int_equal(map_create("t", UINT64_C(1) << 60, &map), MAP_E_MEMORY);
    assert_int_equal(map_create("t", UINT64_MAX, &map), MAP_E_MEMORY);
    assert_int_equal(map.fd, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),    cmocka_unit_test(test_reopen),
        cmocka_unit_test(test_sealed),    cmocka_unit_test(test_staging),
        cmocka_unit_test(test_strangers), cmocka_unit_test(test_too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
