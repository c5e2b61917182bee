#include "daemon/rpc/rpc_room.h"

#include <stdbool.h>

int rpc_room_hold(struct rpc_room *room, uint64_t n_bytes, uint64_t *held)
{
    uint64_t used = __atomic_load_n(&room->used_bytes, __ATOMIC_RELAXED), new_used;

    if (n_bytes <= RPC_ROOM_FREE_BYTES)
        n_bytes = 0;
    do {
        if (n_bytes > *held && n_bytes - *held > room->limit_bytes - used)
            return 1;
        new_used = used - *held + n_bytes;
    } while (!__atomic_compare_exchange_n(&room->used_bytes, &used, new_used, true,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    *held = n_bytes;
    return 0;
}

void rpc_room_let_go(struct rpc_room *room, uint64_t *held)
{
    __atomic_sub_fetch(&room->used_bytes, *held, __ATOMIC_RELAXED);
    *held = 0;
}
