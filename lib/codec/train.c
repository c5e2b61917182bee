/* Calibration: the public functions, and the way through the stages. */

#include "lib/codec/train.h"

#include <cblas.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/fault.h"
#include "lib/codec/profile_file.h"

/* What exceeds this many times the held-out mean error is stored raw. */
#define DEFAULT_BOUND 8

DEFINE_CLEANUP(struct dpq_trainer *, dpq_trainer_free);

struct dpq_trainer *dpq_trainer_free(struct dpq_trainer *trainer)
{
    if (!trainer)
        return NULL;
    for (size_t i = 0; i < trainer->n_chunks; i++)
        free(trainer->chunks[i].rows);
    free(trainer->chunks);
    free(trainer->metric);
    free(trainer->streams);
    free(trainer);
    return NULL;
}

int dpq_trainer_new(const struct dpq_geometry *geometry, const struct dpq_train_options *options,
                    struct dpq_trainer **ret_trainer, struct dpq_fault *ret_fault)
{
    _cleanup_(dpq_trainer_freep) struct dpq_trainer *t = NULL;
    int r;

    r = dpq_geometry_check(geometry, ret_fault);
    if (r)
        return r;
    r = train_check_options(options, ret_fault);
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
    uint8_t *rows;
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
    rows = malloc(n_row_bytes);
    if (!rows)
        return error_origin(-ENOMEM);
    r = dpq_rows_gather(g, tensor, memory, n_tokens, rows, ret_fault);
    r = r ? r : train_chunk_keep(trainer, &chunk, rows);
    free(rows);
    if (r)
        return r < 0 ? error_fold(r) : r;
    trainer->chunks[trainer->n_chunks++] = chunk;
    trainer->n_tokens += n_tokens;
    trainer->n_bytes += n_row_bytes;
    return 0;
}

void dpq_trainer_audit(struct dpq_trainer *trainer, const struct dpq_audit_hooks *hooks)
{
    trainer->hooks = *hooks;
}

uint64_t dpq_trainer_tokens(const struct dpq_trainer *trainer)
{
    return trainer->n_tokens;
}

/* --- a run ----------------------------------------------------------------------------------- */

static int make_workers(struct train_run *run)
{
    uint32_t n = train_pool_n_workers(run->pool);
    size_t n_slab = 1;
    int r = 0;

    for (size_t c = 0; c < run->plan.trainer->n_chunks; c++) {
        size_t bytes = train_chunk_bytes(run->geometry, &run->plan.trainer->chunks[c]);

        n_slab = bytes > n_slab ? bytes : n_slab;
    }
    run->workers = calloc(n, sizeof(*run->workers));
    if (!run->workers)
        return error_origin(-ENOMEM);
    for (uint32_t i = 0; i < n && !r; i++) {
        struct train_worker *w = &run->workers[i];

        r = dpq_codec_new(&run->stub, ~0u, &w->codec);
        r = r ? r : train_book_scratch_init(&w->book, TRAIN_BOOK_ROWS);
        w->slab = malloc(run->options->spill_fd > 0 ? n_slab : 1);
        if (!w->slab)
            r = error_origin(-ENOMEM);
    }
    return r ? error_fold(r) : 0;
}

/* Memory for the stages: none of it grows with the number of layers. */
static int make_room(struct train_run *run)
{
    size_t n = run->plan.n_rows * run->width, ld = 3 * run->width;
    run->x = malloc(n * sizeof(float));
    run->results = calloc(dpq_n_streams(run->geometry), sizeof(*run->results));
    if (!run->x || !run->results)
        return error_origin(-ENOMEM);
    if (!train_wants_depth(run->plan.trainer))
        return 0;
    run->p[0] = malloc(n * sizeof(float));
    run->p[1] = malloc(n * sizeof(float));
    run->refs = calloc(3 * n, sizeof(float));
    run->values = malloc(n * sizeof(float));
    run->gram = malloc(ld * ld * sizeof(double));
    run->column_mean = malloc(ld * sizeof(double));
    if (run->plan.trainer->hooks.measure) {
        n = (run->plan.n_rows - run->plan.n_learn) * run->width;
        run->ref_errors = calloc(3 * n, sizeof(float));
        run->value_errors = calloc(n, sizeof(float));
        if (!run->ref_errors || !run->value_errors)
            return error_origin(-ENOMEM);
    }
    if (!run->p[0] || !run->p[1] || !run->refs || !run->values || !run->gram || !run->column_mean)
        return error_origin(-ENOMEM);
    return 0;
}

/* make_room(), the tables of train_predict(), and of each stream what it has learned: in its own
 * place, in the file, and once more until both are complete. The rest was measured. */
uint64_t dpq_trainer_memory_bytes(const struct dpq_trainer *trainer)
{
    const struct dpq_geometry *g = &trainer->geometry;
    uint64_t width = (uint64_t)g->n_kv_heads * g->head_dim, ld = 3 * width;
    uint64_t n_rows = trainer->n_tokens + DPQ_TILE_TOKENS * (uint64_t)trainer->n_chunks;
    uint64_t n_values = n_rows * width, n_bytes = n_values * sizeof(float);

    if (train_wants_depth(trainer)) {
        n_bytes += 6 * n_values * sizeof(float) + 2 * ld * ld * sizeof(double);
        if (trainer->hooks.measure)
            n_bytes += 4 * n_values / TRAIN_HOLD_OUT * sizeof(float);
    }
    n_bytes += 3 * dpq_n_streams(g) * 2 * (uint64_t)g->head_dim * g->head_dim * sizeof(float);
    return n_bytes + n_bytes / 4 + TRAIN_FIXED_BYTES;
}

static void run_deinit(struct train_run *run)
{
    for (uint32_t i = 0; run->workers && i < train_pool_n_workers(run->pool); i++) {
        dpq_codec_free(run->workers[i].codec);
        train_book_scratch_deinit(&run->workers[i].book);
        free(run->workers[i].slab);
    }
    for (uint32_t i = 0; run->results && i < dpq_n_streams(run->geometry); i++)
        free(run->results[i].memory);
    free(run->workers);
    free(run->results);
    free(run->x);
    free(run->p[0]);
    free(run->p[1]);
    free(run->refs);
    free(run->values);
    free(run->ref_errors);
    free(run->value_errors);
    free(run->gram);
    free(run->column_mean);
    train_plan_deinit(&run->plan);
    train_pool_free(run->pool);
}

static int write_profile(const struct train_run *run, uint8_t **ret_bytes, size_t *ret_n_bytes)
{
    uint32_t n_streams = dpq_n_streams(run->geometry);
    struct profile_stream *streams = calloc(n_streams, sizeof(*streams));
    char *info = train_info(run);
    uint8_t *audit = NULL;
    struct profile_head head = {
        .name = run->options->model_name,
        .info_json = info,
        .bound = run->options->bound < 0    ? 0
                 : run->options->bound == 0 ? DEFAULT_BOUND
                                            : run->options->bound,
        .group_log2 = run->stub.group_log2,
    };
    int r = -ENOMEM;

    if (streams && info) {
        for (uint32_t i = 0; i < n_streams; i++)
            streams[i] = run->results[i].stream;
        r = train_finish_audit(run, &audit, &head.n_audit_bytes);
        head.audit = audit;
        r = r ? r : profile_write(run->geometry, &head, streams, ret_bytes, ret_n_bytes);
    }
    free(streams);
    free(info);
    free(audit);
    return r < 0 ? error_fold(r) : r;
}

/* All streams of a stage are told at once: they were learned side by side. */
static int report(const struct train_run *run, uint32_t layer, uint32_t kind)
{
    uint32_t n_heads = run->geometry->n_kv_heads;

    for (uint32_t head = 0; head < n_heads && run->progress; head++)
        if (run->progress(run->user, dpq_stream_index(run->geometry, layer, kind, head) + 1,
                          dpq_n_streams(run->geometry)))
            return DPQ_E_CANCELLED;
    return 0;
}

static int run_all(struct train_run *run, const struct dpq_trainer *trainer, uint8_t **ret_bytes,
                   size_t *ret_n_bytes, struct dpq_fault *fault)
{
    int r;

    r = train_plan_init(&run->plan, trainer);
    if (r)
        return error_fold(r);
    if (run->plan.n_valid[0] < TRAIN_MIN_TOKENS - 3 * DPQ_TILE_TOKENS)
        return fault_set(
            fault, DPQ_E_INVALID, "only %zu of the %llu tokens are not sinks: too few to calibrate",
            run->plan.n_valid[0] + run->plan.n_valid[1], (unsigned long long)trainer->n_tokens);
    r = train_pool_new(run->options->n_threads, &run->pool);
    r = r ? r : make_workers(run);
    r = r ? r : make_room(run);
    for (uint32_t i = 0; i < 2 * run->geometry->n_layers && !r; i++) {
        r = train_stage(run, i / 2, i % 2);
        r = r ? r : report(run, i / 2, i % 2);
    }
    if (r)
        return r < 0 ? error_fold(r) : r;
    train_rates(trainer, run->results);
    r = write_profile(run, ret_bytes, ret_n_bytes);
    return r < 0 ? error_fold(r) : r;
}

int dpq_trainer_run(struct dpq_trainer *trainer, dpq_progress_fn progress, void *user,
                    uint8_t **ret_bytes, size_t *ret_n_bytes, struct dpq_fault *ret_fault)
{
    const struct dpq_train_options *o = &trainer->options;
    struct train_run run = {
        .geometry = &trainer->geometry,
        .options = o,
        .width = (size_t)trainer->geometry.n_kv_heads * trainer->geometry.head_dim,
        .progress = progress,
        .user = user,
    };
    int r;

    if (trainer->n_tokens < TRAIN_MIN_TOKENS)
        return fault_set(ret_fault, DPQ_E_INVALID,
                         "%llu tokens are too few to calibrate: at least %d, better 8192",
                         (unsigned long long)trainer->n_tokens, TRAIN_MIN_TOKENS);
    run.stub.geometry = trainer->geometry;
    run.stub.group_log2 = o->group_tokens ? (uint32_t)__builtin_ctz(o->group_tokens) : 5;
    if (openblas_get_num_threads() != 1)
        openblas_set_num_threads(1); /* the threads are ours; and sums must not depend on them */
    r = run_all(&run, trainer, ret_bytes, ret_n_bytes, ret_fault);
    run_deinit(&run);
    if (r == DPQ_E_CANCELLED)
        return fault_set(ret_fault, r, "calibration was stopped");
    return r < 0 ? error_fold(r) : r;
}
