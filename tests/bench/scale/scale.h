#pragma once

/*
 * What the files of bench_scale share
 *
 * One process conducts: it draws the rows, starts daemons, and forks a client for each thing to be
 * measured. It never uses gRPC itself, so that it can fork; clients answer in shared memory.
 */

#include <sched.h>
#include <stdbool.h>
#include <sys/types.h>

#include "clients/c/deltapq-client.h"
#include "lib/base/defs.h"

enum { SCALE_MAX_LIST = 16, SCALE_MAX_CLIENTS = 64, SCALE_MAX_POINTS = 4096 };

struct scale_list {
    double at[SCALE_MAX_LIST];
    uint32_t n;
};

struct scale_options {
    const char *daemon_path, *profile_path, *only;
    const char *counter_path, *counts_path; /* NULL: nothing is counted */
    cpu_set_t daemon_cpus, client_cpus;
    uint32_t n_workers, n_rounds;
    struct scale_list tokens, gib, clients, requests;
    double seconds; /* of each figure of `clients` and `call` */
    bool json;
};

/* --- scale_main.c ----------------------------------------------------------------------------- */

/** scale_die() - one line to stderr, and exit(1) */
_Noreturn void scale_die(const char *format, ...) _printf_(1, 2);

double scale_now(void); /* s, monotonic */

/* The clock, and the processor time of a daemon: what others on the machine take does not count. */
struct scale_time {
    double wall, cpu; /* s */
};

/* --- scale_fit.c ------------------------------------------------------------------------------ */

double scale_median(double *values, uint32_t n); /* sorts them; n ≥ 1 */
double scale_quantile(double *values, uint32_t n, double share);

/* The line of least squares through (log x, log y), and half of its slope's 95 % interval; NaN for
 * fewer than five points. */
struct scale_slope {
    double slope, half;
};
struct scale_slope scale_fit(const double *x, const double *y, uint32_t n);

/** scale_parse_list() - "128,512,2048"; false: not a list of numbers ≥ 0 */
bool scale_parse_list(const char *text, struct scale_list *ret_list);

/** scale_parse_cpus() - "0-3,8" */
bool scale_parse_cpus(const char *text, cpu_set_t *ret_cpus);

/* --- scale_rows.c ----------------------------------------------------------------------------- */

/**
 * scale_rows_draw() - n_tokens canonical rows of fp16, as if a model had computed them
 * @profile: what they are to look like
 * Return: shared memory, zeroed beyond the last whole tile; exits without it.
 */
uint8_t *scale_rows_draw(const struct dpq_profile *profile, uint32_t n_tokens);

/* --- scale_daemon.c --------------------------------------------------------------------------- */

struct scale_daemon {
    pid_t pid;
    char folder[64], socket_path[96];
    cpu_set_t cpus;
};

struct scale_daemon_args {
    const char *path;
    cpu_set_t cpus;
    uint32_t n_workers; /* 0: what the daemon takes by itself */
    uint64_t arena_bytes, staging_bytes, staging_total_bytes;
    const char *preload, *counts_path; /* NULL: nothing is counted */
};

/** scale_daemon_start() - with a configuration of its own, until it is ready; exits else */
void scale_daemon_start(const struct scale_daemon_args *args, struct scale_daemon *ret_daemon);
void scale_daemon_stop(struct scale_daemon *daemon);

/** scale_daemon_kib() - a line of its /proc/PID/status, such as "VmHWM" */
uint64_t scale_daemon_kib(const struct scale_daemon *daemon, const char *name);

/** scale_daemon_time() - now, and the processor time of all its threads so far */
struct scale_time scale_daemon_time(const struct scale_daemon *daemon);

/** scale_daemon_since() - what has gone by */
struct scale_time scale_daemon_since(const struct scale_daemon *daemon,
                                     const struct scale_time *then);

/** scale_daemon_reset_peak() - VmHWM is VmRSS again */
void scale_daemon_reset_peak(const struct scale_daemon *daemon);

/* --- scale_client.c --------------------------------------------------------------------------- */

/* What a client tells its parent. */
struct scale_answer {
    uint32_t n_points;
    double x[SCALE_MAX_POINTS], y[SCALE_MAX_POINTS];
    uint64_t n_tokens; /* done before it was told to stop */
    bool is_same;
};

/* For all clients of one run. */
struct scale_shared {
    uint32_t n_ready, go, stop; /* atomic */
    struct scale_time spent;    /* from go to stop */
    uint32_t n_sequences;       /* atomic; of all runs: no two sequences have the same token ids */
    struct scale_answer answers[SCALE_MAX_CLIENTS];
};

struct scale {
    struct scale_options options;
    const uint8_t *profile_bytes;
    size_t n_profile_bytes;
    struct dpq_profile *profile;
    uint8_t profile_id[32];
    size_t row_bytes;
    uint32_t n_tokens; /* of rows */
    const uint8_t *rows;
    struct scale_daemon daemon;
    struct scale_shared *shared;
};

/* A client in its process. */
struct scale_client {
    struct scale *scale;
    uint32_t index;
    struct dpq_client *client;
    struct dpq_client_error error;
    uint8_t *staging;
    struct scale_answer *answer;
    uint32_t *token_ids;
    double argument;
};

typedef void (*scale_job_fn)(struct scale_client *client);

/**
 * scale_run() - fork n clients, let each do a job, wait for all of them
 * @staging_tokens: how many rows its staging has; they are filled
 * @seconds:        > 0: clients begin together when all are ready, and are told to stop after that
 * time; otherwise they end by themselves Answers are cleared first. Exits when a client fails.
 */
void scale_run(struct scale *scale, uint32_t n, uint32_t staging_tokens, scale_job_fn job,
               double argument, double seconds);

/** scale_install() - the profile, once for each daemon */
void scale_install(struct scale *scale);

/* Each exits with what the daemon said when it says no. */
uint64_t scale_create(struct scale_client *c);
void scale_append(struct scale_client *c, uint64_t sequence_id, uint32_t first, uint32_t n);
void scale_read(struct scale_client *c, uint64_t sequence_id, uint32_t first, uint32_t n);
void scale_discard(struct scale_client *c, uint64_t sequence_id);
void scale_status(struct scale_client *c, struct dpq_client_status *ret_status);

/** scale_refill() - the rows of tokens first … first + n - 1, after a read has written over them */
void scale_refill(struct scale_client *c, uint32_t first, uint32_t n);

/** scale_tensor() - canonical rows of fp16, from row `first` of staging on */
struct dpq_tensor scale_tensor(const struct scale *scale, uint32_t first);

/** scale_point() - one measured (x, y) into the answer */
void scale_point(struct scale_client *c, double x, double y);

bool scale_is_told_to_stop(const struct scale_client *c);

/** scale_await_start() - until the parent says so */
void scale_await_start(struct scale_client *c);

/* --- what is measured: scale_length.c, scale_share.c, scale_limits.c ---------------------------
 */

void scale_length(struct scale *scale);      /* µs a token by length and by what is stored */
void scale_clients(struct scale *scale);     /* throughput and shares of 1, 2, 4, 8 clients */
void scale_share(struct scale *scale);       /* Read beside the library's own decode */
void scale_call(struct scale *scale);        /* a small control call */
void scale_memory(struct scale *scale);      /* the daemon's peak while it encodes */
void scale_allocations(struct scale *scale); /* counted in the daemon */
