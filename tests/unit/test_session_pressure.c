/* session_pressure: what is cold is made worse, then shorter, and everybody can tell */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/session_pressure.h"
#include "daemon/session_verbs.h"
#include "tests/unit/session_kept.h"

WAITING(trim);

enum { N_TOKENS = 2 * DPQ_TILE_TOKENS, N_MANY = 200 };

static void nothing(void *user)
{
    (void)user;
}

struct told { /* by events, of one sequence */
    uint64_t n_dropped, n_tokens, generation;
};

/* What the hub said of these sequences. Return: how many tiles it says were evicted */
static uint64_t listen(struct fixture *f, struct hub_subscriber *subscriber, const uint64_t *ids,
                       size_t n, struct told *told)
{
    uint64_t n_evicted = 0, lost = 0;
    struct event event;

    (void)f;
    while (!hub_next(subscriber, &event, &lost)) {
        struct told *t = NULL;

        for (size_t i = 0; i < n; i++)
            if (ids[i] == event.id)
                t = &told[i];
        n_evicted += event.kind == EVENT_TILE_EVICTED;
        if (event.kind == EVENT_FINE_DROPPED && t) {
            t->n_dropped++;
            t->generation = event.c;
        }
        if (event.kind == EVENT_TOKENS_EVICTED && t) {
            assert_int_equal(event.a + event.b, t->n_tokens);
            t->n_tokens = event.a;
            t->generation = event.c;
        }
    }
    assert_int_equal(lost, 0);
    return n_evicted;
}

static struct hub_subscriber *subscribe(struct fixture *f)
{
    struct hub_subscriber *subscriber;

    assert_int_equal(hub_subscribe(f->hub,
                                   &(struct hub_request){
                                       .after_seq = HUB_FROM_NOW, .queue = 4096, .wake = nothing },
                                   &subscriber),
                     0);
    return subscriber;
}

static void set_cold(struct fixture *f, uint32_t cold_seconds)
{
    f->config.cold_seconds = cold_seconds;
    session_reload(f->session, &f->config);
}

static uint64_t create_kept(struct fixture *f, bool fine, bool tokens)
{
    struct waiting_create w = { .op = { .keep_fine = fine, .keep_tokens = tokens } };

    w.op.prefix = fixture_prefix(f, NULL, 0);
    create_start(f, &w);
    create_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
    return w.op.sequence_id;
}

/* A sequence reads as events say that it does. */
static void check_reads(struct fixture *f, uint64_t id, const struct told *told,
                        uint64_t n_tiles_dropped)
{
    float *rows = malloc(N_TOKENS * ROW_BYTES);
    struct session_read op = read_run(f, id, 0, told->n_tokens, rows);

    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(op.n_coded_tokens, told->n_tokens);
    assert_int_equal(op.generation, told->generation);
    assert_int_equal(op.generation,
                     2 + told->n_dropped + (N_TOKENS - told->n_tokens) / DPQ_TILE_TOKENS);
    assert_true(op.n_dropped_tokens <= n_tiles_dropped * DPQ_TILE_TOKENS);
    if (told->n_tokens == N_TOKENS)
        assert_int_equal(op.n_dropped_tokens, n_tiles_dropped * DPQ_TILE_TOKENS);
    if (told->n_tokens < N_TOKENS) {
        op = read_run(f, id, 0, N_TOKENS, rows);
        assert_int_equal(op.error.code, SESSION_NOT_FOUND);
        assert_string_equal(op.error.reason, "EVICTED");
        assert_int_equal(op.error.token, told->n_tokens);
        op = read_run(f, id, 0, N_TOKENS + 1, rows);
        assert_string_equal(op.error.reason, "TOKEN_RANGE");
    }
    free(rows);
}

/* Three times what there is room for: all of it is taken, and what gave way is what was announced.
 */
static void test_announced(void **state)
{
    struct fixture *f = *state;
    struct hub_subscriber *subscriber = subscribe(f);
    uint64_t ids[N_MANY], n_dropped = 0, n_cut = 0, n_evicted;
    struct told told[N_MANY];
    struct status status;

    set_cold(f, 0);
    for (int i = 0; i < N_MANY; i++) {
        ids[i] = create(f, NULL, 0, 0);
        append(f, ids[i], 0, N_TOKENS, false);
        told[i] = (struct told){ .n_tokens = N_TOKENS, .generation = 2 };
    }
    n_evicted = listen(f, subscriber, ids, N_MANY, told);
    for (int i = 0; i < N_MANY; i++) {
        check_reads(f, ids[i], &told[i], told[i].n_dropped);
        n_dropped += told[i].n_dropped;
        n_cut += N_TOKENS - told[i].n_tokens;
    }
    status = status_of(f);
    assert_true(n_dropped > 0 && n_cut > 0);
    assert_int_equal(status.tokens_evicted, n_cut);
    assert_int_equal(status.tiles_evicted, n_evicted);
    assert_int_equal(status.fine_dropped, n_dropped);
    assert_int_equal(n_cut, n_evicted * DPQ_TILE_TOKENS); /* none was shared, or only cached */
    assert_int_equal(status.n_sequences, N_MANY);
    hub_unsubscribe(subscriber);
}

static struct sequence *sequence_of(struct fixture *f, uint64_t id)
{
    struct sequence *sequence;

    session_lock(f->session);
    sequence = sequence_find(f->session, 0, id);
    session_unlock(f->session);
    assert_non_null(sequence);
    return sequence;
}

static void relieve_all(struct fixture *f, uint64_t id)
{
    while (pressure_relieve(sequence_of(f, id)->tenant, UINT64_MAX, session_now_ns()))
        ;
}

static void set_watermarks(struct fixture *f, uint32_t high, uint32_t low)
{
    f->config.high_percent = high;
    f->config.low_percent = low;
    session_reload(f->session, &f->config);
}

/* Fine planes before tokens; then the tail before tiles, then tiles from the end. */
static void test_order(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct tenant *tenant;

    set_cold(f, 0);
    append(f, id, 0, N_TOKENS + 20, false);
    tenant = sequence_of(f, id)->tenant;
    for (uint64_t n = 1; n <= 2; n++) {
        assert_true(pressure_relieve(tenant, 1, session_now_ns()));
        assert_int_equal(status_of(f).fine_dropped, n);
        assert_int_equal(status_of(f).tokens_evicted, 0);
    }
    for (uint64_t left = N_TOKENS; left; left -= DPQ_TILE_TOKENS) {
        assert_true(pressure_relieve(tenant, 1, session_now_ns()));
        assert_int_equal(sequence_of(f, id)->n_tokens, left);
    }
}

/* What may not be taken is not, whatever is wanted; beside it everything goes. */
static void test_untouchable(void **state)
{
    enum { PINNED, BUSY, KEPT, KEPT_TOKENS, LEASED, N, NOT_KEPT = N };
    struct fixture *f = *state;
    uint64_t ids[N + 1], now_ns = session_now_ns();
    struct sequence *sequence;

    set_cold(f, 0);
    for (int i = 0; i <= N; i++) {
        ids[i] = create_kept(f, i == KEPT, i == KEPT || i == KEPT_TOKENS);
        append(f, ids[i], 0, N_TOKENS, false);
    }
    session_lock(f->session);
    sequence_set_pin(sequence_find(f->session, 0, ids[PINNED]), now_ns + 60 * UINT64_C(1000000000));
    sequence_find(f->session, 0, ids[BUSY])->busy = true;
    sequence = sequence_find(f->session, 0, ids[LEASED]);
    for (size_t i = 0; i < sequence->n_tiles; i++)
        tile_lease(sequence->tiles[i], now_ns + 60 * UINT64_C(1000000000));
    session_unlock(f->session);
    relieve_all(f, ids[PINNED]);
    session_lock(f->session);
    sequence_find(f->session, 0, ids[BUSY])->busy = false;
    session_unlock(f->session);
    for (int i = 0; i < N; i++) {
        struct told told = { .n_dropped = i == KEPT_TOKENS ? 2 : 0, .n_tokens = N_TOKENS };

        told.generation = 2 + told.n_dropped;
        check_reads(f, ids[i], &told, told.n_dropped);
    }
    assert_int_equal(sequence_of(f, ids[NOT_KEPT])->n_tokens, 0);
    assert_int_equal(status_of(f).fine_dropped, 2 + 2); /* of the last, before its tokens went */
}

/* A read is use: what was read later than another goes later. */
static void test_coldest_tail_first(void **state)
{
    struct fixture *f = *state;
    uint64_t first = create(f, NULL, 0, 0), second = create(f, NULL, 0, 0);
    float *rows = malloc(20 * ROW_BYTES);

    set_cold(f, 0);
    append(f, first, 0, 20, false);
    append(f, second, 0, 20, false);
    assert_int_equal(read_run(f, first, 0, 20, rows).error.code, SESSION_OK);
    assert_true(pressure_relieve(sequence_of(f, first)->tenant, 1, session_now_ns()));
    assert_int_equal(sequence_of(f, first)->n_tokens, 20);
    assert_int_equal(sequence_of(f, second)->n_tokens, 0);
    free(rows);
}

/* Tiles that are only cached, under ids of its own. Return: percent in use */
static double put_cached(struct fixture *f, uint32_t i)
{
    uint64_t id = create(f, NULL, 0, 0);
    struct status status;

    f->ids[0] = 7000000 + i;
    append(f, id, 0, N_TOKENS, true);
    release_run(f, id, false);
    status = status_of(f);
    return 100. * (double)status.arena_used_bytes / (double)status.arena_bytes;
}

/* Nothing is done up to the high watermark; beyond it room is made down to the low one, of what is
 * only cached: sequences lose nothing. */
static void test_watermarks(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    double percent = 0, before = 0;
    uint32_t i = 0;

    set_cold(f, 0);
    set_watermarks(f, 60, 30);
    append(f, id, 0, 20, false);
    for (; percent <= 60; i++) {
        assert_int_equal(status_of(f).fine_dropped + status_of(f).tiles_evicted, 0);
        percent = put_cached(f, i);
    }
    before = percent;
    percent = put_cached(f, i);
    assert_true(percent < 30 + 3 && percent > 25 && before > 60);
    assert_int_equal(status_of(f).tokens_evicted, 0);
    assert_int_equal(sequence_of(f, id)->n_tokens, 20);
}

/* A sequence that was cut goes on where it ends now, and is told so; also after a restart. */
static void test_goes_on(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[N_MANY], cut = 0, at = 0;
    float *rows = malloc(N_TOKENS * ROW_BYTES);
    struct session_append op;
    struct session_read read;

    set_cold(f, 0);
    for (int i = 0; i < N_MANY; i++) {
        ids[i] = create(f, f->ids, 0, 0);
        append(f, ids[i], 0, N_TOKENS, false);
    }
    for (int i = 0; i < N_MANY && !cut; i++) {
        op = append_run(f, append_op(f, ids[i], N_TOKENS, 10, false));
        if (op.error.code == SESSION_OK)
            continue;
        assert_int_equal(op.error.code, SESSION_NOT_FOUND);
        assert_string_equal(op.error.reason, "EVICTED");
        at = (uint64_t)op.error.token;
        assert_true(at < N_TOKENS && at % DPQ_TILE_TOKENS == 0);
        cut = ids[i];
        append(f, cut, (uint32_t)at, 20, false);
    }
    assert_int_not_equal(cut, 0);
    restart(f);
    read = read_run(f, cut, at, 20, rows);
    assert_int_equal(read.error.code, SESSION_OK);
    assert_memory_equal(rows, f->input + at * ROW_NUMBERS, 20 * ROW_BYTES);
    free(rows);
}

/* As a reader does who is just reading it all. */
static struct tail_holder *hold_all(struct fixture *f, uint64_t id, struct tenant **ret_tenant)
{
    struct sequence *sequence;
    struct tail_holder *holder;

    session_lock(f->session);
    sequence = sequence_find(f->session, 0, id);
    assert_non_null(sequence);
    holder = sequence->tail;
    holder->refs++;
    for (size_t i = 0; i < sequence->n_tiles; i++)
        tile_hold(sequence->tiles[i]);
    *ret_tenant = sequence->tenant;
    session_unlock(f->session);
    return holder;
}

/* It ends at n_tokens, and had as many as end before. */
static void assert_evicted(struct fixture *f, uint64_t id, uint64_t n_tokens, uint64_t end)
{
    float *rows = malloc((end + 1) * ROW_BYTES);
    struct session_read read = read_run(f, id, 0, end, rows);
    struct session_append op = append_run(f, append_op(f, id, (uint32_t)end, 1, false));

    assert_int_equal(read.error.code, SESSION_NOT_FOUND);
    assert_string_equal(read.error.reason, "EVICTED");
    assert_int_equal(read.error.token, n_tokens);
    assert_string_equal(read_run(f, id, n_tokens, 1, rows).error.reason, "EVICTED");
    assert_string_equal(read_run(f, id, 0, end + 1, rows).error.reason, "TOKEN_RANGE");
    assert_string_equal(op.error.reason, "EVICTED");
    assert_int_equal(op.error.token, n_tokens);
    free(rows);
}

/* The next process knows what was announced of a tail that was cut, and that it is. */
static void test_cut_tail_is_recorded(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), generation;
    struct tail_holder *holder;
    struct tenant *tenant;

    set_cold(f, 0);
    generation = append(f, id, 0, DPQ_TILE_TOKENS + 20, false).generation;
    holder = hold_all(f, id, &tenant);
    pressure_relieve(tenant, 1, session_now_ns());
    assert_int_equal(read_run(f, id, 0, 0, NULL).generation, generation + 1);
    free(holder);
    for (int i = 0; i < 2; i++) {
        assert_evicted(f, id, DPQ_TILE_TOKENS, DPQ_TILE_TOKENS + 20);
        restart(f);
        assert_int_equal(read_run(f, id, 0, 0, NULL).generation, generation + 1);
    }
    assert_int_equal(append(f, id, DPQ_TILE_TOKENS, 10, false).generation, generation + 1);
    restart(f);
    assert_evicted(f, id, DPQ_TILE_TOKENS + 10, DPQ_TILE_TOKENS + 20);
    append(f, id, DPQ_TILE_TOKENS + 10, 10, false);
    restart(f); /* it is as long as it was */
    assert_string_equal(read_run(f, id, 0, DPQ_TILE_TOKENS + 21, NULL).error.reason, "TOKEN_RANGE");
}

static void cut_tail(struct fixture *f, uint64_t id)
{
    struct tenant *tenant;
    struct tail_holder *holder = hold_all(f, id, &tenant); /* its reader ends with the process */

    pressure_relieve(tenant, 1, session_now_ns());
    free(holder);
}

/* Where tiles are missing the next process sees it; how long the tail behind them was it knows. */
static void test_cut_end_is_recorded(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct sequence *sequence;

    set_cold(f, 0);
    append(f, id, 0, 2 * DPQ_TILE_TOKENS + 20, false);
    sequence = sequence_find(f->session, 0, id);
    tile_hold(sequence->tiles[0]);
    while (pressure_relieve(sequence->tenant, UINT64_MAX, session_now_ns()))
        ;
    for (int i = 0; i < 2; i++) {
        assert_evicted(f, id, DPQ_TILE_TOKENS, 2 * DPQ_TILE_TOKENS + 20);
        restart(f);
    }
}

static uint64_t record_room_left(struct fixture *f, uint64_t id)
{
    struct sequence *sequence = sequence_find(f->session, 0, id);
    const uint8_t *bytes;
    uint64_t n, room;

    assert_int_equal(record_bytes(sequence->record, &bytes, &n, &room), 0);
    return room - n;
}

/* Also when the record is as full as appends make it: a cut can't make room for a larger one. */
static void test_cut_is_recorded_in_a_full_record(void **state)
{
    enum { N = 250, FIRST = DPQ_TILE_TOKENS + 1 };
    struct fixture *f = *state;
    uint64_t trial = create(f, NULL, 0, 0), id = create(f, NULL, 0, 0), least = UINT64_MAX;
    uint32_t n_tokens = 0;

    for (uint32_t i = 0; i < N; i++) {
        append(f, trial, i, 1, true);
        if (i >= FIRST && record_room_left(f, trial) < least) {
            least = record_room_left(f, trial);
            n_tokens = i + 1;
        }
    }
    release_run(f, trial, true);
    for (uint32_t i = 0; i < n_tokens; i++)
        append(f, id, i, 1, true);
    assert_int_equal(record_room_left(f, id), least);
    set_cold(f, 0);
    cut_tail(f, id);
    restart(f);
    assert_evicted(f, id, DPQ_TILE_TOKENS, n_tokens);
}

/* What was given up is not missing any more. */
static void test_trimmed_is_not_evicted(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct waiting_trim w = { .op = { .sequence_id = id, .n_tokens = 100 } };

    set_cold(f, 0);
    append(f, id, 0, DPQ_TILE_TOKENS + 20, false);
    cut_tail(f, id);
    restart(f);
    trim_start(f, &w);
    trim_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(read_run(f, id, 0, DPQ_TILE_TOKENS, NULL).error.reason, "TOKEN_RANGE");
        restart(f);
    }
}

/* A tail that was cut is in the arena for as long as somebody reads it. A process that finds it
 * beside what was appended in its place serves what was appended. */
static void test_cut_tail_is_held(void **state)
{
    struct fixture *f = *state;
    uint64_t other = create_kept(f, true, true), id = create(f, NULL, 0, 0), generation;
    float *rows = malloc(20 * ROW_BYTES), *input = f->input;
    struct tail_holder *holder;
    struct tenant *tenant;
    struct session_read read;

    set_cold(f, 0);
    append(f, other, 0, 20, false);
    append(f, id, 0, DPQ_TILE_TOKENS + 20, false);
    holder = hold_all(f, id, &tenant);
    pressure_relieve(tenant, 1, session_now_ns());
    release_run(f, other, true); /* the next tail has a slot before that of the one that is held */
    f->input += 500 * ROW_NUMBERS - DPQ_TILE_TOKENS * ROW_NUMBERS;
    generation = append(f, id, DPQ_TILE_TOKENS, 20, false).generation;
    f->input = input;
    free(holder); /* its reader ends with the process; the tail stays */
    restart(f);
    read = read_run(f, id, DPQ_TILE_TOKENS, 20, rows);
    assert_int_equal(read.error.code, SESSION_OK);
    assert_memory_equal(rows, input + 500 * ROW_NUMBERS, 20 * ROW_BYTES);
    assert_true(read.generation >= generation);
    free(rows);
}

/* What was created to be kept is: then the next one waits. */
static void test_kept(void **state)
{
    struct fixture *f = *state;
    uint64_t first = create_kept(f, true, true), id = first, n = 0;
    struct session_append op = append(f, first, 0, N_TOKENS, false);
    struct store_object base, fine;

    set_cold(f, 0);
    do {
        id = create_kept(f, n % 2, true);
        op = append_run(f, append_op(f, id, 0, N_TOKENS, false));
        n++;
    } while (op.error.code == SESSION_OK);
    assert_int_equal(op.error.code, SESSION_RESOURCE_EXHAUSTED);
    assert_string_equal(op.error.reason, "ARENA_FULL");
    assert_true(op.error.retry_ms > 0);
    assert_true(status_of(f).fine_dropped > 0);
    assert_int_equal(status_of(f).tokens_evicted, 0);
    stored(f, first, 1, &base, &fine);
    assert_true(base.n_bytes && fine.n_bytes);
    f->config.lease_seconds = 0; /* nothing waits for readers of before */
    restart(f);                  /* the promise outlives the process */
    for (n = 0, op.error.code = SESSION_OK; n < N_MANY && op.error.code == SESSION_OK; n++)
        op = append_run(f, append_op(f, create_kept(f, true, true), 0, N_TOKENS, false));
    assert_int_equal(op.error.code, SESSION_RESOURCE_EXHAUSTED);
    stored(f, first, 1, &base, &fine);
    assert_true(base.n_bytes && fine.n_bytes);
}

/* What was in use a moment ago is not cold. */
static void test_warm(void **state)
{
    struct fixture *f = *state;
    struct session_append op;

    do
        op = append_run(f, append_op(f, create(f, NULL, 0, 0), 0, N_TOKENS, false));
    while (op.error.code == SESSION_OK);
    assert_int_equal(op.error.code, SESSION_RESOURCE_EXHAUSTED);
    assert_int_equal(status_of(f).fine_dropped, 0);
    assert_int_equal(status_of(f).tokens_evicted, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_announced, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_order, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_untouchable, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_coldest_tail_first, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_watermarks, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_goes_on, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_cut_tail_is_held, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_cut_tail_is_recorded, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_cut_end_is_recorded, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_cut_is_recorded_in_a_full_record, kept_setup,
                                        kept_teardown),
        cmocka_unit_test_setup_teardown(test_trimmed_is_not_evicted, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_kept, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_warm, fixture_setup, fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
