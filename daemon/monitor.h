#pragma once

/*
 * The monitor: what became of streams, for people
 *
 * Workers step the zones of what they encode themselves (session_verdict.h): a verdict never waits.
 * Here they drop what they saw, tile by tile, each into a ring of its own; one thread takes it out,
 * keeps the latest level and zone of each stream of each sequence, counts, and tells the hub.
 *
 *     worker 0 ──ring──┐                ┌── table of sequences: heat map
 *     worker 1 ──ring──┼── risk thread ─┼── counters
 *       …              ┘   by ticket    └── hub: ZoneChanged, StreamReset, AllCleared
 *
 * Tiles of one sequence come out in the order they went in, whoever put them there. A ring that is
 * full drops the tile and counts it: the events and the map miss it, stored bytes never do. Memory
 * is what options say and no more: a sequence that finds no room in the table is not in the map.
 */

#include "daemon/hub.h"
#include "lib/base/defs.h"
#include "lib/risk/risk_tile.h"

struct monitor;

struct monitor_options {
    struct hub *hub; /* borrowed */
    uint32_t n_workers, n_tenants;
    uint64_t max_bytes;               /* half of it for rings, half for the table; at least 1 MiB */
    void (*before_drain)(void *user); /* NULL; a test's delay */
    void *user;
};

int monitor_new(const struct monitor_options *options, struct monitor **ret_monitor) _must_check_;

/** monitor_free() - takes out what is left, then ends the thread; accepts NULL, returns NULL */
struct monitor *monitor_free(struct monitor *monitor);

/* Of which sequence courses are. */
struct monitor_tile {
    uint64_t sequence_id, first_token;
    uint32_t tenant, n_streams, n_kv_heads;
    uint64_t profile;      /* whatever tells profiles apart: a part of the digest */
    uint64_t time_unix_ms; /* set by monitor_push() */
};

/**
 * monitor_push() - a tile has been committed
 * @courses: [n_streams]; copied
 * Never waits. Thread: that worker, in the order of the sequence's tiles.
 */
void monitor_push(struct monitor *monitor, uint32_t worker, const struct monitor_tile *tile,
                  const struct risk_course *courses);

/** monitor_adopt() - a sequence that begins with tiles of another or an earlier process
 *  @zones: [n_streams]. Tells nobody. Thread: any; may wait some 100 us for the risk thread. */
void monitor_adopt(struct monitor *monitor, const struct monitor_tile *tile, const uint8_t *zones);

/** monitor_forget() - the sequence is gone, and with what is on its way leaves the table
 *  Never waits. Thread: any. */
void monitor_forget(struct monitor *monitor, uint64_t sequence_id);

/** monitor_flush() - what was pushed before has been taken out when it returns; as monitor_adopt()
 */
void monitor_flush(struct monitor *monitor);

struct monitor_counts {
    uint64_t n_streams[RISK_N_ZONES]; /* now, of sequences in the table */
    uint64_t yellow_entries, red_entries, resets, all_clears;
    /* of all tenants: */
    uint64_t tiles_dropped; /* a ring was full */
    uint64_t n_sequences, sequences_untracked;
    uint64_t cpu_ns; /* of the risk thread */
};

/** monitor_counts() - @tenant: UINT32_MAX for all */
void monitor_get_counts(struct monitor *monitor, uint32_t tenant,
                        struct monitor_counts *ret_counts);

struct monitor_cell {
    float mu;
    uint8_t zone, cause;  /* enum risk_zone_name, risk_cause */
    uint64_t sequence_id; /* where; 0: nowhere */
    uint64_t first_token; /* of its last tile */
};

struct monitor_heat {
    uint32_t n_streams, n_kv_heads; /* 0: nothing is known */
    uint64_t n_sequences;
    uint64_t profile;
    struct monitor_cell *cells; /* [n_streams], malloc'ed, the caller's; the worst of each stream */
};

/**
 * monitor_heat() - the worst zone and level of each stream, over sequences
 * @tenant:      UINT32_MAX for all
 * @profile:     0: of the sequence that was heard of last
 * @sequence_id: 0: all
 * Return: 0, -ENOMEM. Takes some us a sequence.
 */
int monitor_heat(struct monitor *monitor, uint32_t tenant, uint64_t profile, uint64_t sequence_id,
                 struct monitor_heat *ret_heat) _must_check_;
