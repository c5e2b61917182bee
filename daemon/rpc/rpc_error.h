#pragma once

/*
 * What a refused request looks like on the wire: a gRPC status, its sentence, and a
 * google.rpc.Status with ErrorInfo {reason, domain "deltapq.v1", metadata {layer, kind, head,
 * token}} and, when it is worth coming again, RetryInfo.
 */

#include <grpc/slice.h>
#include <grpc/status.h>

#include "daemon/session.h"

grpc_status_code rpc_error_status(enum session_code code);

/** rpc_error_clean() - make the message UTF-8, whatever a client's text in it was, or its cut */
void rpc_error_clean(struct session_error *error);

/** rpc_error_no_room() - RESOURCE_EXHAUSTED MEMORY, to be tried again: rpc_room.h; @what: "reply"
 */
void rpc_error_no_room(struct session_error *error, const char *what, uint64_t n_bytes,
                       uint64_t limit_bytes);

/** rpc_error_details() - the packed google.rpc.Status, the caller's to unref */
grpc_slice rpc_error_details(const struct session_error *error);
