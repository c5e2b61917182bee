#include "daemon/monitor_ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"

/* In front of each record; records begin at multiples of 8. */
struct record_head {
    uint64_t ticket, n_bytes;
};

int monitor_ring_init(struct monitor_ring *ring, uint64_t n_bytes)
{
    *ring = (struct monitor_ring){ .n_bytes = 4096 };
    while (ring->n_bytes * 2 <= n_bytes)
        ring->n_bytes *= 2;
    ring->bytes = malloc(ring->n_bytes);
    return ring->bytes ? 0 : error_origin(-ENOMEM);
}

void monitor_ring_deinit(struct monitor_ring *ring)
{
    free(ring->bytes);
    ring->bytes = NULL;
}

static void copy_in(struct monitor_ring *ring, uint64_t at, const void *from, size_t n)
{
    uint64_t place = at & (ring->n_bytes - 1);
    size_t first = n < ring->n_bytes - place ? n : ring->n_bytes - place;

    memcpy(ring->bytes + place, from, first);
    memcpy(ring->bytes, (const uint8_t *)from + first, n - first);
}

static void copy_out(const struct monitor_ring *ring, uint64_t at, void *to, size_t n)
{
    uint64_t place = at & (ring->n_bytes - 1);
    size_t first = n < ring->n_bytes - place ? n : ring->n_bytes - place;

    memcpy(to, ring->bytes + place, first);
    memcpy((uint8_t *)to + first, ring->bytes, n - first);
}

bool monitor_ring_put(struct monitor_ring *ring, uint64_t ticket, const void *head, size_t n_head,
                      const void *body, size_t n_body)
{
    struct record_head record = { ticket, n_head + n_body };
    uint64_t taken = __atomic_load_n(&ring->taken, __ATOMIC_ACQUIRE), put = ring->put;
    uint64_t n = align_up(sizeof(record) + record.n_bytes, 8);

    if (n > ring->n_bytes - (put - taken)) {
        __atomic_add_fetch(&ring->n_dropped, 1, __ATOMIC_RELAXED);
        return false;
    }
    copy_in(ring, put, &record, sizeof(record));
    copy_in(ring, put + sizeof(record), head, n_head);
    copy_in(ring, put + sizeof(record) + n_head, body, n_body);
    __atomic_store_n(&ring->put, put + n, __ATOMIC_RELEASE);
    return true;
}

uint64_t monitor_ring_ticket(const struct monitor_ring *ring)
{
    uint64_t ticket;

    if (__atomic_load_n(&ring->put, __ATOMIC_ACQUIRE) == ring->taken)
        return UINT64_MAX;
    copy_out(ring, ring->taken, &ticket, sizeof(ticket));
    return ticket;
}

size_t monitor_ring_take(struct monitor_ring *ring, void *to)
{
    struct record_head record;

    copy_out(ring, ring->taken, &record, sizeof(record));
    copy_out(ring, ring->taken + sizeof(record), to, record.n_bytes);
    __atomic_store_n(&ring->taken, ring->taken + align_up(sizeof(record) + record.n_bytes, 8),
                     __ATOMIC_RELEASE);
    return record.n_bytes;
}
