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

/** pool_resubmit() - the next slice or part of what was admitted once: never refused */
void pool_resubmit(struct pool *pool, struct job *job);

/** pool_carry_on() - pool_submit() the first time, pool_resubmit() from then on; 1: refused */
int pool_carry_on(struct pool *pool, struct job *job, bool *is_admitted) _must_check_;

uint32_t pool_n_workers(const struct pool *pool);
void pool_counts(struct pool *pool, uint32_t *ret_queued, uint32_t *ret_running);

/*
 * A loop over 0 … n-1 whose turns run on the pool, in order of their start, side by side
 *
 * Each lane is a job that runs one turn a slice, so that other jobs get in between. The turns that
 * have begun when one says stop are finished; then, or after the last, end() is called once.
 */
enum { POOL_MAX_LANES = 16 };

struct pool_loop;

struct pool_lane {
    struct job job;
    struct pool_loop *loop;
};

struct pool_loop {
    uint32_t n; /* turns, ≥ 1 */
    /* false: begin no further turn */
    bool (*turn)(struct pool_loop *loop, uint32_t i, uint32_t worker);
    uint32_t max_lanes; /* 1: the turns come one after the other; 0: as many as there may be */
    /* on the worker that finished last; may free the loop */
    void (*end)(struct pool_loop *loop, uint32_t worker);
    /* the pool's: */
    struct pool *pool;
    uint32_t next;         /* atomic: the next turn */
    bool stop;             /* atomic */
    uint32_t n_lanes_left; /* atomic */
    struct pool_lane lanes[POOL_MAX_LANES];
};

/**
 * pool_loop_start() - set n, turn and end before; the loop must live until end()
 * @admitted: part of something that was admitted before: never refused
 * Return: 0; 1 when the queue is full or the pool is stopping: nothing was queued.
 */
int pool_loop_start(struct pool *pool, struct pool_loop *loop, bool admitted) _must_check_;

/** pool_free() - run the queue out, join; no submit after it began. Accepts NULL, returns NULL */
struct pool *pool_free(struct pool *pool);
