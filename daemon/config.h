#pragma once

/*
 * The configuration: one INI file, every key documented in config/deltapqd.conf
 *
 * Sizes take K, M, G (powers of 1024). An unknown section or key, a bad value, a tenant twice, a
 * uid in two tenants: refused with file:line, the value, and what would be right.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "lib/base/defs.h"

enum config_outcome {
    CONFIG_E_REFUSED = 1, /* ret_message says file:line and why */
};

enum {
    CONFIG_MAX_TENANTS = 64,
    CONFIG_MAX_UIDS = 64,
    CONFIG_PATH_BYTES = 256,
    CONFIG_MESSAGE_BYTES = 512,
};

struct config_tenant {
    char name[64];               /* [a-z0-9_-]+ */
    uid_t uids[CONFIG_MAX_UIDS]; /* from numbers or user names; "self" is the daemon's own uid */
    uint32_t n_uids;
    uint64_t arena_bytes;   /* 1M … */
    uint64_t staging_bytes; /* limit for one client's segment; and for all of them together: */
    uint64_t staging_total_bytes;
    bool monitor; /* are this tenant's streams watched? */
    bool refine;  /* may this tenant's appends be sampled for a new profile? */
};

struct config {
    /* [daemon] */
    char runtime_dir[CONFIG_PATH_BYTES]; /* grpc.sock, fd.sock, lock files */
    char state_dir[CONFIG_PATH_BYTES];   /* secret, profiles/ */
    char arena_dir[CONFIG_PATH_BYTES];   /* of arenas as files on a tmpfs; "": they are memfds */
    char huge_pages[8];                  /* of arenas: "off", "try" */
    bool allow_same_uid;
    uint32_t workers; /* 0: max(2, cores - 1) */
    uint32_t max_queued_jobs;
    uint32_t max_connections_per_uid;
    uint32_t connection_idle_seconds;
    uint32_t stall_seconds; /* in which the client of a stream has to take a message */
    uint32_t grace_seconds; /* at shutdown */
    uint32_t lease_seconds;
    uint32_t scrub_seconds; /* in which each arena is verified once; 0: never */
    uint32_t ticket_seconds;
    uint32_t high_percent; /* of an arena in use: more, and it is made less than … */
    uint32_t low_percent;  /* … this, by what is cached or cold */
    uint32_t cold_seconds; /* not asked for so long: loses its fine object, then its place */
    uint64_t total_bytes;  /* of all arenas and staging together; 0: what the machine has */
    uint64_t calibration_max_bytes; /* samples held by one calibration, in a file */
    uint32_t calibration_park_seconds;
    uint32_t event_history;
    uint64_t monitor_bytes;
    char log_level[16]; /* error, warning, info, debug */
    char cpu[64];       /* kernels: "auto", "c", "avx2", … */
    /* [http] */
    char http_listen[64]; /* 127.0.0.1:9470, [::1]:9470, or "off"; loopback only */
    /* [tenant NAME] */
    struct config_tenant tenants[CONFIG_MAX_TENANTS];
    uint32_t n_tenants;
};

/**
 * config_load() - defaults, then the file
 * @path:        NULL for defaults only
 * @ret_message: 512 bytes
 * Return: 0, CONFIG_E_REFUSED, a fault.
 */
int config_load(const char *path, struct config *ret_config, char *ret_message) _must_check_;

/**
 * config_check_memory() - do all arenas and staging segments fit into what there is?
 * @ram_bytes:   what the machine has
 * @group_bytes: the limit of the control group; UINT64_MAX: none
 * @ret_message: 512 bytes
 * Return: 0, CONFIG_E_REFUSED.
 */
int config_check_memory(const struct config *config, uint64_t ram_bytes, uint64_t group_bytes,
                        char *ret_message) _must_check_;

/** config_check_machine() - config_check_memory() by this machine, and this process's groups */
int config_check_machine(const struct config *config, char *ret_message) _must_check_;

/** config_n_workers() - as asked for, or by what the machine has */
uint32_t config_n_workers(const struct config *config);

/** config_message_bytes() - what messages may take: of what a control group keeps for the daemon,
 * or would if the machine were one, the part that nothing else needs */
uint64_t config_message_bytes(const struct config *config);
