/* /status: every field of struct status, in sums and for each tenant; names as in
 * Monitor.GetStatus. 64-bit numbers that are identities, not amounts, are hexadecimal strings: JSON
 * readers round them.
 */
#include <stdlib.h>

#include "daemon/http.h"
#include "daemon/session_risk.h"
#include "daemon/status.h"

static void add_string(struct text *body, const char *name, const char *value)
{
    text_printf(body, "\"%s\":", name);
    text_json_string(body, value ? value : "");
}

/* What every tenant has of its own, and what they have together. */
static void add_amounts(struct text *body, const struct status *status)
{
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        { "arena_bytes", status->arena_bytes },
        { "arena_used_bytes", status->arena_used_bytes },
        { "arena_huge_bytes", status->arena_huge_bytes },
        { "n_tiles", status->n_tiles },
        { "n_sequences", status->n_sequences },
        { "n_clients", status->n_clients },
        { "staging_bytes", status->staging_bytes },
        { "tokens_appended", status->tokens_appended },
        { "tokens_read", status->tokens_read },
        { "tokens_shared", status->tokens_shared },
        { "lookup_tokens_asked", status->lookup_tokens_asked },
        { "lookup_tokens_hit", status->lookup_tokens_hit },
        { "tile_stored_bytes", status->tile_stored_bytes },
        { "tile_numbers", status->tile_numbers },
        { "tail_bytes", status->tail_bytes },
        { "tiles_evicted", status->tiles_evicted },
        { "fine_dropped", status->fine_dropped },
        { "tokens_evicted", status->tokens_evicted },
        { "objects_corrupt", status->objects_corrupt },
        { "scrubbed_bytes", status->scrubbed_bytes },
        { "errors", status->errors },
        { "streams_green", status->streams_green },
        { "streams_yellow", status->streams_yellow },
        { "streams_red", status->streams_red },
        { "yellow_entries", status->yellow_entries },
        { "red_entries", status->red_entries },
        { "resets", status->resets },
        { "all_clears", status->all_clears },
        { "subscribers", status->subscribers },
        { "subscriber_lag_events", status->subscriber_lag_events },
        { "subscriber_lag_ms", status->subscriber_lag_ms },
        { "events_published", status->events_published },
        { "events_lost", status->events_lost },
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        text_printf(body, "\"%s\":%llu,", rows[i].name, (unsigned long long)rows[i].value);
    text_printf(body, "\"true_bits_per_number\":%.4f", status_true_bits(status));
}

/* The worst zone of each stream: layer by layer, K's heads, then V's; [] when nothing is known. */
static void add_heat(struct text *body, struct session *session, uint32_t tenant)
{
    struct session_risk risk = { .tenant = tenant };
    uint32_t width;

    session_risk(session, &risk);
    width = risk.n_kv_heads;
    text_printf(body, ",\"heat\":[");
    for (uint32_t i = 0; i < risk.n_cells; i++) {
        const struct monitor_cell *cell = &risk.cells[i];

        if (i % (2 * width) == 0)
            text_printf(body, "%s{", i ? "," : "");
        if (i % width == 0)
            text_printf(body, "\"%s\":[", i / width % 2 ? "v" : "k");
        text_printf(body, "[\"%s\",%.3f]%s", session_zone_name(cell->zone), (double)cell->mu,
                    (i + 1) % width ? "," : "]");
        if ((i + 1) % width == 0)
            text_printf(body, "%s", i / width % 2 ? "}" : ",");
    }
    text_printf(body, "]");
    free(risk.cells);
}

static void add_tenant(struct text *body, struct session *session, uint32_t tenant,
                       const struct status *status)
{
    text_printf(body, "{");
    add_string(body, "tenant", status->tenant);
    text_printf(body, ",\"epoch\":\"%016llx\",", (unsigned long long)status->epoch);
    add_amounts(body, status);
    add_heat(body, session, tenant);
    text_printf(body, "}");
}

static void add_connections(struct text *body, const char *name, const struct acceptor *acceptor)
{
    struct accept_counts counts = { 0 };

    if (acceptor)
        acceptor_get_counts(acceptor, &counts);
    text_printf(body, "\"%s\":{\"accepted\":%llu,\"refused\":%llu,\"exhausted\":%llu}", name,
                (unsigned long long)counts.accepted, (unsigned long long)counts.refused,
                (unsigned long long)counts.exhausted);
}

void http_write_status(const struct http_sources *sources, struct text *body)
{
    static const char *const states[] = { "starting", "ready", "stopping" };
    struct status status;

    session_status(sources->session, UINT32_MAX, &status);
    text_printf(body, "{");
    add_string(body, "daemon_version", status.daemon_version);
    text_printf(body, ",\"state\":\"%s\",\"incarnation\":\"%016llx\",\"uptime_seconds\":%.3f,",
                states[sources->state], (unsigned long long)status.incarnation,
                status.uptime_seconds);
    add_string(body, "kernels", status.kernels);
    text_printf(body, ",\"n_workers\":%u,\"jobs_queued\":%u,\"jobs_running\":%u,", status.n_workers,
                status.jobs_queued, status.jobs_running);
    text_printf(body,
                "\"monitor_tiles_dropped\":%llu,\"monitor_untracked\":%llu,"
                "\"monitor_cpu_seconds\":%.6f,",
                (unsigned long long)status.monitor_tiles_dropped,
                (unsigned long long)status.monitor_untracked, (double)status.monitor_cpu_ns / 1e9);
    text_printf(body, "\"n_profiles\":%llu,\"n_tenants\":%llu,\"connections\":{",
                (unsigned long long)status.n_profiles, (unsigned long long)status.n_tenants);
    add_connections(body, "grpc", sources->grpc);
    text_printf(body, ",");
    add_connections(body, "fd", sources->side);
    text_printf(body, "},\"total\":{");
    add_amounts(body, &status);
    text_printf(body, "},\"tenants\":[");
    for (uint32_t i = 0; i < sources->config->n_tenants; i++) {
        session_status(sources->session, i, &status);
        if (i)
            text_printf(body, ",");
        add_tenant(body, sources->session, i, &status);
    }
    text_printf(body, "]}\n");
}
