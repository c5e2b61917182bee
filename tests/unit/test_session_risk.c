/* session_risk: reports and resets count from a sequence's next tile, and are refused in time */
#include "daemon/session_risk.h"
#include "tests/unit/session_fixture.h"

enum { N_STREAMS = N_LAYERS * 2 * N_HEADS };

/* The fixture's profile with an audit. */
static uint64_t watched(struct fixture *f)
{
    static uint8_t *bytes;
    static size_t n_bytes;
    struct waiting_create w = { 0 };
    struct session_error error;

    if (!bytes) {
        struct dpq_geometry geometry = fixture_geometry();
        struct dpq_train_options options = { .model_name = "watched",
                                             .max_bytes = 64 << 20,
                                             .n_iterations = 2,
                                             .n_threads = 1,
                                             .reference = DPQ_REFERENCE_TEMPORAL };
        struct dpq_tensor tensor = fixture_rows(DPQ_F32);
        struct dpq_audit_hooks hooks;
        struct dpq_trainer *trainer;
        struct dpq_fault fault;
        struct audit *audit;

        assert_int_equal(audit_new(&geometry, false, &audit), 0);
        hooks = audit_hooks(audit);
        assert_int_equal(dpq_trainer_new(&geometry, &options, &trainer, &fault), 0);
        dpq_trainer_audit(trainer, &hooks);
        assert_int_equal(dpq_trainer_add(trainer, &tensor, f->input, (uint64_t)N_INPUT * ROW_BYTES,
                                         0, N_INPUT, &fault),
                         0);
        assert_int_equal(dpq_trainer_run(trainer, NULL, NULL, &bytes, &n_bytes, &fault), 0);
        dpq_trainer_free(trainer);
        audit_free(audit);
    }
    w.op.prefix = fixture_prefix(f, NULL, 0);
    assert_int_equal(
        session_profile_install(f->session, bytes, n_bytes, w.op.prefix.profile_id, &error), 0);
    create_start(f, &w);
    create_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
    return w.op.sequence_id;
}

static struct session_where all_of(uint64_t sequence_id)
{
    return (
        struct session_where){ .sequence_id = sequence_id, .layer = -1, .kind = -1, .head = -1 };
}

static struct session_report report(struct fixture *f, struct session_where where, double ratio)
{
    struct session_report op = { .where = where, .ratio = ratio };

    session_report(f->session, &op);
    return op;
}

static struct session_risk risk_of(struct fixture *f, uint64_t sequence_id)
{
    struct session_risk op = { .sequence_id = sequence_id, .is_fresh = true };

    session_risk(f->session, &op);
    assert_int_equal(op.error.code, SESSION_OK);
    return op;
}

static uint32_t n_in(const struct session_risk *risk, uint8_t zone)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < risk->n_cells; i++)
        n += risk->cells[i].zone == zone;
    return n;
}

/* Streams of a tile that have no reference. */
static uint32_t n_without(struct fixture *f, uint64_t sequence_id, size_t tile)
{
    struct store_object base, fine;
    uint32_t at, n = 0;

    stored(f, sequence_id, tile, &base, &fine);
    memcpy(&at, (const uint8_t *)base.bytes + 68, sizeof(at)); /* directory_offset: FORMAT.md */
    for (uint32_t i = 0; i < N_STREAMS; i++)
        n += !((const uint8_t *)base.bytes)[at + i * 8 + 4];
    return n;
}

static void test_report(void **state)
{
    struct fixture *f = *state;
    uint64_t id = watched(f);
    struct session_where where = all_of(id);
    struct session_report op;
    struct session_risk risk;

    append(f, id, 0, 130, false);
    assert_int_equal(n_without(f, id, 0), 0);
    where.layer = 1;
    where.head = 0;
    op = report(f, where, 2);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(op.first_token, 128);
    append(f, id, 130, 20, false); /* no tile: it waits */
    append(f, id, 150, 106, false);
    assert_int_equal(n_without(f, id, 1), 2); /* K and V of that head */
    risk = risk_of(f, id);
    assert_int_equal(risk.n_cells, N_STREAMS);
    assert_int_equal(risk.cells[2 * N_HEADS].sequence_id, id);
    free(risk.cells);
    assert_int_equal(risk.counts.red_entries, 2);
    append(f, id, 256, 640, false); /* forgotten after a while */
    risk = risk_of(f, id);
    assert_int_equal(n_in(&risk, RISK_RED), 0);
    free(risk.cells);
    assert_int_equal(n_without(f, id, 6), 0);
}

static void test_reset(void **state)
{
    struct fixture *f = *state;
    uint64_t id = watched(f);
    struct session_reset op = { .where = all_of(id) };
    struct session_append bad;
    struct session_risk risk;

    append(f, id, 0, 128, false);
    session_reset(f->session, &op);
    assert_true(op.error.code == SESSION_OK && op.first_token == 128);
    bad = append_op(f, id, 128, 128, false);
    ((float *)bad.from.inline_bytes)[77] = NAN;
    assert_int_equal(append_run(f, bad).error.code, SESSION_INVALID_ARGUMENT);
    ((float *)bad.from.inline_bytes)[77] = 0;
    append(f, id, 128, 256, false); /* not lost with the append that failed; once only */
    assert_int_equal(n_without(f, id, 1), N_STREAMS);
    assert_int_equal(n_without(f, id, 2), 0);
    risk = risk_of(f, id);
    assert_int_equal(risk.counts.resets, N_STREAMS);
    assert_int_equal(n_in(&risk, RISK_RED), 0);
    free(risk.cells);
}

static void test_refusals(void **state)
{
    struct fixture *f = *state;
    uint64_t id = watched(f), plain = create(f, NULL, 0, 0);
    struct session_where where = all_of(id);
    uint64_t limit = f->config.monitor_bytes;

    assert_string_equal(report(f, where, -1).error.reason, "RATIO");
    assert_string_equal(report(f, where, NAN).error.reason, "RATIO");
    assert_string_equal(report(f, where, 2e6).error.reason, "RATIO");
    assert_string_equal(report(f, all_of(id + 1), 1).error.reason, "SEQUENCE");
    assert_string_equal(report(f, all_of(plain), 1).error.reason, "NOT_WATCHED");
    where.layer = N_LAYERS;
    assert_string_equal(report(f, where, 1).error.reason, "STREAM");
    where = all_of(id);
    where.kind = 2;
    assert_string_equal(report(f, where, 1).error.reason, "STREAM");
    where = all_of(id);
    where.tenant = 1;
    assert_string_equal(report(f, where, 1).error.reason, "SEQUENCE");
    where.tenant = 0;
    f->config.monitor_bytes = 4 * (N_STREAMS * sizeof(struct risk_input) - 1);
    assert_string_equal(report(f, where, 1).error.reason, "MONITOR_BYTES");
    f->config.monitor_bytes = limit;
    assert_int_equal(report(f, where, 1).error.code, SESSION_OK);
    assert_int_equal(f->session->input_bytes, N_STREAMS * sizeof(struct risk_input));
    release_run(f, id, true);
    assert_int_equal(f->session->input_bytes, 0);
}

/* A sequence that goes leaves the map. */
static void test_map(void **state)
{
    struct fixture *f = *state;
    uint64_t id = watched(f);
    struct session_risk risk = risk_of(f, 0);

    assert_int_equal(risk.n_cells, 0);
    append(f, id, 0, 128, false);
    risk = risk_of(f, 0);
    assert_int_equal(risk.n_cells, N_STREAMS);
    assert_int_equal(risk.counts.n_streams[RISK_RED], 0);
    free(risk.cells);
    release_run(f, id, true);
    risk = risk_of(f, 0);
    assert_true(!risk.n_cells && !risk.counts.n_streams[RISK_GREEN]);
    assert_string_equal(session_zone_name(RISK_YELLOW), "yellow");
    assert_string_equal(session_zone_name(9), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_report),
        FIXTURE_TEST(test_reset),
        FIXTURE_TEST(test_refusals),
        FIXTURE_TEST(test_map),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
