/* config: values, refusals with file:line, and config/deltapqd.conf against the table of keys */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/config_keys.h"

#define TENANT "[tenant a]\nuids = 12345\n"

static char *write_file(const char *text, size_t n)
{
    char *path = strdup("/tmp/test_config.XXXXXX");
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), n);
    close(fd);
    return path;
}

static int load(const char *text, struct config *ret_config, char *ret_message)
{
    char *path = write_file(text, strlen(text));
    int r = config_load(path, ret_config, ret_message);
    char *at = strstr(ret_message, path);

    if (at) /* messages begin with the path: leave ":LINE: …" */
        memmove(at, at + strlen(path), strlen(at + strlen(path)) + 1);
    unlink(path);
    free(path);
    return r;
}

static void assert_refused(const char *text, const char *message_part)
{
    static struct config config;
    char message[CONFIG_MESSAGE_BYTES];

    assert_int_equal(load(text, &config, message), CONFIG_E_REFUSED);
    if (!strstr(message, message_part))
        fail_msg("\"%s\" does not say \"%s\"", message, message_part);
}

static void test_defaults(void **state)
{
    static struct config config;
    char message[CONFIG_MESSAGE_BYTES];

    (void)state;
    assert_int_equal(config_load(NULL, &config, message), 0);
    assert_string_equal(config.runtime_dir, "/run/deltapq");
    assert_string_equal(config.log_level, "info");
    assert_string_equal(config.cpu, "auto");
    assert_false(config.allow_same_uid);
    assert_int_equal(config.n_tenants, 0);
    assert_int_equal(config.calibration_max_bytes, 1 << 30);
    assert_int_equal(config.calibration_park_seconds, 600);
    assert_int_equal(config.event_history, 4096);
    assert_int_equal(config.stall_seconds, 300);
}

static void test_values(void **state)
{
    static struct config config;
    char message[CONFIG_MESSAGE_BYTES];
    int r;

    (void)state;
    r = load("\xef\xbb\xbf[daemon]\r\n"
             "  # comment\n"
             "\truntime_dir = /tmp/x y ; inline\n"
             "allow_same_uid=Yes\n"
             "workers = 7\n"
             "log_level: debug\n"
             "[http]\nlisten = [::1]:0\n"
             "[tenant b-1]\nuids = 7, self\nuids = 8\narena_bytes = 12M\nrefine = on\n"
             "monitor = no\n"
             "staging_bytes=4096\n[tenant c_]\nuids=4294967294",
             &config, message);
    assert_string_equal(message, "");
    assert_int_equal(r, 0);
    assert_string_equal(config.runtime_dir, "/tmp/x y");
    assert_true(config.allow_same_uid);
    assert_int_equal(config.workers, 7);
    assert_string_equal(config.log_level, "debug");
    assert_string_equal(config.http_listen, "[::1]:0");
    assert_int_equal(config.n_tenants, 2);
    assert_string_equal(config.tenants[0].name, "b-1");
    assert_int_equal(config.tenants[0].uids[0], 7);
    assert_int_equal(config.tenants[0].uids[1], geteuid());
    assert_int_equal(config.tenants[0].uids[2], 8);
    assert_int_equal(config.tenants[0].arena_bytes, 12 << 20);
    assert_int_equal(config.tenants[0].staging_bytes, 4096);
    assert_int_equal(config.tenants[0].staging_total_bytes, 256 << 20);
    assert_true(config.tenants[0].refine);
    assert_false(config.tenants[1].refine);
    assert_false(config.tenants[0].monitor);
    assert_true(config.tenants[1].monitor);
    assert_int_equal(config.tenants[1].uids[0], 4294967294u);
    assert_int_equal(config.tenants[1].arena_bytes, 1 << 30);
}

static void test_names(void **state)
{
    (void)state;
    assert_refused("[daemon]\n\nworker = 3\n" TENANT,
                   ":3: there is no key \"worker\" in [daemon]: was \"workers\" meant?");
    assert_refused("[daemon]\narena_bytes = 3\n" TENANT, "was \"arena_bytes\" in [tenant NAME]");
    assert_refused("[daemon]\nfrobnication = 3\n" TENANT,
                   ":2: there is no key \"frobnication\" in [daemon]");
    assert_refused("[deamon]\n" TENANT, ":1: there is no section [deamon]: was this meant to be "
                                        "[daemon]");
    assert_refused("[tenent x]\nuids = 1\n", ":1: there is no section [tenent x]");
    assert_refused("workers = 1\n" TENANT, ":1: there is no key \"workers\" in the file's beg");
    assert_refused("[daemon]\nworkers = 1\nworkers = 2\n" TENANT,
                   ":3: workers is given twice, first in line 2");
    assert_refused("[http]\n[daemon]\n[http]\n" TENANT,
                   ":3: [http] is given twice, first in line 1");
    assert_refused("[daemon]\nworkers\n" TENANT, ":2: neither a [section] nor key = value");
    assert_refused("[daemon\nworkers = 1\n" TENANT, ":1: neither a [section] nor key = value");
}

static void test_bad_values(void **state)
{
    static const struct {
        const char *key, *value, *why;
    } cases[] = {
        { "workers", "257", "must be a whole number from 0 to 256" },
        { "workers", "-1", "must be a whole number from 0 to 256" },
        { "workers", "1.5", "must be a whole number" },
        { "workers", "", "must be a whole number" },
        { "workers", "99999999999999999999", "must be a whole number" },
        { "allow_same_uid", "maybe", "must be true or false" },
        { "calibration_max_bytes", "1X", "must be bytes from 1M to 1T" },
        { "calibration_max_bytes", "1MB", "must be bytes from 1M to 1T" },
        { "calibration_max_bytes", "1K", "must be bytes from 1M to 1T" },
        { "calibration_max_bytes", "16777217T", "must be bytes from 1M to 1T" },
        { "log_level", "loud", "must be one of: error warning info debug" },
        { "log_level", "inf", "must be one of: error warning info debug" },
        { "cpu", "sse2", "must be one of: auto c avx2" },
        { "runtime_dir", "here", "must be an absolute path of at most 96 characters" },
    };
    char text[512], expected[512];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        snprintf(text, sizeof text, "[daemon]\n# x\n%s = %s\n" TENANT, cases[i].key,
                 cases[i].value);
        snprintf(expected, sizeof expected, ":3: %s = %s: %s", cases[i].key, cases[i].value,
                 cases[i].why);
        assert_refused(text, expected);
    }
}

static void test_listen(void **state)
{
    static const char *const bad[] = { "0.0.0.0:80",
                                       "10.0.0.1:80",
                                       "localhost:80",
                                       "127.0.0.1",
                                       "127.0.0.1:",
                                       "127.0.0.1:65536",
                                       "[::]:80",
                                       "::1:80",
                                       "127.0.0.1:80x",
                                       "127.0.0.1: 8",
                                       "[::1]:-1",
                                       "[fe80::1]:80",
                                       "",
                                       "127.0.0.1:80:80",
                                       "[::ffff:10.0.0.1]:80" };
    struct sockaddr_storage address;
    socklen_t n;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(config_listen(bad[i], &address, &n), 2);
    assert_int_equal(config_listen("off", &address, &n), 1);
    assert_int_equal(config_listen("127.9.0.1:9470", &address, &n), 0);
    assert_int_equal(ntohs(((struct sockaddr_in *)&address)->sin_port), 9470);
    assert_int_equal(config_listen("[::1]:1", &address, &n), 0);
    assert_int_equal(address.ss_family, AF_INET6);
    assert_refused("[http]\nlisten = 0.0.0.0:9470\n" TENANT,
                   ":2: listen = 0.0.0.0:9470: must be a");
}

static void test_tenants(void **state)
{
    char many[4096];
    size_t n = 0;

    (void)state;
    assert_refused("[daemon]\n", "there is no [tenant NAME] section");
    assert_refused("", ":1: there is no [tenant NAME] section");
    assert_refused("[tenant a]\n", ":1: [tenant a] has no uids");
    assert_refused(TENANT "[tenant b]\n", ":3: [tenant b] has no uids");
    assert_refused(TENANT TENANT, ":3: [tenant a] is given twice, first in line 1");
    assert_refused(TENANT "[tenant b]\nuids = 3 12345\n",
                   ":4: uid 12345 is in two tenants, a (line 1) and b");
    assert_refused("[tenant Big]\nuids=1\n", ":1: a tenant's name has");
    assert_refused("[tenant ]\nuids=1\n", ":1: a tenant's name has");
    assert_refused("[tenant a]\nuids = 3 3\n", "given twice");
    assert_refused("[tenant a]\nuids =\n", "must be user ids, user names or self");
    assert_refused("[tenant a]\nuids = no-such-user-here\n", "there is no user no-such-user-here");
    assert_refused("[tenant a]\nuids = 4294967295\n", "is not a user id");
    assert_refused("[tenant a]\nuids = 1x\n", "1x is not a user id");
    assert_refused(TENANT "staging_bytes = 1G\n", ":1: [tenant a]: staging_bytes (one client");
    for (int i = 0; i < CONFIG_MAX_TENANTS + 1; i++)
        n += (size_t)snprintf(many + n, sizeof many - n, "[tenant t%d]\nuids = %d\n", i, i);
    assert_refused(many, ":129: more than 64 tenants");
    n = (size_t)snprintf(many, sizeof many, "[tenant a]\n");
    for (int i = 0; i < CONFIG_MAX_UIDS + 1; i++)
        n += (size_t)snprintf(many + n, sizeof many - n, "uids = %d\n", i);
    assert_refused(many, ":66: uids = 64: a tenant has at most 64 uids");
}

static void test_odd_files(void **state)
{
    static struct config config;
    char message[CONFIG_MESSAGE_BYTES], line[400] = "[daemon]\nruntime_dir = /";
    char *path;

    (void)state;
    memset(line + strlen(line), 'x', 300);
    assert_refused(line, ":2: the line is longer than 198 characters");
    path = write_file("[daemon]\nwor\0kers = 1\n", 22);
    assert_int_equal(config_load(path, &config, message), CONFIG_E_REFUSED);
    assert_non_null(strstr(message, ":2: a NUL byte"));
    unlink(path);
    free(path);
    assert_int_equal(config_load("/nowhere/x.conf", &config, message), CONFIG_E_REFUSED);
    assert_string_equal(message, "/nowhere/x.conf: No such file or directory");
    assert_int_equal(config_load("/tmp", &config, message), CONFIG_E_REFUSED);
}

static void test_memory(void **state)
{
    static const uint64_t HUGE = UINT64_C(1) << 60;
    static struct config config;
    char message[CONFIG_MESSAGE_BYTES];

    (void)state;
    assert_int_equal(load(TENANT "[tenant b]\nuids = 1\narena_bytes = 16T\n", &config, message), 0);
    assert_int_equal(config_check_memory(&config, HUGE, UINT64_MAX, message), 0);
    assert_int_equal(config_check_memory(&config, UINT64_C(1) << 44, UINT64_MAX, message),
                     CONFIG_E_REFUSED);
    assert_non_null(strstr(message, "this machine has"));
    /* of a control group something is left for the daemon */
    assert_int_equal(config_check_memory(&config, HUGE, HUGE, message), 0);
    assert_int_equal(config_check_memory(&config, HUGE, UINT64_C(17) << 40, message), 0);
    assert_int_equal(config_check_memory(&config, HUGE, UINT64_C(16) << 40, message),
                     CONFIG_E_REFUSED);
    assert_non_null(strstr(message, "memory.max"));
    assert_int_equal(config_check_memory(&config, HUGE, 4096, message), CONFIG_E_REFUSED);
    /* and what the administrator wants is the least of all */
    config.total_bytes = UINT64_C(1) << 44;
    assert_int_equal(config_check_memory(&config, HUGE, UINT64_MAX, message), CONFIG_E_REFUSED);
    assert_non_null(strstr(message, "total_bytes allows"));
}

/* Every key of the table is in the file with its default, and every key of the file in the table.
 */
static void test_example_file(void **state)
{
    const char *path = getenv("DELTAPQ_SOURCE_ROOT");
    static struct config config;
    char message[CONFIG_MESSAGE_BYTES], line[512], name[64], value[128];
    enum config_scope scope = CONFIG_SCOPE_NONE;
    int seen[64] = { 0 };
    const struct config_key *keys, *key;
    size_t n;
    FILE *file;

    (void)state;
    snprintf(line, sizeof line, "%s/config/deltapqd.conf", path ? path : SOURCE_ROOT);
    assert_int_equal(config_load(line, &config, message), 0);
    file = fopen(line, "re");
    assert_non_null(file);
    keys = config_keys(&n);
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, "[daemon]", 8))
            scope = CONFIG_SCOPE_DAEMON;
        else if (!strncmp(line, "[http]", 6))
            scope = CONFIG_SCOPE_HTTP;
        else if (!strncmp(line, "[tenant", 7))
            scope = CONFIG_SCOPE_TENANT;
        if (sscanf(line, "#%63[a-z_] = %127[^\n]", name, value) != 2 &&
            sscanf(line, "%63[a-z_] = %127[^\n]", name, value) != 2)
            continue;
        key = config_key_find(scope, name);
        if (!key)
            fail_msg("%s is not a key", name);
        assert_int_equal(seen[key - keys]++, 0);
        if (key->preset)
            assert_string_equal(value, key->preset);
        assert_int_equal(*line == '#', key->preset != NULL);
    }
    fclose(file);
    for (size_t i = 0; i < n; i++)
        if (!seen[i])
            fail_msg("%s is missing in config/deltapqd.conf", keys[i].name);
}

/* The presets pass their own check: config_load() relies on it. */
static void test_presets(void **state)
{
    union {
        struct config config;
        struct config_tenant tenant;
    } *base = calloc(1, sizeof *base);
    char why[CONFIG_WHY_BYTES];
    size_t n;
    const struct config_key *keys = config_keys(&n);

    (void)state;
    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++)
        if (keys[i].preset)
            assert_int_equal(config_key_set(&keys[i], base, keys[i].preset, why), 0);
    free(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),  cmocka_unit_test(test_values),
        cmocka_unit_test(test_names),     cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_listen),    cmocka_unit_test(test_tenants),
        cmocka_unit_test(test_odd_files), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_presets),   cmocka_unit_test(test_example_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
