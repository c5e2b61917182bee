#include "daemon/reload.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"
#include "daemon/config_reload.h"
#include "daemon/log.h"
#include "daemon/session.h"

static void say_change(void *user, const struct config_change *change)
{
    const char *tenant = change->tenant ? change->tenant : "";
    const char *of = change->tenant ? "tenant " : "", *colon = change->tenant ? ": " : "";

    ++*(uint32_t *)user;
    if (change->is_live)
        log_info("reload: %s%s%s%s is %s now, was %s", of, tenant, colon, change->key, change->to,
                 change->from);
    else if (change->key)
        log_warning("reload: %s%s%s%s stays %s: %s counts from the next start", of, tenant, colon,
                    change->key, change->from, change->to);
    else
        log_warning("reload: tenants come and go with the next start: [tenant %s]", tenant);
}

/* @scratch: what the running one would be */
static void take_over(struct config *running, const struct config *next, struct config *scratch,
                      struct session *session)
{
    char message[CONFIG_MESSAGE_BYTES];
    uint32_t n_changes = 0;

    *scratch = *running;
    config_take_live(scratch, next);
    if (config_check_machine(next, message) || config_check_machine(scratch, message)) {
        log_error("reload: %s: everything stays as it was", message);
        return;
    }
    config_compare(running, next, say_change, &n_changes);
    if (!n_changes)
        log_info("reload: nothing to reload");
    config_take_live(running, next);
    log_set_level(running->log_level);
    session_reload(session, running);
}

void reload_config(const char *path, struct config *running, struct session *session)
{
    struct config *configs = malloc(2 * sizeof *configs);
    char message[CONFIG_MESSAGE_BYTES];
    int r;

    if (!configs) {
        log_error("reload: out of memory: everything stays as it was");
        return;
    }
    r = config_load(path, configs, message);
    if (r)
        log_error("reload: %s: everything stays as it was",
                  r == CONFIG_E_REFUSED ? message : strerror(-r));
    else
        take_over(running, &configs[0], &configs[1], session);
    free(configs);
}
