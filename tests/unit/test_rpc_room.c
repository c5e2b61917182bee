/* daemon/rpc/rpc_room.c: what messages may take */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/rpc/rpc_room.h"

static void test_limit(void **state)
{
    struct rpc_room room = { .limit_bytes = 100000 };
    uint64_t a = 0, b = 0;

    (void)state;
    assert_int_equal(rpc_room_hold(&room, 60000, &a), 0);
    assert_int_equal(rpc_room_hold(&room, 40001, &b), 1);
    assert_int_equal(b, 0);
    assert_int_equal(rpc_room_hold(&room, 40000, &b), 0);
    assert_int_equal(room.used_bytes, 100000);
    assert_int_equal(rpc_room_hold(&room, UINT64_MAX, &b), 1);
    assert_int_equal(b, 40000);
    rpc_room_let_go(&room, &a);
    rpc_room_let_go(&room, &a);
    assert_int_equal(room.used_bytes, 40000);
    rpc_room_let_go(&room, &b);
    assert_int_equal(room.used_bytes, 0);
}

/* in place of what was held, even when all is taken */
static void test_replaces(void **state)
{
    struct rpc_room room = { .limit_bytes = 100000 };
    uint64_t a = 0, b = 0;

    (void)state;
    assert_int_equal(rpc_room_hold(&room, 50000, &a), 0);
    assert_int_equal(rpc_room_hold(&room, 50000, &b), 0);
    assert_int_equal(rpc_room_hold(&room, 50001, &a), 1);
    assert_int_equal(rpc_room_hold(&room, 50000, &a), 0);
    assert_int_equal(rpc_room_hold(&room, 20000, &a), 0);
    assert_int_equal(room.used_bytes, 70000);
    assert_int_equal(rpc_room_hold(&room, 50000, &a), 0);
    assert_int_equal(room.used_bytes, 100000);
}

static void test_small_ones_always(void **state)
{
    struct rpc_room room = { .limit_bytes = 0 };
    uint64_t a = 0;

    (void)state;
    assert_int_equal(rpc_room_hold(&room, RPC_ROOM_FREE_BYTES, &a), 0);
    assert_int_equal(a, 0);
    assert_int_equal(rpc_room_hold(&room, RPC_ROOM_FREE_BYTES + 1, &a), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_replaces),
        cmocka_unit_test(test_small_ones_always),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
