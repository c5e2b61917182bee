/*
 * Events through the C client: test_client_watch SOCKET INCARNATION AFTER_SEQ FROM_NOW QUEUE
 *
 * Does what lines of its input say, and answers each with a line of numbers:
 *
 *     next MS    0 SEQ WHAT ID TEXT, or a code
 *     ack        a code
 *     position   INCARNATION SEQ N_RECEIVED N_LOST N_RESTARTS
 *     cancel MS  0; after that time, from another thread
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients/c/deltapq-client.h"

struct later {
    struct dpq_client_watch *watch;
    unsigned ms;
    pthread_t thread;
    bool is_started;
};

static void *cancel(void *argument)
{
    struct later *later = argument;

    usleep(later->ms * 1000);
    dpq_client_watch_cancel(later->watch);
    return NULL;
}

static void next(struct dpq_client_watch *watch, uint32_t ms)
{
    struct dpq_client_event event;
    int r = dpq_client_watch_next(watch, ms, &event, NULL);

    if (r)
        printf("%d\n", r);
    else
        printf("0 %" PRIu64 " %" PRIu32 " %" PRIu64 " %s\n", event.seq, event.what, event.id,
               event.text);
}

static void answer(struct later *later, const char *line)
{
    struct dpq_client_watch_position p;

    if (sscanf(line, "cancel %u", &later->ms) == 1 && !later->is_started) {
        later->is_started = !pthread_create(&later->thread, NULL, cancel, later);
        printf("0\n");
    } else if (!strncmp(line, "next ", 5)) {
        next(later->watch, (uint32_t)strtoul(line + 5, NULL, 10));
    } else if (!strncmp(line, "ack", 3)) {
        printf("%d\n", dpq_client_watch_ack(later->watch, NULL));
    } else {
        dpq_client_watch_position(later->watch, &p);
        printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", p.incarnation,
               p.seq, p.n_received, p.n_lost, p.n_restarts);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct dpq_client_options options = { .timeout_ms = 60000 };
    struct dpq_client_watch_args args = { .acknowledges = true };
    struct later later = { 0 };
    struct dpq_client *client = NULL;
    char line[64];
    int r;

    if (argc != 6)
        return 2;
    options.socket_path = argv[1];
    args.incarnation = strtoull(argv[2], NULL, 10);
    args.after_seq = strtoull(argv[3], NULL, 10);
    args.from_now = atoi(argv[4]);
    args.queue = (uint32_t)atoi(argv[5]);
    r = dpq_client_new(&options, &client, NULL);
    if (!r)
        r = dpq_client_watch_new(client, &args, &later.watch, NULL);
    printf("%d\n", r);
    fflush(stdout);
    while (!r && fgets(line, sizeof(line), stdin))
        answer(&later, line);
    if (later.is_started)
        pthread_join(later.thread, NULL);
    dpq_client_watch_free(later.watch);
    dpq_client_free(client);
    return 0;
}
