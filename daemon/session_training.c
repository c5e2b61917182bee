/*
 * Training: on threads of low priority, beside the workers
 *
 * It takes minutes of CPU; niced, it lets appends and reads keep their pace. The request that asked
 * for it may be over long before: who waits is a pointer that whoever answers takes, under the
 * session's mutex, so that an answer is given once.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/hub.h"
#include "daemon/log.h"
#include "daemon/session_calibration.h"
#include "lib/base/error.h"
#include "lib/codec/train.h"

#define PROGRESS_NS UINT64_C(200000000) /* events are this far apart at least */

enum { NICE = 10 };

/* Who waits for the end, to be called without the lock. */
struct waiter {
    void (*done)(void *user, const struct session_calibrated *result);
    void *user;
};

static struct waiter take_waiter(struct session_calibration *calibration)
{
    struct waiter waiter = { calibration->done, calibration->user };

    calibration->done = NULL;
    return waiter;
}

static void answer(const struct waiter *waiter, const struct session_calibrated *result)
{
    if (waiter->done)
        waiter->done(waiter->user, result);
}

/* --- the thread --------------------------------------------------------------------------------
 */

static bool progress(void *user, uint64_t done, uint64_t total)
{
    struct session_calibration *calibration = user;
    struct event event = {
        .kind = EVENT_CALIBRATION_PROGRESS, .tenant = calibration->tenant, .a = done, .b = total
    };
    uint64_t now_ns = session_now_ns();
    bool tell;

    __atomic_store_n(&calibration->n_total, total, __ATOMIC_RELAXED);
    __atomic_store_n(&calibration->n_done, done, __ATOMIC_RELAXED);
    pthread_mutex_lock(&calibration->progress_mutex);
    tell = done == total || now_ns - calibration->last_event_ns >= PROGRESS_NS;
    if (tell)
        calibration->last_event_ns = now_ns;
    pthread_mutex_unlock(&calibration->progress_mutex);
    if (tell) {
        session_lock(calibration->session);
        snprintf(event.text, sizeof(event.text), "%s", calibration->label);
        session_unlock(calibration->session);
        hub_publish(calibration->session->hub, &event);
    }
    return __atomic_load_n(&calibration->cancel, __ATOMIC_RELAXED);
}

/* A profile without an audit is better than none: what is missing is said in the log. */
static struct audit *begin_audit(struct session_calibration *calibration)
{
    struct dpq_audit_hooks hooks;
    struct audit *audit;

    if (audit_new(&calibration->geometry, calibration->options.max_decode_mflop > 0, &audit)) {
        log_warning("calibration: no memory for the audit, going on without");
        return NULL;
    }
    hooks = audit_hooks(audit);
    dpq_trainer_audit(calibration->trainer, &hooks);
    return audit;
}

static void train(struct session_calibration *calibration, struct session_calibrated *result)
{
    struct session *session = calibration->session;
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    struct session_profile_info info;
    uint64_t began_ns = session_now_ns();
    struct audit *audit = begin_audit(calibration);
    uint8_t *bytes = NULL;
    size_t n_bytes = 0;
    int r;

    session_error_clear(&result->error);
    result->n_tokens = dpq_trainer_tokens(calibration->trainer);
    if (session_check_memory(session, dpq_trainer_memory_bytes(calibration->trainer),
                             "calibrating with these samples", &result->error)) {
        audit_free(audit);
        return;
    }
    r = dpq_trainer_run(calibration->trainer, progress, calibration, &bytes, &n_bytes, &fault);
    result->train_seconds = (double)(session_now_ns() - began_ns) / 1e9;
    audit_free(audit);
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
        result->info_json = strdup(info.info_json);
        if (!result->info_json)
            session_error_fault(&result->error, error_origin(-ENOMEM), "Calibrate");
        log_info("calibrated \"%s\" on %llu tokens in %.1f s", info.model_name,
                 (unsigned long long)result->n_tokens, result->train_seconds);
        session_profile_unref(session, &info);
    }
    dpq_free(bytes);
}

static void *run(void *argument)
{
    struct session_calibration *calibration = argument;
    struct session *session = calibration->session;
    struct session_calibrated result = { 0 };
    struct waiter waiter;

    /* of this thread, and of those that it starts */
    if (setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE) < 0)
        log_warning("calibration: can't lower its priority, ignoring: %s", strerror(errno));
    train(calibration, &result);
    calibration_close_trainer(calibration);
    session_lock(session);
    calibration->result = result;
    calibration->state =
        result.error.code == SESSION_OK ? SESSION_CALIBRATION_DONE : SESSION_CALIBRATION_FAILED;
    calibration->until_ns = calibration_park_until(calibration, session_now_ns());
    waiter = take_waiter(calibration);
    session_unlock(session);
    answer(&waiter, &result);
    __atomic_store_n(&calibration->finished, true, __ATOMIC_RELEASE);
    return NULL;
}

/* --- run and cancel ----------------------------------------------------------------------------
 */

void calibration_start(struct session_calibration *calibration)
{
    int r = pthread_create(&calibration->thread, NULL, run, calibration);

    if (!r) {
        calibration->started = true;
        calibration->state = SESSION_CALIBRATION_TRAINING;
    } else {
        session_error_fault(&calibration->result.error, error_origin(-r), "Calibrate");
    }
}

void session_calibration_run(struct session_calibration *calibration,
                             void (*done)(void *user, const struct session_calibrated *result),
                             void *user)
{
    struct session *session = calibration->session;
    struct session_calibrated result;
    struct waiter waiter = { NULL, NULL };

    session_lock(session);
    assert(!calibration->done); /* one request has it, and runs it once */
    calibration->done = done;
    calibration->user = user;
    if (calibration->state == SESSION_CALIBRATION_COLLECTING)
        calibration_start(calibration);
    if (calibration->state != SESSION_CALIBRATION_TRAINING)
        waiter = take_waiter(calibration);
    result = calibration->result;
    session_unlock(session);
    answer(&waiter, &result);
}

void session_calibration_cancel(struct session_calibration *calibration)
{
    struct session *session = calibration->session;
    struct session_calibrated result = { 0 };
    struct waiter waiter = { NULL, NULL };

    session_lock(session);
    if (calibration->id)
        waiter = take_waiter(calibration);
    else
        __atomic_store_n(&calibration->cancel, true, __ATOMIC_RELAXED);
    session_unlock(session);
    session_error_set(&result.error, SESSION_CANCELLED, "CANCELLED",
                      "the call is over; its calibration goes on");
    answer(&waiter, &result);
}
