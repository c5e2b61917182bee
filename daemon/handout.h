#pragma once

/*
 * The side socket: descriptors for clients on this machine (wire: lib/base/side_wire.h)
 *
 *     SILENT --ATTACH ok--> ATTACHED: lives until the client closes it, or ends however it ends
 *       | --PROFILE ok--> SILENT (the time begins anew)
 *       `--refused, malformed, nothing said in time, replies not read--> closed
 *
 * An attached connection's end is the client's: session_client_gone(). All on the loop thread.
 */

#include <uv.h>

#include "daemon/accept.h"
#include "daemon/session.h"

struct handout;

struct handout_options {
    struct session *session;
    uint32_t silent_ms; /* how long an unattached connection may say nothing */
};

int handout_new(uv_loop_t *loop, const struct handout_options *options,
                struct handout **ret_handout) _must_check_;

/** handout_add_fd() - an accepted connection, which it takes. @peer: who is at the other end */
void handout_add_fd(struct handout *handout, int fd, const struct session_peer *peer);

/** handout_stop() - closes all connections: every client is gone. Then run the loop once, and free.
 *  Accepts NULL. */
void handout_stop(struct handout *handout);

/** handout_free() - accepts NULL, returns NULL */
struct handout *handout_free(struct handout *handout);
