/*
 * Calibrations: begun, gone on with, parked, forgotten
 *
 *     begin -> COLLECTING -> run -> TRAINING -> DONE, FAILED
 *
 * Beside its state a calibration is attached to a request or not. Without an id it is dropped with
 * the request. With one it outlives it: parked while it collects, trained to its end, and
 * remembered for a while, so that a client whose connection broke can go on or fetch the answer.
 */
#include "daemon/session_calibration.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "lib/base/error.h"

struct session_calibration *calibration_destroy(struct session_calibration *calibration)
{
    if (!calibration)
        return NULL;
    dpq_trainer_free(calibration->trainer);
    profile_put(calibration->session, calibration->refined);
    free((char *)(uintptr_t)calibration->result.info_json);
    if (calibration->spill_fd >= 0)
        close(calibration->spill_fd);
    pthread_mutex_destroy(&calibration->progress_mutex);
    pthread_mutex_destroy(&calibration->add_mutex);
    free(calibration);
    return NULL;
}

uint64_t calibration_park_until(const struct session_calibration *calibration, uint64_t now_ns)
{
    uint32_t seconds = calibration->session->config->calibration_park_seconds;

    return calibration->id ? now_ns + seconds * UINT64_C(1000000000) : 0;
}

/* --- the list; locked --------------------------------------------------------------------------
 */

static struct session_calibration *find(const struct session *session, uint32_t tenant, uint64_t id)
{
    struct session_calibration *c = session->calibrations;

    while (c && (!id || c->id != id || c->tenant != tenant))
        c = c->next;
    return c;
}

static void unlink_from(struct session *session, struct session_calibration *calibration)
{
    struct session_calibration **at = &session->calibrations;

    while (*at != calibration)
        at = &(*at)->next;
    *at = calibration->next;
    if (calibration->trainer)
        session->n_calibrations--;
}

void calibration_list(struct session_calibration *calibration)
{
    struct session *session = calibration->session;

    calibration->next = session->calibrations;
    session->calibrations = calibration;
    session->n_calibrations++;
}

static bool is_refining(const struct session_calibration *calibration)
{
    return calibration->refined && calibration->state == SESSION_CALIBRATION_COLLECTING;
}

static bool is_parked(const struct session_calibration *calibration)
{
    return !calibration->attached && calibration->state == SESSION_CALIBRATION_COLLECTING &&
           !calibration->refined;
}

/* the one among the tenant's parked ones that has waited longest */
static struct session_calibration *longest_parked(const struct session *session, uint32_t tenant)
{
    struct session_calibration *longest = NULL;

    for (struct session_calibration *c = session->calibrations; c; c = c->next)
        if (c->tenant == tenant && is_parked(c) && (!longest || c->until_ns < longest->until_ns))
            longest = c;
    return longest;
}

/* Room for one more: what waits longest goes first. Gives what is to be destroyed. 0, 1 */
static int make_room(struct session *session, uint32_t tenant,
                     struct session_calibration **ret_dropped, struct session_error *ret_error)
{
    struct session_calibration *parked = NULL;

    if (session->n_calibrations - session->n_refining >= MAX_CALIBRATIONS) {
        parked = longest_parked(session, tenant);
        if (!parked) {
            session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "LIMIT",
                              "%d calibrations are under way, the most at a time",
                              MAX_CALIBRATIONS);
            ret_error->retry_ms = 50 * RETRY_MS;
            return 1;
        }
        unlink_from(session, parked);
    }
    *ret_dropped = parked;
    return 0;
}

/* --- begin -------------------------------------------------------------------------------------
 */

static bool is_same(const struct session_calibration *calibration,
                    const struct dpq_geometry *geometry, const struct dpq_train_options *options)
{
    return !memcmp(&calibration->geometry, geometry, sizeof(*geometry)) &&
           !memcmp(&calibration->options, options, sizeof(*options));
}

/* A calibration of that id is there. 0: attached; 1. */
static int attach_again(struct session_calibration *c, const struct session_calibrate *ask,
                        struct session_error *ret_error)
{
    if (c->attached) {
        session_error_set(ret_error, SESSION_ABORTED, "CALIBRATION_BUSY",
                          "another call has calibration_id %llu: come again when it has ended",
                          (unsigned long long)c->id);
        ret_error->retry_ms = RETRY_MS;
        return 1;
    }
    if (c->refined || !is_same(c, &ask->geometry, &ask->options)) {
        session_error_set(ret_error, SESSION_ALREADY_EXISTS, "CALIBRATION_ID",
                          "calibration_id %llu was begun with another geometry, other options or "
                          "another model_name: give the same, or another id",
                          (unsigned long long)c->id);
        return 1;
    }
    c->attached = true;
    snprintf(c->label, sizeof(c->label), "%s", ask->label);
    return 0;
}

/* 0: attached; 1: refused, ret_error says why; 2: there is none. ret_dropped: to be destroyed. */
static int go_on(struct session *session, const struct session_calibrate *ask,
                 struct session_calibration **ret_calibration,
                 struct session_calibration **ret_dropped, struct session_error *ret_error)
{
    struct session_calibration *c = find(session, ask->tenant, ask->calibration_id);

    if (!c)
        return 2;
    if (attach_again(c, ask, ret_error))
        return 1;
    if (c->state != SESSION_CALIBRATION_FAILED) {
        *ret_calibration = c;
        return 0;
    }
    *ret_error = c->result.error;
    c->attached = false;
    c->id = 0;
    c->until_ns = 0;
    if (!c->started) {
        unlink_from(session, c);
        *ret_dropped = c;
    } /* else with the next tick */
    return 1;
}

int calibration_make(struct session *session, const struct session_calibrate *ask,
                     struct session_calibration **ret_calibration, struct session_error *ret_error)
{
    struct session_calibration *c = calloc(1, sizeof(*c));

    if (!c) {
        session_error_fault(ret_error, error_origin(-ENOMEM), "Calibrate");
        return 1;
    }
    c->session = session;
    c->tenant = ask->tenant;
    c->id = ask->calibration_id;
    c->geometry = ask->geometry;
    c->options = ask->options;
    c->attached = true;
    c->spill_fd = -1;
    snprintf(c->label, sizeof(c->label), "%s", ask->label);
    pthread_mutex_init(&c->progress_mutex, NULL);
    pthread_mutex_init(&c->add_mutex, NULL);
    if (calibration_open_trainer(c, ret_error)) {
        calibration_destroy(c);
        return 1;
    }
    *ret_calibration = c;
    return 0;
}

/* without what is not the asker's business */
static struct session_calibrate normal(const struct session_calibrate *ask)
{
    struct session_calibrate own = *ask;
    size_t n = strnlen(own.options.model_name, sizeof(own.options.model_name) - 1);

    memset(own.options.model_name + n, 0, sizeof(own.options.model_name) - n);
    own.options.max_bytes = 0;
    own.options.n_threads = 0;
    own.options.spill_fd = 0;
    return own;
}

int session_calibration_begin(struct session *session, const struct session_calibrate *ask,
                              struct session_calibration **ret_calibration,
                              struct session_error *ret_error)
{
    struct session_calibration *made = NULL, *dropped = NULL;
    const struct session_calibrate own = normal(ask);
    int r;

    session_error_clear(ret_error);
    session_lock(session);
    r = go_on(session, &own, ret_calibration, &dropped, ret_error);
    session_unlock(session);
    if (r == 2 && !calibration_make(session, &own, &made, ret_error)) {
        session_lock(session);
        r = go_on(session, &own, ret_calibration, &dropped, ret_error); /* begun meanwhile? */
        if (r == 2 && !make_room(session, own.tenant, &dropped, ret_error)) {
            calibration_list(made);
            *ret_calibration = steal_ptr(made);
            r = 0;
        }
        session_unlock(session);
    }
    calibration_destroy(dropped);
    calibration_destroy(made);
    return r ? 1 : 0;
}

/* --- the end -----------------------------------------------------------------------------------
 */

struct session_calibration *session_calibration_free(struct session_calibration *calibration)
{
    struct session *session;
    bool drop;

    if (!calibration)
        return NULL;
    session = calibration->session;
    session_lock(session);
    calibration->attached = false;
    if (calibration->state == SESSION_CALIBRATION_COLLECTING)
        calibration->until_ns = calibration_park_until(calibration, session_now_ns());
    drop = !calibration->id && !calibration->started; /* else when its thread is joined */
    if (drop)
        unlink_from(session, calibration);
    session_unlock(session);
    if (drop)
        calibration_destroy(calibration);
    return NULL;
}

/* Take out of the list what nobody has any more; locked. */
static struct session_calibration *collect_dead(struct session *session, uint64_t now_ns)
{
    struct session_calibration *dead = NULL, *next;
    uint32_t n_finished = 0;

    for (struct session_calibration *c = session->calibrations; c; c = next) {
        next = c->next;
        if (c->started && __atomic_load_n(&c->finished, __ATOMIC_ACQUIRE)) {
            pthread_join(c->thread, NULL); /* it has nothing left to do */
            c->started = false;
        }
        n_finished += c->state >= SESSION_CALIBRATION_DONE;
        if (c->attached || c->started || is_refining(c) ||
            (c->until_ns > now_ns && n_finished <= MAX_FINISHED))
            continue;
        unlink_from(session, c);
        c->next = dead;
        dead = c;
    }
    return dead;
}

static void destroy_all(struct session_calibration *first)
{
    while (first) {
        struct session_calibration *next = first->next;

        calibration_destroy(first);
        first = next;
    }
}

void calibration_tick(struct session *session, uint64_t now_ns)
{
    struct session_calibration *dead;

    session_lock(session);
    refine_tick(session, now_ns);
    dead = collect_dead(session, now_ns);
    session_unlock(session);
    destroy_all(dead);
}

void calibration_drop_all(struct session *session)
{
    struct session_calibration *all = session->calibrations;

    for (struct session_calibration *c = all; c; c = c->next)
        __atomic_store_n(&c->cancel, true, __ATOMIC_RELAXED);
    for (struct session_calibration *c = all; c; c = c->next)
        if (c->started)
            pthread_join(c->thread, NULL);
    session->calibrations = NULL;
    destroy_all(all);
}

/* --- what is told ------------------------------------------------------------------------------
 */

int session_calibration_get(struct session *session, uint32_t tenant, uint64_t calibration_id,
                            struct session_calibration_info *ret_info,
                            struct session_error *ret_error)
{
    struct session_calibration *c;
    uint64_t n_total;

    session_error_clear(ret_error);
    session_lock(session);
    c = find(session, tenant, calibration_id);
    if (c) {
        n_total = __atomic_load_n(&c->n_total, __ATOMIC_RELAXED);
        *ret_info = (struct session_calibration_info){ .state = c->state,
                                                       .n_tokens = c->n_tokens,
                                                       .wanted_tokens = c->budget_tokens,
                                                       .result = c->result };
        ret_info->result.info_json = NULL;
        if (c->state == SESSION_CALIBRATION_DONE)
            ret_info->progress = 1;
        else if (n_total)
            ret_info->progress =
                (double)__atomic_load_n(&c->n_done, __ATOMIC_RELAXED) / (double)n_total;
    }
    session_unlock(session);
    if (c)
        return 0;
    session_error_set(ret_error, SESSION_NOT_FOUND, "CALIBRATION",
                      "calibration_id %llu is unknown: never begun, or forgotten",
                      (unsigned long long)calibration_id);
    return 1;
}
