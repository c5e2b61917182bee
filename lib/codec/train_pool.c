/*
 * Threads for calibration
 *
 * A run hands out numbers by a counter; who takes one runs that task. The caller works too, so a
 * pool that got no threads still does everything. The first outcome or fault ends a run: tasks that
 * were not begun are not begun any more.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "lib/base/error.h"
#include "lib/codec/train.h"

struct train_pool {
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    pthread_t threads[TRAIN_MAX_THREADS];
    uint32_t n_threads; /* besides the caller */
    uint32_t n_named;   /* workers that know their number */
    uint64_t round;     /* of runs; a thread takes part in each once */
    bool stop;
    train_task_fn task;
    void *user;
    uint32_t n_tasks, next, n_busy;
    int outcome;
};

static void work(struct train_pool *p, uint32_t worker)
{
    while (p->next < p->n_tasks && !p->outcome) {
        uint32_t index = p->next++;
        int r;

        pthread_mutex_unlock(&p->lock);
        r = p->task(p->user, index, worker);
        pthread_mutex_lock(&p->lock);
        if (r && !p->outcome)
            p->outcome = r;
    }
}

static void *thread_main(void *data)
{
    struct train_pool *p = data;
    uint64_t seen = 0;
    uint32_t worker;

    pthread_mutex_lock(&p->lock);
    worker = ++p->n_named;
    while (!p->stop) {
        if (p->round == seen) {
            pthread_cond_wait(&p->begin, &p->lock);
            continue;
        }
        seen = p->round;
        p->n_busy++;
        work(p, worker);
        p->n_busy--;
        pthread_cond_signal(&p->end);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int train_pool_new(uint32_t n_threads, struct train_pool **ret_pool)
{
    struct train_pool *p = calloc(1, sizeof(*p));

    if (!p)
        return error_origin(-ENOMEM);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->begin, NULL);
    pthread_cond_init(&p->end, NULL);
    while (p->n_threads + 1 < n_threads &&
           !pthread_create(&p->threads[p->n_threads], NULL, thread_main, p))
        p->n_threads++;
    *ret_pool = p;
    return 0;
}

struct train_pool *train_pool_free(struct train_pool *p)
{
    if (!p)
        return NULL;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->begin);
    pthread_mutex_unlock(&p->lock);
    while (p->n_threads)
        pthread_join(p->threads[--p->n_threads], NULL);
    pthread_cond_destroy(&p->begin);
    pthread_cond_destroy(&p->end);
    pthread_mutex_destroy(&p->lock);
    free(p);
    return NULL;
}

uint32_t train_pool_n_workers(const struct train_pool *pool)
{
    return pool->n_threads + 1;
}

int train_pool_run(struct train_pool *p, uint32_t n_tasks, train_task_fn task, void *user)
{
    int r;

    pthread_mutex_lock(&p->lock);
    p->task = task;
    p->user = user;
    p->n_tasks = n_tasks;
    p->next = 0;
    p->outcome = 0;
    p->round++;
    pthread_cond_broadcast(&p->begin);
    work(p, 0);
    while (p->n_busy)
        pthread_cond_wait(&p->end, &p->lock);
    r = p->outcome;
    pthread_mutex_unlock(&p->lock);
    return r < 0 ? error_fold(r) : r;
}
