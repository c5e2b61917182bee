#pragma once

/*
 * Accepting connections ourselves, and knowing who is at the other end
 *
 * gRPC 1.51 dies for good when its own accept runs out of descriptors (CVE-2023-4785), and only who
 * accepts can read SO_PEERCRED first. Hence: our accept4(), caps, peer table; then the descriptor
 * goes to gRPC, which owns it and does not say when it closes it. An entry is live only while its
 * descriptor is still the socket noted at accept (same inode).
 *
 *     readable -> accept4 -> peer's uid -> own uid? -> known uid? -> below the cap? -> connected()
 *                    |                        `----------`--------------`-> closed, counted
 *                    `-> no descriptors left: give up the spare one, accept, close, take it back
 */

#include <stdbool.h>
#include <uv.h>

#include "daemon/session.h"
#include "lib/base/defs.h"

struct acceptor;

struct accept_options {
    const char *name;     /* for the log: "grpc" */
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

enum acceptor_outcome {
    ACCEPTOR_E_TAKEN = 1, /* another live process serves this path */
    ACCEPTOR_E_PATH = 2,  /* the path cannot be used: errno says why */
};

/**
 * acceptor_new() - listen on a unix socket, refusing politely when another daemon does already
 * @path: bound under a flock()ed "<path>.lock"; mode 0660 (0666 with allow_same_uid false and
 *        several tenants is the directory's business)
 * Return: 0; ACCEPTOR_E_TAKEN (the pid in *ret_pid, 0 if unknown); ACCEPTOR_E_PATH; a fault.
 */
int acceptor_new(uv_loop_t *loop, const char *path, const struct accept_options *options,
                 struct acceptor **ret_acceptor, long *ret_pid) _must_check_;

/** acceptor_new_fd() - the same for a listening socket that was passed to us, which it takes */
int acceptor_new_fd(uv_loop_t *loop, int fd, const struct accept_options *options,
                    struct acceptor **ret_acceptor) _must_check_;

/** acceptor_stop() - no new connections; the path is unlinked. Then run the loop once, and free.
 *  Accepts NULL; a second call does nothing. */
void acceptor_stop(struct acceptor *acceptor);

/** acceptor_free() - after acceptor_stop() and a turn of the loop. Accepts NULL, returns NULL */
struct acceptor *acceptor_free(struct acceptor *acceptor);

/** acceptor_peer() - who is behind descriptor fd? any thread. Return: 0; 1 when not ours (any more)
 */
int acceptor_peer(struct acceptor *acceptor, int fd, struct session_peer *ret_peer);

void acceptor_get_counts(const struct acceptor *acceptor, struct accept_counts *ret_counts);
