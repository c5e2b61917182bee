/*
 * Watching events: a stream that is begun anew whenever it ends
 *
 *     begin -> greeting: where it is -> message -> events, one by one -> message …
 *       ^        the stream ends: UNAVAILABLE and the like ─┐
 *       └────────────── after the last event ───────────────┘
 *
 * One message is asked for at a time, and taken from when the one before has been handed out: what
 * is not read waits in the daemon, where it is counted. Numbers of events tell what was missed in
 * between. The status has a tag of its own, which comes when all is over.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include <grpc/support/time.h>

#include "clients/c/client_call.h"
#include "clients/c/client_event.h"

enum { PAUSE_MS = 50 }; /* between two attempts */

struct stream {
    grpc_completion_queue *queue;
    grpc_call *call; /* NULL: there is none */
    grpc_byte_buffer *received;
    bool is_receiving, has_status; /* what was asked for, and what has come */
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
};

struct dpq_client_watch {
    struct dpq_client *client;
    struct dpq_client_watch_args args;
    struct dpq_client_watch_position position;
    grpc_channel *channel;

    uint64_t subscriber_id; /* 0: not heard of the daemon on this stream */
    uint64_t lost_before;   /* this stream */
    Deltapq__V1__Events *message;
    size_t n_taken; /* of its events */

    pthread_mutex_t mutex; /* of what follows, and of changes of stream.call */
    bool is_cancelled;
    struct stream stream;
};

DEFINE_CLEANUP(struct dpq_client_watch *, dpq_client_watch_free);

static gpr_timespec after_ms(uint32_t ms)
{
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

/* --- one stream ------------------------------------------------------------------------------- */

static void await_status(struct stream *s)
{
    if (!s->has_status)
        grpc_completion_queue_pluck(s->queue, &s->status, gpr_inf_future(GPR_CLOCK_MONOTONIC),
                                    NULL);
    s->has_status = true;
}

static void end_stream(struct dpq_client_watch *watch)
{
    struct stream *s = &watch->stream;

    if (!s->call)
        return;
    grpc_call_cancel(s->call, NULL);
    if (s->is_receiving)
        grpc_completion_queue_pluck(s->queue, &s->received, gpr_inf_future(GPR_CLOCK_MONOTONIC),
                                    NULL);
    await_status(s);
    if (s->received)
        grpc_byte_buffer_destroy(s->received);
    grpc_slice_unref(s->details);
    grpc_metadata_array_destroy(&s->initial);
    grpc_metadata_array_destroy(&s->trailing);
    pthread_mutex_lock(&watch->mutex);
    grpc_call_unref(s->call);
    *s = (struct stream){ .queue = s->queue };
    pthread_mutex_unlock(&watch->mutex);
    watch->subscriber_id = 0;
}

static void start(struct stream *s, const grpc_op *ops, size_t n_ops, void *tag)
{
    grpc_call_error r = grpc_call_start_batch(s->call, ops, n_ops, tag, NULL);

    assert(r == GRPC_CALL_OK); /* else two operations of a kind are in flight: our mistake */
    (void)r;
}

static void ask(struct stream *s, bool is_first)
{
    grpc_op ops[] = {
        { .op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->received },
        { .op = GRPC_OP_RECV_INITIAL_METADATA,
          .data.recv_initial_metadata.recv_initial_metadata = &s->initial },
    };

    start(s, ops, is_first ? 2 : 1, &s->received);
    s->is_receiving = true;
}

static void begin_stream(struct dpq_client_watch *watch)
{
    struct stream *s = &watch->stream;
    Deltapq__V1__WatchRequest request = DELTAPQ__V1__WATCH_REQUEST__INIT;
    grpc_op ops[4] = { { .op = GRPC_OP_SEND_INITIAL_METADATA },
                       { .op = GRPC_OP_SEND_MESSAGE },
                       { .op = GRPC_OP_SEND_CLOSE_FROM_CLIENT },
                       { .op = GRPC_OP_RECV_STATUS_ON_CLIENT } };

    request.incarnation = watch->position.incarnation;
    request.after_seq = watch->position.seq;
    request.from_now = watch->args.from_now;
    request.queue = watch->args.queue;
    request.flush_ms = watch->args.flush_ms;
    request.acknowledges = watch->args.acknowledges;
    watch->lost_before = watch->position.n_lost;
    grpc_metadata_array_init(&s->initial);
    grpc_metadata_array_init(&s->trailing);
    s->details = grpc_empty_slice();
    ops[1].data.send_message.send_message = client_pack(&request.base);
    ops[3].data.recv_status_on_client.trailing_metadata = &s->trailing;
    ops[3].data.recv_status_on_client.status = &s->status;
    ops[3].data.recv_status_on_client.status_details = &s->details;
    pthread_mutex_lock(&watch->mutex);
    s->call = grpc_channel_create_call(watch->channel, NULL, GRPC_PROPAGATE_DEFAULTS, s->queue,
                                       grpc_slice_from_static_string("/deltapq.v1.Monitor/Watch"),
                                       NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    if (watch->is_cancelled)
        grpc_call_cancel(s->call, NULL);
    pthread_mutex_unlock(&watch->mutex);
    start(s, ops, 4, &s->status);
    grpc_byte_buffer_destroy(ops[1].data.send_message.send_message);
    ask(s, true);
}

/* --- messages --------------------------------------------------------------------------------- */

static void drop_message(struct dpq_client_watch *watch)
{
    client_message_free(watch->message ? &watch->message->base : NULL);
    watch->message = NULL;
    watch->n_taken = 0;
}

static void take(struct dpq_client_watch *watch, Deltapq__V1__Events *message)
{
    struct dpq_client_watch_position *p = &watch->position;
    bool is_other = p->incarnation && p->incarnation != message->incarnation;

    p->n_restarts += is_other;
    if (is_other || !p->incarnation || watch->args.from_now)
        p->seq = message->next_seq - 1;
    p->incarnation = message->incarnation;
    p->n_lost = watch->lost_before + message->lost;
    watch->args.from_now = false;
    watch->subscriber_id = message->subscriber_id;
    drop_message(watch);
    watch->message = message;
}

static bool is_cancelled(struct dpq_client_watch *watch)
{
    bool cancelled;

    pthread_mutex_lock(&watch->mutex);
    cancelled = watch->is_cancelled;
    pthread_mutex_unlock(&watch->mutex);
    return cancelled;
}

static int cancelled(struct dpq_client_error *error)
{
    return client_error_set(error, DPQ_CLIENT_CANCELLED, "", "watching was cancelled");
}

/* Why the stream has ended: an enum dpq_client_code. */
static int why(struct dpq_client_watch *watch, struct dpq_client_error *error)
{
    struct stream *s = &watch->stream;

    await_status(s);
    if (is_cancelled(watch))
        return cancelled(error);
    if (s->status == GRPC_STATUS_OK || s->status == GRPC_STATUS_CANCELLED)
        return client_error_set(error, DPQ_CLIENT_UNAVAILABLE, "", "the stream has ended");
    return client_refused(s->status, s->details, &s->trailing, error);
}

static int receive(struct dpq_client_watch *watch, gpr_timespec deadline,
                   struct dpq_client_error *error)
{
    struct stream *s = &watch->stream;
    ProtobufCMessage *message;
    int r;

    if (!s->call)
        begin_stream(watch);
    else if (!s->is_receiving)
        ask(s, false);
    if (grpc_completion_queue_pluck(s->queue, &s->received, deadline, NULL).type !=
        GRPC_OP_COMPLETE)
        return watch->subscriber_id
                   ? client_error_set(error, DPQ_CLIENT_DEADLINE_EXCEEDED, "", "nothing happened")
                   : client_error_set(error, DPQ_CLIENT_UNAVAILABLE, "",
                                      "the daemon does not answer");
    s->is_receiving = false;
    if (s->received)
        r = client_unpack(s->received, &deltapq__v1__events__descriptor, &message, error);
    else
        r = why(watch, error);
    if (r) {
        end_stream(watch);
        return r;
    }
    grpc_byte_buffer_destroy(steal_ptr(s->received));
    take(watch, (Deltapq__V1__Events *)message);
    return 0;
}

/* A message, of this stream or the next one. */
static int receive_until(struct dpq_client_watch *watch, gpr_timespec deadline,
                         struct dpq_client_error *error)
{
    for (;;) {
        int r = receive(watch, deadline, error);

        if (r != DPQ_CLIENT_UNAVAILABLE || gpr_time_cmp(after_ms(PAUSE_MS), deadline) > 0)
            return r;
        nanosleep(&(struct timespec){ .tv_nsec = PAUSE_MS * 1000000L }, NULL);
    }
}

/* --- the interface ---------------------------------------------------------------------------- */

int dpq_client_watch_new(struct dpq_client *client, const struct dpq_client_watch_args *args,
                         struct dpq_client_watch **ret_watch, struct dpq_client_error *ret_error)
{
    _cleanup_(dpq_client_watch_freep) struct dpq_client_watch *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return -ENOMEM;
    pthread_mutex_init(&w->mutex, NULL);
    w->client = client;
    if (args)
        w->args = *args;
    w->position.incarnation = w->args.incarnation;
    w->position.seq = w->args.after_seq;
    w->channel = client_channel_new(client->socket_path, true);
    if (!w->channel)
        return -ENOMEM;
    w->stream.queue = grpc_completion_queue_create_for_pluck(NULL);
    r = receive(w, after_ms(client->timeout_ms), ret_error);
    if (r)
        return r;
    *ret_watch = steal_ptr(w);
    return 0;
}

int dpq_client_watch_next(struct dpq_client_watch *watch, uint32_t timeout_ms,
                          struct dpq_client_event *ret_event, struct dpq_client_error *ret_error)
{
    gpr_timespec deadline = after_ms(timeout_ms);
    int r;

    if (is_cancelled(watch))
        return cancelled(ret_error);
    while (!watch->message || watch->n_taken == watch->message->n_events) {
        drop_message(watch);
        r = receive_until(watch, deadline, ret_error);
        if (r)
            return r;
    }
    client_event_fill(watch->message->events[watch->n_taken++], ret_event);
    watch->position.seq = ret_event->seq;
    watch->position.n_received++;
    return 0;
}

int dpq_client_watch_ack(struct dpq_client_watch *watch, struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__AckRequest request = DELTAPQ__V1__ACK_REQUEST__INIT;

    if (!watch->subscriber_id)
        return client_error_set(ret_error, DPQ_CLIENT_UNAVAILABLE, "", "there is no connection");
    request.subscriber_id = watch->subscriber_id;
    request.seq = watch->position.seq;
    return client_call(watch->client, "/deltapq.v1.Monitor/Ack", &request.base,
                       &deltapq__v1__ack_reply__descriptor, &message, ret_error);
}

void dpq_client_watch_position(const struct dpq_client_watch *watch,
                               struct dpq_client_watch_position *ret_position)
{
    *ret_position = watch->position;
}

void dpq_client_watch_cancel(struct dpq_client_watch *watch)
{
    pthread_mutex_lock(&watch->mutex);
    watch->is_cancelled = true;
    if (watch->stream.call)
        grpc_call_cancel(watch->stream.call, NULL);
    pthread_mutex_unlock(&watch->mutex);
}

struct dpq_client_watch *dpq_client_watch_free(struct dpq_client_watch *watch)
{
    if (!watch)
        return NULL;
    end_stream(watch);
    drop_message(watch);
    if (watch->stream.queue)
        grpc_completion_queue_destroy(watch->stream.queue);
    client_channel_free(watch->channel);
    pthread_mutex_destroy(&watch->mutex);
    free(watch);
    return NULL;
}
