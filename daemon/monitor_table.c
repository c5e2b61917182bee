#include "daemon/monitor_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"

struct entry_stream {
    float mu;
    uint8_t zone, cause;
};

struct monitor_entry {
    struct monitor_entry *next;
    struct monitor_tile tile; /* the last one */
    struct entry_stream streams[];
};

static struct monitor_entry **place_of(struct monitor_table *table, uint64_t id)
{
    struct monitor_entry **at =
        &table->buckets[id * 0x9e3779b97f4a7c15 >> 52 & (MONITOR_TABLE_BUCKETS - 1)];

    while (*at && (*at)->tile.sequence_id != id)
        at = &(*at)->next;
    return at;
}

static size_t bytes_of(uint32_t n_streams)
{
    return sizeof(struct monitor_entry) + n_streams * sizeof(struct entry_stream);
}

int monitor_table_init(struct monitor_table *table, uint32_t n_tenants, uint64_t max_bytes)
{
    *table = (struct monitor_table){ .max_bytes = max_bytes, .n_tenants = n_tenants };
    table->n_streams = calloc(n_tenants + 1, sizeof(table->n_streams[0]));
    return table->n_streams ? 0 : error_origin(-ENOMEM);
}

void monitor_table_deinit(struct monitor_table *table)
{
    for (size_t i = 0; i < MONITOR_TABLE_BUCKETS; i++)
        while (table->buckets[i])
            monitor_table_remove(table, table->buckets[i]->tile.sequence_id);
    free(table->n_streams);
    table->n_streams = NULL;
}

static void count(struct monitor_table *table, const struct monitor_entry *entry, uint64_t by)
{
    for (uint32_t i = 0; i < entry->tile.n_streams; i++)
        table->n_streams[entry->tile.tenant][entry->streams[i].zone] += by;
}

void monitor_table_remove(struct monitor_table *table, uint64_t sequence_id)
{
    struct monitor_entry **at = place_of(table, sequence_id), *entry = *at;

    if (!entry)
        return;
    *at = entry->next;
    count(table, entry, -UINT64_C(1));
    table->n_bytes -= bytes_of(entry->tile.n_streams);
    table->n_entries--;
    if (table->latest == entry)
        table->latest = NULL;
    free(entry);
}

/* Its entry, a new one if need be; NULL: no room. */
static struct monitor_entry *entry_of(struct monitor_table *table, const struct monitor_tile *tile)
{
    struct monitor_entry **at = place_of(table, tile->sequence_id), *entry = *at;
    size_t n_bytes = bytes_of(tile->n_streams);

    if (entry)
        return entry;
    if (n_bytes <= table->max_bytes - table->n_bytes)
        entry = calloc(1, n_bytes);
    if (!entry) {
        table->n_refused++;
        return NULL;
    }
    entry->tile = *tile;
    *at = entry;
    table->n_bytes += n_bytes;
    table->n_entries++;
    count(table, entry, 1);
    return entry;
}

void monitor_table_set(struct monitor_table *table, const struct monitor_tile *tile,
                       const struct risk_course *courses)
{
    struct monitor_entry *entry = *place_of(table, tile->sequence_id);

    if (tile->tenant >= table->n_tenants)
        return;
    if (entry && entry->tile.n_streams != tile->n_streams)
        monitor_table_remove(table, tile->sequence_id);
    entry = entry_of(table, tile);
    if (!entry)
        return;
    count(table, entry, -UINT64_C(1));
    entry->tile = *tile;
    for (uint32_t i = 0; i < tile->n_streams; i++)
        entry->streams[i] = (struct entry_stream){
            .mu = courses[i].mu,
            .zone = courses[i].zone[RISK_TILE_GROUPS],
            .cause = courses[i].cause,
        };
    count(table, entry, 1);
    table->latest = entry;
}

/* --- the map ---------------------------------------------------------------------------------- */

static bool is_worse(const struct entry_stream *s, const struct monitor_cell *cell)
{
    return !cell->sequence_id || s->zone > cell->zone ||
           (s->zone == cell->zone && s->mu > cell->mu);
}

static void add(const struct monitor_entry *entry, struct monitor_heat *heat)
{
    heat->n_sequences++;
    for (uint32_t i = 0; i < heat->n_streams; i++) {
        const struct entry_stream *s = &entry->streams[i];

        if (is_worse(s, &heat->cells[i]))
            heat->cells[i] = (struct monitor_cell){ .mu = s->mu,
                                                    .zone = s->zone,
                                                    .cause = s->cause,
                                                    .sequence_id = entry->tile.sequence_id,
                                                    .first_token = entry->tile.first_token };
    }
}

static bool is_asked_for(const struct monitor_entry *entry, uint32_t tenant, uint64_t profile,
                         uint64_t sequence_id)
{
    return (tenant == UINT32_MAX || entry->tile.tenant == tenant) &&
           (!profile || entry->tile.profile == profile) &&
           (!sequence_id || entry->tile.sequence_id == sequence_id);
}

/* Whose streams the map has: the latest's that is asked for, or else any. */
static const struct monitor_entry *model_of(const struct monitor_table *table, uint32_t tenant,
                                            uint64_t profile, uint64_t sequence_id)
{
    if (table->latest && is_asked_for(table->latest, tenant, profile, sequence_id))
        return table->latest;
    for (size_t i = 0; i < MONITOR_TABLE_BUCKETS; i++)
        for (const struct monitor_entry *e = table->buckets[i]; e; e = e->next)
            if (is_asked_for(e, tenant, profile, sequence_id))
                return e;
    return NULL;
}

int monitor_table_heat(const struct monitor_table *table, uint32_t tenant, uint64_t profile,
                       uint64_t sequence_id, struct monitor_heat *ret_heat)
{
    const struct monitor_entry *model = model_of(table, tenant, profile, sequence_id);
    struct monitor_heat heat = { 0 };

    if (!model) {
        *ret_heat = heat;
        return 0;
    }
    heat.n_streams = model->tile.n_streams;
    heat.n_kv_heads = model->tile.n_kv_heads;
    heat.profile = model->tile.profile;
    heat.cells = calloc(heat.n_streams, sizeof(heat.cells[0]));
    if (!heat.cells)
        return error_origin(-ENOMEM);
    for (size_t i = 0; i < MONITOR_TABLE_BUCKETS; i++)
        for (const struct monitor_entry *e = table->buckets[i]; e; e = e->next)
            if (is_asked_for(e, tenant, heat.profile, sequence_id) &&
                e->tile.n_streams == heat.n_streams)
                add(e, &heat);
    *ret_heat = heat;
    return 0;
}
