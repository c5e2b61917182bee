/* Monitor.GetStatus. */
#include <stdio.h>

#include "clients/c/client_call.h"
#include "deltapq/v1/monitor.pb-c.h"

int dpq_client_get_status(struct dpq_client *client, struct dpq_client_status *ret_status,
                          struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__GetStatusRequest request = DELTAPQ__V1__GET_STATUS_REQUEST__INIT;
    const Deltapq__V1__Status *s;
    int r;

    r = client_call(client, "/deltapq.v1.Monitor/GetStatus", &request.base,
                    &deltapq__v1__status__descriptor, &message, ret_error);
    if (r)
        return r;
    s = (const Deltapq__V1__Status *)message;
    *ret_status = (struct dpq_client_status){
        .uptime_seconds = s->uptime_seconds,
        .arena_bytes = s->arena_bytes,
        .arena_used_bytes = s->arena_used_bytes,
        .staging_bytes = s->staging_bytes,
        .epoch = s->epoch,
        .n_tiles = s->n_tiles,
        .n_sequences = s->n_sequences,
        .n_clients = s->n_clients,
        .n_profiles = s->n_profiles,
        .tokens_appended = s->tokens_appended,
        .tokens_read = s->tokens_read,
        .tokens_shared = s->tokens_shared,
        .true_bits_per_number = s->true_bits_per_number,
    };
    snprintf(ret_status->daemon_version, sizeof(ret_status->daemon_version), "%s",
             s->daemon_version);
    snprintf(ret_status->tenant, sizeof(ret_status->tenant), "%s", s->tenant);
    return 0;
}
