#include "daemon/session_errand.h"

#include "lib/base/error.h"

static void finish(struct errand *errand)
{
    struct session *session = errand->session;
    struct sequence *sequence = errand->sequence;

    errand->answer(errand);
    sequence_leave(session, sequence);
}

static void run(struct job *job, uint32_t worker)
{
    struct errand *errand = (struct errand *)(void *)((char *)job - offsetof(struct errand, job));

    if (errand->sequence->released)
        session_error_set(errand->error, SESSION_NOT_FOUND, "SEQUENCE",
                          "sequence %llu was released meanwhile",
                          (unsigned long long)errand->sequence->entry.id);
    else
        errand->work(errand, worker);
    finish(errand);
}

static bool begin(struct turn *turn)
{
    struct errand *errand = (struct errand *)turn;

    pool_resubmit(errand->session->pool, &errand->job); /* was admitted when it began to wait */
    return false;
}

void errand_fail(struct errand *errand, int r, uint64_t n_bytes, const char *what)
{
    if (r == STORE_E_FULL)
        tenant_no_room(errand->sequence->tenant, n_bytes, errand->error);
    else if (r == STORE_E_CORRUPT)
        session_error_set(errand->error, SESSION_DATA_LOSS, "CORRUPT",
                          "the sequence's stored record does not match its checksum");
    else
        session_error_fault(errand->error, error_fold(r), what);
}

void errand_start(struct session *session, uint32_t tenant, uint64_t sequence_id,
                  struct errand *errand)
{
    bool is_ours = false;
    int r = 1;

    errand->session = session;
    errand->turn.begin = begin;
    errand->job.run = run;
    session_lock(session);
    errand->sequence = sequence_find(session, tenant, sequence_id);
    if (!errand->sequence)
        session_error_no_sequence(errand->error, sequence_id);
    else
        r = sequence_enter(errand->sequence, &errand->turn, &is_ours, errand->error);
    session_unlock(session);
    if (r) {
        errand->answer(errand);
    } else if (is_ours && pool_submit(session->pool, &errand->job)) {
        session_error_busy(errand->error);
        finish(errand);
    }
}
