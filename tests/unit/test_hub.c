/* daemon/hub.c: events for any number of subscribers */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/hub.h"

enum { HISTORY = 8, ME = 1, OTHER = 2 };

static uint64_t clock_unix_ms(void)
{
    return 1234;
}

static struct hub *make_hub(void)
{
    struct hub *hub = NULL;

    assert_int_equal(hub_new(HISTORY, 77, clock_unix_ms, &hub), 0);
    return hub;
}

static void publish(struct hub *hub, uint32_t tenant, uint64_t id)
{
    const struct event event = { .kind = EVENT_TILE_SHARED, .tenant = tenant, .id = id };

    hub_publish(hub, &event);
}

static void publish_ids(struct hub *hub, uint32_t tenant, uint64_t first, uint64_t last)
{
    for (uint64_t id = first; id <= last; id++)
        publish(hub, tenant, id);
}

static void count(void *user)
{
    ++*(uint32_t *)user;
}

static struct hub_subscriber *subscribe(struct hub *hub, uint64_t after_seq, uint32_t queue,
                                        uint32_t *n_wakes)
{
    struct hub_subscriber *subscriber = NULL;

    assert_int_equal(hub_subscribe(hub, ME, after_seq, queue, count, n_wakes, &subscriber), 0);
    return subscriber;
}

static void expect(struct hub_subscriber *subscriber, uint64_t id, uint64_t lost)
{
    struct event event;
    uint64_t n_lost;

    assert_int_equal(hub_next(subscriber, &event, &n_lost), 0);
    assert_int_equal(event.id, id);
    assert_int_equal(n_lost, lost);
}

static void expect_end(struct hub_subscriber *subscriber, int r)
{
    struct event event = { .seq = 5 };
    uint64_t n_lost = 6;

    assert_int_equal(hub_next(subscriber, &event, &n_lost), r);
    assert_int_equal(event.seq, 5);
    assert_int_equal(n_lost, 6);
}

static void test_events_come_in_order_with_time_and_number(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *subscriber = subscribe(hub, UINT64_MAX, 8, &n_wakes);
    struct event event = {
        .seq = 99, .kind = EVENT_TILE_STORED, .tenant = ME, .c = 3, .text = "x"
    };
    uint64_t lost;

    (void)state;
    assert_int_equal(hub_incarnation(hub), 77);
    expect_end(subscriber, 1);
    hub_publish(hub, &event);
    publish(hub, ME, 2);
    assert_int_equal(hub_next(subscriber, &event, &lost), 0);
    assert_int_equal(event.seq, 1);
    assert_int_equal(event.time_unix_ms, 1234);
    assert_int_equal(event.kind, EVENT_TILE_STORED);
    assert_int_equal(event.c, 3);
    assert_string_equal(event.text, "x");
    expect(subscriber, 2, 0);
    expect_end(subscriber, 1);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

static void test_one_wake_until_nothing_is_left(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *subscriber = subscribe(hub, UINT64_MAX, 8, &n_wakes);

    (void)state;
    publish_ids(hub, ME, 1, 3); /* no hub_next() was needed before */
    assert_int_equal(n_wakes, 1);
    expect(subscriber, 1, 0);
    publish(hub, ME, 4);
    assert_int_equal(n_wakes, 1);
    for (uint64_t id = 2; id <= 4; id++)
        expect(subscriber, id, 0);
    expect_end(subscriber, 1);
    publish(hub, ME, 5);
    assert_int_equal(n_wakes, 2);
    hub_unsubscribe(subscriber);
    publish(hub, ME, 6);
    assert_int_equal(n_wakes, 2);
    hub_free(hub);
}

static void test_a_subscriber_sees_its_tenant_and_all(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *subscriber = subscribe(hub, 0, 8, &n_wakes);

    (void)state;
    publish(hub, OTHER, 1);
    assert_int_equal(n_wakes, 0);
    publish(hub, EVENT_ALL_TENANTS, 2);
    publish(hub, OTHER, 3);
    publish(hub, ME, 4);
    expect(subscriber, 2, 0);
    expect(subscriber, 4, 0);
    expect_end(subscriber, 1);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

static void test_beyond_the_queue_the_oldest_are_lost(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *subscriber = subscribe(hub, UINT64_MAX, 3, &n_wakes);

    (void)state;
    publish_ids(hub, ME, 1, 5);
    publish_ids(hub, OTHER, 100, 101); /* count for nothing */
    expect(subscriber, 3, 2);
    publish_ids(hub, ME, 6, 7); /* 4 5 6 7 -> 5 6 7 */
    expect(subscriber, 5, 3);
    expect(subscriber, 6, 3);
    expect(subscriber, 7, 3);
    expect_end(subscriber, 1);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

static void test_a_queue_is_1_to_the_history(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *least = subscribe(hub, UINT64_MAX, 0, &n_wakes);
    struct hub_subscriber *most = subscribe(hub, UINT64_MAX, UINT32_MAX, &n_wakes);

    (void)state;
    publish_ids(hub, ME, 1, HISTORY + 2);
    expect(least, HISTORY + 2, HISTORY + 1);
    expect_end(least, 1);
    expect(most, 3, 2);
    hub_unsubscribe(least);
    hub_unsubscribe(most);
    hub_free(hub);
}

static void test_others_events_drive_mine_out_of_the_ring(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *subscriber = subscribe(hub, UINT64_MAX, HISTORY, &n_wakes);

    (void)state;
    publish(hub, OTHER, 100);
    publish_ids(hub, ME, 1, 2);
    publish_ids(hub, OTHER, 101, 100 + HISTORY - 1); /* 100 and 1 are out */
    expect(subscriber, 2, 1);
    expect_end(subscriber, 1);
    publish_ids(hub, OTHER, 1, 3 * HISTORY); /* the cursor is carried along */
    publish(hub, ME, 3);
    expect(subscriber, 3, 1);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

static void test_resume_from_what_is_kept(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *subscriber;

    (void)state;
    publish_ids(hub, ME, 1, 5);
    subscriber = subscribe(hub, 3, 8, &n_wakes);
    assert_int_equal(n_wakes, 1); /* there is something already */
    expect(subscriber, 4, 0);
    expect(subscriber, 5, 0);
    expect_end(subscriber, 1);
    hub_unsubscribe(subscriber);

    subscriber = subscribe(hub, 1000, 8, &n_wakes); /* a number of the future: only new ones */
    expect_end(subscriber, 1);
    publish(hub, ME, 6);
    expect(subscriber, 6, 0);
    hub_unsubscribe(subscriber);

    publish_ids(hub, ME, 7, 20);
    subscriber = subscribe(hub, 6, 8, &n_wakes); /* 13 … 20 are kept: 7 … 12 are lost */
    expect(subscriber, 13, 6);
    hub_unsubscribe(subscriber);

    subscriber = subscribe(hub, 0, 8, &n_wakes); /* all that is kept, and nothing was promised */
    expect(subscriber, 13, 0);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

static void test_a_backlog_does_not_count_against_the_queue(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *subscriber;

    (void)state;
    publish_ids(hub, ME, 1, 5);
    subscriber = subscribe(hub, 0, 2, &n_wakes);
    publish_ids(hub, ME, 6, 7);
    for (uint64_t id = 1; id <= 7; id++)
        expect(subscriber, id, 0);
    publish_ids(hub, ME, 8, 10); /* from now on it is 2 */
    expect(subscriber, 9, 1);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

static void test_close_comes_after_what_is_left(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0, n_late = 0;
    struct hub_subscriber *subscriber = subscribe(hub, UINT64_MAX, 8, &n_wakes), *late;

    (void)state;
    expect_end(subscriber, 1);
    hub_close(hub);
    assert_int_equal(n_wakes, 1);
    publish(hub, ME, 2); /* nobody would wait for it */
    expect_end(subscriber, 2);
    expect_end(subscriber, 2);
    hub_unsubscribe(subscriber);
    late = subscribe(hub, 0, 8, &n_late);
    assert_int_equal(n_late, 1);
    expect_end(late, 2);
    hub_unsubscribe(late);
    hub_free(hub);

    hub = make_hub();
    subscriber = subscribe(hub, UINT64_MAX, 8, &n_wakes);
    publish(hub, ME, 1);
    hub_close(hub);
    expect(subscriber, 1, 0);
    expect_end(subscriber, 2);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

/* --- threads ---------------------------------------------------------------------------------- */

enum { N_PUBLISHERS = 3, N_EVENTS = 2000, N_READERS = 3 };

struct reader {
    struct hub *hub;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool woken;
    uint64_t n_seen, n_lost, n_before; /* n_before: published and forgotten when it came */
    bool complete;                     /* each event came in its place, or was counted as lost */
};

static void wake_reader(void *user)
{
    struct reader *reader = user;

    pthread_mutex_lock(&reader->mutex);
    reader->woken = true;
    pthread_cond_signal(&reader->cond);
    pthread_mutex_unlock(&reader->mutex);
}

static void wait_for_wake(struct reader *reader)
{
    pthread_mutex_lock(&reader->mutex);
    while (!reader->woken)
        pthread_cond_wait(&reader->cond, &reader->mutex);
    reader->woken = false;
    pthread_mutex_unlock(&reader->mutex);
}

static void *read_all(void *argument)
{
    struct reader *reader = argument;
    struct hub_subscriber *subscriber = NULL;
    struct event event;
    int r;

    if (hub_subscribe(reader->hub, ME, 0, 4, wake_reader, reader, &subscriber))
        return NULL;
    reader->complete = true;
    while ((r = hub_next(subscriber, &event, &reader->n_lost)) != 2) {
        if (r == 1) {
            wait_for_wake(reader);
            continue;
        }
        if (reader->n_seen++ == 0)
            reader->n_before = event.seq - 1 - reader->n_lost;
        if (event.seq != reader->n_before + reader->n_seen + reader->n_lost)
            reader->complete = false;
    }
    hub_unsubscribe(subscriber);
    return NULL;
}

static void *publish_all(void *argument)
{
    publish_ids(argument, ME, 1, N_EVENTS);
    return NULL;
}

/* Every event is either seen or counted as lost, whatever the threads' timing. */
static void test_threads(void **state)
{
    struct hub *hub = make_hub();
    struct reader readers[N_READERS];
    pthread_t publishers[N_PUBLISHERS], threads[N_READERS];
    uint32_t n_wakes = 0;
    struct hub_subscriber *stopped = subscribe(hub, UINT64_MAX, 4, &n_wakes); /* never reads */
    struct event event;
    uint64_t lost;

    (void)state;
    for (int i = 0; i < N_READERS; i++) {
        readers[i] = (struct reader){ .hub = hub };
        pthread_mutex_init(&readers[i].mutex, NULL);
        pthread_cond_init(&readers[i].cond, NULL);
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, &readers[i]), 0);
    }
    for (int i = 0; i < N_PUBLISHERS; i++)
        assert_int_equal(pthread_create(&publishers[i], NULL, publish_all, hub), 0);
    for (int i = 0; i < N_PUBLISHERS; i++)
        pthread_join(publishers[i], NULL);
    hub_close(hub);
    for (int i = 0; i < N_READERS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(readers[i].complete);
        assert_true(readers[i].n_seen > 0);
        assert_int_equal(readers[i].n_before + readers[i].n_seen + readers[i].n_lost,
                         N_PUBLISHERS * N_EVENTS);
        pthread_cond_destroy(&readers[i].cond);
        pthread_mutex_destroy(&readers[i].mutex);
    }
    assert_int_equal(n_wakes, 1);
    assert_int_equal(hub_next(stopped, &event, &lost), 0);
    assert_int_equal(event.seq, N_PUBLISHERS * N_EVENTS - 3);
    assert_int_equal(lost, N_PUBLISHERS * N_EVENTS - 4);
    hub_unsubscribe(stopped);
    hub_free(hub);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_come_in_order_with_time_and_number),
        cmocka_unit_test(test_one_wake_until_nothing_is_left),
        cmocka_unit_test(test_a_subscriber_sees_its_tenant_and_all),
        cmocka_unit_test(test_beyond_the_queue_the_oldest_are_lost),
        cmocka_unit_test(test_a_queue_is_1_to_the_history),
        cmocka_unit_test(test_others_events_drive_mine_out_of_the_ring),
        cmocka_unit_test(test_resume_from_what_is_kept),
        cmocka_unit_test(test_a_backlog_does_not_count_against_the_queue),
        cmocka_unit_test(test_close_comes_after_what_is_left),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
