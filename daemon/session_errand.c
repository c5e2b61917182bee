#include "daemon/session_errand.h"

#include "daemon/hub.h"

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
        session_error_set(errand->error, SESSION_NOT_FOUND, "SEQUENCE",
                          "sequence_id %llu is unknown", (unsigned long long)sequence_id);
    else
        r = sequence_enter(errand->sequence, &errand->turn, &is_ours, errand->error);
    session_unlock(session);
    if (r) {
        errand->answer(errand);
    } else if (is_ours && pool_submit(session->pool, &errand->job)) {
        session_error_set(errand->error, SESSION_RESOURCE_EXHAUSTED, "QUEUE",
                          "the workers' queue is full");
        errand->error->retry_ms = RETRY_MS;
        finish(errand);
    }
}
