/* status: true bits, and the pages that show the struct: /status is JSON, /metrics is complete */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/http.h"
#include "daemon/session_risk.h"
#include "daemon/status.h"

void session_risk(struct session *session, struct session_risk *op)
{
    (void)session;
    op->n_kv_heads = 1;
    op->n_cells = op->tenant ? 0 : 4; /* two layers */
    op->cells = calloc(4, sizeof(op->cells[0]));
    op->cells[2] = (struct monitor_cell){ .mu = 1.25f, .zone = RISK_RED };
}

const char *session_zone_name(uint32_t zone)
{
    return zone == RISK_RED ? "red" : "green";
}

/* Stands for the session: every number another one, so that none can be taken for another. */
void session_status(struct session *session, uint32_t tenant, struct status *ret_status)
{
    uint64_t base = tenant == UINT32_MAX ? 1000 : 100 * (uint64_t)(tenant + 1);

    (void)session;
    *ret_status = (struct status){
        .daemon_version = "9.8\"7",
        .incarnation = 0xfedcba9876543210,
        .uptime_seconds = 12.5,
        .tenant = tenant == UINT32_MAX ? ""
                  : tenant == 0        ? "a"
                                       : "b",
        .arena_bytes = base + 1,
        .arena_used_bytes = base + 2,
        .arena_huge_bytes = base + 60,
        .epoch = 0x8000000000000001,
        .n_tiles = base + 3,
        .n_sequences = base + 4,
        .n_clients = base + 5,
        .staging_bytes = base + 6,
        .n_profiles = base + 7,
        .n_tenants = 2,
        .tokens_appended = base + 8,
        .tokens_read = base + 9,
        .tokens_shared = base + 10,
        .lookup_tokens_asked = base + 11,
        .lookup_tokens_hit = base + 12,
        .tile_stored_bytes = base + 13,
        .tile_numbers = base + 14,
        .tail_bytes = base + 15,
        .tiles_evicted = base + 16,
        .fine_dropped = base + 17,
        .tokens_evicted = base + 18,
        .objects_corrupt = base + 19,
        .scrubbed_bytes = base + 20,
        .errors = UINT64_MAX,
        .streams_green = base + 50,
        .streams_yellow = base + 51,
        .streams_red = base + 52,
        .yellow_entries = base + 53,
        .red_entries = base + 54,
        .resets = base + 55,
        .all_clears = base + 56,
        .monitor_tiles_dropped = 57,
        .monitor_untracked = 58,
        .monitor_cpu_ns = 1500000000,
        .jobs_queued = 17,
        .jobs_running = 18,
        .n_workers = 19,
        .kernels = "c avx2",
    };
}

static struct config config = { .tenants = { { .name = "a" }, { .name = "b" } }, .n_tenants = 2 };

static char *write_page(void (*write)(const struct http_sources *sources, struct text *body),
                        enum http_state state)
{
    struct http_sources sources = { .config = &config, .state = state };
    struct text body = TEXT_NULL;

    write(&sources, &body);
    text_add(&body, "", 1);
    assert_false(body.failed);
    return body.bytes;
}

static void assert_has(const char *page, const char *part)
{
    if (!strstr(page, part))
        fail_msg("not on the page: %s", part);
}

static void test_true_bits(void **state)
{
    struct status status = { 0 };

    (void)state;
    assert_true(status_true_bits(&status) == 0);
    status.tile_stored_bytes = 33;
    status.tile_numbers = 64;
    assert_true(status_true_bits(&status) == 4.125);
}

static void test_json(void **state)
{
    char *page = write_page(http_write_status, HTTP_READY);

    (void)state;
    assert_has(page, "{\"daemon_version\":\"9.8\\\"7\",\"state\":\"ready\","
                     "\"incarnation\":\"fedcba9876543210\",\"uptime_seconds\":12.500,"
                     "\"kernels\":\"c avx2\",\"n_workers\":19,\"jobs_queued\":17,"
                     "\"jobs_running\":18,\"monitor_tiles_dropped\":57,\"monitor_untracked\":58,"
                     "\"monitor_cpu_seconds\":1.500000,\"n_profiles\":1007,\"n_tenants\":2,");
    assert_has(page, "\"total\":{\"arena_bytes\":1001,\"arena_used_bytes\":1002,"
                     "\"arena_huge_bytes\":1060,\"n_tiles\":1003,"
                     "\"n_sequences\":1004,\"n_clients\":1005,\"staging_bytes\":1006,"
                     "\"tokens_appended\":1008,\"tokens_read\":1009,\"tokens_shared\":1010,"
                     "\"lookup_tokens_asked\":1011,\"lookup_tokens_hit\":1012,"
                     "\"tile_stored_bytes\":1013,\"tile_numbers\":1014,\"tail_bytes\":1015,"
                     "\"tiles_evicted\":1016,\"fine_dropped\":1017,\"tokens_evicted\":1018,"
                     "\"objects_corrupt\":1019,\"scrubbed_bytes\":1020,"
                     "\"errors\":18446744073709551615,"
                     "\"streams_green\":1050,\"streams_yellow\":1051,\"streams_red\":1052,"
                     "\"yellow_entries\":1053,\"red_entries\":1054,\"resets\":1055,"
                     "\"all_clears\":1056,");
    assert_has(page, ",\"heat\":[{\"k\":[[\"green\",0.000]],\"v\":[[\"green\",0.000]]},"
                     "{\"k\":[[\"red\",1.250]],\"v\":[[\"green\",0.000]]}]},{");
    assert_has(page, "\"tenants\":[{\"tenant\":\"a\",\"epoch\":\"8000000000000001\","
                     "\"arena_bytes\":101,");
    assert_has(page, "},{\"tenant\":\"b\",");
    assert_has(page, ",\"heat\":[]}]}\n");
    free(page);
    page = write_page(http_write_status, HTTP_STOPPING);
    assert_has(page, "\"state\":\"stopping\"");
    free(page);
}

static void test_metrics(void **state)
{
    static const char series[][80] = {
        "build_info{version=\"9.8\\\"7\",kernels=\"c avx2\"} 1",
        "ready 0",
        "uptime_seconds 12.5",
        "profiles 1007",
        "workers 19",
        "jobs_queued 17",
        "jobs_running 18",
        "connections_accepted_total{socket=\"grpc\"} 0",
        "connections_refused_total{socket=\"grpc\"} 0",
        "connections_exhausted_total{socket=\"fd\"} 0",
        "arena_bytes{tenant=\"a\"} 101",
        "arena_bytes{tenant=\"b\"} 201",
        "arena_used_bytes{tenant=\"b\"} 202",
        "arena_huge_bytes{tenant=\"b\"} 260",
        "tiles{tenant=\"b\"} 203",
        "sequences{tenant=\"b\"} 204",
        "clients{tenant=\"b\"} 205",
        "staging_bytes{tenant=\"b\"} 206",
        "tokens_appended_total{tenant=\"b\"} 208",
        "tokens_read_total{tenant=\"b\"} 209",
        "tokens_shared_total{tenant=\"b\"} 210",
        "lookup_tokens_asked_total{tenant=\"b\"} 211",
        "lookup_tokens_hit_total{tenant=\"b\"} 212",
        "tile_stored_bytes{tenant=\"b\"} 213",
        "tile_numbers{tenant=\"b\"} 214",
        "tail_bytes{tenant=\"b\"} 215",
        "tiles_evicted_total{tenant=\"b\"} 216",
        "request_errors_total{tenant=\"b\"} 18446744073709551615",
        "streams_green{tenant=\"b\"} 250",
        "streams_yellow{tenant=\"b\"} 251",
        "streams_red{tenant=\"b\"} 252",
        "yellow_entries_total{tenant=\"b\"} 253",
        "red_entries_total{tenant=\"b\"} 254",
        "stream_resets_total{tenant=\"b\"} 255",
        "all_clears_total{tenant=\"b\"} 256",
        "monitor_tiles_dropped_total 57",
        "monitor_untracked_total 58",
        "monitor_cpu_seconds_total 1.5",
    };
    char *page = write_page(http_write_metrics, HTTP_STARTING), line[256];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(series); i++) {
        size_t n_name = strcspn(series[i], "{ ");

        snprintf(line, sizeof line, "\ndeltapq_%.79s\n", series[i]);
        assert_has(page, line);
        snprintf(line, sizeof line, "# HELP deltapq_%.*s ", (int)n_name, series[i]);
        assert_has(page, line);
        snprintf(line, sizeof line, "# TYPE deltapq_%.*s %s\n", (int)n_name, series[i],
                 strstr(series[i], "_total") ? "counter" : "gauge");
        assert_has(page, line);
    }
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_true_bits),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_metrics),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
