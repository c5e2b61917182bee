/* daemon/session.c and session_sequence.c: sequences, their turns, events, many threads */
#include "tests/unit/session_fixture.h"

static void test_create_errors(void **state)
{
    struct fixture *f = *state;
    struct waiting_create w = { 0 };

    w.op.prefix = fixture_prefix(f, NULL, 0);
    w.op.prefix.profile_id[0] ^= 1;
    create_start(f, &w);
    assert_string_equal(w.op.error.reason, "PROFILE");
    assert_int_equal(w.op.error.code, SESSION_NOT_FOUND);
    w.op.prefix.profile_id[0] ^= 1;
    w.op.prefix.rate = 3;
    create_start(f, &w);
    assert_string_equal(w.op.error.reason, "RATE");
    w.op.prefix.rate = 0;
    w.op.client_id = 5;
    create_start(f, &w);
    assert_string_equal(w.op.error.reason, "CLIENT");
    assert_int_equal(status_of(f).n_sequences, 0);
}

static void test_release(void **state)
{
    struct fixture *f = *state;
    struct waiting_append w[6];
    struct waiting_release last = { 0 };
    uint64_t id = create(f, NULL, 0, 0);

    /* requests on one sequence are answered in the order they came */
    for (uint32_t i = 0; i < 6; i++) {
        w[i].op = append_op(f, id, i * 100, 100, true);
        append_start(f, &w[i]);
    }
    last.op.sequence_id = id;
    last.op.discard = DISCARD_TILES;
    release_start(f, &last);
    release_wait(&last);
    assert_int_equal(last.op.error.code, SESSION_OK);
    assert_true(last.op.freed_bytes > 0);
    for (uint32_t i = 0; i < 6; i++) {
        append_wait(&w[i]);
        assert_int_equal(w[i].op.error.code, SESSION_OK);
        assert_int_equal(w[i].op.n_total_tokens, (i + 1) * 100);
    }
    assert_string_equal(release_run(f, id, false).error.reason, "SEQUENCE");
    assert_int_equal(status_of(f).arena_used_bytes, 0);
    assert_int_equal(status_of(f).n_sequences, 0);
}

static void wake_nobody(void *user)
{
    (void)user;
}

static void test_events(void **state)
{
    static const enum event_kind WANT[] = { EVENT_SEQUENCE_CREATED, EVENT_TILE_STORED,
                                            EVENT_TILE_STORED,      EVENT_SEQUENCE_CREATED,
                                            EVENT_TILE_SHARED,      EVENT_TILE_SHARED,
                                            EVENT_SEQUENCE_RELEASED };
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), second, lost;
    struct hub_subscriber *subscriber;
    struct event event;
    size_t n = 0;

    append(f, id, 0, 256, true);
    second = create(f, NULL, 0, 0);
    append(f, second, 0, 256, true);
    release_run(f, id, false);
    assert_int_equal(hub_subscribe(f->hub,
                                   &(struct hub_request){ .after_seq = HUB_FROM_OLDEST,
                                                          .queue = 100,
                                                          .wake = wake_nobody },
                                   &subscriber),
                     0);
    while (!hub_next(subscriber, &event, &lost)) {
        if (event.kind == EVENT_PROFILE_INSTALLED)
            continue;
        assert_true(n < ARRAY_SIZE(WANT));
        assert_int_equal(event.kind, WANT[n]);
        if (n == 2) {
            assert_int_equal(event.id, id);
            assert_int_equal(event.a, 128);
            assert_true(event.b > 0);
            assert_int_equal(event.c, 2);
        }
        n++;
    }
    assert_int_equal(n, ARRAY_SIZE(WANT));
    hub_unsubscribe(subscriber);
}

enum { N_THREADS = 4, N_ROUNDS = 12 };

struct thread {
    pthread_t thread;
    struct fixture *f;
    uint64_t shared_id; /* a sequence that all of them read while one appends */
    uint32_t me;
};

static void *append_and_read(void *argument)
{
    struct thread *t = argument;
    uint64_t id = create(t->f, NULL, 0, 0);
    float *rows = malloc(N_INPUT * ROW_BYTES), *again = malloc(N_INPUT * ROW_BYTES);
    uint32_t at = 0;

    for (uint32_t i = 0; i < N_ROUNDS; i++) {
        uint32_t n = 17 + (i * 31 + t->me * 7) % 70;
        struct session_read op;

        append(t->f, id, at, n, t->me & 1);
        at += n;
        assert_int_equal(read_run(t->f, id, 0, at, rows).error.code, SESSION_OK);
        assert_memory_equal(rows + (at - at % 128) * ROW_NUMBERS,
                            t->f->input + (at - at % 128) * ROW_NUMBERS, (at % 128) * ROW_BYTES);
        if (t->me == 0) {
            uint32_t first = i * 50;

            append(t->f, t->shared_id, first, 50, true);
        }
        op = read_run(t->f, t->shared_id, 0, 0, rows);
        assert_int_equal(op.error.code, SESSION_OK);
        lookup_run(t->f, t->f->ids, 512, t->shared_id, false);
    }
    assert_int_equal(read_run(t->f, id, 0, at, again).error.code, SESSION_OK);
    if (t->me & 2)
        release_run(t->f, id, true);
    free(rows);
    free(again);
    return NULL;
}

static void *read_while_sealed(void *argument)
{
    struct thread *t = argument;
    float *rows = malloc(N_INPUT * ROW_BYTES);

    for (uint32_t i = 0; i < 10 * N_ROUNDS; i++) {
        struct session_read op = read_run(t->f, t->shared_id, 0, 40, rows);

        if (op.error.code == SESSION_OUT_OF_RANGE) /* not yet there */
            continue;
        assert_int_equal(op.error.code, SESSION_OK);
        if (op.n_coded_tokens == 0)
            assert_memory_equal(rows, t->f->input, 40 * ROW_BYTES);
    }
    free(rows);
    return NULL;
}

static void test_side_by_side(void **state)
{
    struct fixture *f = *state;
    struct thread threads[N_THREADS + 2];
    uint64_t shared_id = create(f, NULL, 0, 0);

    for (uint32_t i = 0; i < ARRAY_SIZE(threads); i++) {
        threads[i] = (struct thread){ .f = f, .shared_id = shared_id, .me = i };
        assert_int_equal(pthread_create(&threads[i].thread, NULL,
                                        i < N_THREADS ? append_and_read : read_while_sealed,
                                        &threads[i]),
                         0);
    }
    for (uint32_t i = 0; i < ARRAY_SIZE(threads); i++)
        pthread_join(threads[i].thread, NULL);
    assert_int_equal(status_of(f).n_sequences, 3);
}

static void test_status(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct status one, all;

    append(f, id, 0, 130, false);
    session_count_error(f->session, 1);
    session_count_error(f->session, 7); /* no such tenant: nothing */
    session_status(f->session, 0, &one);
    session_status(f->session, UINT32_MAX, &all);
    assert_string_equal(one.tenant, "test");
    assert_string_equal(all.tenant, "");
    assert_int_equal(all.arena_bytes, 2 * one.arena_bytes);
    assert_int_equal(one.errors, 0);
    assert_int_equal(all.errors, 1);
    assert_int_equal(one.n_tiles, 1);
    assert_int_equal(one.tail_bytes, 2 * ROW_BYTES);
    assert_int_equal(one.tile_numbers, 128 * ROW_NUMBERS);
    assert_true(status_true_bits(&one) > 4);
    assert_int_equal(one.n_profiles, 1);
    assert_int_equal(one.n_tenants, 2);
    assert_int_equal(one.n_workers, 3);
    assert_int_equal(strncmp(one.kernels, "c", 1), 0);
}

/* what can't be had is refused at the start, with a line in the log */
static void test_refused_start(void **state)
{
    struct fixture *f = *state;
    struct session *session = NULL;
    struct config config = f->config;

    config.tenants[1].arena_bytes = UINT64_C(1) << 50;
    assert_int_equal(session_new(&config, f->hub, f->pool, &session), 1);
    config = f->config;
    snprintf(config.state_dir, sizeof(config.state_dir), "/dev/null/state");
    assert_int_equal(session_new(&config, f->hub, f->pool, &session), 1);
    assert_null(session);
    assert_null(session_free(NULL));
    snprintf(config.state_dir, sizeof(config.state_dir), "%s/c", f->dir);
    snprintf(config.cpu, sizeof(config.cpu), "c");
    assert_int_equal(session_new(&config, f->hub, f->pool, &session), 0);
    assert_int_equal(session->cpu_mask, 0);
    session_free(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_create_errors), FIXTURE_TEST(test_status),
        FIXTURE_TEST(test_refused_start), FIXTURE_TEST(test_release),
        FIXTURE_TEST(test_events),        FIXTURE_TEST(test_side_by_side),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
