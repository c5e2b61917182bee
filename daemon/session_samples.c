/*
 * What a calibration learns from: numbers, and what errors cost
 *
 * Samples are gigabytes; they wait for training in a file of the state directory that has no name,
 * so that memory stays as it is and nothing is left behind, however the daemon ends. Samples of a
 * calibration with an id say where among all they belong. So a client that does not know how much
 * of what it sent had arrived sends some of it again, and no token counts twice.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/session_calibration.h"
#include "lib/base/error.h"

/* --- the trainer and its file ------------------------------------------------------------------
 */

/* 0, or -1 with errno */
static int open_nameless(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    char path[CONFIG_PATH_BYTES + 32];

    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    snprintf(path, sizeof(path), "%s/samples.XXXXXX", dir);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

int calibration_open_trainer(struct session_calibration *calibration,
                             struct session_error *ret_error)
{
    const struct config *config = calibration->session->config;
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    struct dpq_train_options own = calibration->options;
    long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    const char *reason = "GEOMETRY";
    int r;

    r = dpq_geometry_check(&calibration->geometry, &fault);
    if (!r) {
        calibration->spill_fd = open_nameless(config->state_dir);
        if (calibration->spill_fd < 0) {
            session_error_fault(ret_error, error_origin(-errno), "Calibrate: file for samples");
            return 1;
        }
        own.spill_fd = calibration->spill_fd;
        own.max_bytes = config->calibration_max_bytes;
        own.n_threads = n_cores > 1 ? 2 : 1;
        reason = "OPTIONS";
        r = dpq_trainer_new(&calibration->geometry, &own, &calibration->trainer, &fault);
    }
    if (r == DPQ_E_INVALID) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, reason, "%s", fault.message);
        return 1;
    } else if (r) {
        session_error_fault(ret_error, error_fold(r), "Calibrate");
        return 1;
    }
    return 0;
}

void calibration_close_trainer(struct session_calibration *calibration)
{
    struct session *session = calibration->session;

    dpq_trainer_free(calibration->trainer);
    if (calibration->spill_fd >= 0)
        close(calibration->spill_fd);
    calibration->spill_fd = -1;
    session_lock(session);
    calibration->trainer = NULL;
    session->n_calibrations--;
    session_unlock(session);
}

/* --- samples -----------------------------------------------------------------------------------
 */

/* what the trainer says about samples, for the client */
static void explain(int r, const struct dpq_fault *fault, struct session_error *ret_error)
{
    if (r == DPQ_E_NOT_FINITE) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "NOT_FINITE",
                          "%s of layer %d, head %d has a NaN or Inf at token %lld of the samples",
                          fault->kind == DPQ_V ? "V" : "K", fault->layer, fault->head,
                          (long long)fault->token);
        ret_error->layer = fault->layer;
        ret_error->kind = fault->kind;
        ret_error->head = fault->head;
        ret_error->token = fault->token;
    } else if (r == DPQ_E_OUT_OF_SPACE) {
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "CALIBRATION_BYTES",
                          "these are more samples than one calibration may hold: %s",
                          fault->message);
    } else if (r == DPQ_E_INVALID) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "TENSOR", "tensor: %s",
                          fault->message);
    } else if (r == -ENOSPC || r == -EDQUOT) { /* the disk's fault, not ours */
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "CALIBRATION_BYTES",
                          "the samples can't be written to the state directory: %s", strerror(-r));
    } else {
        session_error_fault(ret_error, error_fold(r), "Calibrate");
    }
}

static int check_samples(const struct session_samples *samples, struct session_error *ret_error)
{
    if (samples->n_tokens == 0) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "LIMIT",
                          "samples of 0 tokens: 1 at least");
        return 1;
    }
    if (samples->first_position > MAX_POSITION) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "POSITION",
                          "first_position %llu is more than %llu",
                          (unsigned long long)samples->first_position,
                          (unsigned long long)MAX_POSITION);
        return 1;
    }
    return 0;
}

static int is_collecting(struct session_calibration *calibration, uint64_t *ret_n_tokens)
{
    bool is;

    session_lock(calibration->session);
    is = calibration->state == SESSION_CALIBRATION_COLLECTING;
    *ret_n_tokens = calibration->n_tokens;
    session_unlock(calibration->session);
    return is;
}

static void refuse_late(struct session_error *ret_error)
{
    session_error_set(ret_error, SESSION_FAILED_PRECONDITION, "CALIBRATION_STATE",
                      "the calibration has all its samples and is being trained, or has been");
}

/* How many of the samples were taken before? 0; 1: they may not come now. */
static int count_taken(struct session_calibration *calibration,
                       const struct session_samples *samples, uint32_t *ret_n_taken,
                       struct session_error *ret_error)
{
    uint64_t n_tokens, n_taken = 0;
    bool collecting = is_collecting(calibration, &n_tokens);

    if (calibration->id && samples->first_token > n_tokens) {
        session_error_set(ret_error, SESSION_OUT_OF_RANGE, "FIRST_TOKEN",
                          "first_token %llu: the calibration has %llu tokens, and that is where it "
                          "goes on",
                          (unsigned long long)samples->first_token, (unsigned long long)n_tokens);
        return 1;
    }
    if (calibration->id)
        n_taken = n_tokens - samples->first_token;
    if (n_taken < samples->n_tokens && !collecting) {
        refuse_late(ret_error);
        return 1;
    }
    *ret_n_taken = n_taken < samples->n_tokens ? (uint32_t)n_taken : samples->n_tokens;
    return 0;
}

int session_calibration_add(struct session_calibration *calibration,
                            const struct session_samples *samples, struct session_error *ret_error)
{
    struct session *session = calibration->session;
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    struct numbers numbers;
    struct dpq_tensor tensor;
    uint32_t n_taken;
    int r;

    session_error_clear(ret_error);
    if (check_samples(samples, ret_error) ||
        count_taken(calibration, samples, &n_taken, ret_error) ||
        numbers_acquire(session, calibration->tenant, &samples->from, &calibration->geometry,
                        calibration->geometry.n_layers, samples->n_tokens, &numbers, ret_error))
        return 1;
    tensor = tensor_from_token(&samples->from.tensor, n_taken);
    r = n_taken == samples->n_tokens
            ? 0
            : dpq_trainer_add(calibration->trainer, &tensor, numbers.bytes, numbers.n_bytes,
                              samples->first_position + n_taken, samples->n_tokens - n_taken,
                              &fault);
    numbers_release(session, &numbers);
    if (r) {
        if (fault.token >= 0)
            fault.token += n_taken;
        explain(r, &fault, ret_error);
        return 1;
    }
    session_lock(session);
    calibration->n_tokens += samples->n_tokens - n_taken;
    session_unlock(session);
    return 0;
}

/* --- of one stream -------------------------------------------------------------------------- */

static int check_metric(const struct session_calibration *calibration, size_t n_bytes,
                        struct session_error *ret_error)
{
    const struct dpq_geometry *g = &calibration->geometry;
    uint64_t want = (uint64_t)g->head_dim * g->head_dim * sizeof(float);
    uint64_t all = want * 2 * g->n_kv_heads * g->n_layers;

    if (n_bytes != want) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "METRIC",
                          "matrix has %zu bytes: head_dim %u needs %llu", n_bytes, g->head_dim,
                          (unsigned long long)want);
        return 1;
    }
    if (all > calibration->session->config->calibration_max_bytes) {
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "CALIBRATION_BYTES",
                          "the metrics of all streams are %llu bytes: more than one calibration "
                          "may hold",
                          (unsigned long long)all);
        return 1;
    }
    return session_check_memory(calibration->session, all, "holding the metrics of all streams",
                                ret_error);
}

/* What the trainer says of something that was told about one stream. 0, 1. */
static int judge(int r, const struct dpq_fault *fault, const char *reason, const char *what,
                 struct session_error *ret_error)
{
    if (r == DPQ_E_INVALID || r == DPQ_E_NOT_FINITE) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, reason, "%s: %s", what,
                          fault->message);
        ret_error->layer = fault->layer;
        ret_error->kind = fault->kind;
        ret_error->head = fault->head;
        return 1;
    } else if (r) {
        session_error_fault(ret_error, error_fold(r), "Calibrate");
        return 1;
    }
    return 0;
}

int session_calibration_metric(struct session_calibration *calibration, uint32_t layer,
                               uint32_t kind, uint32_t head, const void *matrix, size_t n_bytes,
                               struct session_error *ret_error)
{
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    uint64_t n_tokens;
    int r;

    session_error_clear(ret_error);
    if (check_metric(calibration, n_bytes, ret_error))
        return 1;
    if (!is_collecting(calibration, &n_tokens)) {
        refuse_late(ret_error);
        return 1;
    }
    r = dpq_trainer_metric(calibration->trainer, layer, kind, head, matrix, &fault);
    return judge(r, &fault, "METRIC", "metric", ret_error);
}

int session_calibration_stream(struct session_calibration *calibration, uint32_t layer,
                               uint32_t kind, uint32_t head,
                               const struct dpq_stream_options *options,
                               struct session_error *ret_error)
{
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    uint64_t n_tokens;
    int r;

    session_error_clear(ret_error);
    if (!is_collecting(calibration, &n_tokens)) {
        refuse_late(ret_error);
        return 1;
    }
    r = dpq_trainer_stream(calibration->trainer, layer, kind, head, options, &fault);
    return judge(r, &fault, "STREAM", "stream", ret_error);
}
