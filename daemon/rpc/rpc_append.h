#pragma once

/* What Append and AppendStream have in common: a request, and what answers it. */

#include "daemon/session.h"
#include "deltapq/v1/kv_cache.pb-c.h"
#include "lib/base/defs.h"

/**
 * rpc_append_fill() - judge a request and make the session's of it
 * @request: borrowed until done()
 * Sets neither tenant nor done. Return: 0; 1 with op->error.
 */
int rpc_append_fill(struct session_append *op,
                    const Deltapq__V1__AppendRequest *request) _must_check_;

/** rpc_append_reply() - of an op that ended without an error */
Deltapq__V1__AppendReply rpc_append_reply(const struct session_append *op);
