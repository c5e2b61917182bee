/*
 * Many subscribers of events in one process: bench_watch SOCKET SUBSCRIBERS [STALLED [FLUSH_MS]]
 *
 * Subscribes, says "ready" and takes what comes until a line with a number is read: the tenant's
 * last event. When all subscribers are there (or after 10 s), one line of JSON: what each received
 * and lost against what was published, and how long zone changes and other events took from their
 * own time (of 1 ms, cut off: what is said is up to 1 ms too long) to their message being read.
 * The STALLED last ones read nothing. tests/bench/watch.py drives it.
 */
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>

#include "deltapq/v1/monitor.pb-c.h"

enum {
    PER_CHANNEL = 200, /* calls on one connection: the daemon allows 256 */
    BUCKET_US = 100,
    N_BUCKETS = 50000,
    LAST_MS = 10000,
};

struct subscriber {
    grpc_call *call;
    grpc_byte_buffer *received;
    grpc_metadata_array headers;
    bool is_greeted, is_stalled, is_over;
    uint64_t first_seq, next_seq, n_received, n_lost, n_gaps;
};

struct histogram {
    uint64_t n, buckets[N_BUCKETS];
};

struct bench {
    grpc_completion_queue *queue;
    struct subscriber *subscribers;
    long n, n_stalled, flush_ms;
    uint64_t n_messages, n_bytes;
    struct histogram zones, others;
};

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* --- what comes ------------------------------------------------------------------------------- */

static void add(struct histogram *h, uint64_t us)
{
    uint64_t bucket = us / BUCKET_US;

    h->buckets[bucket < N_BUCKETS ? bucket : N_BUCKETS - 1]++;
    h->n++;
}

static double quantile_ms(const struct histogram *h, double q)
{
    uint64_t want = (uint64_t)(q * (double)h->n), seen = 0;

    for (int i = 0; i < N_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > want)
            return (i + 1) * BUCKET_US / 1e3;
    }
    return 0;
}

static void take(struct bench *bench, struct subscriber *s, const Deltapq__V1__Events *message)
{
    uint64_t us = now_us(), lost = message->lost - s->n_lost;

    bench->n_messages++;
    if (!s->is_greeted)
        s->first_seq = s->next_seq = message->next_seq;
    else if (message->next_seq != s->next_seq + lost)
        s->n_gaps++;
    s->is_greeted = true;
    s->n_lost = message->lost;
    s->n_received += message->n_events;
    s->next_seq = message->next_seq + message->n_events;
    for (size_t i = 0; i < message->n_events; i++) {
        const Deltapq__V1__Event *event = message->events[i];
        uint64_t then = event->time_unix_ms * 1000;

        add(event->what_case == DELTAPQ__V1__EVENT__WHAT_ZONE_CHANGED ? &bench->zones
                                                                      : &bench->others,
            us > then ? us - then : 0);
    }
}

static void receive(struct subscriber *s)
{
    grpc_op op = { .op = GRPC_OP_RECV_MESSAGE };

    op.data.recv_message.recv_message = &s->received;
    if (grpc_call_start_batch(s->call, &op, 1, s, NULL) != GRPC_CALL_OK)
        abort();
}

static void on_received(struct bench *bench, struct subscriber *s)
{
    grpc_byte_buffer_reader reader;
    Deltapq__V1__Events *message = NULL;
    grpc_slice bytes;

    if (!s->received) {
        s->is_over = true;
        return;
    }
    if (grpc_byte_buffer_reader_init(&reader, s->received)) {
        bytes = grpc_byte_buffer_reader_readall(&reader);
        bench->n_bytes += GRPC_SLICE_LENGTH(bytes);
        message = deltapq__v1__events__unpack(NULL, GRPC_SLICE_LENGTH(bytes),
                                              GRPC_SLICE_START_PTR(bytes));
        grpc_slice_unref(bytes);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(s->received);
    s->received = NULL;
    if (message)
        take(bench, s, message);
    else
        s->n_gaps++;
    deltapq__v1__events__free_unpacked(message, NULL);
    if (!s->is_stalled)
        receive(s);
}

/* --- subscribing ------------------------------------------------------------------------------ */

static grpc_channel *connect_to(const char *path, int number)
{
    grpc_arg args[] = {
        { .type = GRPC_ARG_INTEGER, .key = (char *)"bench.channel", .value.integer = number },
        { .type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_HTTP2_BDP_PROBE, .value.integer = 0 },
    };
    grpc_channel_args list = { .num_args = 2, .args = args };
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    grpc_channel *channel;
    char target[256];

    snprintf(target, sizeof(target), "unix:%s", path);
    channel = grpc_channel_create(target, credentials, &list);
    grpc_channel_credentials_release(credentials);
    return channel;
}

static void subscribe(struct bench *bench, struct subscriber *s, grpc_channel *channel)
{
    Deltapq__V1__WatchRequest request = DELTAPQ__V1__WATCH_REQUEST__INIT;
    grpc_op ops[4] = { { .op = GRPC_OP_SEND_INITIAL_METADATA },
                       { .op = GRPC_OP_SEND_MESSAGE },
                       { .op = GRPC_OP_SEND_CLOSE_FROM_CLIENT },
                       { .op = GRPC_OP_RECV_INITIAL_METADATA } };
    grpc_byte_buffer *buffer;
    grpc_slice bytes;

    request.from_now = 1;
    request.flush_ms = (uint32_t)bench->flush_ms;
    bytes = grpc_slice_malloc(deltapq__v1__watch_request__get_packed_size(&request));
    deltapq__v1__watch_request__pack(&request, GRPC_SLICE_START_PTR(bytes));
    buffer = grpc_raw_byte_buffer_create(&bytes, 1);
    grpc_slice_unref(bytes);
    s->call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, bench->queue,
                                       grpc_slice_from_static_string("/deltapq.v1.Monitor/Watch"),
                                       NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_metadata_array_init(&s->headers);
    ops[1].data.send_message.send_message = buffer;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &s->headers;
    if (grpc_call_start_batch(s->call, ops, 4, NULL, NULL) != GRPC_CALL_OK)
        abort();
    grpc_byte_buffer_destroy(buffer);
    receive(s);
}

static void run_until(struct bench *bench, bool (*is_done)(struct bench *, void *), void *user)
{
    while (!is_done(bench, user)) {
        grpc_event event = grpc_completion_queue_next(
            bench->queue,
            gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(20, GPR_TIMESPAN)),
            NULL);

        if (event.type == GRPC_OP_COMPLETE && event.tag)
            on_received(bench, event.tag);
    }
}

/* --- until when ------------------------------------------------------------------------------- */

static bool all_greeted(struct bench *bench, void *user)
{
    (void)user;
    for (long i = 0; i < bench->n; i++)
        if (!bench->subscribers[i].is_greeted && !bench->subscribers[i].is_over)
            return false;
    return true;
}

static bool told_to_end(struct bench *bench, void *user)
{
    struct pollfd fd = { .fd = STDIN_FILENO, .events = POLLIN };
    static uint64_t asked_us;
    uint64_t us = now_us();

    (void)bench;
    (void)user;
    if (us - asked_us < 10000)
        return false;
    asked_us = us;
    return poll(&fd, 1, 0) > 0;
}

struct last {
    uint64_t seq, until_us;
};

static bool all_there(struct bench *bench, void *user)
{
    const struct last *last = user;

    if (now_us() > last->until_us)
        return true;
    for (long i = 0; i < bench->n - bench->n_stalled; i++)
        if (!bench->subscribers[i].is_over && bench->subscribers[i].next_seq <= last->seq)
            return false;
    return true;
}

/* --- the end ---------------------------------------------------------------------------------- */

static void print(const struct bench *bench, uint64_t last_seq)
{
    uint64_t n_received = 0, n_lost = 0, n_wrong = 0;

    for (long i = 0; i < bench->n - bench->n_stalled; i++) {
        const struct subscriber *s = &bench->subscribers[i];

        n_received += s->n_received;
        n_lost += s->n_lost;
        n_wrong += s->n_gaps || s->next_seq <= last_seq || /* more may have come since */
                   s->n_received + s->n_lost != s->next_seq - s->first_seq;
    }
    printf("{\"bench\":\"watch\",\"subscribers\":%ld,\"stalled\":%ld,\"messages\":%llu,"
           "\"bytes\":%llu,\"received\":%llu,\"lost\":%llu,\"wrong_subscribers\":%llu,"
           "\"events_p50_ms\":%.1f,\"events_p99_ms\":%.1f,\"zones\":%llu,\"zones_p50_ms\":%.1f,"
           "\"zones_p99_ms\":%.1f,\"zones_p999_ms\":%.1f}\n",
           bench->n, bench->n_stalled, (unsigned long long)bench->n_messages,
           (unsigned long long)bench->n_bytes, (unsigned long long)n_received,
           (unsigned long long)n_lost, (unsigned long long)n_wrong, quantile_ms(&bench->others, .5),
           quantile_ms(&bench->others, .99), (unsigned long long)bench->zones.n,
           quantile_ms(&bench->zones, .5), quantile_ms(&bench->zones, .99),
           quantile_ms(&bench->zones, .999));
}

int main(int argc, char **argv)
{
    static struct bench bench;
    grpc_channel *channel = NULL;
    struct last last;
    char line[64];

    bench.n = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    bench.n_stalled = argc > 3 ? strtol(argv[3], NULL, 10) : 0;
    bench.flush_ms = argc > 4 ? strtol(argv[4], NULL, 10) : 0;
    if (bench.n < 1 || bench.n > 100000 || bench.n_stalled < 0 || bench.n_stalled > bench.n) {
        fprintf(stderr, "Usage: bench_watch SOCKET SUBSCRIBERS [STALLED [FLUSH_MS]]\n");
        return 2;
    }
    grpc_init();
    bench.queue = grpc_completion_queue_create_for_next(NULL);
    bench.subscribers = calloc((size_t)bench.n, sizeof(bench.subscribers[0]));
    if (!bench.subscribers)
        return 1;
    for (long i = 0; i < bench.n; i++) {
        if (i % PER_CHANNEL == 0)
            channel = connect_to(argv[1], (int)(i / PER_CHANNEL)); /* until the process ends */
        bench.subscribers[i].is_stalled = i >= bench.n - bench.n_stalled;
        subscribe(&bench, &bench.subscribers[i], channel);
    }
    run_until(&bench, all_greeted, NULL);
    printf("ready\n");
    fflush(stdout);
    run_until(&bench, told_to_end, NULL);
    if (!fgets(line, sizeof(line), stdin))
        return 1;
    last = (struct last){ strtoull(line, NULL, 10), now_us() + LAST_MS * 1000 };
    run_until(&bench, all_there, &last);
    print(&bench, last.seq);
    fflush(stdout);
    _exit(0); /* calls and channels go with the process */
}
