#pragma once

/*
 * The worker pool: short jobs on n threads, in the order given, with a bound on those waiting
 *
 * A job is embedded in its owner's struct and re-usable from within its own run function: long work
 * cuts itself into slices of at most 50 ms and submits itself again.
 */

#include <stdbool.h>

#include "lib/base/defs.h"

struct pool;

struct job {
    void (*run)(struct job *job, uint32_t worker); /* worker: 0 … n_workers-1, for scratch memory */
    struct job *next;                              /* the pool's */
};

/* @max_queued: jobs that wait; pool_submit() refuses more, except for slices (pool_resubmit) */
int pool_new(uint32_t n_workers, uint32_t max_queued, struct pool **ret_pool) _must_check_;

/** pool_submit() - 0; 1 when the queue is full or the pool is stopping: nothing was queued */
int pool_submit(struct pool *pool, struct job *job) _must_check_;

/** pool_resubmit() - the next slice of a job that was admitted once: never refused */
void pool_resubmit(struct pool *pool, struct job *job);

uint32_t pool_n_workers(const struct pool *pool);
void pool_counts(struct pool *pool, uint32_t *ret_queued, uint32_t *ret_running);

/** pool_free() - run the queue out, join; no submit after it began. Accepts NULL, returns NULL */
struct pool *pool_free(struct pool *pool);
