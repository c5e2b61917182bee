#pragma once

/*
 * A calibration, as the files of the session layer that deal with it share it
 *
 *   session_calibration.c   the list: begin, go on, park, forget; what GetCalibration says
 *   session_samples.c       numbers, metrics and the file that holds them
 *   session_training.c      the thread, its progress, the end
 *   session_audit.c         what is measured meanwhile
 *   session_refine.c        samples that come from appends instead of a client
 *
 * It is in the session's list from its beginning until nobody has it (no request, no thread) and
 * its time is over. Hence no references are counted: who finds it in the list, under the session's
 * mutex, and marks it as attached may use it until he says free.
 */

#include <pthread.h>

#include "daemon/session_internal.h"

enum {
    MAX_CALIBRATIONS = 4, /* that collect or train; of all tenants */
    MAX_FINISHED = 64,    /* that are remembered for GetCalibration */
    REFINE_MIN_TOKENS = 2048,
    REFINE_SECONDS = 86400, /* after which a refinement trains with what it has */
};

struct session_calibration {
    struct session_calibration *next;
    struct session *session;
    uint32_t tenant;
    uint64_t id; /* the client's; 0: without, dropped with its request */
    struct dpq_geometry geometry;
    struct dpq_train_options options; /* as asked: what makes two calibrations the same */
    char label[64];
    struct dpq_trainer *trainer; /* until training has ended */
    int spill_fd;                /* an unlinked file in the state directory; -1: closed */
    pthread_t thread;
    bool cancel;              /* atomic: training is to stop */
    bool finished;            /* atomic: the thread can be joined without waiting */
    uint64_t n_done, n_total; /* atomic: steps of training */
    uint64_t last_event_ns;   /* under progress_mutex */
    pthread_mutex_t progress_mutex;
    /* the session's mutex guards what follows */
    bool attached; /* a request has it */
    bool started;  /* there is a thread to be joined */
    enum session_calibration_state state;
    uint64_t n_tokens;
    uint64_t until_ns; /* when it may be forgotten, if it is not attached */
    void (*done)(void *user, const struct session_calibrated *result); /* NULL: nobody waits */
    void *user;
    struct session_calibrated result; /* of DONE and FAILED */
    /* session_refine.c's: samples come from appends of sequences with this profile */
    struct profile_entry *refined; /* a reference; NULL: they come from a client */
    uint64_t below;                /* of tiles whose key begins with a smaller number */
    uint64_t budget_tokens;
    uint64_t n_reserved; /* tokens that were added, or are being */
    uint32_t n_adding;   /* threads that add */
    bool closing;        /* the last of them starts the training */
    pthread_mutex_t add_mutex;
};

/* session_calibration.c */
/* when what nobody has is to be forgotten; at once without an id */
uint64_t calibration_park_until(const struct session_calibration *calibration, uint64_t now_ns);

/* session_calibration.c, for session_refine.c; attached, not in the list yet */
int calibration_make(struct session *session, const struct session_calibrate *ask,
                     struct session_calibration **ret_calibration,
                     struct session_error *ret_error) _must_check_;
struct session_calibration *calibration_destroy(struct session_calibration *calibration);
void calibration_list(struct session_calibration *calibration); /* locked */

/* session_training.c: a thread that trains, or result.error says why not; locked */
void calibration_start(struct session_calibration *calibration);

/* session_samples.c */
int calibration_open_trainer(struct session_calibration *calibration,
                             struct session_error *ret_error) _must_check_;
void calibration_close_trainer(struct session_calibration *calibration);
