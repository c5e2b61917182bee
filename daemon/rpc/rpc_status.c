#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/status.h"
#include "deltapq/v1/monitor.pb-c.h"

static void fill(Deltapq__V1__Status *reply, const struct status *status)
{
    reply->daemon_version = (char *)status->daemon_version;
    reply->incarnation = status->incarnation;
    reply->uptime_seconds = status->uptime_seconds;
    reply->tenant = (char *)status->tenant;
    reply->arena_bytes = status->arena_bytes;
    reply->arena_used_bytes = status->arena_used_bytes;
    reply->arena_huge_bytes = status->arena_huge_bytes;
    reply->epoch = status->epoch;
    reply->n_tiles = status->n_tiles;
    reply->n_sequences = status->n_sequences;
    reply->n_clients = status->n_clients;
    reply->staging_bytes = status->staging_bytes;
    reply->n_profiles = status->n_profiles;
    reply->tokens_appended = status->tokens_appended;
    reply->tokens_read = status->tokens_read;
    reply->tokens_shared = status->tokens_shared;
    reply->lookup_tokens_asked = status->lookup_tokens_asked;
    reply->lookup_tokens_hit = status->lookup_tokens_hit;
    reply->tile_stored_bytes = status->tile_stored_bytes;
    reply->tile_numbers = status->tile_numbers;
    reply->true_bits_per_number = status_true_bits(status);
    reply->tail_bytes = status->tail_bytes;
    reply->tiles_evicted = status->tiles_evicted;
    reply->fine_dropped = status->fine_dropped;
    reply->tokens_evicted = status->tokens_evicted;
    reply->objects_corrupt = status->objects_corrupt;
    reply->scrubbed_bytes = status->scrubbed_bytes;
    reply->errors = status->errors;
    reply->subscribers = status->subscribers;
    reply->subscriber_lag_events = status->subscriber_lag_events;
    reply->subscriber_lag_ms = status->subscriber_lag_ms;
    reply->events_published = status->events_published;
    reply->events_lost = status->events_lost;
    reply->jobs_queued = status->jobs_queued;
    reply->jobs_running = status->jobs_running;
    reply->n_workers = status->n_workers;
    reply->kernels = (char *)status->kernels;
}

void rpc_status(struct rpc_call *call, const void *message)
{
    Deltapq__V1__Status reply = DELTAPQ__V1__STATUS__INIT;
    struct status status;

    (void)message;
    session_status(call->server->options.session, call->tenant, &status);
    fill(&reply, &status);
    rpc_call_reply(call, &reply.base);
}
