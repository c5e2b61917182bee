#pragma once

#include <stdint.h>

/* One struct for Monitor.GetStatus, /status, /metrics and dpqctl. Meanings: proto/…/monitor.proto.
 */
struct status {
    const char *daemon_version;
    uint64_t incarnation;
    double uptime_seconds;
    const char *tenant; /* "" for sums over all */
    uint64_t arena_bytes, arena_used_bytes, arena_huge_bytes, epoch;
    uint64_t n_tiles, n_sequences, n_clients, staging_bytes, n_profiles, n_tenants;
    uint64_t tokens_appended, tokens_read, tokens_shared;
    uint64_t lookup_tokens_asked, lookup_tokens_hit;
    uint64_t tile_stored_bytes, tile_numbers, tail_bytes, tiles_evicted;
    uint64_t fine_dropped, tokens_evicted, objects_corrupt, scrubbed_bytes;
    uint64_t errors;
    uint64_t streams_green, streams_yellow, streams_red; /* of sequences in the monitor's map */
    uint64_t yellow_entries, red_entries, resets, all_clears;
    uint64_t subscribers, subscriber_lag_events, subscriber_lag_ms, events_published, events_lost;
    uint64_t monitor_tiles_dropped, monitor_untracked; /* process, as cpu_ns */
    uint64_t monitor_cpu_ns;
    uint32_t jobs_queued, jobs_running, n_workers;
    char kernels[64];
};

/** status_true_bits() - 8 * tile_stored_bytes / tile_numbers; 0 without tiles */
double status_true_bits(const struct status *status);
