/* Clients: each a process, forked before anything of gRPC has run in it */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/scale/scale.h"

enum { TIMEOUT_MS = 600000, READY_SECONDS = 600 };

static void check(const struct scale_client *c, int r, const char *what)
{
    if (!r)
        return;
    scale_die("client %u: %s: %d %s %s", c->index, what, r, c->error.reason, c->error.message);
}

struct dpq_tensor scale_tensor(const struct scale *scale, uint32_t first)
{
    const struct dpq_geometry *g = dpq_profile_geometry(scale->profile);
    int64_t head = g->head_dim * 2;

    return (struct dpq_tensor){ .dtype = DPQ_F16,
                                .offset = first * scale->row_bytes,
                                .stride_head = head,
                                .stride_kind = head * g->n_kv_heads,
                                .stride_layer = head * g->n_kv_heads * 2,
                                .stride_token = (int64_t)scale->row_bytes };
}

/* --- calls ------------------------------------------------------------------------------------ */

uint64_t scale_create(struct scale_client *c)
{
    struct dpq_client_prefix prefix = { .profile_id = c->scale->profile_id };
    uint64_t id = 0;

    c->token_ids[0] = __atomic_add_fetch(&c->scale->shared->n_sequences, 1, __ATOMIC_RELAXED);
    check(c, dpq_client_create_sequence(c->client, &prefix, &id, NULL, &c->error),
          "CreateSequence");
    return id;
}

void scale_append(struct scale_client *c, uint64_t sequence_id, uint32_t first, uint32_t n)
{
    struct dpq_client_append_args args = { .sequence_id = sequence_id,
                                           .first_token = first,
                                           .n_tokens = n,
                                           .token_ids = c->token_ids + first,
                                           .tensor = scale_tensor(c->scale, first) };

    check(c, dpq_client_append(c->client, &args, NULL, &c->error), "Append");
}

void scale_read(struct scale_client *c, uint64_t sequence_id, uint32_t first, uint32_t n)
{
    struct dpq_client_read_args args = { .sequence_id = sequence_id,
                                         .first_token = first,
                                         .n_tokens = n,
                                         .tensor = scale_tensor(c->scale, first) };

    check(c, dpq_client_read(c->client, &args, NULL, &c->error), "Read");
}

void scale_discard(struct scale_client *c, uint64_t sequence_id)
{
    check(c, dpq_client_release(c->client, sequence_id, /* discard= */ true, NULL, &c->error),
          "Release");
}

void scale_status(struct scale_client *c, struct dpq_client_status *ret_status)
{
    check(c, dpq_client_get_status(c->client, ret_status, &c->error), "GetStatus");
}

void scale_refill(struct scale_client *c, uint32_t first, uint32_t n)
{
    size_t row = c->scale->row_bytes;

    memcpy(c->staging + first * row, c->scale->rows + first * row, n * row);
}

static void install(struct scale_client *c)
{
    const struct scale *scale = c->scale;
    uint8_t id[32];

    check(c,
          dpq_client_install_profile(c->client, scale->profile_bytes, scale->n_profile_bytes, id,
                                     &c->error),
          "Install");
}

void scale_install(struct scale *scale)
{
    scale_run(scale, 1, 0, install, 0, 0);
}

/* --- what is told ----------------------------------------------------------------------------- */

void scale_point(struct scale_client *c, double x, double y)
{
    struct scale_answer *a = c->answer;

    if (a->n_points == SCALE_MAX_POINTS)
        return;
    a->x[a->n_points] = x;
    a->y[a->n_points++] = y;
}

bool scale_is_told_to_stop(const struct scale_client *c)
{
    return __atomic_load_n(&c->scale->shared->stop, __ATOMIC_RELAXED);
}

void scale_await_start(struct scale_client *c)
{
    __atomic_add_fetch(&c->scale->shared->n_ready, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&c->scale->shared->go, __ATOMIC_ACQUIRE))
        usleep(1000);
}

/* --- a client's life -------------------------------------------------------------------------- */

static _Noreturn void live(struct scale *scale, uint32_t index, uint32_t staging_tokens,
                           scale_job_fn job, double argument)
{
    struct dpq_client_options options = { .socket_path = scale->daemon.socket_path,
                                          .name = "bench_scale",
                                          .timeout_ms = TIMEOUT_MS };
    struct scale_client c = { .scale = scale,
                              .index = index,
                              .argument = argument,
                              .answer = &scale->shared->answers[index] };
    uint64_t n_bytes;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sched_setaffinity(0, sizeof(scale->options.client_cpus), &scale->options.client_cpus);
    c.token_ids = malloc(scale->n_tokens * sizeof(*c.token_ids));
    if (!c.token_ids)
        scale_die("no memory");
    for (uint32_t i = 0; i < scale->n_tokens; i++)
        c.token_ids[i] = i;
    check(&c, dpq_client_new(&options, &c.client, &c.error), "a client");
    check(&c, dpq_client_attach(c.client, staging_tokens * scale->row_bytes, &c.error), "Attach");
    c.staging = dpq_client_staging(c.client, &n_bytes);
    if (c.staging)
        scale_refill(&c, 0, staging_tokens);
    job(&c);
    dpq_client_free(c.client);
    exit(0);
}

static void conduct(struct scale *scale, uint32_t n, double seconds)
{
    struct scale_shared *shared = scale->shared;
    struct scale_time then;
    double end = scale_now() + READY_SECONDS;

    while (__atomic_load_n(&shared->n_ready, __ATOMIC_ACQUIRE) < n) {
        siginfo_t ended = { 0 };

        if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) || ended.si_pid ||
            scale_now() > end)
            scale_die("a client, or the daemon, did not get ready");
        usleep(1000);
    }
    then = scale_daemon_time(&scale->daemon);
    __atomic_store_n(&shared->go, 1, __ATOMIC_RELEASE);
    usleep((useconds_t)(seconds * 1e6));
    __atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
    shared->spent = scale_daemon_since(&scale->daemon, &then);
}

void scale_run(struct scale *scale, uint32_t n, uint32_t staging_tokens, scale_job_fn job,
               double argument, double seconds)
{
    pid_t pids[SCALE_MAX_CLIENTS];
    bool failed = false;

    memset(scale->shared->answers, 0, sizeof(scale->shared->answers));
    scale->shared->n_ready = scale->shared->go = scale->shared->stop = 0;
    fflush(stdout);
    for (uint32_t i = 0; i < n; i++) {
        pids[i] = fork();
        if (!pids[i])
            live(scale, i, staging_tokens, job, argument);
        if (pids[i] < 0)
            scale_die("no process");
    }
    if (seconds > 0)
        conduct(scale, n, seconds);
    for (uint32_t i = 0; i < n; i++) {
        int status = 0;

        waitpid(pids[i], &status, 0);
        failed |= status;
    }
    if (failed)
        scale_die("a client ended before its job did");
}
