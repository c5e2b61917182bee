#pragma once

/*
 * What is said on the side socket (fd.sock), where descriptors are handed out
 *
 * A unix stream socket; the client sends a request, the daemon answers it, in turn. All integers
 * are little-endian; both structs have a fixed size and no padding. Descriptors come as SCM_RIGHTS
 * with the first byte of the reply, in the order given here.
 *
 *   SIDE_ATTACH:  ticket from KvCache.Attach. Reply: the arena (read-only), then the staging
 * segment (read-write) if one was asked for; sizes[] in the same order. The connection is now the
 * client's life: the daemon frees its staging when it closes. SIDE_PROFILE: profile digest. Reply:
 * the sealed profile file. Needs no ticket.
 *
 * A refused request has status > 0 (errno-like), no descriptors, and a sentence in message; the
 * daemon then closes the connection.
 */

#include <stdint.h>

#define SIDE_MAGIC 0x31515044u /* "DPQ1" */

enum side_op {
    SIDE_ATTACH = 1,
    SIDE_PROFILE = 2,
};

struct side_request {
    uint32_t magic;
    uint32_t op;
    uint8_t ticket[16];
    uint8_t digest[32];
    uint8_t reserved[8]; /* 0 */
};

struct side_reply {
    uint32_t magic;
    uint32_t status;
    uint32_t n_fds;
    uint32_t reserved; /* 0 */
    uint64_t sizes[2];
    char message[96];
};

_Static_assert(sizeof(struct side_request) == 64, "wire");
_Static_assert(sizeof(struct side_reply) == 128, "wire");
