#include "daemon/rpc/rpc_methods.h"

#include "deltapq/v1/kv_cache.pb-c.h"
#include "deltapq/v1/monitor.pb-c.h"
#include "deltapq/v1/profiles.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

#define KV_CACHE "/deltapq.v1.KvCache/"
#define PROFILES "/deltapq.v1.Profiles/"
#define MONITOR  "/deltapq.v1.Monitor/"
#define HEALTH   "/grpc.health.v1.Health/"
#define REFLECT(version) \
    { \
        .path = "/grpc.reflection." version ".ServerReflection/ServerReflectionInfo", \
        .kind = RPC_BIDI, .admission = RPC_ANYONE, \
        .request = &grpc__reflection__v1__server_reflection_request__descriptor, \
        .handle = rpc_reflect, \
    }

static const struct rpc_method methods[] = {
    { .path = KV_CACHE "Attach",
      .request = &deltapq__v1__attach_request__descriptor,
      .handle = rpc_attach },
    { .path = KV_CACHE "CreateSequence",
      .request = &deltapq__v1__create_sequence_request__descriptor,
      .handle = rpc_create_sequence },
    { .path = KV_CACHE "Append",
      .request = &deltapq__v1__append_request__descriptor,
      .handle = rpc_append },
    { .path = KV_CACHE "AppendStream",
      .kind = RPC_BIDI,
      .request = &deltapq__v1__append_request__descriptor,
      .handle = rpc_append_stream },
    { .path = KV_CACHE "Read",
      .request = &deltapq__v1__read_request__descriptor,
      .handle = rpc_read,
      .deinit = rpc_read_deinit },
    { .path = KV_CACHE "ReadStream",
      .kind = RPC_SERVER_STREAM,
      .request = &deltapq__v1__read_stream_request__descriptor,
      .ends_stalled = true,
      .handle = rpc_read_stream,
      .sent = rpc_read_stream_sent,
      .deinit = rpc_read_stream_deinit },
    { .path = KV_CACHE "Export",
      .kind = RPC_SERVER_STREAM,
      .request = &deltapq__v1__export_request__descriptor,
      .ends_stalled = true,
      .handle = rpc_export,
      .sent = rpc_export_sent,
      .deinit = rpc_export_deinit },
    { .path = KV_CACHE "Import",
      .kind = RPC_BIDI,
      .request = &deltapq__v1__import_request__descriptor,
      .ends_stalled = true,
      .handle = rpc_import,
      .half_closed = rpc_import_end,
      .deinit = rpc_import_deinit },
    { .path = KV_CACHE "Lookup",
      .request = &deltapq__v1__lookup_request__descriptor,
      .handle = rpc_lookup,
      .deinit = rpc_lookup_deinit },
    { .path = KV_CACHE "Release",
      .request = &deltapq__v1__release_request__descriptor,
      .handle = rpc_release },
    { .path = KV_CACHE "Fork",
      .request = &deltapq__v1__fork_request__descriptor,
      .handle = rpc_fork },
    { .path = KV_CACHE "Trim",
      .request = &deltapq__v1__trim_request__descriptor,
      .handle = rpc_trim },
    { .path = KV_CACHE "Delete",
      .request = &deltapq__v1__delete_request__descriptor,
      .handle = rpc_delete },
    { .path = KV_CACHE "Pin", .request = &deltapq__v1__pin_request__descriptor, .handle = rpc_pin },
    { .path = KV_CACHE "Unpin",
      .request = &deltapq__v1__unpin_request__descriptor,
      .handle = rpc_unpin },
    { .path = PROFILES "Calibrate",
      .kind = RPC_CLIENT_STREAM,
      .request = &deltapq__v1__calibrate_request__descriptor,
      .handle = rpc_calibrate,
      .half_closed = rpc_calibrate_run,
      .over = rpc_calibrate_over,
      .deinit = rpc_calibrate_deinit },
    { .path = PROFILES "GetCalibration",
      .request = &deltapq__v1__get_calibration_request__descriptor,
      .handle = rpc_get_calibration },
    { .path = PROFILES "Refine",
      .request = &deltapq__v1__refine_request__descriptor,
      .handle = rpc_refine },
    { .path = PROFILES "Install",
      .request = &deltapq__v1__install_request__descriptor,
      .handle = rpc_install },
    { .path = PROFILES "Remove",
      .request = &deltapq__v1__remove_profile_request__descriptor,
      .handle = rpc_remove },
    { .path = PROFILES "List",
      .request = &deltapq__v1__list_profiles_request__descriptor,
      .handle = rpc_list },
    { .path = PROFILES "Get",
      .request = &deltapq__v1__get_profile_request__descriptor,
      .handle = rpc_get },
    { .path = PROFILES "Audit",
      .request = &deltapq__v1__audit_request__descriptor,
      .handle = rpc_audit,
      .deinit = rpc_audit_deinit },
    { .path = MONITOR "Watch",
      .kind = RPC_SERVER_STREAM,
      .request = &deltapq__v1__watch_request__descriptor,
      .handle = rpc_watch,
      .sent = rpc_watch_sent,
      .woken = rpc_watch_woken,
      .over = rpc_watch_over },
    { .path = MONITOR "Ack", .request = &deltapq__v1__ack_request__descriptor, .handle = rpc_ack },
    { .path = MONITOR "GetStatus",
      .request = &deltapq__v1__get_status_request__descriptor,
      .handle = rpc_status },
    { .path = MONITOR "GetRisk",
      .request = &deltapq__v1__get_risk_request__descriptor,
      .handle = rpc_risk,
      .deinit = rpc_risk_deinit },
    { .path = MONITOR "Report",
      .request = &deltapq__v1__report_request__descriptor,
      .handle = rpc_report },
    { .path = MONITOR "Reset",
      .request = &deltapq__v1__reset_request__descriptor,
      .handle = rpc_reset },
    { .path = HEALTH "Check",
      .admission = RPC_ANYONE,
      .request = &grpc__health__v1__health_check_request__descriptor,
      .handle = rpc_health_check },
    { .path = HEALTH "Watch",
      .kind = RPC_SERVER_STREAM,
      .admission = RPC_ANYONE,
      .request = &grpc__health__v1__health_check_request__descriptor,
      .handle = rpc_health_watch,
      .sent = rpc_health_pump,
      .woken = rpc_health_pump,
      .over = rpc_health_over },
    REFLECT("v1"), /* one wire form */
    REFLECT("v1alpha"),
};

const struct rpc_method *rpc_method_find(grpc_slice path)
{
    for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
        if (!grpc_slice_str_cmp(path, methods[i].path))
            return &methods[i];
    }
    return NULL;
}
