/* config_reload: what counts at once, what has to wait, and that both are named */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config_keys.h"
#include "daemon/config_reload.h"

static struct config *load(const char *text)
{
    struct config *config = malloc(sizeof *config);
    char path[] = "/tmp/test_config_reload.XXXXXX", message[CONFIG_MESSAGE_BYTES];
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    assert_int_equal(config_load(path, config, message), 0);
    unlink(path);
    return config;
}

static void note(void *user, const struct config_change *change)
{
    char *text = user;
    size_t n = strlen(text);

    snprintf(text + n, 2048 - n, "%s%s.%s:%s>%s\n", change->is_live ? "+" : "-",
             change->tenant ? change->tenant : "", change->key ? change->key : "", change->from,
             change->to);
}

static void assert_changes(const struct config *running, const struct config *next,
                           const char *expected)
{
    char text[2048] = "";

    config_compare(running, next, note, text);
    assert_string_equal(text, expected);
}

#define TENANT "[tenant a]\nuids = 1\n"

static void test_compare_and_take(void **state)
{
    struct config *running = load("[daemon]\nhigh_percent = 92\n" TENANT
                                  "[tenant b]\nuids = 2\n[tenant gone]\nuids = 3\n");
    struct config *next = load("[daemon]\nhigh_percent = 91\ncold_seconds = 5\nlog_level = debug\n"
                               "allow_same_uid = yes\narena_dir = /a\nevent_history = 16\n"
                               "[tenant new]\nuids = 4\n[tenant b]\nuids = 2 5\n"
                               "arena_bytes = 2G\nstaging_bytes = 1M\n" TENANT);

    (void)state;
    assert_changes(running, running, "");
    assert_changes(running, next,
                   "-.arena_dir:off>/a\n-.allow_same_uid:false>true\n+.high_percent:92>91\n"
                   "+.cold_seconds:60>5\n-.event_history:4096>16\n+.log_level:info>debug\n"
                   "-b.uids:1 users>2 users\n-b.arena_bytes:1G>2G\n+b.staging_bytes:64M>1M\n"
                   "-gone.:>\n-new.:>\n");
    config_take_live(running, next);
    assert_changes(running, next,
                   "-.arena_dir:off>/a\n-.allow_same_uid:false>true\n-.event_history:4096>16\n"
                   "-b.uids:1 users>2 users\n-b.arena_bytes:1G>2G\n-gone.:>\n-new.:>\n");
    assert_int_equal(running->high_percent, 91);
    assert_int_equal(running->tenants[1].staging_bytes, 1 << 20); /* by name, not by place */
    assert_int_equal(running->tenants[0].staging_bytes, 64 << 20);
    free(running);
    free(next);
}

/* Live keys are copied by their bytes or as text: never uids, which are neither. */
static void test_live_keys(void **state)
{
    size_t n, n_live = 0;
    const struct config_key *keys = config_keys(&n);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        n_live += keys[i].is_live;
        assert_false(keys[i].is_live && keys[i].type == CONFIG_TYPE_UIDS);
        assert_false(keys[i].is_live && keys[i].scope == CONFIG_SCOPE_HTTP);
    }
    assert_int_equal(n_live, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compare_and_take),
        cmocka_unit_test(test_live_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
