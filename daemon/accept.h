#pragma once

/*
 * Accepting connections ourselves, and knowing who is at the other end
 *
 * gRPC 1.51 dies for good when its own accept runs out of descriptors (CVE-2023-4785), and only who
 * accepts can read SO_PEERCRED first. Hence: our accept4(), caps, peer table; then the descriptor
 * goes to gRPC, which owns it and does not say when it closes it. An entry is live only while its
 * descriptor is still the socket noted at accept (same inode).
 */

#include <stdbool.h>
#include <uv.h>

#include "daemon/session.h"
#include "lib/base/defs.h"

struct acceptor;

struct accept_options {
    bool allow_same_uid;  /* clients with the daemon's own uid */
    uint32_t max_per_uid; /* live connections */
    /* may this peer connect at all? (has it a tenant?) */
    bool (*admit)(void *user, const struct session_peer *peer);
    void (*connected)(void *user, int fd); /* takes the descriptor; the loop thread */
    void *user;
};

struct accept_counts {
    uint64_t accepted, refused, exhausted; /* exhausted: dropped for want of descriptors */
};

/**
 * acceptor_new() - listen on a unix socket, refusing politely when another daemon does already
 * @path: bound under a flock()ed "<path>.lock"; mode 0660 (0666 with allow_same_uid false and
 *        several tenants is the directory's business)
 * Return: 0; 1 when the lock is held by a live process (its pid in *ret_pid, 0 if unknown); a
 * fault.
 */
int acceptor_new(uv_loop_t *loop, const char *path, const struct accept_options *options,
                 struct acceptor **ret_acceptor, long *ret_pid) _must_check_;

/** acceptor_stop() - no new connections; the path is unlinked. Then run the loop once, and free. */
void acceptor_stop(struct acceptor *acceptor);
struct acceptor *acceptor_free(struct acceptor *acceptor);

/** acceptor_peer() - who is behind descriptor fd? any thread. Return: 0; 1 when not ours (any more)
 */
int acceptor_peer(struct acceptor *acceptor, int fd, struct session_peer *ret_peer);

void acceptor_get_counts(const struct acceptor *acceptor, struct accept_counts *ret_counts);
