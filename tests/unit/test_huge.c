/* huge: what is there stays, its seals hold, and what is said of it is so */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/deltapq.h"
#include "lib/store/huge.h"

enum { MIB = 1 << 20, N_BYTES = 9 * MIB + 4096 }; /* neither a multiple of 2 MiB */

static void fill(struct map *map)
{
    for (uint64_t i = 0; i < map->n_bytes; i += 512)
        memcpy(map->bytes + i, &i, sizeof(i));
}

static void check(const uint8_t *bytes, uint64_t n_bytes)
{
    for (uint64_t i = 0; i < n_bytes; i += 512)
        assert_memory_equal(bytes + i, &i, sizeof(i));
}

/* Whatever this machine has: the kernel's yes and the count agree. */
static void test_try(void **state)
{
    struct map map = MAP_NULL;
    const void *view;
    uint64_t n = 0;
    int r, fd;

    (void)state;
    assert_int_equal(map_create("t", N_BYTES, &map), 0);
    assert_int_equal((uintptr_t)map.bytes % (2 * MIB), 0);
    fill(&map);
    r = map_make_huge(&map);
    print_message("map_make_huge: %s; %llu bytes\n", r ? strerror(-r) : "yes",
                  (unsigned long long)huge_bytes(&map));
    if (!r)
        assert_int_equal(huge_bytes(&map), 8 * MIB); /* the rest is not one */
    else
        assert_true(huge_bytes(&map) <= 8 * MIB);
    check(map.bytes, map.n_bytes);
    assert_int_equal(ftruncate(map.fd, 0), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(map_reopen_ro(&map, &fd), 0);
    assert_int_equal(map_open_arena(fd, &view, &n), 0); /* as a client does */
    assert_int_equal(n, map.n_bytes);
    assert_int_equal((uintptr_t)view % (2 * MIB), 0);
    check(view, n);
    dpq_unmap(view, n);
    close(fd);
    map_close(&map);
}

/* Nobody asked: nothing is claimed, unless the machine gives them to all. */
static void test_small_pages(void **state)
{
    struct map map = MAP_NULL, again = MAP_NULL;

    (void)state;
    assert_int_equal(map_create("t", MIB, &map), 0);
    assert_int_equal(huge_bytes(&map), 0);
    assert_int_equal(map_make_huge(&map), -EINVAL);
    map_close(&map);
    assert_int_equal(map_create("t", N_BYTES, &map), 0);
    if (!huge_bytes(&map)) {
        fill(&map);
        assert_int_equal(huge_bytes(&map), 0);
    }
    assert_int_equal(map_adopt(dup(map.fd), &again), 0);
    assert_int_equal(huge_bytes(&again), huge_bytes(&map));
    map_close(&again);
    map_close(&map);
}

/* A no is no fault. */
static void test_refused(void **state)
{
    struct map map = MAP_NULL, odd;

    (void)state;
    assert_int_equal(map_create("t", N_BYTES, &map), 0);
    odd = (struct map){ .fd = map.fd, .n_bytes = 4 * MIB };
    odd.bytes = mmap(NULL, 4 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(odd.bytes, MAP_FAILED);
    munmap(odd.bytes, 4 * MIB); /* not mapped at all */
    assert_true(map_make_huge(&odd) < 0);
    map_close(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_try),
        cmocka_unit_test(test_small_pages),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
