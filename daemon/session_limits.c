/*
 * Limits that SIGHUP may change
 *
 * The loop thread changes the configuration; workers look at the copies here, under the session's
 * lock. They count from the next request on: nothing that is there is taken away for them.
 */
#include "daemon/session_internal.h"

static void take_limits(struct session *session, const struct config *config)
{
    session->high_percent = config->high_percent;
    session->low_percent = config->low_percent;
    session->cold_ns = config->cold_seconds * UINT64_C(1000000000);
    for (uint32_t i = 0; i < session->n_tenants; i++) {
        struct tenant *t = &session->tenants[i];

        t->staging_bytes = config->tenants[i].staging_bytes;
        t->staging_total_bytes = config->tenants[i].staging_total_bytes;
        __atomic_store_n(&t->relief_after_ns, 0, __ATOMIC_RELAXED);
        store_set_cold(t->store, session->cold_ns);
    }
}

void session_reload(struct session *session, const struct config *config)
{
    session_lock(session);
    take_limits(session, config);
    session_unlock(session);
}
