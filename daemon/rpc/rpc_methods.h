#pragma once

/* The handlers, one file a verb. What each does when is said by the rows of rpc_methods.c. */

#include <grpc/slice.h>

#include "daemon/rpc/rpc_call.h"

/** rpc_method_find() - the row of a path "/package.Service/Method"; NULL: there is none */
const struct rpc_method *rpc_method_find(grpc_slice path);

/* KvCache */
void rpc_attach(struct rpc_call *call, const void *message);
void rpc_create_sequence(struct rpc_call *call, const void *message);
void rpc_append(struct rpc_call *call, const void *message);
void rpc_append_stream(struct rpc_call *call, const void *message);
void rpc_read(struct rpc_call *call, const void *message);
void rpc_read_deinit(void *state);
void rpc_read_stream(struct rpc_call *call, const void *message);
void rpc_read_stream_sent(struct rpc_call *call);
void rpc_read_stream_deinit(void *state);
void rpc_export(struct rpc_call *call, const void *message);
void rpc_export_sent(struct rpc_call *call);
void rpc_export_deinit(void *state);
void rpc_import(struct rpc_call *call, const void *message);
void rpc_import_end(struct rpc_call *call);
void rpc_import_deinit(void *state);
void rpc_lookup(struct rpc_call *call, const void *message);
void rpc_lookup_deinit(void *state);
void rpc_release(struct rpc_call *call, const void *message);
void rpc_fork(struct rpc_call *call, const void *message);
void rpc_trim(struct rpc_call *call, const void *message);
void rpc_delete(struct rpc_call *call, const void *message);
void rpc_pin(struct rpc_call *call, const void *message);
void rpc_unpin(struct rpc_call *call, const void *message);

/* Profiles */
void rpc_calibrate(struct rpc_call *call, const void *message);
void rpc_calibrate_run(struct rpc_call *call);
void rpc_calibrate_over(struct rpc_call *call);
void rpc_calibrate_deinit(void *state);
void rpc_get_calibration(struct rpc_call *call, const void *message);
void rpc_refine(struct rpc_call *call, const void *message);
void rpc_install(struct rpc_call *call, const void *message);
void rpc_remove(struct rpc_call *call, const void *message);
void rpc_list(struct rpc_call *call, const void *message);
void rpc_get(struct rpc_call *call, const void *message);
void rpc_audit(struct rpc_call *call, const void *message);
void rpc_audit_deinit(void *state);

/* Monitor */
void rpc_watch(struct rpc_call *call, const void *message);
void rpc_watch_sent(struct rpc_call *call);
void rpc_watch_woken(struct rpc_call *call);
void rpc_watch_over(struct rpc_call *call);
void rpc_ack(struct rpc_call *call, const void *message);
void rpc_status(struct rpc_call *call, const void *message);
void rpc_risk(struct rpc_call *call, const void *message);
void rpc_risk_deinit(void *state);
void rpc_report(struct rpc_call *call, const void *message);
void rpc_reset(struct rpc_call *call, const void *message);

/* grpc.health.v1.Health */
void rpc_health_check(struct rpc_call *call, const void *message);
void rpc_health_watch(struct rpc_call *call, const void *message);
void rpc_health_pump(struct rpc_call *call);
void rpc_health_over(struct rpc_call *call);

/* grpc.reflection */
void rpc_reflect(struct rpc_call *call, const void *message);
