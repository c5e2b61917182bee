/*
 * Monitor.Watch: the hub's events, one message in flight for each subscriber
 *
 * What is not sent yet waits in the hub, where its number is limited, not here. A subscriber that
 * reads slowly is therefore at most its queue and what the transport has taken behind.
 *
 * The hub wakes one call, whichever, when something has happened; then all are looked at. In
 * between events gather, and most subscribers are sent the same bytes. A message costs some 6 us,
 * nearly all of it gRPC's, so the time between two looks grows with the number of subscribers: a
 * few are told at once after a moment's rest, then 2 ms apart at least; 50 and more are told 10 ms
 * after the first event. Whoever is still sending is left out, and looked at when that is done. A
 * message that is full is followed by the next one at once.
 *
 * A subscriber may ask for fewer messages. It is then left out until its time has come, or a
 * message is full. Such times are multiples of what was asked for: those who asked for the same are
 * sent the same bytes at the same time.
 *
 * Where messages of other calls take all room (rpc_room.h), events wait in the hub, too: a watcher
 * is not refused, but looked at again with the next flush.
 */
#include "daemon/rpc/rpc_watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/rpc/rpc_event.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/monitor.pb-c.h"
#include "lib/base/error.h"

enum {
    DEFAULT_QUEUE = 1024,
    MAX_QUEUE = 65536,
    MAX_WATCHERS = 4096, /* of a tenant */
    FLUSH_MAX_NS = 10000000,
    FLUSH_MIN_NS = 2000000,
    FLUSH_EACH_NS = 200000, /* for each subscriber: 5,000 messages a second */
    MAX_FLUSH_MS = 10000,
    AT_ONCE = 32,          /* subscribers, before other calls have their turn */
    MESSAGE_BYTES = 65536, /* a full one has less, in all but contrived cases */
};

struct rpc_watcher {
    struct rpc_watcher *prev, *next;
    struct rpc_call *call;
    struct hub_subscriber *subscriber; /* NULL: it is over */
    bool is_full;                      /* the message on its way */
    bool is_behind;                    /* was left out of a flush */
    uint64_t apart_ns;                 /* as it asked; 0: no more than others */
    uint64_t due_ns;                   /* when it will not be left out for that; 0: not known yet */
};

/* --- all watchers ----------------------------------------------------------------------------- */

int rpc_watchers_init(struct rpc_watchers *watchers)
{
    *watchers = (struct rpc_watchers){ .due_ns = UINT64_MAX, .packed = grpc_empty_slice() };
    watchers->batch = calloc(1, sizeof(*watchers->batch));
    return watchers->batch ? 0 : error_origin(-ENOMEM);
}

void rpc_watchers_deinit(struct rpc_watchers *watchers)
{
    grpc_slice_unref(watchers->packed);
    free(watchers->batch);
}

static void send_batch(struct rpc_watcher *watcher, grpc_slice packed)
{
    struct rpc_call *call = watcher->call;
    const struct hub_batch *batch = call->server->watchers.batch;
    struct rpc_event_head head = { .subscriber_id = hub_subscriber_id(watcher->subscriber),
                                   .incarnation = hub_incarnation(call->server->options.hub),
                                   .lost = batch->lost,
                                   .next_seq = batch->first_seq };

    watcher->is_full = batch->n == HUB_BATCH;
    rpc_call_send_buffer(call, rpc_event_message(&head, packed));
}

static void leave(struct rpc_watcher *watcher)
{
    struct rpc_watchers *watchers;

    if (!watcher->subscriber)
        return;
    watchers = &watcher->call->server->watchers;
    watchers->n_prompt -= !watcher->apart_ns;
    watcher->subscriber = hub_unsubscribe(watcher->subscriber);
    if (watchers->turn == watcher)
        watchers->turn = watcher->next;
    if (watcher->prev)
        watcher->prev->next = watcher->next;
    else
        watchers->first = watcher->next;
    if (watcher->next)
        watcher->next->prev = watcher->prev;
}

static bool has_room(struct rpc_watcher *watcher)
{
    struct rpc_call *call = watcher->call;
    struct rpc_watchers *watchers = &call->server->watchers;
    uint64_t again_ns = session_now_ns() + FLUSH_MAX_NS;

    if (!rpc_room_hold(&call->server->room, MESSAGE_BYTES, &call->reply_bytes))
        return true;
    if (again_ns < watchers->due_ns)
        watchers->due_ns = again_ns;
    return false;
}

/* Send it what there is, if it can take it. */
static void pump(struct rpc_watcher *watcher)
{
    struct rpc_watchers *watchers = &watcher->call->server->watchers;
    struct hub_batch *batch = watchers->batch;

    watcher->is_behind = watcher->call->sending;
    if (watcher->is_behind || !has_room(watcher))
        return;
    switch (hub_take(watcher->subscriber, batch)) {
    case 0:
        if (!batch->is_same) {
            grpc_slice_unref(watchers->packed);
            watchers->packed = rpc_event_pack(batch->events, batch->n);
        }
        send_batch(watcher, watchers->packed);
        break;
    case 2:
        rpc_call_refuse(watcher->call, SESSION_UNAVAILABLE, "SHUTDOWN",
                        "the daemon is shutting down");
        leave(watcher);
        break;
    default: /* nothing: the hub will wake */
        rpc_room_let_go(&watcher->call->server->room, &watcher->call->reply_bytes);
        break;
    }
}

static void schedule(struct rpc_watchers *watchers)
{
    uint64_t apart_ns = (uint64_t)watchers->n_prompt * FLUSH_EACH_NS;
    uint64_t now_ns = session_now_ns(), due_ns;

    if (apart_ns < FLUSH_MIN_NS)
        apart_ns = FLUSH_MIN_NS;
    due_ns = apart_ns < FLUSH_MAX_NS ? watchers->flushed_ns + apart_ns : now_ns + FLUSH_MAX_NS;
    if (due_ns < now_ns)
        due_ns = now_ns;
    if (due_ns < watchers->due_ns)
        watchers->due_ns = due_ns;
}

/* Something may have happened, but a subscriber wants it with what follows. */
static bool waits(struct rpc_watchers *watchers, struct rpc_watcher *watcher, uint64_t now_ns)
{
    if (!watcher->apart_ns)
        return false;
    if (!watcher->due_ns)
        watcher->due_ns = (now_ns / watcher->apart_ns + 1) * watcher->apart_ns;
    if (now_ns < watcher->due_ns && !hub_is_full(watcher->subscriber)) {
        if (watcher->due_ns < watchers->due_ns)
            watchers->due_ns = watcher->due_ns;
        return true;
    }
    watcher->due_ns = 0;
    return false;
}

uint64_t rpc_watchers_due_ns(const struct rpc_watchers *watchers)
{
    return watchers->turn ? 0 : watchers->due_ns;
}

void rpc_watchers_run(struct rpc_watchers *watchers, struct hub *hub, uint64_t now_ns)
{
    if (!watchers->turn) {
        if (now_ns < watchers->due_ns)
            return;
        watchers->due_ns = UINT64_MAX;
        watchers->flushed_ns = now_ns;
        hub_arm(hub); /* before looking: what comes from now on wakes again */
        watchers->turn = watchers->first;
    }
    for (int i = 0; i < AT_ONCE && watchers->turn;) {
        struct rpc_watcher *watcher = watchers->turn;

        watchers->turn = watcher->next;
        if (waits(watchers, watcher, now_ns))
            continue;
        pump(watcher);
        i++;
    }
}

/* --- one call --------------------------------------------------------------------------------- */

void rpc_watch_woken(struct rpc_call *call)
{
    schedule(&call->server->watchers);
}

void rpc_watch_sent(struct rpc_call *call)
{
    struct rpc_watcher *watcher = call->state;

    if (!watcher || !watcher->subscriber)
        return;
    if (watcher->is_full)
        pump(watcher);
    else if (watcher->is_behind)
        schedule(&call->server->watchers);
}

/* It may have been the one that was woken. */
void rpc_watch_over(struct rpc_call *call)
{
    leave(call->state);
    schedule(&call->server->watchers);
}

static void wake(void *user)
{
    rpc_call_wake(user); /* alive: it is unsubscribed when it is over, at the latest */
}

static uint64_t where_to_begin(const Deltapq__V1__WatchRequest *request, uint64_t incarnation)
{
    if (request->from_now)
        return HUB_FROM_NOW;
    if (request->incarnation == incarnation)
        return request->after_seq;
    if (request->incarnation)
        return HUB_FROM_OLDEST; /* numbers of another daemon's mean nothing here */
    return request->after_seq ? request->after_seq : HUB_FROM_OLDEST;
}

static bool refuse(struct rpc_call *call, const Deltapq__V1__WatchRequest *request)
{
    uint32_t n = 0;

    if (request->queue > MAX_QUEUE) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "QUEUE", "queue %u is more than %d events",
                        request->queue, MAX_QUEUE);
        return true;
    }
    if (request->flush_ms > MAX_FLUSH_MS) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "FLUSH_MS", "flush_ms %u is more than %d",
                        request->flush_ms, MAX_FLUSH_MS);
        return true;
    }
    for (struct rpc_watcher *w = call->server->watchers.first; w; w = w->next)
        n += w->call->tenant == call->tenant;
    if (n < MAX_WATCHERS)
        return false;
    rpc_call_refuse(call, SESSION_RESOURCE_EXHAUSTED, "LIMIT", "the tenant has %u subscribers", n);
    return true;
}

static void join(struct rpc_watchers *watchers, struct rpc_watcher *watcher)
{
    watcher->next = watchers->first;
    if (watcher->next)
        watcher->next->prev = watcher;
    watchers->first = watcher;
    watchers->n_prompt += !watcher->apart_ns;
}

void rpc_watch(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__WatchRequest *request = message;
    struct rpc_watchers *watchers = &call->server->watchers;
    struct hub *hub = call->server->options.hub;
    uint64_t apart_ns = (uint64_t)request->flush_ms * 1000000;
    struct rpc_watcher *watcher;
    struct hub_request subscription = {
        .tenant = call->tenant,
        .after_seq = where_to_begin(request, hub_incarnation(hub)),
        .queue = request->queue ? request->queue : DEFAULT_QUEUE,
        .acknowledges = request->acknowledges,
        .wake = wake,
        .user = call,
    };

    if (refuse(call, request))
        return;
    watcher = rpc_call_state(call, sizeof(*watcher));
    if (!watcher)
        return;
    if (hub_subscribe(hub, &subscription, &watcher->subscriber)) {
        rpc_call_no_memory(call);
        return;
    }
    watcher->call = call;
    watcher->apart_ns = apart_ns > FLUSH_MAX_NS ? apart_ns : 0;
    join(watchers, watcher);
    hub_where(watcher->subscriber, &watchers->batch->first_seq, &watchers->batch->lost);
    watchers->batch->n = 0;
    send_batch(watcher, grpc_empty_slice()); /* it knows from here on that it misses nothing */
    watcher->is_behind = true;
}
