#pragma once

/* A configuration that is read again while the daemon runs: what of it counts at once, and what has
 * to wait for the next start. */

#include "daemon/config.h"

/* One key that has another value, or a tenant that only one of the two has. */
struct config_change {
    const char *tenant;    /* NULL: not a tenant's */
    const char *key;       /* NULL: the whole tenant */
    bool is_live;          /* config_take_live() takes it */
    const char *from, *to; /* as in the file; "" for a whole tenant */
};

/**
 * config_compare() - what differs, in the order of the table; tenants are found by name
 * @fn: called for each; texts live during the call only
 */
void config_compare(const struct config *running, const struct config *next,
                    void (*fn)(void *user, const struct config_change *change), void *user);

/** config_take_live() - values that can change while the daemon runs, into @running. Its other
 *  fields are not touched, so that other threads may read them meanwhile. */
void config_take_live(struct config *running, const struct config *next);
