#include "daemon/config_reload.h"

#include <string.h>

#include "daemon/config_keys.h"

static const struct config_tenant *find_tenant(const struct config *config, const char *name)
{
    for (uint32_t i = 0; i < config->n_tenants; i++)
        if (!strcmp(config->tenants[i].name, name))
            return &config->tenants[i];
    return NULL;
}

struct comparison {
    void (*fn)(void *user, const struct config_change *change);
    void *user;
};

static void compare_keys(const struct comparison *c, const char *tenant, const void *running,
                         const void *next)
{
    char from[CONFIG_VALUE_BYTES], to[CONFIG_VALUE_BYTES];
    size_t n;
    const struct config_key *keys = config_keys(&n);

    for (size_t i = 0; i < n; i++) {
        const struct config_key *key = &keys[i];
        struct config_change change = { tenant, key->name, key->is_live, from, to };

        if ((key->scope == CONFIG_SCOPE_TENANT) != (tenant != NULL) ||
            config_key_equal(key, running, next))
            continue;
        config_key_show(key, running, from);
        config_key_show(key, next, to);
        c->fn(c->user, &change);
    }
}

/* tenants of one configuration that the other does not have */
static void compare_names(const struct comparison *c, const struct config *a,
                          const struct config *b)
{
    for (uint32_t i = 0; i < a->n_tenants; i++)
        if (!find_tenant(b, a->tenants[i].name))
            c->fn(c->user, &(struct config_change){ a->tenants[i].name, NULL, false, "", "" });
}

void config_compare(const struct config *running, const struct config *next,
                    void (*fn)(void *user, const struct config_change *change), void *user)
{
    const struct comparison c = { fn, user };

    compare_keys(&c, NULL, running, next);
    for (uint32_t i = 0; i < running->n_tenants; i++) {
        const struct config_tenant *tenant = find_tenant(next, running->tenants[i].name);

        if (tenant)
            compare_keys(&c, tenant->name, &running->tenants[i], tenant);
    }
    compare_names(&c, running, next);
    compare_names(&c, next, running);
}

static void take(enum config_scope scope, void *running, const void *next)
{
    size_t n;
    const struct config_key *keys = config_keys(&n);

    for (size_t i = 0; i < n; i++)
        if (keys[i].is_live &&
            (keys[i].scope == CONFIG_SCOPE_TENANT) == (scope == CONFIG_SCOPE_TENANT))
            config_key_copy(&keys[i], running, next);
}

void config_take_live(struct config *running, const struct config *next)
{
    take(CONFIG_SCOPE_DAEMON, running, next);
    for (uint32_t i = 0; i < running->n_tenants; i++) {
        const struct config_tenant *tenant = find_tenant(next, running->tenants[i].name);

        if (tenant)
            take(CONFIG_SCOPE_TENANT, &running->tenants[i], tenant);
    }
}
