/*
 * /metrics: Prometheus text format 0.0.4
 *
 * Two tables, one of the process's series and one of each tenant's. All series are there from the
 * start, so that a rate never begins at nothing. Sums over tenants are the reader's: sum().
 */
#include "daemon/http.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/status.h"

enum kind { GAUGE, COUNTER, MILLISECONDS /* a gauge, shown in seconds */ };

static void add_head(struct text *body, enum kind kind, const char *name, const char *help)
{
    text_printf(body, "# HELP deltapq_%s %s\n# TYPE deltapq_%s %s\n", name, help, name,
                kind == COUNTER ? "counter" : "gauge");
}

static unsigned long long read_u64(const void *base, size_t offset)
{
    uint64_t value;

    memcpy(&value, (const char *)base + offset, sizeof value);
    return value;
}

/* --- the process ------------------------------------------------------------------------------ */

static void add_gauge(struct text *body, const char *name, const char *help, double value)
{
    add_head(body, GAUGE, name, help);
    text_printf(body, "deltapq_%s %.15g\n", name, value);
}

static void add_counter(struct text *body, const char *name, const char *help, double value)
{
    add_head(body, COUNTER, name, help);
    text_printf(body, "deltapq_%s %.15g\n", name, value);
}

static void add_process(struct text *body, const struct http_sources *sources,
                        const struct status *status)
{
    add_head(body, GAUGE, "build_info", "Always 1; the labels say what is running.");
    text_printf(body, "deltapq_build_info{version=");
    text_label(body, status->daemon_version ? status->daemon_version : "");
    text_printf(body, ",kernels=");
    text_label(body, status->kernels);
    text_printf(body, "} 1\n");
    add_gauge(body, "ready", "1 when requests are answered.", sources->state == HTTP_READY);
    add_gauge(body, "uptime_seconds", "Time since the daemon started.", status->uptime_seconds);
    add_gauge(body, "profiles", "Installed profiles.", (double)status->n_profiles);
    add_gauge(body, "workers", "Threads that encode and decode.", status->n_workers);
    add_gauge(body, "jobs_queued", "Jobs that wait for a worker.", status->jobs_queued);
    add_gauge(body, "jobs_running", "Jobs at work.", status->jobs_running);
    add_counter(body, "monitor_tiles_dropped_total", "Tiles that the monitor had no time for.",
                (double)status->monitor_tiles_dropped);
    add_counter(body, "monitor_untracked_total", "Times that its map had no room for a sequence.",
                (double)status->monitor_untracked);
    add_counter(body, "monitor_cpu_seconds_total", "Processor time of the risk thread.",
                (double)status->monitor_cpu_ns / 1e9);
}

static void add_connections(struct text *body, const struct http_sources *sources)
{
    static const struct {
        const char *name, *help;
        size_t offset;
    } series[] = {
        { "connections_accepted_total", "Connections that were let in.",
          offsetof(struct accept_counts, accepted) },
        { "connections_refused_total", "Connections closed because of who they came from.",
          offsetof(struct accept_counts, refused) },
        { "connections_exhausted_total", "Connections closed for want of descriptors.",
          offsetof(struct accept_counts, exhausted) },
    };
    const struct acceptor *acceptors[] = { sources->grpc, sources->side };
    static const char *const sockets[] = { "grpc", "fd" };

    for (size_t i = 0; i < ARRAY_SIZE(series); i++) {
        add_head(body, COUNTER, series[i].name, series[i].help);
        for (size_t j = 0; j < ARRAY_SIZE(acceptors); j++) {
            struct accept_counts counts = { 0 };

            if (acceptors[j])
                acceptor_get_counts(acceptors[j], &counts);
            text_printf(body, "deltapq_%s{socket=\"%s\"} %llu\n", series[i].name, sockets[j],
                        read_u64(&counts, series[i].offset));
        }
    }
}

/* --- each tenant ------------------------------------------------------------------------------ */

#define OF(field) offsetof(struct status, field)

static const struct {
    const char *name;
    size_t offset; /* of a uint64_t in struct status */
    enum kind kind;
    const char *help;
} tenant_series[] = {
    { "arena_bytes", OF(arena_bytes), GAUGE, "Size of the shared memory for tiles." },
    { "arena_used_bytes", OF(arena_used_bytes), GAUGE, "Part of the arena that is in use." },
    { "arena_huge_bytes", OF(arena_huge_bytes), GAUGE,
      "Part of the arena that was in huge pages when it was opened." },
    { "tiles", OF(n_tiles), GAUGE, "Tiles held." },
    { "tile_stored_bytes", OF(tile_stored_bytes), GAUGE,
      "Bytes of the tiles held, everything counted." },
    { "tile_numbers", OF(tile_numbers), GAUGE, "Numbers that the tiles held stand for." },
    { "tail_bytes", OF(tail_bytes), GAUGE, "Bytes of tokens not yet in a tile." },
    { "sequences", OF(n_sequences), GAUGE, "Open sequences." },
    { "clients", OF(n_clients), GAUGE, "Attached clients." },
    { "staging_bytes", OF(staging_bytes), GAUGE, "Staging memory handed out to clients." },
    { "tokens_appended_total", OF(tokens_appended), COUNTER, "Tokens stored." },
    { "tokens_read_total", OF(tokens_read), COUNTER, "Tokens given back by Read." },
    { "tokens_shared_total", OF(tokens_shared), COUNTER,
      "Tokens appended that were stored already." },
    { "lookup_tokens_asked_total", OF(lookup_tokens_asked), COUNTER,
      "Tokens that clients looked for." },
    { "lookup_tokens_hit_total", OF(lookup_tokens_hit), COUNTER,
      "Tokens of those that were found." },
    { "tiles_evicted_total", OF(tiles_evicted), COUNTER, "Tiles given up to make room." },
    { "fine_dropped_total", OF(fine_dropped), COUNTER, "Fine planes given up to make room." },
    { "tokens_evicted_total", OF(tokens_evicted), COUNTER,
      "Tokens of open sequences given up to make room." },
    { "objects_corrupt_total", OF(objects_corrupt), COUNTER,
      "Stored objects that did not match their checksum." },
    { "scrubbed_bytes_total", OF(scrubbed_bytes), COUNTER,
      "Stored bytes that the scrubber has verified." },
    { "request_errors_total", OF(errors), COUNTER, "Requests answered with an error." },
    { "streams_green", OF(streams_green), GAUGE, "Watched streams that are coded as planned." },
    { "streams_yellow", OF(streams_yellow), GAUGE, "Watched streams with a plane more." },
    { "streams_red", OF(streams_red), GAUGE, "Watched streams without a reference." },
    { "yellow_entries_total", OF(yellow_entries), COUNTER,
      "Streams that went from green to yellow." },
    { "red_entries_total", OF(red_entries), COUNTER, "Streams that went red." },
    { "stream_resets_total", OF(resets), COUNTER, "Streams that began anew." },
    { "all_clears_total", OF(all_clears), COUNTER,
      "Sequences whose streams were all green again." },
    { "subscribers", OF(subscribers), GAUGE, "Subscribers of events." },
    { "subscriber_lag_events", OF(subscriber_lag_events), GAUGE,
      "Events that the slowest subscriber has not acknowledged." },
    { "subscriber_lag_seconds", OF(subscriber_lag_ms), MILLISECONDS,
      "Age of the oldest event that a subscriber has not acknowledged." },
    { "events_published_total", OF(events_published), COUNTER, "Events." },
    { "events_lost_total", OF(events_lost), COUNTER,
      "Events that subscribers were too slow for, each counted for each." },
};

static void add_value(struct text *body, enum kind kind, unsigned long long value)
{
    if (kind == MILLISECONDS)
        text_printf(body, "} %.3f\n", (double)value / 1e3);
    else
        text_printf(body, "} %llu\n", value);
}

static void add_tenants(struct text *body, const struct http_sources *sources)
{
    uint32_t n = sources->config->n_tenants;
    struct status *all = calloc(n + 1, sizeof *all); /* one moment's for all series */

    if (!all) {
        body->failed = true;
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        session_status(sources->session, i, &all[i]);
    for (size_t i = 0; i < ARRAY_SIZE(tenant_series); i++) {
        add_head(body, tenant_series[i].kind, tenant_series[i].name, tenant_series[i].help);
        for (uint32_t j = 0; j < n; j++) {
            text_printf(body, "deltapq_%s{tenant=", tenant_series[i].name);
            text_label(body, sources->config->tenants[j].name);
            add_value(body, tenant_series[i].kind, read_u64(&all[j], tenant_series[i].offset));
        }
    }
    free(all);
}

void http_write_metrics(const struct http_sources *sources, struct text *body)
{
    struct status status;

    session_status(sources->session, UINT32_MAX, &status);
    add_process(body, sources, &status);
    add_connections(body, sources);
    add_tenants(body, sources);
}
