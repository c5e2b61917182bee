#include "daemon/config_keys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define K UINT64_C(1024)
#define M (K * K)
#define G (K * M)
#define T (K * G)

/* A socket's address holds 107 characters: directory, "/grpc.sock". */
enum { RUNTIME_DIR_MAX = 96 };

#define DAEMON(field) CONFIG_SCOPE_DAEMON, #field
#define TENANT(field) CONFIG_SCOPE_TENANT, #field
#define IN(field)     offsetof(struct config, field)
#define OF(field)     offsetof(struct config_tenant, field)
#define NUMBER        CONFIG_TYPE_NUMBER
#define SIZE          CONFIG_TYPE_SIZE
#define LIVE          NULL, true

static const struct config_key keys[] = {
    { DAEMON(runtime_dir), "/run/deltapq", CONFIG_TYPE_PATH, IN(runtime_dir), 1, RUNTIME_DIR_MAX },
    { DAEMON(state_dir), "/var/lib/deltapqd", CONFIG_TYPE_PATH, IN(state_dir), 1, 200 },
    { DAEMON(arena_dir), "off", CONFIG_TYPE_PATH, IN(arena_dir), 1, 200, "off" },
    { DAEMON(huge_pages), "off", CONFIG_TYPE_CHOICE, IN(huge_pages), 0, 8, "off try" },
    { DAEMON(allow_same_uid), "false", CONFIG_TYPE_BOOL, IN(allow_same_uid) },
    { DAEMON(workers), "0", NUMBER, IN(workers), 0, 256 },
    { DAEMON(max_queued_jobs), "1024", NUMBER, IN(max_queued_jobs), 1, 1000000 },
    { DAEMON(max_connections_per_uid), "256", NUMBER, IN(max_connections_per_uid), 1, 65536 },
    { DAEMON(connection_idle_seconds), "600", NUMBER, IN(connection_idle_seconds), 1, 86400 },
    { DAEMON(stall_seconds), "300", NUMBER, IN(stall_seconds), 1, 86400 },
    { DAEMON(grace_seconds), "5", NUMBER, IN(grace_seconds), 0, 300, LIVE },
    { DAEMON(lease_seconds), "10", NUMBER, IN(lease_seconds), 1, 3600 },
    { DAEMON(scrub_seconds), "86400", NUMBER, IN(scrub_seconds), 0, 31536000 },
    { DAEMON(ticket_seconds), "10", NUMBER, IN(ticket_seconds), 1, 3600 },
    { DAEMON(high_percent), "95", NUMBER, IN(high_percent), 1, 100, LIVE },
    { DAEMON(low_percent), "90", NUMBER, IN(low_percent), 0, 100, LIVE },
    { DAEMON(cold_seconds), "60", NUMBER, IN(cold_seconds), 0, 3600, LIVE },
    { DAEMON(total_bytes), "0", SIZE, IN(total_bytes), 0, 1024 * T, LIVE },
    { DAEMON(calibration_max_bytes), "1G", SIZE, IN(calibration_max_bytes), M, T },
    { DAEMON(calibration_park_seconds), "600", NUMBER, IN(calibration_park_seconds), 1, 86400 },
    { DAEMON(event_history), "4096", NUMBER, IN(event_history), 16, 65536 },
    { DAEMON(monitor_bytes), "16M", SIZE, IN(monitor_bytes), M, 16 * G },
    { DAEMON(log_level), "info", CONFIG_TYPE_CHOICE, IN(log_level), 0, 16,
      "error warning info debug", true },
    { DAEMON(cpu), "auto", CONFIG_TYPE_CHOICE, IN(cpu), 0, 64, "auto c avx2" },
    { CONFIG_SCOPE_HTTP, "listen", "127.0.0.1:9470", CONFIG_TYPE_LISTEN, IN(http_listen), 0, 64 },
    { TENANT(uids), NULL, CONFIG_TYPE_UIDS, 0 },
    { TENANT(arena_bytes), "1G", SIZE, OF(arena_bytes), M, 16 * T },
    { TENANT(staging_bytes), "64M", SIZE, OF(staging_bytes), K * 4, T, LIVE },
    { TENANT(monitor), "true", CONFIG_TYPE_BOOL, OF(monitor) },
    { TENANT(refine), "false", CONFIG_TYPE_BOOL, OF(refine) },
    { TENANT(staging_total_bytes), "256M", SIZE, OF(staging_total_bytes), K * 4, 16 * T, LIVE },
};

const struct config_key *config_keys(size_t *ret_n)
{
    *ret_n = ARRAY_SIZE(keys);
    return keys;
}

const struct config_key *config_key_find(enum config_scope scope, const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (keys[i].scope == scope && !strcmp(keys[i].name, name))
            return &keys[i];
    return NULL;
}

/* --- what was meant? -------------------------------------------------------------------------- */

enum { NAME_BYTES = 40 };

/* Levenshtein distance of two names; SIZE_MAX when one is too long to be a key's. */
static size_t distance(const char *a, const char *b)
{
    size_t n_a = strlen(a), n_b = strlen(b), row[NAME_BYTES + 1];

    if (n_a > NAME_BYTES || n_b > NAME_BYTES)
        return SIZE_MAX;
    for (size_t j = 0; j <= n_b; j++)
        row[j] = j;
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);

            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n_b];
}

const struct config_key *config_key_nearest(const char *name)
{
    const struct config_key *nearest = NULL;
    size_t least = strlen(name) / 3 + 2; /* more than that is another word */

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        size_t d = distance(name, keys[i].name);

        if (d < least) {
            least = d;
            nearest = &keys[i];
        }
    }
    return nearest;
}

const char *config_scope_nearest(const char *section)
{
    if (distance(section, "daemon") <= 2)
        return "[daemon]";
    if (distance(section, "http") <= 2)
        return "[http]";
    if (!strncmp(section, "tenant", 6) || distance(section, "tenant") <= 2)
        return "[tenant NAME]";
    return NULL;
}

const char *config_scope_name(enum config_scope scope)
{
    switch (scope) {
    case CONFIG_SCOPE_DAEMON:
        return "[daemon]";
    case CONFIG_SCOPE_HTTP:
        return "[http]";
    case CONFIG_SCOPE_TENANT:
        return "[tenant NAME]";
    default:
        return "the file's beginning";
    }
}

/* --- values ----------------------------------------------------------------------------------- */

static int refuse(char *ret_why, const char *format, ...) _printf_(2, 3);
static int refuse(char *ret_why, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(ret_why, CONFIG_WHY_BYTES, format, args);
    va_end(args);
    return CONFIG_E_REFUSED;
}

/* Digits only: strtoull() would take signs and spaces. */
static bool parse_digits(const char *value, uint64_t *ret_number, const char **ret_end)
{
    char *end;

    if (*value < '0' || *value > '9')
        return false;
    errno = 0;
    *ret_number = strtoull(value, &end, 10);
    *ret_end = end;
    return !errno;
}

static bool parse_size(const char *value, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    const char *end, *unit;
    uint64_t number;
    int shift = 0;

    if (!parse_digits(value, &number, &end))
        return false;
    if (*end) {
        unit = strchr(units, *end);
        if (!unit || end[1])
            return false;
        shift = 10 * (int)(unit - units + 1);
    }
    if (number > UINT64_MAX >> shift)
        return false;
    *ret_bytes = number << shift;
    return true;
}

/* The shortest exact form: 1048576 is 1M. */
static const char *show_size(uint64_t bytes, char text[24])
{
    static const char units[] = "\0KMGT";
    int i = 0;

    while (i < 4 && bytes && !(bytes & 1023)) {
        bytes >>= 10;
        i++;
    }
    snprintf(text, 24, "%llu%.1s", (unsigned long long)bytes, units + i);
    return text;
}

static int set_bool(bool *field, const char *value, char *ret_why)
{
    static const char *const words[2][4] = { { "false", "no", "off", "0" },
                                             { "true", "yes", "on", "1" } };

    for (size_t i = 0; i < 2; i++)
        for (size_t j = 0; j < 4; j++)
            if (!strcasecmp(value, words[i][j])) {
                *field = i;
                return 0;
            }
    return refuse(ret_why, "must be true or false");
}

static int set_number(const struct config_key *key, uint32_t *field, const char *value,
                      char *ret_why)
{
    const char *end;
    uint64_t number;

    if (!parse_digits(value, &number, &end) || *end || number < key->min || number > key->max)
        return refuse(ret_why, "must be a whole number from %llu to %llu",
                      (unsigned long long)key->min, (unsigned long long)key->max);
    *field = (uint32_t)number;
    return 0;
}

static int set_size(const struct config_key *key, uint64_t *field, const char *value, char *ret_why)
{
    char min[24], max[24];
    uint64_t bytes;

    if (!parse_size(value, &bytes) || bytes < key->min || bytes > key->max)
        return refuse(ret_why, "must be bytes from %s to %s; K, M, G and T are powers of 1024",
                      show_size(key->min, min), show_size(key->max, max));
    *field = bytes;
    return 0;
}

static int set_path(const struct config_key *key, char *field, const char *value, char *ret_why)
{
    if (key->choices && !strcmp(value, key->choices)) {
        *field = '\0';
        return 0;
    }
    if (*value != '/' || strlen(value) > key->max)
        return refuse(ret_why, "must be an absolute path of at most %llu characters%s%s",
                      (unsigned long long)key->max, key->choices ? ", or " : "",
                      key->choices ? key->choices : "");
    strcpy(field, value);
    return 0;
}

static int set_choice(const struct config_key *key, char *field, const char *value, char *ret_why)
{
    size_t n = strlen(value);

    for (const char *word = key->choices; *word;) {
        size_t n_word = strcspn(word, " ");

        if (n == n_word && !memcmp(word, value, n)) {
            memcpy(field, value, n + 1);
            return 0;
        }
        word += n_word + (word[n_word] == ' ');
    }
    return refuse(ret_why, "must be one of: %s", key->choices);
}

int config_listen(const char *value, struct sockaddr_storage *ret_address, socklen_t *ret_n)
{
    struct sockaddr_in v4 = { .sin_family = AF_INET };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
    const char *colon = strrchr(value, ':'), *end;
    char host[48];
    uint64_t port;

    if (!strcmp(value, "off"))
        return 1;
    if (!colon || (size_t)(colon - value) >= sizeof host || !parse_digits(colon + 1, &port, &end) ||
        *end || port > UINT16_MAX)
        return 2;
    memcpy(host, value, (size_t)(colon - value));
    host[colon - value] = '\0';
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        if (ntohl(v4.sin_addr.s_addr) >> 24 != 127)
            return 2;
        v4.sin_port = htons((uint16_t)port);
        memcpy(ret_address, &v4, sizeof v4);
        *ret_n = sizeof v4;
        return 0;
    }
    if (strcmp(host, "[::1]"))
        return 2;
    v6.sin6_addr = in6addr_loopback;
    v6.sin6_port = htons((uint16_t)port);
    memcpy(ret_address, &v6, sizeof v6);
    *ret_n = sizeof v6;
    return 0;
}

static int set_listen(const struct config_key *key, char *field, const char *value, char *ret_why)
{
    struct sockaddr_storage address;
    socklen_t n;

    if (strlen(value) >= key->max || config_listen(value, &address, &n) == 2)
        return refuse(ret_why, "must be a loopback address with port, 127.0.0.1:9470 or "
                               "[::1]:9470 (port 0: any free one), or off");
    strcpy(field, value);
    return 0;
}

/* One word of a uids list. */
static int parse_uid(const char *word, uid_t *ret_uid, char *ret_why)
{
    char buffer[4096];
    struct passwd entry, *found = NULL;
    const char *end;
    uint64_t number;

    if (!strcmp(word, "self")) {
        *ret_uid = geteuid();
        return 0;
    }
    if (*word >= '0' && *word <= '9') {
        if (!parse_digits(word, &number, &end) || *end || number >= UINT32_MAX)
            return refuse(ret_why, "%.40s is not a user id", word);
        *ret_uid = (uid_t)number;
        return 0;
    }
    if (getpwnam_r(word, &entry, buffer, sizeof buffer, &found) || !found)
        return refuse(ret_why, "there is no user %.40s: give user ids, user names or self", word);
    *ret_uid = entry.pw_uid;
    return 0;
}

static int set_uids(struct config_tenant *tenant, const char *value, char *ret_why)
{
    static const char separators[] = " \t,";
    uint32_t n = tenant->n_uids;
    char word[64];

    for (value += strspn(value, separators); *value; value += strspn(value, separators)) {
        size_t n_word = strcspn(value, separators);
        int r;

        if (n_word >= sizeof word)
            return refuse(ret_why, "%.40s... is too long for a user", value);
        if (n == CONFIG_MAX_UIDS)
            return refuse(ret_why, "a tenant has at most %d uids", CONFIG_MAX_UIDS);
        memcpy(word, value, n_word);
        word[n_word] = '\0';
        r = parse_uid(word, &tenant->uids[n], ret_why);
        if (r)
            return r;
        for (uint32_t i = 0; i < n; i++)
            if (tenant->uids[i] == tenant->uids[n])
                return refuse(ret_why, "%s (uid %u) is given twice", word,
                              (unsigned)tenant->uids[n]);
        value += n_word;
        n++;
    }
    if (n == tenant->n_uids)
        return refuse(ret_why, "must be user ids, user names or self, separated by spaces");
    tenant->n_uids = n;
    return 0;
}

int config_key_set(const struct config_key *key, void *base, const char *value, char *ret_why)
{
    void *field = (char *)base + key->offset;

    switch (key->type) {
    case CONFIG_TYPE_BOOL:
        return set_bool(field, value, ret_why);
    case CONFIG_TYPE_NUMBER:
        return set_number(key, field, value, ret_why);
    case CONFIG_TYPE_SIZE:
        return set_size(key, field, value, ret_why);
    case CONFIG_TYPE_PATH:
        return set_path(key, field, value, ret_why);
    case CONFIG_TYPE_CHOICE:
        return set_choice(key, field, value, ret_why);
    case CONFIG_TYPE_LISTEN:
        return set_listen(key, field, value, ret_why);
    case CONFIG_TYPE_UIDS:
        return set_uids(base, value, ret_why);
    }
    return refuse(ret_why, "is of no known type");
}

/* --- two configurations ----------------------------------------------------------------------- */

static size_t value_bytes(const struct config_key *key)
{
    switch (key->type) {
    case CONFIG_TYPE_BOOL:
        return sizeof(bool);
    case CONFIG_TYPE_NUMBER:
        return sizeof(uint32_t);
    case CONFIG_TYPE_SIZE:
        return sizeof(uint64_t);
    default:
        return 0; /* text, or uids */
    }
}

bool config_key_equal(const struct config_key *key, const void *base, const void *other)
{
    const char *a = (const char *)base + key->offset, *b = (const char *)other + key->offset;
    const struct config_tenant *t = base, *u = other;

    if (key->type == CONFIG_TYPE_UIDS)
        return t->n_uids == u->n_uids && !memcmp(t->uids, u->uids, t->n_uids * sizeof t->uids[0]);
    return value_bytes(key) ? !memcmp(a, b, value_bytes(key)) : !strcmp(a, b);
}

void config_key_copy(const struct config_key *key, void *to, const void *from)
{
    char *a = (char *)to + key->offset;
    const char *b = (const char *)from + key->offset;

    if (value_bytes(key))
        memcpy(a, b, value_bytes(key));
    else
        strcpy(a, b); /* uids are not live */
}

void config_key_show(const struct config_key *key, const void *base,
                     char ret_text[CONFIG_VALUE_BYTES])
{
    const char *field = (const char *)base + key->offset;
    char size[24];

    if (key->type == CONFIG_TYPE_BOOL)
        snprintf(ret_text, CONFIG_VALUE_BYTES, "%s", *(const bool *)field ? "true" : "false");
    else if (key->type == CONFIG_TYPE_NUMBER)
        snprintf(ret_text, CONFIG_VALUE_BYTES, "%u", *(const uint32_t *)(const void *)field);
    else if (key->type == CONFIG_TYPE_SIZE)
        snprintf(ret_text, CONFIG_VALUE_BYTES, "%s",
                 show_size(*(const uint64_t *)(const void *)field, size));
    else if (key->type == CONFIG_TYPE_UIDS)
        snprintf(ret_text, CONFIG_VALUE_BYTES, "%u users",
                 ((const struct config_tenant *)base)->n_uids);
    else
        snprintf(ret_text, CONFIG_VALUE_BYTES, "%s", *field ? field : key->choices);
}
