/*
 * The scrubber: each arena is read and verified once in scrub_seconds
 *
 * A share a second, on a worker, in slices; while one is under way no other begins, so that a
 * machine that is too slow for the period falls behind instead of doing nothing else.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/log.h"
#include "daemon/session_keep.h"

enum { SLICE_BYTES = 32 << 20 }; /* some milliseconds */

struct scrub {
    struct job job;
    struct session *session;
    bool running; /* the session's mutex */
    uint32_t tenant;
    uint64_t left_bytes; /* of this tenant's share */
};

static uint64_t share_of(const struct session *session, uint32_t tenant)
{
    struct store_stats stats;

    store_get_stats(session->tenants[tenant].store, &stats);
    return stats.arena_bytes / session->config->scrub_seconds + 1;
}

static void say(const struct tenant *tenant, const struct store_scrubbed *sum)
{
    if (sum->n_corrupt)
        log_error("tenant %s: %u stored objects do not match their checksums; tiles among them are "
                  "not served any more",
                  tenant->config->name, sum->n_corrupt);
    if (sum->wrapped)
        log_debug("tenant %s: all of the arena has been verified", tenant->config->name);
}

static void scrub_slice(struct job *job, uint32_t worker)
{
    struct scrub *scrub = (struct scrub *)job;
    struct session *session = scrub->session;
    struct tenant *tenant = &session->tenants[scrub->tenant];
    uint64_t n = scrub->left_bytes < SLICE_BYTES ? scrub->left_bytes : SLICE_BYTES;
    struct store_scrubbed sum;

    (void)worker;
    store_scrub(tenant->store, n, session_now_ns(), &sum);
    say(tenant, &sum);
    scrub->left_bytes -= n;
    if (!scrub->left_bytes || sum.wrapped) {
        if (++scrub->tenant == session->n_tenants) {
            session_lock(session);
            scrub->running = false;
            session_unlock(session);
            return;
        }
        scrub->left_bytes = share_of(session, scrub->tenant);
    }
    pool_resubmit(session->pool, job);
}

void scrub_tick(struct session *session)
{
    struct scrub *scrub = session->scrub;
    bool running;

    if (!session->config->scrub_seconds || !session->n_tenants)
        return;
    if (!scrub) {
        scrub = session->scrub = calloc(1, sizeof(*scrub));
        if (!scrub)
            return; /* the next tick tries again */
        scrub->job.run = scrub_slice;
        scrub->session = session;
    }
    session_lock(session);
    running = scrub->running;
    scrub->running = true;
    session_unlock(session);
    if (running)
        return;
    scrub->tenant = 0;
    scrub->left_bytes = share_of(session, 0);
    if (pool_submit(session->pool, &scrub->job)) {
        session_lock(session);
        scrub->running = false;
        session_unlock(session);
    }
}

struct scrub *scrub_free(struct scrub *scrub)
{
    free(scrub);
    return NULL;
}
