/*
 * inih splits lines into key and value; what it does not give us (it is built without line numbers)
 * is kept here: its reader callback is ours, hands it one line at a time and counts. Sections are
 * also followed here, because inih mentions one only with its first key, and an empty [tenant NAME]
 * must be noticed.
 *
 * The first thing that is wrong ends it: one message, about the first bad line.
 */
#include "daemon/config.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config_keys.h"
#include "lib/base/error.h"
#include "lib/store/memory.h"

enum {
    FILE_MAX_BYTES = 1 << 20,
    /* what the daemon needs beside arenas and staging, profiles and calibrations (which are refused
       when there is no room): code, heap and stacks; what a worker works in, and its thread's of
       OpenBLAS; messages, at least (tests/e2e/test_memory_limit.py) */
    OWN_BYTES = 16 << 20,
    WORKER_BYTES = 8 << 20,
    MESSAGE_BYTES = 32 << 20,
    MAX_KEYS = 64,
    NAME_MAX_BYTES = sizeof((struct config_tenant *)NULL)->name - 1,
};

struct parse {
    const char *path;
    char *message; /* of the first error; *message is '\0' as long as there is none */
    int error_line;

    const char *next, *end; /* of the file */
    int line;

    enum config_scope scope;
    struct config config;
    int daemon_line, http_line; /* where these sections began, 0: not yet */
    int tenant_lines[CONFIG_MAX_TENANTS];
    int key_lines[MAX_KEYS]; /* in this section */
};

static void refuse(struct parse *parse, int line, const char *format, ...) _printf_(3, 4);
static void refuse(struct parse *parse, int line, const char *format, ...)
{
    va_list args;
    int n;

    if (*parse->message)
        return;
    parse->error_line = line;
    n = snprintf(parse->message, CONFIG_MESSAGE_BYTES, "%.200s:%d: ", parse->path, line);
    va_start(args, format);
    vsnprintf(parse->message + n, (size_t)(CONFIG_MESSAGE_BYTES - n), format, args);
    va_end(args);
}

/* --- sections --------------------------------------------------------------------------------- */

static void begin_tenant(struct parse *parse, const char *name)
{
    struct config *config = &parse->config;
    struct config_tenant *tenant;
    size_t n = strlen(name), n_keys;
    const struct config_key *keys = config_keys(&n_keys);
    char why[CONFIG_WHY_BYTES];

    if (!n || n > NAME_MAX_BYTES || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != n) {
        refuse(parse, parse->line,
               "a tenant's name has 1 to %d letters a-z, digits, - and _; this is \"%.80s\"",
               (int)NAME_MAX_BYTES, name);
        return;
    }
    for (uint32_t i = 0; i < config->n_tenants; i++)
        if (!strcmp(config->tenants[i].name, name)) {
            refuse(parse, parse->line, "[tenant %s] is given twice, first in line %d", name,
                   parse->tenant_lines[i]);
            return;
        }
    if (config->n_tenants == CONFIG_MAX_TENANTS) {
        refuse(parse, parse->line, "more than %d tenants", CONFIG_MAX_TENANTS);
        return;
    }
    parse->tenant_lines[config->n_tenants] = parse->line;
    tenant = &config->tenants[config->n_tenants++];
    memcpy(tenant->name, name, n + 1);
    for (size_t i = 0; i < n_keys; i++)
        if (keys[i].scope == CONFIG_SCOPE_TENANT && keys[i].preset)
            (void)config_key_set(&keys[i], tenant, keys[i].preset, why); /* a test sets them all */
    parse->scope = CONFIG_SCOPE_TENANT;
}

static void begin_once(struct parse *parse, enum config_scope scope, int *line)
{
    if (*line)
        refuse(parse, parse->line, "%s is given twice, first in line %d", config_scope_name(scope),
               *line);
    *line = parse->line;
    parse->scope = scope;
}

static void begin_section(struct parse *parse, const char *name)
{
    const char *nearest;

    memset(parse->key_lines, 0, sizeof parse->key_lines);
    if (!strcmp(name, "daemon")) {
        begin_once(parse, CONFIG_SCOPE_DAEMON, &parse->daemon_line);
    } else if (!strcmp(name, "http")) {
        begin_once(parse, CONFIG_SCOPE_HTTP, &parse->http_line);
    } else if (!strncmp(name, "tenant ", 7)) {
        begin_tenant(parse, name + 7 + strspn(name + 7, " "));
    } else {
        nearest = config_scope_nearest(name);
        refuse(parse, parse->line, "there is no section [%.80s]%s%s", name,
               nearest ? ": was this meant to be " : ": there are [daemon], [http], [tenant NAME]",
               nearest ? nearest : "");
    }
}

/* --- lines ------------------------------------------------------------------------------------ */

/* fgets() for inih. Blanks at the start go, or inih would take the line for the last value's rest.
 */
static char *next_line(char *line, int size, void *user)
{
    struct parse *parse = user;
    const char *eol, *close;
    size_t n;

    if (*parse->message || parse->next == parse->end)
        return NULL;
    parse->line++;
    eol = memchr(parse->next, '\n', (size_t)(parse->end - parse->next));
    if (!eol)
        eol = parse->end;
    while (parse->next < eol && strchr(" \t\r", *parse->next) && *parse->next)
        parse->next++;
    n = (size_t)(eol - parse->next);
    if (n && (*parse->next == '#' || *parse->next == ';'))
        n = 0;
    if (memchr(parse->next, '\0', n)) {
        refuse(parse, parse->line, "a NUL byte: this is no text file");
        return NULL;
    }
    if (n > (size_t)size - 2) {
        refuse(parse, parse->line, "the line is longer than %d characters%s", size - 2,
               parse->scope == CONFIG_SCOPE_TENANT ? " (uids may be given several times)" : "");
        return NULL;
    }
    memcpy(line, parse->next, n);
    line[n] = '\n';
    line[n + 1] = '\0';
    parse->next = eol == parse->end ? eol : eol + 1;
    if (*line == '[' && (close = strchr(line, ']'))) {
        char name[256];

        snprintf(name, sizeof name, "%.*s", (int)(close - line - 1), line + 1);
        begin_section(parse, name);
    }
    return line;
}

static void refuse_key(struct parse *parse, const char *name)
{
    const struct config_key *nearest = config_key_nearest(name);

    if (nearest && nearest->scope != parse->scope)
        refuse(parse, parse->line, "there is no key \"%.80s\" in %s: was \"%s\" in %s meant?", name,
               config_scope_name(parse->scope), nearest->name, config_scope_name(nearest->scope));
    else if (nearest)
        refuse(parse, parse->line, "there is no key \"%.80s\" in %s: was \"%s\" meant?", name,
               config_scope_name(parse->scope), nearest->name);
    else
        refuse(parse, parse->line, "there is no key \"%.80s\" in %s", name,
               config_scope_name(parse->scope));
}

static void check_uids_are_free(struct parse *parse)
{
    const struct config *config = &parse->config;
    const struct config_tenant *last = &config->tenants[config->n_tenants - 1];

    for (const struct config_tenant *other = config->tenants; other < last; other++)
        for (uint32_t i = 0; i < other->n_uids; i++)
            for (uint32_t j = 0; j < last->n_uids; j++)
                if (other->uids[i] == last->uids[j])
                    refuse(parse, parse->line,
                           "uid %u is in two tenants, %s (line %d) and %s: a user belongs to one",
                           (unsigned)last->uids[j], other->name,
                           parse->tenant_lines[other - config->tenants], last->name);
}

/* An ini_handler: 0 stops (our reader then says that the file has ended). */
static int take_key(void *user, const char *section, const char *name, const char *value)
{
    struct parse *parse = user;
    const struct config_key *key = config_key_find(parse->scope, name);
    size_t n_keys, index;
    char why[CONFIG_WHY_BYTES];
    void *base = &parse->config;

    (void)section;
    if (*parse->message)
        return 0;
    if (!key) {
        refuse_key(parse, name);
        return 0;
    }
    index = (size_t)(key - config_keys(&n_keys));
    if (parse->key_lines[index] && key->type != CONFIG_TYPE_UIDS) {
        refuse(parse, parse->line, "%s is given twice, first in line %d", name,
               parse->key_lines[index]);
        return 0;
    }
    parse->key_lines[index] = parse->line;
    if (key->scope == CONFIG_SCOPE_TENANT)
        base = &parse->config.tenants[parse->config.n_tenants - 1];
    if (config_key_set(key, base, value, why))
        refuse(parse, parse->line, "%s = %.80s: %s", name, value, why);
    else if (key->type == CONFIG_TYPE_UIDS)
        check_uids_are_free(parse);
    return !*parse->message;
}

/* --- the whole -------------------------------------------------------------------------------- */

static void set_presets(struct config *config)
{
    size_t n;
    const struct config_key *keys = config_keys(&n);
    char why[CONFIG_WHY_BYTES];

    memset(config, 0, sizeof *config);
    for (size_t i = 0; i < n; i++)
        if (keys[i].scope != CONFIG_SCOPE_TENANT)
            (void)config_key_set(&keys[i], config, keys[i].preset, why); /* a test sets them all */
}

static void check_whole(struct parse *parse)
{
    const struct config *config = &parse->config;

    for (uint32_t i = 0; i < config->n_tenants; i++) {
        const struct config_tenant *tenant = &config->tenants[i];

        if (!tenant->n_uids)
            refuse(parse, parse->tenant_lines[i],
                   "[tenant %s] has no uids: nobody could connect as this tenant", tenant->name);
        if (tenant->staging_bytes > tenant->staging_total_bytes)
            refuse(parse, parse->tenant_lines[i],
                   "[tenant %s]: staging_bytes (one client, %llu) is more than "
                   "staging_total_bytes (all clients, %llu)",
                   tenant->name, (unsigned long long)tenant->staging_bytes,
                   (unsigned long long)tenant->staging_total_bytes);
    }
    if (config->low_percent > config->high_percent)
        refuse(parse, parse->daemon_line, "low_percent (%u) is more than high_percent (%u)",
               config->low_percent, config->high_percent);
    if (!config->n_tenants)
        refuse(parse, parse->line ? parse->line : 1,
               "there is no [tenant NAME] section: nobody could connect");
}

/* Return: 0 with malloc'ed bytes, CONFIG_E_REFUSED, a fault. */
static int read_file(const char *path, char **ret_bytes, size_t *ret_n, char *ret_message)
{
    FILE *file = fopen(path, "re");
    char *bytes;
    size_t n;
    int error;

    if (!file) {
        snprintf(ret_message, CONFIG_MESSAGE_BYTES, "%.200s: %s", path, strerror(errno));
        return CONFIG_E_REFUSED;
    }
    bytes = malloc(FILE_MAX_BYTES + 1);
    if (!bytes) {
        fclose(file);
        return error_origin(-ENOMEM);
    }
    n = fread(bytes, 1, FILE_MAX_BYTES + 1, file);
    error = ferror(file) ? errno : 0;
    fclose(file);
    if (error || n > FILE_MAX_BYTES) {
        snprintf(ret_message, CONFIG_MESSAGE_BYTES, "%.200s: %s", path,
                 error ? strerror(error) : "larger than 1 MiB: this is no configuration");
        free(bytes);
        return CONFIG_E_REFUSED;
    }
    *ret_bytes = bytes;
    *ret_n = n;
    return 0;
}

static int parse_file(struct parse *parse)
{
    char *bytes = NULL;
    size_t n = 0;
    int r;

    r = read_file(parse->path, &bytes, &n, parse->message);
    if (r)
        return r;
    parse->next = bytes;
    parse->end = bytes + n;
    if (n >= 3 && !memcmp(bytes, "\xef\xbb\xbf", 3))
        parse->next += 3;
    r = ini_parse_stream(next_line, parse, take_key, parse);
    if (r > 0 && (!*parse->message || r < parse->error_line)) {
        *parse->message = '\0';
        refuse(parse, r, "neither a [section] nor key = value nor a # comment");
    }
    check_whole(parse);
    free(bytes);
    return *parse->message ? CONFIG_E_REFUSED : 0;
}

int config_load(const char *path, struct config *ret_config, char *ret_message)
{
    struct parse *parse;
    int r = 0;

    parse = calloc(1, sizeof *parse);
    if (!parse)
        return error_origin(-ENOMEM);
    *ret_message = '\0';
    parse->path = path;
    parse->message = ret_message;
    set_presets(&parse->config);
    if (path)
        r = parse_file(parse);
    if (!r)
        *ret_config = parse->config;
    free(parse);
    return r < 0 ? error_fold(r) : r;
}

uint32_t config_n_workers(const struct config *config)
{
    long n_cpus = sysconf(_SC_NPROCESSORS_ONLN);

    if (config->workers)
        return config->workers;
    return n_cpus > 256 ? 255 : n_cpus > 3 ? (uint32_t)n_cpus - 1 : 2;
}

static uint64_t own_bytes(const struct config *config)
{
    return OWN_BYTES + (uint64_t)config_n_workers(config) * WORKER_BYTES;
}

static uint64_t reserve_bytes(const struct config *config, uint64_t group_bytes)
{
    uint64_t least = own_bytes(config) + MESSAGE_BYTES, share = group_bytes / 32;

    return share > least ? share : least;
}

int config_check_memory(const struct config *config, uint64_t ram_bytes, uint64_t group_bytes,
                        char *ret_message)
{
    uint64_t reserve = reserve_bytes(config, group_bytes);
    uint64_t room = group_bytes > reserve ? group_bytes - reserve : 0;
    unsigned __int128 sum = 0;

    for (uint32_t i = 0; i < config->n_tenants; i++)
        sum += (unsigned __int128)config->tenants[i].arena_bytes +
               config->tenants[i].staging_total_bytes;
    if (config->total_bytes && sum > config->total_bytes) {
        snprintf(ret_message, CONFIG_MESSAGE_BYTES,
                 "the tenants' arena_bytes and staging_total_bytes add up to %.1f MiB, but "
                 "total_bytes allows %.1f MiB",
                 (double)sum / 1048576, (double)config->total_bytes / 1048576);
    } else if (sum > ram_bytes) {
        snprintf(ret_message, CONFIG_MESSAGE_BYTES,
                 "the tenants' arena_bytes and staging_total_bytes add up to %.1f MiB, but this "
                 "machine has %.1f MiB of memory: lower them",
                 (double)sum / 1048576, (double)ram_bytes / 1048576);
    } else if (group_bytes != UINT64_MAX && sum > room) {
        snprintf(
            ret_message, CONFIG_MESSAGE_BYTES,
            "the tenants' arena_bytes and staging_total_bytes add up to %.1f MiB, but the "
            "daemon's control group has a memory limit (memory.max, MemoryMax=) of %.1f MiB, of "
            "which %.1f MiB are for the daemon itself: lower them, or raise the limit",
            (double)sum / 1048576, (double)group_bytes / 1048576, (double)reserve / 1048576);
    } else {
        return 0;
    }
    return CONFIG_E_REFUSED;
}

static uint64_t ram_bytes(void)
{
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

int config_check_machine(const struct config *config, char *ret_message)
{
    const struct memory_paths paths = MEMORY_PATHS;

    return config_check_memory(config, ram_bytes(), memory_limit_bytes(&paths), ret_message);
}

uint64_t config_message_bytes(const struct config *config)
{
    const struct memory_paths paths = MEMORY_PATHS;
    uint64_t limit = memory_limit_bytes(&paths), ram = ram_bytes();

    return reserve_bytes(config, limit < ram ? limit : ram) - own_bytes(config);
}
