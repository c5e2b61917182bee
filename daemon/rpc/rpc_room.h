#pragma once

/*
 * Room for messages: what all calls may hold together
 *
 * A client that sends and does not take what comes back makes the daemon hold a message for each of
 * its calls; many of them would take more memory than a control group allows, and the kernel would
 * kill the daemon with everybody's cache in it. So a call takes room for a request as long as it
 * works on it, and for a reply until the transport has taken it, and is refused when there is none.
 * What gRPC holds of messages that are not complete yet has a limit of its own, its resource quota.
 */

#include <stdint.h>

#include "lib/base/defs.h"

enum {
    RPC_ROOM_FREE_BYTES = 4096, /* not counted: small calls work when there is no room */
};

struct rpc_room {
    uint64_t limit_bytes, used_bytes; /* the latter atomic */
};

/**
 * rpc_room_hold() - have room for @n_bytes, in place of what was held
 * @held: in and out: bytes that are counted; of one message, so of one thread at a time
 * Return: 0; 1, there is not enough, and what was held still is.
 */
int rpc_room_hold(struct rpc_room *room, uint64_t n_bytes, uint64_t *held) _must_check_;

/** rpc_room_let_go() - hold nothing */
void rpc_room_let_go(struct rpc_room *room, uint64_t *held);
