/*
 * Calibration: the public functions
 *
 * A run deals streams out to threads by a counter. A stream's result goes to its own place, so that
 * it does not matter who made it; the first fault, or the wish to stop, ends all threads at their
 * next stream.
 */

#include "lib/codec/train.h"

#include <cblas.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/fault.h"
#include "lib/codec/profile_file.h"

DEFINE_CLEANUP(struct dpq_trainer *, dpq_trainer_free);

struct dpq_trainer *dpq_trainer_free(struct dpq_trainer *trainer)
{
    if (!trainer)
        return NULL;
    for (size_t i = 0; i < trainer->n_chunks; i++)
        free(trainer->chunks[i].rows);
    free(trainer->chunks);
    free(trainer);
    return NULL;
}

static int check_options(const struct dpq_train_options *o, struct dpq_fault *fault)
{
    if (!profile_name_ok(o->model_name))
        return fault_set(
            fault, DPQ_E_INVALID,
            "the model's name is not UTF-8 of at most 127 bytes without control characters");
    if (o->n_iterations > 100)
        return fault_set(fault, DPQ_E_INVALID, "n_iterations %u is not within 0 … 100",
                         o->n_iterations);
    if (!o->n_threads || o->n_threads > 64)
        return fault_set(fault, DPQ_E_INVALID, "n_threads %u is not within 1 … 64", o->n_threads);
    return 0;
}

int dpq_trainer_new(const struct dpq_geometry *geometry, const struct dpq_train_options *options,
                    struct dpq_trainer **ret_trainer, struct dpq_fault *ret_fault)
{
    _cleanup_(dpq_trainer_freep) struct dpq_trainer *t = NULL;
    int r;

    r = dpq_geometry_check(geometry, ret_fault);
    if (r)
        return r;
    r = check_options(options, ret_fault);
    if (r)
        return r;
    t = calloc(1, sizeof(*t));
    if (!t)
        return error_origin(-ENOMEM);
    t->geometry = *geometry;
    t->options = *options;
    *ret_trainer = steal_ptr(t);
    return 0;
}

int dpq_trainer_add(struct dpq_trainer *trainer, const struct dpq_tensor *tensor,
                    const void *memory, uint64_t n_bytes, uint64_t first_position,
                    uint32_t n_tokens, struct dpq_fault *ret_fault)
{
    const struct dpq_geometry *g = &trainer->geometry;
    struct train_chunk chunk = {
        .dtype = tensor->dtype,
        .n_tokens = n_tokens,
        .first_position = first_position,
    };
    struct train_chunk *chunks;
    uint64_t n_row_bytes;
    int r;

    r = dpq_tensor_check(tensor, g, g->n_layers, n_tokens, n_bytes, ret_fault);
    if (r || !n_tokens)
        return r;
    n_row_bytes = dpq_row_bytes(g, tensor->dtype) * (uint64_t)n_tokens;
    if (n_row_bytes > trainer->options.max_bytes - trainer->n_bytes ||
        n_tokens > TRAIN_MAX_TOKENS - trainer->n_tokens)
        return fault_set(ret_fault, DPQ_E_OUT_OF_SPACE,
                         "%u more tokens are %llu bytes; %llu of %llu bytes are left", n_tokens,
                         (unsigned long long)n_row_bytes,
                         (unsigned long long)(trainer->options.max_bytes - trainer->n_bytes),
                         (unsigned long long)trainer->options.max_bytes);
    chunks = realloc(trainer->chunks, (trainer->n_chunks + 1) * sizeof(*chunks));
    if (!chunks)
        return error_origin(-ENOMEM);
    trainer->chunks = chunks;
    chunk.rows = malloc(n_row_bytes);
    if (!chunk.rows)
        return error_origin(-ENOMEM);
    r = dpq_rows_gather(g, tensor, memory, n_tokens, chunk.rows, ret_fault);
    if (r) {
        free(chunk.rows);
        return r;
    }
    trainer->chunks[trainer->n_chunks++] = chunk;
    trainer->n_tokens += n_tokens;
    trainer->n_bytes += n_row_bytes;
    return 0;
}

uint64_t dpq_trainer_tokens(const struct dpq_trainer *trainer)
{
    return trainer->n_tokens;
}

struct run {
    struct train_plan plan;
    struct train_result *results;
    uint32_t n_streams;
    atomic_uint next;
    atomic_int stop; /* the first fault, or DPQ_E_CANCELLED */
    pthread_mutex_t lock;
    uint64_t n_done; /* under lock, as is progress() */
    dpq_progress_fn progress;
    void *user;
};

static void stop(struct run *run, int why)
{
    int none = 0;

    atomic_compare_exchange_strong(&run->stop, &none, why);
}

static void report(struct run *run)
{
    pthread_mutex_lock(&run->lock);
    run->n_done++;
    if (run->progress && !atomic_load(&run->stop) &&
        run->progress(run->user, run->n_done, run->n_streams))
        stop(run, DPQ_E_CANCELLED);
    pthread_mutex_unlock(&run->lock);
}

static void *work(void *data)
{
    struct run *run = data;
    struct train_worker worker;
    uint32_t i;
    int r;

    r = train_worker_init(&worker, &run->plan);
    if (r)
        stop(run, r);
    while (!atomic_load(&run->stop) && (i = atomic_fetch_add(&run->next, 1)) < run->n_streams) {
        r = train_stream(&worker, i, &run->results[i]);
        if (r)
            stop(run, r);
        else
            report(run);
    }
    train_worker_deinit(&worker);
    return NULL;
}

/* The calling thread is one of n_threads; fewer are enough if no more can be had. */
static int work_all(struct run *run, uint32_t n_threads)
{
    pthread_t threads[64];
    uint32_t n = 0;
    int r;

    while (n + 1 < n_threads && n + 1 < run->n_streams &&
           !pthread_create(&threads[n], NULL, work, run))
        n++;
    work(run);
    while (n)
        pthread_join(threads[--n], NULL);
    r = atomic_load(&run->stop);
    return r < 0 ? error_fold(r) : r;
}

static int write_profile(const struct run *run, uint8_t **ret_bytes, size_t *ret_n_bytes)
{
    const struct dpq_trainer *trainer = run->plan.trainer;
    struct profile_stream *streams = calloc(run->n_streams, sizeof(*streams));
    char *info = train_info(&run->plan, run->results);
    int r = -ENOMEM;

    if (streams && info) {
        for (uint32_t i = 0; i < run->n_streams; i++)
            streams[i] = run->results[i].stream;
        struct profile_head head = {
            .name = trainer->options.model_name,
            .info_json = info,
            .group_log2 = 5,
        };

        r = profile_write(&trainer->geometry, &head, streams, ret_bytes, ret_n_bytes);
    }
    free(streams);
    free(info);
    return r ? error_fold(r) : 0;
}

static void run_deinit(struct run *run)
{
    for (uint32_t i = 0; run->results && i < run->n_streams; i++)
        free(run->results[i].memory);
    free(run->results);
    train_plan_deinit(&run->plan);
    pthread_mutex_destroy(&run->lock);
}

static int run_all(struct run *run, uint8_t **ret_bytes, size_t *ret_n_bytes,
                   struct dpq_fault *fault)
{
    const struct dpq_trainer *trainer = run->plan.trainer;
    int r;

    r = train_plan_init(&run->plan, trainer);
    if (r)
        return error_fold(r);
    if (run->plan.n_rows < TRAIN_MIN_TOKENS - DPQ_TILE_TOKENS)
        return fault_set(fault, DPQ_E_INVALID,
                         "only %zu of the %llu tokens are not sinks: too few to calibrate",
                         run->plan.n_rows, (unsigned long long)trainer->n_tokens);
    run->results = calloc(run->n_streams, sizeof(*run->results));
    if (!run->results)
        return error_origin(-ENOMEM);
    r = work_all(run, trainer->options.n_threads);
    if (r)
        return r;
    r = write_profile(run, ret_bytes, ret_n_bytes);
    return r ? error_fold(r) : 0;
}

int dpq_trainer_run(struct dpq_trainer *trainer, dpq_progress_fn progress, void *user,
                    uint8_t **ret_bytes, size_t *ret_n_bytes, struct dpq_fault *ret_fault)
{
    struct run run = {
        .plan.trainer = trainer,
        .n_streams = dpq_n_streams(&trainer->geometry),
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .progress = progress,
        .user = user,
    };
    int r;

    if (trainer->n_tokens < TRAIN_MIN_TOKENS)
        return fault_set(ret_fault, DPQ_E_INVALID,
                         "%llu tokens are too few to calibrate: at least %d, better 8192",
                         (unsigned long long)trainer->n_tokens, TRAIN_MIN_TOKENS);
    if (openblas_get_num_threads() != 1)
        openblas_set_num_threads(1); /* the threads are ours; and sums must not depend on them */
    r = run_all(&run, ret_bytes, ret_n_bytes, ret_fault);
    run_deinit(&run);
    if (r == DPQ_E_CANCELLED)
        return fault_set(ret_fault, r, "calibration was stopped");
    return r < 0 ? error_fold(r) : r;
}
