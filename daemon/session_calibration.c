/*
 * Calibration: samples in, a profile out, on a thread of low priority
 *
 * Training takes minutes of CPU; it runs beside the workers, niced, so that appends and reads keep
 * their pace. Two things have different lives and hence are two objects:
 *
 *     struct session_calibration   the request's: begin ... free, which may be in done()
 *     struct calibration_thread    the session's: until joined; holds what cancelling needs
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/hub.h"
#include "daemon/log.h"
#include "daemon/session_internal.h"
#include "lib/base/error.h"

#define PROGRESS_NS UINT64_C(200000000) /* events are this far apart at least */

enum { NICE = 10 };

struct calibration_thread {
    struct calibration_thread *next;
    pthread_t thread;
    bool started;
    bool finished; /* atomic: it can be joined without waiting */
    bool cancel;   /* atomic */
    uint32_t refs; /* the session's list's, and the request's */
};

struct session_calibration {
    struct session *session;
    uint32_t tenant;
    struct dpq_geometry geometry;
    struct dpq_trainer *trainer;
    struct calibration_thread *thread; /* made with the calibration, started by run */
    char label[64];
    void (*done)(void *user, const struct session_calibrated *result);
    void *user;
    uint64_t last_event_ns; /* of the trainer's progress */
    pthread_mutex_t progress_mutex;
};

static void thread_unref(struct session *session, struct calibration_thread *thread)
{
    uint32_t refs;

    session_lock(session);
    refs = --thread->refs;
    session_unlock(session);
    if (!refs)
        free(thread);
}

/* --- begin and samples ------------------------------------------------------------------------ */

static int reserve(struct session *session, struct session_error *ret_error)
{
    int r = 0;

    session_lock(session);
    if (session->n_calibrations >= MAX_CALIBRATIONS) {
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "LIMIT",
                          "%d calibrations are under way, the most at a time", MAX_CALIBRATIONS);
        ret_error->retry_ms = 50 * RETRY_MS;
        r = 1;
    } else {
        session->n_calibrations++;
    }
    session_unlock(session);
    return r;
}

static int make_trainer(struct session_calibration *calibration,
                        const struct dpq_train_options *options, struct session_error *ret_error)
{
    uint64_t limit = calibration->session->config->calibration_max_bytes;
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    struct dpq_train_options own = *options;
    long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    int r;

    if (own.max_bytes == 0 || own.max_bytes > limit)
        own.max_bytes = limit;
    own.n_threads = n_cores > 1 ? 2 : 1;
    own.model_name[sizeof(own.model_name) - 1] = '\0';
    r = dpq_geometry_check(&calibration->geometry, &fault);
    if (!r)
        r = dpq_trainer_new(&calibration->geometry, &own, &calibration->trainer, &fault);
    if (r == DPQ_E_INVALID) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "GEOMETRY", "%s", fault.message);
        return 1;
    } else if (r) {
        session_error_fault(ret_error, error_fold(r), "Calibrate");
        return 1;
    }
    return 0;
}

int session_calibration_begin(struct session *session, uint32_t tenant,
                              const struct dpq_geometry *geometry,
                              const struct dpq_train_options *options, const char *label,
                              struct session_calibration **ret_calibration,
                              struct session_error *ret_error)
{
    struct session_calibration *calibration;

    session_error_clear(ret_error);
    if (reserve(session, ret_error))
        return 1;
    calibration = calloc(1, sizeof(*calibration));
    if (calibration)
        calibration->thread = calloc(1, sizeof(*calibration->thread));
    if (!calibration || !calibration->thread) {
        free(calibration);
        session_lock(session);
        session->n_calibrations--;
        session_unlock(session);
        session_error_fault(ret_error, error_origin(-ENOMEM), "Calibrate");
        return 1;
    }
    calibration->session = session;
    calibration->tenant = tenant;
    calibration->geometry = *geometry;
    calibration->thread->refs = 1;
    snprintf(calibration->label, sizeof(calibration->label), "%s", label);
    pthread_mutex_init(&calibration->progress_mutex, NULL);
    if (make_trainer(calibration, options, ret_error)) {
        session_calibration_free(calibration);
        return 1;
    }
    *ret_calibration = calibration;
    return 0;
}

struct session_calibration *session_calibration_free(struct session_calibration *calibration)
{
    struct session *session;

    if (!calibration)
        return NULL;
    session = calibration->session;
    dpq_trainer_free(calibration->trainer);
    pthread_mutex_destroy(&calibration->progress_mutex);
    thread_unref(session, calibration->thread);
    session_lock(session);
    session->n_calibrations--;
    session_unlock(session);
    free(calibration);
    return NULL;
}

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
    } else {
        session_error_fault(ret_error, error_fold(r), "Calibrate");
    }
}

int session_calibration_add(struct session_calibration *calibration,
                            const struct session_numbers *from, uint64_t first_position,
                            uint32_t n_tokens, struct session_error *ret_error)
{
    struct session *session = calibration->session;
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    struct numbers numbers;
    int r;

    session_error_clear(ret_error);
    if (n_tokens == 0) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "LIMIT",
                          "samples of 0 tokens: 1 at least");
        return 1;
    }
    if (first_position > MAX_POSITION) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "POSITION",
                          "first_position %llu is more than %llu",
                          (unsigned long long)first_position, (unsigned long long)MAX_POSITION);
        return 1;
    }
    r = numbers_acquire(session, calibration->tenant, from, &calibration->geometry,
                        calibration->geometry.n_layers, n_tokens, &numbers, ret_error);
    if (r)
        return 1;
    r = dpq_trainer_add(calibration->trainer, &from->tensor, numbers.bytes, numbers.n_bytes,
                        first_position, n_tokens, &fault);
    numbers_release(session, &numbers);
    if (r) {
        explain(r, &fault, ret_error);
        return 1;
    }
    return 0;
}

/* --- training --------------------------------------------------------------------------------- */

static bool progress(void *user, uint64_t done, uint64_t total)
{
    struct session_calibration *calibration = user;
    struct event event = {
        .kind = EVENT_CALIBRATION_PROGRESS, .tenant = calibration->tenant, .a = done, .b = total
    };
    uint64_t now_ns = session_now_ns();
    bool tell;

    pthread_mutex_lock(&calibration->progress_mutex);
    tell = done == total || now_ns - calibration->last_event_ns >= PROGRESS_NS;
    if (tell)
        calibration->last_event_ns = now_ns;
    pthread_mutex_unlock(&calibration->progress_mutex);
    if (tell) {
        snprintf(event.text, sizeof(event.text), "%s", calibration->label);
        hub_publish(calibration->session->hub, &event);
    }
    return __atomic_load_n(&calibration->thread->cancel, __ATOMIC_RELAXED);
}

static void train(struct session_calibration *calibration, struct session_calibrated *result)
{
    struct session *session = calibration->session;
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    struct session_profile_info info;
    uint64_t began_ns = session_now_ns();
    uint8_t *bytes = NULL;
    size_t n_bytes = 0;
    int r;

    session_error_clear(&result->error);
    result->n_tokens = dpq_trainer_tokens(calibration->trainer);
    r = dpq_trainer_run(calibration->trainer, progress, calibration, &bytes, &n_bytes, &fault);
    result->train_seconds = (double)(session_now_ns() - began_ns) / 1e9;
    if (r == DPQ_E_CANCELLED) {
        session_error_set(&result->error, SESSION_CANCELLED, "CANCELLED",
                          "the calibration was cancelled");
    } else if (r == DPQ_E_INVALID) {
        session_error_set(&result->error, SESSION_FAILED_PRECONDITION, "TOO_FEW_TOKENS", "%s",
                          fault.message);
    } else if (r) {
        session_error_fault(&result->error, error_fold(r), "Calibrate");
    } else if (!session_profile_install(session, bytes, n_bytes, result->profile_id,
                                        &result->error) &&
               !session_profile(session, result->profile_id, &info)) {
        result->info_json = info.info_json;
        log_info("calibrated \"%s\" on %llu tokens in %.1f s", info.model_name,
                 (unsigned long long)result->n_tokens, result->train_seconds);
    }
    dpq_free(bytes);
}

static void *run(void *argument)
{
    struct session_calibration *calibration = argument;
    struct calibration_thread *thread = calibration->thread;
    struct session_calibrated result = { 0 };

    /* of this thread, and of those that it starts */
    if (setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE) < 0)
        log_warning("calibration: can't lower its priority, ignoring: %s", strerror(errno));
    train(calibration, &result);
    calibration->done(calibration->user, &result); /* the calibration may be gone afterwards */
    __atomic_store_n(&thread->finished, true, __ATOMIC_RELEASE);
    return NULL;
}

void session_calibration_run(struct session_calibration *calibration,
                             void (*done)(void *user, const struct session_calibrated *result),
                             void *user)
{
    struct session *session = calibration->session;
    struct calibration_thread *thread = calibration->thread;
    struct session_calibrated result = { 0 };
    int r;

    calibration->done = done;
    calibration->user = user;
    session_lock(session);
    assert(!thread->started);
    r = pthread_create(&thread->thread, NULL, run, calibration);
    if (!r) {
        thread->started = true;
        thread->refs++;
        thread->next = session->calibration_threads;
        session->calibration_threads = thread;
    }
    session_unlock(session);
    if (r) {
        session_error_fault(&result.error, error_origin(-r), "Calibrate");
        done(user, &result);
    }
}

void session_calibration_cancel(struct session_calibration *calibration)
{
    __atomic_store_n(&calibration->thread->cancel, true, __ATOMIC_RELAXED);
}

/* a thread that is to be joined, taken out of the list */
static struct calibration_thread *take(struct session *session, bool any)
{
    struct calibration_thread **at, *thread;

    session_lock(session);
    at = &session->calibration_threads;
    while ((thread = *at) && !any && !__atomic_load_n(&thread->finished, __ATOMIC_ACQUIRE))
        at = &thread->next;
    if (thread)
        *at = thread->next;
    session_unlock(session);
    return thread;
}

void calibration_reap(struct session *session, bool stop)
{
    struct calibration_thread *thread;

    if (stop) {
        session_lock(session);
        for (thread = session->calibration_threads; thread; thread = thread->next)
            __atomic_store_n(&thread->cancel, true, __ATOMIC_RELAXED);
        session_unlock(session);
    }
    while ((thread = take(session, stop))) {
        pthread_join(thread->thread, NULL);
        thread_unref(session, thread);
    }
}
