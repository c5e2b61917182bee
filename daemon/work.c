/*
 * The worker pool
 *
 * One queue, one mutex, n threads. Admission is the only policy: pool_submit() counts who waits and
 * says no in time, so that a request is refused at its door and not when it has half run. Slices of
 * admitted work come behind everybody else's: a long request shares the workers with short ones.
 *
 *     running --pool_free()--> draining: the queue runs empty, its slices included --> joined
 */
#include "daemon/work.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "lib/base/error.h"

struct pool_thread {
    pthread_t thread;
    struct pool *pool;
    uint32_t index;
};

struct pool {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct job *first, **last;
    uint32_t n_queued, n_running, max_queued;
    bool stopping;
    uint32_t n_workers; /* threads that exist */
    struct pool_thread workers[];
};

static void push(struct pool *pool, struct job *job)
{
    job->next = NULL;
    *pool->last = job;
    pool->last = &job->next;
    pool->n_queued++;
    pthread_cond_signal(&pool->wake);
}

static struct job *pop(struct pool *pool)
{
    struct job *job = pool->first;

    pool->first = job->next;
    if (!pool->first)
        pool->last = &pool->first;
    pool->n_queued--;
    return job;
}

static void *work(void *argument)
{
    struct pool_thread *self = argument;
    struct pool *pool = self->pool;

    pthread_setname_np(pthread_self(), "worker");
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (!pool->first && !(pool->stopping && !pool->n_running))
            pthread_cond_wait(&pool->wake, &pool->mutex);
        if (!pool->first)
            break;

        struct job *job = pop(pool);

        pool->n_running++;
        pthread_mutex_unlock(&pool->mutex);
        job->run(job, self->index); /* the job may be gone afterwards */
        pthread_mutex_lock(&pool->mutex);
        pool->n_running--;
    }
    /* those who waited for the last job to finish may go, too */
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

int pool_new(uint32_t n_workers, uint32_t max_queued, struct pool **ret_pool)
{
    struct pool *pool;

    assert(n_workers > 0);
    pool = calloc(1, sizeof(*pool) + n_workers * sizeof(pool->workers[0]));
    if (!pool)
        return error_origin(-ENOMEM);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->last = &pool->first;
    pool->max_queued = max_queued;
    for (; pool->n_workers < n_workers; pool->n_workers++) {
        struct pool_thread *t = &pool->workers[pool->n_workers];
        int r;

        t->pool = pool;
        t->index = pool->n_workers;
        r = pthread_create(&t->thread, NULL, work, t);
        if (r) {
            pool_free(pool);
            return error_origin(-r);
        }
    }
    *ret_pool = pool;
    return 0;
}

struct pool *pool_free(struct pool *pool)
{
    if (!pool)
        return NULL;
    pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->n_workers; i++)
        pthread_join(pool->workers[i].thread, NULL);
    assert(!pool->first && !pool->n_running);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
    return NULL;
}

int pool_submit(struct pool *pool, struct job *job)
{
    bool refused;

    pthread_mutex_lock(&pool->mutex);
    refused = pool->stopping || pool->n_queued >= pool->max_queued;
    if (!refused)
        push(pool, job);
    pthread_mutex_unlock(&pool->mutex);
    return refused;
}

void pool_resubmit(struct pool *pool, struct job *job)
{
    pthread_mutex_lock(&pool->mutex);
    push(pool, job);
    pthread_mutex_unlock(&pool->mutex);
}

int pool_carry_on(struct pool *pool, struct job *job, bool *is_admitted)
{
    if (!*is_admitted) {
        *is_admitted = true;
        return pool_submit(pool, job);
    }
    pool_resubmit(pool, job);
    return 0;
}

uint32_t pool_n_workers(const struct pool *pool)
{
    return pool->n_workers;
}

void pool_counts(struct pool *pool, uint32_t *ret_queued, uint32_t *ret_running)
{
    pthread_mutex_lock(&pool->mutex);
    *ret_queued = pool->n_queued;
    *ret_running = pool->n_running;
    pthread_mutex_unlock(&pool->mutex);
}

static void lane_run(struct job *job, uint32_t worker)
{
    struct pool_lane *lane = (struct pool_lane *)job; /* its first member */
    struct pool_loop *loop = lane->loop;
    bool more = !__atomic_load_n(&loop->stop, __ATOMIC_RELAXED);

    if (more) {
        uint32_t i = __atomic_fetch_add(&loop->next, 1, __ATOMIC_RELAXED);

        more = i < loop->n;
        if (more && !loop->turn(loop, i, worker)) {
            __atomic_store_n(&loop->stop, true, __ATOMIC_RELAXED);
            more = false;
        }
        more = more && __atomic_load_n(&loop->next, __ATOMIC_RELAXED) < loop->n;
    }
    if (more)
        pool_resubmit(loop->pool, job);
    else if (__atomic_sub_fetch(&loop->n_lanes_left, 1, __ATOMIC_ACQ_REL) == 0)
        loop->end(loop, worker);
}

int pool_loop_start(struct pool *pool, struct pool_loop *loop, bool admitted)
{
    uint32_t n_lanes = pool->n_workers < POOL_MAX_LANES ? pool->n_workers : POOL_MAX_LANES;

    assert(loop->n > 0);
    if (n_lanes > loop->n)
        n_lanes = loop->n;
    if (loop->max_lanes && n_lanes > loop->max_lanes)
        n_lanes = loop->max_lanes;
    loop->pool = pool;
    loop->next = 0;
    loop->stop = false;
    loop->n_lanes_left = n_lanes;
    for (uint32_t i = 0; i < n_lanes; i++)
        loop->lanes[i] = (struct pool_lane){ .job = { .run = lane_run }, .loop = loop };
    for (uint32_t i = 0; i < n_lanes; i++) {
        if (i == 0 && !admitted) {
            if (pool_submit(pool, &loop->lanes[i].job))
                return 1;
        } else {
            pool_resubmit(pool, &loop->lanes[i].job);
        }
    }
    return 0;
}
