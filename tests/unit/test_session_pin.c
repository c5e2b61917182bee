/* session_pin: pins have an end, outlive clients and daemons, and keep what nobody else would */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/session_keep.h"
#include "daemon/session_verbs.h"
#include "tests/unit/session_kept.h"

WAITING(pin);

static struct session_pin pin_run(struct fixture *f, uint32_t tenant, uint64_t id, uint64_t ttl_ms)
{
    struct waiting_pin w = { .op = { .tenant = tenant, .sequence_id = id, .ttl_ms = ttl_ms } };

    pin_start(f, &w);
    pin_wait(&w);
    return w.op;
}

static uint64_t pinned_until(struct fixture *f, uint64_t id)
{
    return sequence_find(f->session, 0, id)->pinned_until_ns;
}

/* The later end counts; an end at once is one for all. */
static void test_ends(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct session_pin op;

    append(f, id, 0, 10, true);
    op = pin_run(f, 0, id, 60000);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_false(op.was_pinned);
    assert_int_equal(op.left_ms, 60000);
    op = pin_run(f, 0, id, 1000);
    assert_true(op.was_pinned && op.left_ms > 50000 && op.left_ms <= 60000);
    op = pin_run(f, 0, id, SESSION_MAX_PIN_MS);
    assert_true(op.was_pinned);
    assert_int_equal(op.left_ms, SESSION_MAX_PIN_MS);
    op = pin_run(f, 0, id, 0);
    assert_true(op.was_pinned && !op.left_ms);
    op = pin_run(f, 0, id, 0);
    assert_true(op.error.code == SESSION_OK && !op.was_pinned);
    assert_int_equal(pinned_until(f, id), 0);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct session_pin op;

    op = pin_run(f, 0, id, (uint64_t)SESSION_MAX_PIN_MS + 1);
    assert_int_equal(op.error.code, SESSION_INVALID_ARGUMENT);
    assert_string_equal(op.error.reason, "TTL");
    op = pin_run(f, 0, id, UINT64_MAX);
    assert_string_equal(op.error.reason, "TTL");
    op = pin_run(f, 0, id + 1, 1000);
    assert_int_equal(op.error.code, SESSION_NOT_FOUND);
    assert_string_equal(op.error.reason, "SEQUENCE");
    op = pin_run(f, 1, id, 1000); /* another tenant's */
    assert_int_equal(op.error.code, SESSION_NOT_FOUND);
    release_run(f, id, false);
    op = pin_run(f, 0, id, 1000);
    assert_int_equal(op.error.code, SESSION_NOT_FOUND);
}

/* What is left is left after a restart, too; the record may be written anew in between. */
static void test_restart(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), unpinned = create(f, NULL, 0, 0), until_ns;

    append(f, id, 0, 10, true);
    append(f, unpinned, 0, 10, true);
    pin_run(f, 0, id, 60000);
    pin_run(f, 0, unpinned, 60000);
    pin_run(f, 0, unpinned, 0);
    until_ns = pinned_until(f, id);
    assert_true(sequence_pinned(sequence_find(f->session, 0, id), until_ns - 1));
    assert_false(sequence_pinned(sequence_find(f->session, 0, id), until_ns));
    restart(f);
    assert_int_equal(pinned_until(f, id), until_ns);
    assert_int_equal(pinned_until(f, unpinned), 0);
    for (uint32_t i = 10; i < 600; i++)
        append(f, id, i, 1, true);
    restart(f);
    assert_int_equal(pinned_until(f, id), until_ns);
}

/* Of a clock that was another boot's: not believed. */
static void test_other_clock(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), now_ns = session_now_ns();
    struct record_change change = { .has_pin = true };

    append(f, id, 0, 10, true);
    change.pinned_until_ns = now_ns + (SESSION_MAX_PIN_MS + UINT64_C(3600000)) * 1000000;
    assert_int_equal(sequence_write(sequence_find(f->session, 0, id), &change, now_ns), 0);
    restart(f);
    assert_int_equal(pinned_until(f, id), 0);
}

/* A sequence that only adopted what is there goes with its client, but not before its pin ends. */
static void test_adopted(void **state)
{
    struct fixture *f = *state;
    uint64_t writer = create(f, NULL, 0, 0), client = attach(f, 0, NULL), until_ns;
    uint64_t pinned, empty, other;

    append(f, writer, 0, 256, true);
    pinned = create(f, f->ids, 256, client);
    empty = create(f, NULL, 0, client);
    other = create(f, f->ids, 256, client);
    assert_int_equal(pin_run(f, 0, pinned, 60000).error.code, SESSION_OK);
    assert_int_equal(pin_run(f, 0, empty, 30000).error.code, SESSION_OK);
    until_ns = pinned_until(f, pinned);
    session_client_gone(f->session, client);
    assert_int_equal(status_of(f).n_sequences, 3);
    assert_string_equal(read_run(f, other, 0, 0, NULL).error.reason, "SEQUENCE");
    restart(f);
    assert_int_equal(status_of(f).n_sequences, 3);
    assert_int_equal(read_run(f, pinned, 256, 0, NULL).error.code, SESSION_OK);
    session_tick(f->session, until_ns - 1);
    assert_int_equal(status_of(f).n_sequences, 2); /* the empty one's pin has ended */
    assert_int_equal(read_run(f, pinned, 256, 0, NULL).error.code, SESSION_OK);
    session_tick(f->session, until_ns);
    assert_string_equal(read_run(f, pinned, 0, 0, NULL).error.reason, "SEQUENCE");
    assert_int_equal(status_of(f).n_sequences, 1);
    restart(f);
    assert_int_equal(status_of(f).n_sequences, 1);
    assert_int_equal(status_of(f).n_tiles, 2);
    (void)empty;
}

/* One whose client is there stays when its pin ends, and goes on. */
static void test_after_the_end(void **state)
{
    struct fixture *f = *state;
    uint64_t client = attach(f, 0, NULL), id = create(f, NULL, 0, client);

    pin_run(f, 0, id, 1000);
    session_tick(f->session, pinned_until(f, id) + 1);
    append(f, id, 0, 10, true);
    session_client_gone(f->session, client);
    session_tick(f->session, pinned_until(f, id) + 1);
    assert_int_equal(read_run(f, id, 10, 0, NULL).error.code, SESSION_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_ends),
        FIXTURE_TEST(test_refused),
        cmocka_unit_test_setup_teardown(test_restart, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_other_clock, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_adopted, kept_setup, kept_teardown),
        FIXTURE_TEST(test_after_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
