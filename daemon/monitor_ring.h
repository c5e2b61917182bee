#pragma once

/*
 * A ring of records between two threads: one puts, one takes, neither waits
 *
 * A record is a ticket and bytes. Positions only grow; what is between them is in the ring, modulo
 * its size. The side that moves a position is the only one that writes it.
 */

#include <stdbool.h>

#include "lib/base/defs.h"

struct monitor_ring {
    uint8_t *bytes;
    uint64_t n_bytes;            /* a power of two */
    uint64_t put;                /* atomic, the producer's */
    uint64_t n_dropped;          /* atomic, the producer's */
    _Alignas(64) uint64_t taken; /* atomic, the consumer's */
};

/** monitor_ring_init() - @n_bytes: at least 4096; rounded down to a power of two. 0, -ENOMEM */
int monitor_ring_init(struct monitor_ring *ring, uint64_t n_bytes) _must_check_;
void monitor_ring_deinit(struct monitor_ring *ring);

/** monitor_ring_put() - head, then body; false: no room, dropped and counted. Producer's thread. */
bool monitor_ring_put(struct monitor_ring *ring, uint64_t ticket, const void *head, size_t n_head,
                      const void *body, size_t n_body);

/** monitor_ring_ticket() - of the oldest record; UINT64_MAX: there is none. Consumer's thread. */
uint64_t monitor_ring_ticket(const struct monitor_ring *ring);

/** monitor_ring_take() - the oldest record, which is there; returns its bytes
 *  @to: n_bytes of the ring are enough for any */
size_t monitor_ring_take(struct monitor_ring *ring, void *to);
