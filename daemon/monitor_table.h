#pragma once

/*
 * The latest level and zone of each stream of each sequence, in bounded memory
 *
 * Thread: the caller's lock.
 */

#include "daemon/monitor.h"

enum { MONITOR_TABLE_BUCKETS = 4096 };

struct monitor_entry;

struct monitor_table {
    struct monitor_entry *buckets[MONITOR_TABLE_BUCKETS];
    struct monitor_entry *latest; /* heard of last; NULL: it is gone */
    uint64_t n_bytes, max_bytes;
    uint64_t n_entries, n_refused;
    uint32_t n_tenants;
    uint64_t (*n_streams)[RISK_N_ZONES]; /* [n_tenants] */
};

int monitor_table_init(struct monitor_table *table, uint32_t n_tenants,
                       uint64_t max_bytes) _must_check_;
void monitor_table_deinit(struct monitor_table *table);

/** monitor_table_set() - a tile of the sequence; one with other streams than before counts as a
 *  new sequence. Nothing when there is no room. */
void monitor_table_set(struct monitor_table *table, const struct monitor_tile *tile,
                       const struct risk_course *courses);

/** monitor_table_remove() - nothing if there is none */
void monitor_table_remove(struct monitor_table *table, uint64_t sequence_id);

/** monitor_table_heat() - monitor_heat() */
int monitor_table_heat(const struct monitor_table *table, uint32_t tenant, uint64_t profile,
                       uint64_t sequence_id, struct monitor_heat *ret_heat) _must_check_;
