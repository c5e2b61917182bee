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

enum { HISTORY = 8, ME = 1, OTHER = 2, N_TENANTS };

static uint64_t now_ms = 1234;

static uint64_t clock_unix_ms(void)
{
    return now_ms;
}

static struct hub *make_hub(void)
{
    struct hub *hub = NULL;

    assert_int_equal(hub_new(N_TENANTS, HISTORY, 77, clock_unix_ms, &hub), 0);
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
    struct hub_request request = {
        .tenant = ME, .after_seq = after_seq, .queue = queue, .wake = count, .user = n_wakes
    };
    struct hub_subscriber *subscriber = NULL;

    assert_int_equal(hub_subscribe(hub, &request, &subscriber), 0);
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
    struct hub_subscriber *subscriber = subscribe(hub, HUB_FROM_NOW, 8, &n_wakes);
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

static void test_one_wake_for_all_until_armed(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *one = subscribe(hub, HUB_FROM_NOW, 8, &n_wakes);
    struct hub_subscriber *two = subscribe(hub, HUB_FROM_NOW, 8, &n_wakes);

    (void)state;
    publish(hub, OTHER, 1); /* nobody to be woken: armed as before */
    assert_int_equal(n_wakes, 0);
    publish_ids(hub, ME, 1, 3);
    assert_int_equal(n_wakes, 1);
    for (uint64_t id = 1; id <= 3; id++)
        expect(one, id, 0);
    publish(hub, ME, 4);
    assert_int_equal(n_wakes, 1);
    hub_arm(hub);
    publish_ids(hub, ME, 5, 6);
    assert_int_equal(n_wakes, 2);
    for (uint64_t id = 1; id <= 6; id++)
        expect(two, id, 0);
    hub_unsubscribe(one);
    hub_unsubscribe(two);
    hub_arm(hub);
    publish(hub, ME, 7);
    assert_int_equal(n_wakes, 2);
    hub_free(hub);
}

/* Numbers are the tenant's own: nothing of the others shows. */
static void test_a_subscriber_sees_its_tenant_and_all(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct event event;
    uint64_t lost;
    struct hub_subscriber *subscriber = subscribe(hub, HUB_FROM_OLDEST, 8, &n_wakes);

    (void)state;
    publish(hub, OTHER, 1);
    publish(hub, EVENT_ALL_TENANTS, 2);
    publish(hub, OTHER, 3);
    publish(hub, N_TENANTS, 5); /* nobody's */
    publish(hub, ME, 4);
    assert_int_equal(hub_next(subscriber, &event, &lost), 0);
    assert_true(event.id == 2 && event.seq == 1);
    assert_int_equal(hub_next(subscriber, &event, &lost), 0);
    assert_true(event.id == 4 && event.seq == 2);
    expect_end(subscriber, 1);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

static void test_beyond_the_queue_the_oldest_are_lost(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *subscriber = subscribe(hub, HUB_FROM_NOW, 3, &n_wakes);

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
    struct hub_subscriber *least = subscribe(hub, HUB_FROM_NOW, 0, &n_wakes);
    struct hub_subscriber *most = subscribe(hub, HUB_FROM_NOW, UINT32_MAX, &n_wakes);

    (void)state;
    publish_ids(hub, ME, 1, HISTORY + 2);
    expect(least, HISTORY + 2, HISTORY + 1);
    expect_end(least, 1);
    expect(most, 3, 2);
    hub_unsubscribe(least);
    hub_unsubscribe(most);
    hub_free(hub);
}

static void test_others_events_cost_me_nothing(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_subscriber *subscriber = subscribe(hub, HUB_FROM_NOW, HISTORY, &n_wakes);

    (void)state;
    publish_ids(hub, ME, 1, 2);
    publish_ids(hub, OTHER, 101, 100 + 3 * HISTORY);
    publish(hub, ME, 3);
    for (uint64_t id = 1; id <= 3; id++)
        expect(subscriber, id, 0);
    expect_end(subscriber, 1);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

static void test_resume_from_what_is_kept(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_request request = { .tenant = ME, .queue = 8, .wake = count, .user = &n_wakes };
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

    subscriber = subscribe(hub, HUB_FROM_OLDEST, 8,
                           &n_wakes); /* all that is kept, and nothing was promised */
    expect(subscriber, 13, 0);
    hub_unsubscribe(subscriber);

    subscriber = NULL;
    request.after_seq = 0; /* as one says who knows that it had none */
    assert_int_equal(hub_subscribe(hub, &request, &subscriber), 0);
    expect(subscriber, 13, 12);
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
    subscriber = subscribe(hub, HUB_FROM_OLDEST, 2, &n_wakes);
    publish_ids(hub, ME, 6, 7);
    for (uint64_t id = 1; id <= 7; id++)
        expect(subscriber, id, 0);
    publish_ids(hub, ME, 8, 10); /* from now on it is 2 */
    expect(subscriber, 9, 1);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

static void test_batches(void **state)
{
    struct hub *hub = NULL;
    struct hub_batch *batch = calloc(1, sizeof(*batch));
    struct hub_subscriber *one, *two;
    uint32_t n_wakes = 0;

    (void)state;
    assert_non_null(batch);
    assert_int_equal(hub_new(N_TENANTS, 1024, 77, clock_unix_ms, &hub), 0);
    one = subscribe(hub, HUB_FROM_NOW, 1024, &n_wakes);
    two = subscribe(hub, HUB_FROM_NOW, 1024, &n_wakes);
    assert_int_equal(hub_take(one, batch), 1);
    assert_true(batch->n == 0 && batch->first_seq == 1 && batch->lost == 0);
    publish_ids(hub, ME, 1, 300);
    assert_int_equal(hub_take(one, batch), 0);
    assert_true(batch->n == HUB_BATCH && batch->first_seq == 1 && !batch->is_same);
    for (uint64_t i = 0; i < HUB_BATCH; i++)
        assert_true(batch->events[i].id == i + 1 && batch->events[i].seq == i + 1);
    assert_int_equal(hub_take(two, batch), 0);
    assert_true(batch->n == HUB_BATCH && batch->is_same);
    publish_ids(hub, ME, 301, 301);
    assert_int_equal(hub_take(one, batch), 0);
    assert_true(batch->n == 45 && batch->first_seq == 257 && !batch->is_same);
    assert_int_equal(batch->events[44].id, 301);
    assert_int_equal(hub_take(one, batch), 1);
    assert_int_equal(batch->first_seq, 302);
    assert_int_equal(hub_take(two, batch), 0); /* nothing new for one: kept for two */
    assert_true(batch->n == 45 && batch->is_same && batch->events[0].id == 257);
    publish_ids(hub, ME, 302, 2000);
    assert_int_equal(hub_take(two, batch), 0);
    assert_true(batch->first_seq == 977 && batch->lost == 675 && batch->events[0].id == 977);
    hub_unsubscribe(one);
    hub_unsubscribe(two);
    hub_free(hub);
    free(batch);
}

/* Neither other events from the same number on, nor another tenant's of the same numbers. */
static void test_a_batch_is_the_same_only_if_it_is(void **state)
{
    struct hub *hub = make_hub();
    struct hub_batch *batch = calloc(1, sizeof(*batch));
    struct hub_subscriber *one, *two, *other = NULL;
    uint32_t n_wakes = 0;
    struct hub_request request = {
        .tenant = OTHER, .after_seq = HUB_FROM_NOW, .queue = 8, .wake = count, .user = &n_wakes
    };

    (void)state;
    assert_non_null(batch);
    one = subscribe(hub, HUB_FROM_NOW, 8, &n_wakes);
    two = subscribe(hub, HUB_FROM_NOW, 8, &n_wakes);
    assert_int_equal(hub_subscribe(hub, &request, &other), 0);
    publish_ids(hub, ME, 1, 2);
    publish_ids(hub, OTHER, 101, 103);
    assert_int_equal(hub_take(one, batch), 0);
    assert_true(batch->n == 2 && !batch->is_same);
    publish(hub, ME, 3);
    assert_int_equal(hub_take(two, batch), 0);
    assert_true(batch->n == 3 && !batch->is_same && batch->events[2].id == 3);
    assert_int_equal(hub_take(other, batch), 0);
    assert_true(batch->n == 3 && batch->first_seq == 1 && !batch->is_same);
    assert_int_equal(batch->events[0].id, 101);
    hub_unsubscribe(one);
    hub_unsubscribe(two);
    hub_unsubscribe(other);
    hub_free(hub);
    free(batch);
}

static void test_a_backlog_taken_at_once_is_used_up(void **state)
{
    struct hub *hub = make_hub();
    struct hub_batch *batch = calloc(1, sizeof(*batch));
    struct hub_subscriber *subscriber;
    uint32_t n_wakes = 0;

    (void)state;
    assert_non_null(batch);
    publish_ids(hub, ME, 1, 5);
    subscriber = subscribe(hub, HUB_FROM_OLDEST, 2, &n_wakes);
    assert_int_equal(hub_take(subscriber, batch), 0);
    assert_int_equal(batch->n, 5);
    publish_ids(hub, ME, 6, 9);
    assert_int_equal(hub_take(subscriber, batch), 0);
    assert_true(batch->first_seq == 8 && batch->n == 2 && batch->lost == 2);
    hub_unsubscribe(subscriber);
    hub_free(hub);
    free(batch);
}

static void test_full(void **state)
{
    struct hub *hub = NULL;
    uint32_t n_wakes = 0;
    struct hub_subscriber *large, *small;

    (void)state;
    assert_int_equal(hub_new(N_TENANTS, 1024, 77, clock_unix_ms, &hub), 0);
    large = subscribe(hub, HUB_FROM_NOW, 1024, &n_wakes);
    small = subscribe(hub, HUB_FROM_NOW, 8, &n_wakes);
    publish_ids(hub, ME, 1, 3);
    assert_false(hub_is_full(small));
    publish(hub, ME, 4);
    assert_true(hub_is_full(small));
    expect(small, 1, 0);
    assert_false(hub_is_full(small));
    publish_ids(hub, ME, 5, HUB_BATCH - 1);
    assert_false(hub_is_full(large));
    publish(hub, ME, HUB_BATCH);
    assert_true(hub_is_full(large));
    expect(large, 1, 0);
    assert_false(hub_is_full(large));
    hub_close(hub);
    assert_true(hub_is_full(large));
    hub_unsubscribe(large);
    hub_unsubscribe(small);
    hub_free(hub);
}

static struct hub_counts counts_of(struct hub *hub, uint32_t tenant)
{
    struct hub_counts counts;

    hub_get_counts(hub, tenant, &counts);
    return counts;
}

/* Who acknowledges is as stale as it says; who does not, as what it took. */
static void test_acknowledgements(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0;
    struct hub_request request = { .tenant = ME,
                                   .after_seq = HUB_FROM_NOW,
                                   .queue = HISTORY,
                                   .acknowledges = true,
                                   .wake = count,
                                   .user = &n_wakes };
    struct hub_subscriber *says = NULL, *silent = subscribe(hub, HUB_FROM_NOW, 8, &n_wakes);
    uint64_t id, acked = 0, last = 0;

    (void)state;
    assert_int_equal(hub_subscribe(hub, &request, &says), 0);
    id = hub_subscriber_id(says);
    assert_true(id != hub_subscriber_id(silent));
    now_ms = 2000;
    publish_ids(hub, ME, 1, 3);
    now_ms = 2500;
    for (uint64_t i = 1; i <= 3; i++) {
        expect(says, i, 0);
        expect(silent, i, 0);
    }
    assert_int_equal(counts_of(hub, ME).n_subscribers, 2);
    assert_int_equal(counts_of(hub, ME).lag_events, 3);
    assert_int_equal(counts_of(hub, ME).lag_ms, 500);
    assert_int_equal(counts_of(hub, OTHER).lag_events, 0);
    assert_int_equal(hub_ack(hub, ME, id, 4, &acked, &last), 2);
    assert_int_equal(hub_ack(hub, OTHER, id, 1, &acked, &last), 1);
    assert_int_equal(hub_ack(hub, ME, id + 100, 1, &acked, &last), 1);
    assert_int_equal(hub_ack(hub, ME, id, 2, &acked, &last), 0);
    assert_true(acked == 2 && last == 3);
    assert_int_equal(hub_ack(hub, ME, id, 1, &acked, &last), 0);
    assert_int_equal(acked, 2);
    assert_int_equal(counts_of(hub, ME).lag_events, 1);
    publish_ids(hub, ME, 4, 3 + 2 * HISTORY); /* 3 is not kept any more: since the last ack */
    now_ms = 2600;
    assert_int_equal(counts_of(hub, ME).lag_events, 1 + 2 * HISTORY);
    assert_int_equal(counts_of(hub, ME).lag_ms, 100);
    assert_int_equal(counts_of(hub, ME).n_lost, 2 * HISTORY); /* 8 each */
    hub_unsubscribe(says);
    assert_int_equal(counts_of(hub, ME).lag_events, 2 * HISTORY);
    hub_unsubscribe(silent);
    assert_int_equal(counts_of(hub, UINT32_MAX).n_lost, 2 * HISTORY);
    assert_int_equal(counts_of(hub, UINT32_MAX).n_published, 3 + 2 * HISTORY);
    assert_int_equal(counts_of(hub, ME).n_subscribers + counts_of(hub, ME).lag_events, 0);
    hub_free(hub);
}

static void test_close_comes_after_what_is_left(void **state)
{
    struct hub *hub = make_hub();
    uint32_t n_wakes = 0, n_late = 0;
    struct hub_subscriber *subscriber = subscribe(hub, HUB_FROM_NOW, 8, &n_wakes), *late;

    (void)state;
    expect_end(subscriber, 1);
    hub_close(hub);
    assert_int_equal(n_wakes, 1);
    publish(hub, ME, 2); /* nobody would wait for it */
    expect_end(subscriber, 2);
    expect_end(subscriber, 2);
    hub_unsubscribe(subscriber);
    late = subscribe(hub, HUB_FROM_OLDEST, 8, &n_late);
    assert_int_equal(n_late, 1);
    expect_end(late, 2);
    hub_unsubscribe(late);
    hub_free(hub);

    hub = make_hub();
    subscriber = subscribe(hub, HUB_FROM_NOW, 8, &n_wakes);
    publish(hub, ME, 1);
    hub_close(hub);
    expect(subscriber, 1, 0);
    expect_end(subscriber, 2);
    hub_unsubscribe(subscriber);
    hub_free(hub);
}

/* --- threads ---------------------------------------------------------------------------------- */

enum { N_PUBLISHERS = 3, N_EVENTS = 2000, N_READERS = 3 };

/* As the server does it: one thread that is woken, and then looks at all subscribers. */
struct reader {
    struct hub *hub;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool woken;
    struct hub_subscriber *subscribers[N_READERS];
    uint64_t next_seq[N_READERS], n_seen[N_READERS], n_lost[N_READERS];
    bool complete; /* each event came in its place, or was counted as lost */
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

static int read_some(struct reader *reader, int i, struct hub_batch *batch)
{
    uint64_t acked, last;
    int r;

    while ((r = hub_take(reader->subscribers[i], batch)) == 0) {
        uint64_t newly_lost = batch->lost - reader->n_lost[i];

        if (batch->first_seq != reader->next_seq[i] + newly_lost)
            reader->complete = false;
        for (uint32_t k = 0; k < batch->n; k++)
            if (batch->events[k].seq != batch->first_seq + k)
                reader->complete = false;
        reader->next_seq[i] = batch->first_seq + batch->n;
        reader->n_lost[i] = batch->lost;
        reader->n_seen[i] += batch->n;
        if (hub_ack(reader->hub, ME, hub_subscriber_id(reader->subscribers[i]),
                    reader->next_seq[i] - 1, &acked, &last))
            reader->complete = false;
    }
    return r;
}

static void *read_all(void *argument)
{
    struct reader *reader = argument;
    struct hub_batch *batch = calloc(1, sizeof(*batch));
    int n_open = N_READERS;

    while (batch && n_open) {
        wait_for_wake(reader);
        hub_arm(reader->hub);
        n_open = 0;
        for (int i = 0; i < N_READERS; i++)
            n_open += read_some(reader, i, batch) != 2;
    }
    free(batch);
    return NULL;
}

static void *publish_all(void *argument)
{
    publish_ids(argument, ME, 1, N_EVENTS);
    return NULL;
}

static void begin(struct reader *reader)
{
    for (int i = 0; i < N_READERS; i++) {
        struct hub_request request = { .tenant = ME,
                                       .after_seq = HUB_FROM_NOW,
                                       .queue = i ? 4 : HISTORY,
                                       .acknowledges = true,
                                       .wake = wake_reader,
                                       .user = reader };

        assert_int_equal(hub_subscribe(reader->hub, &request, &reader->subscribers[i]), 0);
        reader->next_seq[i] = 1;
    }
}

/* Every event is either seen or counted as lost, whatever the threads' timing. */
static void test_threads(void **state)
{
    struct hub *hub = make_hub();
    struct reader reader = { .hub = hub,
                             .mutex = PTHREAD_MUTEX_INITIALIZER,
                             .cond = PTHREAD_COND_INITIALIZER,
                             .complete = true };
    pthread_t publishers[N_PUBLISHERS], thread;
    uint32_t n_wakes = 0;
    struct hub_subscriber *stopped = subscribe(hub, HUB_FROM_NOW, 4, &n_wakes); /* never reads */
    struct event event;
    uint64_t lost;

    (void)state;
    begin(&reader);
    assert_int_equal(pthread_create(&thread, NULL, read_all, &reader), 0);
    for (int i = 0; i < N_PUBLISHERS; i++)
        assert_int_equal(pthread_create(&publishers[i], NULL, publish_all, hub), 0);
    for (int i = 0; i < N_PUBLISHERS; i++)
        pthread_join(publishers[i], NULL);
    hub_close(hub);
    pthread_join(thread, NULL);
    assert_true(reader.complete);
    for (int i = 0; i < N_READERS; i++) {
        assert_true(reader.n_seen[i] > 0);
        assert_int_equal(reader.n_seen[i] + reader.n_lost[i], N_PUBLISHERS * N_EVENTS);
        hub_unsubscribe(reader.subscribers[i]);
    }
    assert_int_equal(hub_next(stopped, &event, &lost), 0);
    assert_int_equal(event.seq, N_PUBLISHERS * N_EVENTS - 3);
    assert_int_equal(lost, N_PUBLISHERS * N_EVENTS - 4);
    hub_unsubscribe(stopped);
    hub_free(hub);
}

enum { N_TOGETHER = 4, N_TIMES = 4000 };

static void *publish_together(void *argument)
{
    struct event events[N_TOGETHER];

    for (uint32_t i = 0; i < N_TOGETHER; i++)
        events[i] = (struct event){ .kind = EVENT_TILE_SHARED, .tenant = ME, .id = i };
    for (int i = 0; i < N_TIMES; i++)
        hub_publish_all(argument, events, N_TOGETHER);
    hub_close(argument);
    return NULL;
}

static void test_what_is_published_together_is_seen_together(void **state)
{
    struct hub *hub = NULL;
    struct hub_batch *batch = calloc(1, sizeof(*batch));
    struct hub_subscriber *subscriber;
    uint32_t n_wakes = 0;
    uint64_t n = 0;
    pthread_t thread;
    int r;

    (void)state;
    assert_non_null(batch);
    assert_int_equal(hub_new(N_TENANTS, N_TOGETHER * N_TIMES, 77, clock_unix_ms, &hub), 0);
    subscriber = subscribe(hub, HUB_FROM_NOW, N_TOGETHER * N_TIMES, &n_wakes);
    assert_int_equal(pthread_create(&thread, NULL, publish_together, hub), 0);
    while ((r = hub_take(subscriber, batch)) != 2)
        if (!r) {
            assert_int_equal(batch->n % N_TOGETHER, 0);
            for (uint32_t i = 0; i < batch->n; i++)
                assert_int_equal(batch->events[i].id, i % N_TOGETHER);
            n += batch->n;
        }
    pthread_join(thread, NULL);
    assert_int_equal(n, N_TOGETHER * N_TIMES);
    hub_unsubscribe(subscriber);
    hub_free(hub);
    free(batch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_come_in_order_with_time_and_number),
        cmocka_unit_test(test_one_wake_for_all_until_armed),
        cmocka_unit_test(test_a_subscriber_sees_its_tenant_and_all),
        cmocka_unit_test(test_beyond_the_queue_the_oldest_are_lost),
        cmocka_unit_test(test_a_queue_is_1_to_the_history),
        cmocka_unit_test(test_others_events_cost_me_nothing),
        cmocka_unit_test(test_resume_from_what_is_kept),
        cmocka_unit_test(test_a_backlog_does_not_count_against_the_queue),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_a_batch_is_the_same_only_if_it_is),
        cmocka_unit_test(test_a_backlog_taken_at_once_is_used_up),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_acknowledgements),
        cmocka_unit_test(test_close_comes_after_what_is_left),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_what_is_published_together_is_seen_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
