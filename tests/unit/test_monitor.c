/* monitor: rings between threads, events in the order of tokens, the map, bounded memory */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/monitor_ring.h"
#include "daemon/monitor_table.h"
#include "lib/base/rng.h"

enum { N_STREAMS = 8, N_HEADS = 2, N_WORKERS = 3, HISTORY = 65536 };

static uint64_t clock_unix_ms(void)
{
    return 0;
}

static void nothing(void *user)
{
    (void)user;
}

struct fixture {
    struct hub *hub;
    struct hub_subscriber *subscriber;
    struct monitor *monitor;
};

static void doze(void *user)
{
    struct rng *random = user;

    if (rng_unit(random) < .3)
        usleep((useconds_t)(300 * rng_unit(random)));
}

static struct fixture make(uint64_t max_bytes, struct rng *random)
{
    struct fixture f;
    struct monitor_options options = { .n_workers = N_WORKERS,
                                       .n_tenants = 2,
                                       .max_bytes = max_bytes,
                                       .before_drain = random ? doze : NULL,
                                       .user = random };

    assert_int_equal(hub_new(2, HISTORY, 1, clock_unix_ms, &f.hub), 0);
    assert_int_equal(
        hub_subscribe(
            f.hub,
            &(struct hub_request){ .after_seq = HUB_FROM_NOW, .queue = HISTORY, .wake = nothing },
            &f.subscriber),
        0);
    options.hub = f.hub;
    assert_int_equal(monitor_new(&options, &f.monitor), 0);
    return f;
}

static void drop(struct fixture *f)
{
    monitor_free(f->monitor);
    hub_unsubscribe(f->subscriber);
    hub_free(f->hub);
}

static struct monitor_tile tile_of(uint64_t sequence_id, uint64_t first_token)
{
    return (struct monitor_tile){ .sequence_id = sequence_id,
                                  .first_token = first_token,
                                  .n_streams = N_STREAMS,
                                  .n_kv_heads = N_HEADS,
                                  .profile = 7 };
}

/* stream 5 (layer 1, K, head 1) goes from one zone to another after a group */
static void change(struct risk_course courses[N_STREAMS], uint8_t from, uint8_t to, uint32_t group)
{
    memset(courses, 0, N_STREAMS * sizeof(courses[0]));
    courses[5] = (struct risk_course){ .mu = .3f, .peak = 1.5f, .cause = RISK_CAUSE_CUSUM };
    courses[5].before = from;
    for (uint32_t i = 0; i <= RISK_TILE_GROUPS; i++)
        courses[5].zone[i] = i < group ? from : to;
}

static struct event next(struct fixture *f, enum event_kind kind)
{
    struct event event;
    uint64_t lost;

    assert_int_equal(hub_next(f->subscriber, &event, &lost), 0);
    assert_int_equal(lost, 0);
    assert_int_equal(event.kind, kind);
    return event;
}

static void no_more(struct fixture *f)
{
    struct event event;
    uint64_t lost;

    assert_int_equal(hub_next(f->subscriber, &event, &lost), 1);
}

static void test_events(void **state)
{
    struct fixture f = make(1 << 20, NULL);
    struct risk_course courses[N_STREAMS];
    struct monitor_tile tile = tile_of(42, 256);
    struct monitor_counts counts;
    struct event event;

    (void)state;
    change(courses, RISK_GREEN, RISK_RED, 3);
    monitor_push(f.monitor, 0, &tile, courses);
    monitor_flush(f.monitor);
    event = next(&f, EVENT_ZONE_CHANGED);
    assert_int_equal(event.id, 42);
    assert_int_equal(event.a, 256 + 64); /* tokens 64 … 95 did it */
    assert_int_equal(event.risk.layer, 1);
    assert_int_equal(event.risk.kind, 0);
    assert_int_equal(event.risk.head, 1);
    assert_true(event.risk.from == RISK_GREEN && event.risk.to == RISK_RED);
    assert_true(event.risk.cause == RISK_CAUSE_CUSUM && event.risk.mu == 1.5f);
    no_more(&f);
    monitor_get_counts(f.monitor, 0, &counts);
    assert_int_equal(counts.n_streams[RISK_RED], 1);
    assert_int_equal(counts.n_streams[RISK_GREEN], N_STREAMS - 1);
    assert_true(counts.red_entries == 1 && counts.yellow_entries == 0 && counts.resets == 0);
    change(courses, RISK_RED, RISK_YELLOW, 4);
    courses[5].was_reset = 1;
    tile.first_token += 128;
    monitor_push(f.monitor, 2, &tile, courses);
    change(courses, RISK_YELLOW, RISK_GREEN, 1);
    tile.first_token += 128;
    monitor_push(f.monitor, 1, &tile, courses);
    monitor_flush(f.monitor);
    event = next(&f, EVENT_STREAM_RESET);
    assert_true(event.a == 384 && event.risk.layer == 1 && !event.b);
    event = next(&f, EVENT_ZONE_CHANGED);
    assert_true(event.a == 384 + 96 && event.risk.to == RISK_YELLOW && event.risk.mu == .3f);
    event = next(&f, EVENT_ZONE_CHANGED);
    assert_true(event.a == 512 && event.risk.to == RISK_GREEN);
    event = next(&f, EVENT_ALL_CLEARED);
    assert_true(event.id == 42 && event.a == 640);
    no_more(&f);
    monitor_get_counts(f.monitor, UINT32_MAX, &counts);
    assert_true(counts.resets == 1 && counts.all_clears == 1 && counts.yellow_entries == 0);
    assert_int_equal(counts.n_streams[RISK_GREEN], N_STREAMS);
    monitor_get_counts(f.monitor, 1, &counts);
    assert_int_equal(counts.n_streams[RISK_GREEN], 0);
    drop(&f);
}

/* What came from outside shows as a change before the tile; a reset of all is told once. */
static void test_inputs(void **state)
{
    struct fixture f = make(1 << 20, NULL);
    struct risk_course courses[N_STREAMS];
    struct monitor_tile tile = tile_of(1, 0);
    struct event event;

    (void)state;
    change(courses, RISK_YELLOW, RISK_YELLOW, 0);
    courses[5].before = RISK_GREEN;
    for (int i = 0; i < N_STREAMS; i++)
        courses[i].was_reset = 1;
    monitor_push(f.monitor, 0, &tile, courses);
    monitor_flush(f.monitor);
    event = next(&f, EVENT_STREAM_RESET);
    assert_true(event.b && event.a == 0);
    event = next(&f, EVENT_ZONE_CHANGED);
    assert_true(event.a == 0 && event.risk.cause == RISK_CAUSE_REPORT);
    no_more(&f);
    drop(&f);
}

/* More events than are published at once, in one order: resets, then group by group. */
static void test_very_many_events(void **state)
{
    enum { MANY = 512 };
    struct fixture f = make(1 << 20, NULL);
    struct risk_course *courses = calloc(MANY, sizeof(*courses));
    struct monitor_tile tile = tile_of(1, 0);

    (void)state;
    assert_non_null(courses);
    tile.n_streams = MANY;
    for (uint32_t i = 0; i < MANY; i++)
        courses[i] = (struct risk_course){ .was_reset = i > 0,
                                           .zone = { RISK_GREEN, RISK_YELLOW, RISK_YELLOW } };
    monitor_push(f.monitor, 0, &tile, courses);
    monitor_flush(f.monitor);
    for (uint32_t i = 1; i < MANY; i++)
        assert_int_equal(next(&f, EVENT_STREAM_RESET).risk.layer, i / (2 * N_HEADS));
    for (uint32_t n = 0; n < 2 * MANY; n++) {
        struct event event = next(&f, EVENT_ZONE_CHANGED);

        assert_int_equal(event.a, n / MANY * 64);
        assert_int_equal(event.risk.layer, n % MANY / (2 * N_HEADS));
    }
    no_more(&f);
    free(courses);
    drop(&f);
}

static struct monitor_heat heat_of(struct fixture *f, uint32_t tenant, uint64_t profile,
                                   uint64_t sequence_id)
{
    struct monitor_heat heat;

    assert_int_equal(monitor_heat(f->monitor, tenant, profile, sequence_id, &heat), 0);
    return heat;
}

static void test_heat(void **state)
{
    struct fixture f = make(1 << 20, NULL);
    struct risk_course courses[N_STREAMS];
    struct monitor_tile tile = tile_of(1, 128);
    uint8_t zones[N_STREAMS] = { [0] = RISK_YELLOW };
    struct monitor_counts counts;
    struct monitor_heat heat = heat_of(&f, 0, 0, 0);

    (void)state;
    assert_int_equal(heat.n_streams, 0);
    change(courses, RISK_GREEN, RISK_RED, 1);
    monitor_push(f.monitor, 0, &tile, courses);
    change(courses, RISK_GREEN, RISK_GREEN, 0);
    courses[5].mu = .9f;
    courses[2].mu = .5f;
    tile = tile_of(2, 0);
    monitor_push(f.monitor, 1, &tile, courses);
    monitor_flush(f.monitor);
    heat = heat_of(&f, 0, 0, 0);
    assert_true(heat.n_streams == N_STREAMS && heat.n_kv_heads == N_HEADS && heat.n_sequences == 2);
    assert_true(heat.cells[5].zone == RISK_RED && heat.cells[5].sequence_id == 1 &&
                heat.cells[5].first_token == 128); /* a zone before a level */
    assert_true(heat.cells[2].zone == RISK_GREEN && heat.cells[2].mu == .5f &&
                heat.cells[2].sequence_id == 2);
    free(heat.cells);
    heat = heat_of(&f, 0, 0, 2);
    assert_true(heat.n_sequences == 1 && heat.cells[5].zone == RISK_GREEN);
    free(heat.cells);
    assert_int_equal(heat_of(&f, 0, 8, 0).n_streams, 0);
    assert_int_equal(heat_of(&f, 1, 0, 0).n_streams, 0);
    tile = tile_of(3, 0);
    tile.tenant = 1;
    monitor_adopt(f.monitor, &tile, zones);
    heat = heat_of(&f, 1, 0, 0);
    assert_true(heat.n_streams == N_STREAMS && heat.cells[0].zone == RISK_YELLOW);
    free(heat.cells);
    monitor_forget(f.monitor, 1);
    monitor_flush(f.monitor);
    heat = heat_of(&f, 0, 7, 0);
    assert_true(heat.n_sequences == 1 && heat.cells[5].zone == RISK_GREEN);
    free(heat.cells);
    monitor_get_counts(f.monitor, UINT32_MAX, &counts);
    assert_true(counts.n_streams[RISK_RED] == 0 && counts.n_sequences == 2);
    drop(&f);
}

/* --- threads ---------------------------------------------------------------------------------- */

struct producer {
    struct fixture *f;
    uint32_t worker;
    pthread_mutex_t *turn; /* as a sequence's: tiles follow one another, whoever makes them */
    uint64_t *next_token;  /* [sequences] */
};

enum { N_SEQUENCES = 4, N_TILES = 300 };

static void *produce(void *user)
{
    struct producer *p = user;
    struct risk_course courses[N_STREAMS];
    struct rng random = rng_seed(p->worker + 1);

    for (int i = 0; i < N_TILES; i++) {
        uint32_t s = (uint32_t)(rng_unit(&random) * N_SEQUENCES);
        struct monitor_tile tile;

        pthread_mutex_lock(p->turn);
        tile = tile_of(100 + s, p->next_token[s]);
        change(courses, tile.first_token / 128 % 2 ? RISK_YELLOW : RISK_GREEN,
               tile.first_token / 128 % 2 ? RISK_GREEN : RISK_YELLOW, 2);
        p->next_token[s] += 128;
        monitor_push(p->f->monitor, p->worker, &tile, courses);
        pthread_mutex_unlock(p->turn);
    }
    return NULL;
}

/* Whatever the thread's delays, a sequence's events come in the order of its tokens. */
static void test_order(void **state)
{
    (void)state;
    for (int round = 0; round < 5; round++) {
        struct rng random = rng_seed((uint64_t)round);
        struct fixture f = make(64 << 20, &random);
        pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
        uint64_t next_token[N_SEQUENCES] = { 0 }, seen[N_SEQUENCES] = { 0 }, lost;
        struct producer producers[N_WORKERS];
        pthread_t threads[N_WORKERS];
        struct monitor_counts counts;
        struct event event;
        uint32_t n = 0;

        for (uint32_t i = 0; i < N_WORKERS; i++) {
            producers[i] = (struct producer){ &f, i, &turn, next_token };
            assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
        }
        for (uint32_t i = 0; i < N_WORKERS; i++)
            pthread_join(threads[i], NULL);
        monitor_flush(f.monitor);
        while (!hub_next(f.subscriber, &event, &lost)) {
            if (event.kind != EVENT_ZONE_CHANGED)
                continue;
            assert_int_equal(event.a, seen[event.id - 100] + 32);
            seen[event.id - 100] += 128;
            n++;
        }
        assert_int_equal(n, N_WORKERS * N_TILES);
        monitor_get_counts(f.monitor, 0, &counts);
        assert_int_equal(counts.tiles_dropped, 0);
        drop(&f);
    }
}

static void hold(void *user)
{
    pthread_mutex_lock(user);
    pthread_mutex_unlock(user);
}

/* A thread that does not get on: workers go on, what finds no room is counted. */
static void test_full(void **state)
{
    pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
    struct hub *hub;
    struct monitor *monitor;
    struct monitor_options options = {
        .n_workers = 1, .n_tenants = 1, .max_bytes = 1 << 20, .before_drain = hold, .user = &held
    };
    struct risk_course courses[N_STREAMS];
    struct monitor_counts counts;
    uint64_t n = 0;

    (void)state;
    assert_int_equal(hub_new(2, HISTORY, 1, clock_unix_ms, &hub), 0);
    options.hub = hub;
    pthread_mutex_lock(&held);
    assert_int_equal(monitor_new(&options, &monitor), 0);
    change(courses, RISK_GREEN, RISK_GREEN, 0);
    do {
        struct monitor_tile tile = tile_of(1, 128 * n++);

        monitor_push(monitor, 0, &tile, courses);
        monitor_get_counts(monitor, 0, &counts);
    } while (counts.tiles_dropped < 10 && n < 100000);
    assert_int_equal(counts.tiles_dropped, 10);
    pthread_mutex_unlock(&held);
    monitor_flush(monitor);
    monitor_get_counts(monitor, 0, &counts);
    assert_int_equal(counts.n_sequences, 1);
    monitor_free(monitor);
    hub_free(hub);
}

/* The table refuses what it has no room for, and has it again when others have gone. */
static void test_bounded(void **state)
{
    struct fixture f = make(1 << 20, NULL);
    uint8_t zones[N_STREAMS] = { 0 };
    struct monitor_counts counts;
    struct monitor_tile tile;
    uint64_t id = 1;

    (void)state;
    do {
        tile = tile_of(id++, 0);
        monitor_adopt(f.monitor, &tile, zones);
        monitor_get_counts(f.monitor, 0, &counts);
    } while (!counts.sequences_untracked && id < 100000);
    assert_int_equal(counts.sequences_untracked, 1);
    assert_int_equal(counts.n_sequences, id - 2);
    assert_true(counts.n_sequences * N_STREAMS * 8 < 1 << 19);
    monitor_forget(f.monitor, 1);
    monitor_flush(f.monitor);
    monitor_adopt(f.monitor, &tile, zones);
    monitor_get_counts(f.monitor, 0, &counts);
    assert_true(counts.sequences_untracked == 1 && counts.n_sequences == id - 2);
    drop(&f);
}

/* A sequence that is forgotten while its tiles are on their way does not come back. */
static void test_forget(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        struct rng random = rng_seed((uint64_t)round);
        struct fixture f = make(1 << 20, &random);
        struct risk_course courses[N_STREAMS];
        struct monitor_counts counts;

        change(courses, RISK_GREEN, RISK_RED, 1);
        for (uint32_t i = 0; i < 20; i++) {
            struct monitor_tile tile = tile_of(9, 128 * i);

            monitor_push(f.monitor, i % N_WORKERS, &tile, courses);
        }
        monitor_forget(f.monitor, 9);
        monitor_flush(f.monitor);
        monitor_get_counts(f.monitor, 0, &counts);
        assert_true(counts.n_sequences == 0 && counts.n_streams[RISK_RED] == 0);
        drop(&f);
    }
}

/* --- the ring --------------------------------------------------------------------------------- */

/* Records of all lengths, over the end and back, until there is no room. */
static void test_ring(void **state)
{
    struct rng random = rng_seed(1);
    struct monitor_ring ring;
    uint8_t head[8], body[600], got[4096];
    uint64_t n_put = 0, n_taken = 0;

    (void)state;
    assert_int_equal(monitor_ring_init(&ring, 5000), 0);
    assert_int_equal(ring.n_bytes, 4096);
    assert_true(monitor_ring_ticket(&ring) == UINT64_MAX);
    for (int i = 0; i < 20000; i++) {
        size_t n = n_put * 37 % sizeof(body);

        memset(head, (int)n_put, sizeof(head));
        memset(body, (int)(n_put + 1), n);
        if (rng_unit(&random) < .52 &&
            monitor_ring_put(&ring, n_put, head, sizeof(head), body, n)) {
            n_put++;
        } else if (monitor_ring_ticket(&ring) != UINT64_MAX) {
            size_t want = n_taken * 37 % sizeof(body);

            assert_int_equal(monitor_ring_ticket(&ring), n_taken);
            assert_int_equal(monitor_ring_take(&ring, got), want + sizeof(head));
            for (size_t k = 0; k < want + sizeof(head); k++)
                assert_int_equal(got[k], (uint8_t)(n_taken + (k >= sizeof(head))));
            n_taken++;
        } else {
            assert_int_equal(n_taken, n_put);
        }
    }
    assert_true(n_taken > 5000 && ring.n_dropped > 0);
    assert_false(monitor_ring_put(&ring, 0, got, sizeof(got), body, 0)); /* never fits */
    monitor_ring_deinit(&ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring),   cmocka_unit_test(test_events),
        cmocka_unit_test(test_inputs), cmocka_unit_test(test_very_many_events),
        cmocka_unit_test(test_heat),   cmocka_unit_test(test_order),
        cmocka_unit_test(test_full),   cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_forget),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
