/* daemon/session_client.c: tickets, staging, and what goes with a client */
#include "tests/unit/session_fixture.h"

static void test_tickets(void **state)
{
    struct fixture *f = *state;
    struct session_attach op = { .peer = peer_of(UID), .protocol = 1, .staging_bytes = 5000 };
    struct session_peer stranger = peer_of(UID + 1);
    struct session_error error;
    struct session_fds fds;
    uint8_t none[16] = { 0 };
    uint32_t tenant;

    assert_int_equal(session_tenant(f->session, &stranger, &tenant), 0);
    assert_int_equal(tenant, 1);
    stranger.uid = 1;
    assert_int_equal(session_tenant(f->session, &stranger, &tenant), 1);

    session_attach(f->session, &op);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(op.ret_staging_bytes, 8192);
    assert_string_equal(op.tenant_name, "test");
    assert_int_equal(status_of(f).staging_bytes, 8192);
    assert_int_equal(session_redeem(f->session, none, &op.peer, &fds, &error), 1);
    assert_int_equal(session_redeem(f->session, op.ticket, &stranger, &fds, &error), 1);
    assert_int_equal(error.code, SESSION_PERMISSION_DENIED);
    assert_int_equal(session_redeem(f->session, op.ticket, &op.peer, &fds, &error), 0);
    assert_int_equal(session_redeem(f->session, op.ticket, &op.peer, &fds, &error), 1);
    assert_string_equal(error.reason, "TICKET");
    session_tick(f->session, UINT64_MAX); /* only tickets expire, not clients */
    assert_int_equal(status_of(f).n_clients, 1);
    session_client_gone(f->session, op.client_id);
    session_client_gone(f->session, op.client_id);
    assert_int_equal(status_of(f).staging_bytes, 0);

    session_attach(f->session, &op);
    session_tick(f->session, session_now_ns());
    assert_int_equal(status_of(f).n_clients, 1);
    session_tick(f->session, session_now_ns() + 11 * UINT64_C(1000000000));
    assert_int_equal(status_of(f).n_clients, 0);
    assert_int_equal(status_of(f).staging_bytes, 0);
    assert_int_equal(session_redeem(f->session, op.ticket, &op.peer, &fds, &error), 1);
}

static void test_staging_limits(void **state)
{
    struct fixture *f = *state;
    struct session_attach op = { .peer = peer_of(UID), .protocol = 2 };

    session_attach(f->session, &op);
    assert_string_equal(op.error.reason, "PROTOCOL");
    op.protocol = 1;
    op.staging_bytes = STAGING_BYTES + 1;
    session_attach(f->session, &op);
    assert_string_equal(op.error.reason, "STAGING");
    op.staging_bytes = UINT64_MAX;
    session_attach(f->session, &op);
    assert_int_equal(op.error.code, SESSION_RESOURCE_EXHAUSTED);
    assert_int_equal(op.error.retry_ms, 0);
    op.staging_bytes = STAGING_BYTES;
    session_attach(f->session, &op);
    session_attach(f->session, &op);
    assert_int_equal(op.error.code, SESSION_OK);
    op.staging_bytes = 4097;
    session_attach(f->session, &op);
    assert_int_equal(op.error.code, SESSION_RESOURCE_EXHAUSTED);
    assert_true(op.error.retry_ms > 0);
    op.staging_bytes = 4096;
    session_attach(f->session, &op);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(status_of(f).n_clients, 3);
}

static void test_client_gone(void **state)
{
    struct fixture *f = *state;
    uint8_t *staging;
    uint64_t client_id = attach(f, 65536, &staging);
    uint64_t empty = create(f, NULL, 0, client_id), full = create(f, NULL, 0, client_id);
    uint64_t other = create(f, NULL, 0, 0), adopted;
    float rows[ROW_NUMBERS];

    append(f, full, 0, 130, true);
    adopted = create(f, f->ids, 130, client_id);
    dpq_unmap(staging, 65536);
    session_client_gone(f->session, client_id);
    assert_int_equal(status_of(f).n_sequences, 2);
    assert_int_equal(status_of(f).staging_bytes, 0);
    assert_string_equal(read_run(f, empty, 0, 0, rows).error.reason, "SEQUENCE");
    assert_string_equal(read_run(f, adopted, 0, 0, rows).error.reason, "SEQUENCE");
    assert_int_equal(read_run(f, other, 0, 0, rows).error.code, SESSION_OK);
    assert_int_equal(read_run(f, full, 129, 1, rows).error.code, SESSION_OK);
    assert_memory_equal(rows, f->input + 129 * ROW_NUMBERS, ROW_BYTES);
}

struct gate {
    struct job job;
    bool open; /* atomic */
};

static void wait_at_gate(struct job *job, uint32_t worker)
{
    (void)worker;
    while (!__atomic_load_n(&((struct gate *)job)->open, __ATOMIC_ACQUIRE))
        usleep(100);
}

/* gone while its first append is under way: nothing was acknowledged, so nothing stays */
static void gone_in_append(struct fixture *f, useconds_t delay_us)
{
    struct gate gates[3];
    uint8_t *staging;
    uint64_t client_id = attach(f, STAGING_BYTES, &staging);
    uint64_t id = create(f, NULL, 0, client_id);
    struct waiting_append w = { .op = append_op(f, id, 0, 900, true) };

    for (size_t i = 0; i < ARRAY_SIZE(gates) && !delay_us; i++) {
        gates[i] = (struct gate){ .job.run = wait_at_gate };
        assert_int_equal(pool_submit(f->pool, &gates[i].job), 0);
    }
    memcpy(staging, f->input, 900 * ROW_BYTES);
    w.op.from.client_id = client_id;
    append_start(f, &w);
    usleep(delay_us);
    session_client_gone(f->session, client_id);
    dpq_unmap(staging, STAGING_BYTES);
    for (size_t i = 0; i < ARRAY_SIZE(gates) && !delay_us; i++)
        __atomic_store_n(&gates[i].open, true, __ATOMIC_RELEASE);
    append_wait(&w);
    if (w.op.error.code == SESSION_OK && delay_us)
        release_run(f, id, true); /* it was faster */
    else
        assert_string_equal(w.op.error.reason, "CLIENT_GONE");
    while (status_of(f).n_sequences || status_of(f).staging_bytes || status_of(f).jobs_running)
        usleep(100); /* the gates, too, must have been left before they go */
    assert_int_equal(status_of(f).tail_bytes, 0);
    assert_int_equal(status_of(f).n_tiles, 0);
}

static void test_gone_in_append(void **state)
{
    for (useconds_t i = 0; i < 30; i++)
        gone_in_append(*state, i * 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_tickets),
        FIXTURE_TEST(test_staging_limits),
        FIXTURE_TEST(test_client_gone),
        FIXTURE_TEST(test_gone_in_append),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
