#pragma once

/*
 * What clients say and ask about risk (session.h: how requests are made)
 *
 * A report or a reset waits in its sequence until the next tile is encoded.
 */

#include "daemon/monitor.h"
#include "daemon/session.h"

#define SESSION_MAX_RATIO 1e6

struct session_where { /* streams of a sequence; -1: all layers, both kinds, all heads */
    uint32_t tenant;
    uint64_t sequence_id;
    int32_t layer, kind, head;
};

struct session_report {
    struct session_where where;
    double ratio; /* a measured output error over its limit, 0 … SESSION_MAX_RATIO */
    /* ---- */
    struct session_error error; /* SEQUENCE, STREAM, RATIO, NOT_WATCHED, MONITOR_BYTES, MEMORY */
    uint64_t first_token;       /* the first that is coded with it in mind */
};
/** session_report() - inline; some us */
void session_report(struct session *session, struct session_report *op);

struct session_reset {
    struct session_where where;
    /* ---- */
    struct session_error error; /* as of a report, but RATIO */
    uint64_t first_token;       /* of the tile that will have no reference */
};
/** session_reset() - inline; some us */
void session_reset(struct session *session, struct session_reset *op);

struct session_risk {
    uint32_t tenant; /* UINT32_MAX: all */
    bool has_profile;
    uint8_t profile_id[32]; /* without: the profile of the sequence that was heard of last */
    uint64_t sequence_id;   /* 0: the worst of all */
    bool is_fresh;          /* all that was answered before is in it: waits for the risk thread */
    /* ---- */
    struct session_error error;
    struct monitor_counts counts;
    struct monitor_cell *cells; /* malloc'ed, the caller's: one a stream */
    uint32_t n_cells, n_kv_heads;
    uint64_t n_sequences; /* that the map is of */
};
/** session_risk() - some us a sequence: a worker thread */
void session_risk(struct session *session, struct session_risk *op);

/** session_zone_name() - "green", "yellow", "red" */
const char *session_zone_name(uint32_t zone);
