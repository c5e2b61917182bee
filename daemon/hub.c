/*
 * The hub: one ring of events, any number of cursors
 *
 * A subscriber holds no copies, only where it is in the ring. It loses events in two ways: its
 * limit (of undelivered ones) is exceeded, or the ring comes round to where it stands.
 *
 *     ring   | oldest … | … delivered | cursor … undelivered, n_pending of them its own | newest
 *
 * Events of other tenants lie between its own; they count neither as pending nor as lost. The
 * backlog that a resuming subscriber asked for does not count against its queue: the limit begins
 * at queue + backlog and comes down by one with each event taken.
 *
 *     idle -> wake() -> awake -> hub_next() returns 1 -> idle: one wake for any number of events
 */
#include "daemon/hub.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "lib/base/error.h"

struct hub_subscriber {
    struct hub *hub;
    struct hub_subscriber *prev, *next;
    uint32_t tenant, queue;
    void (*wake)(void *user);
    void *user;
    bool idle;       /* was told that there is nothing: wants to be woken */
    uint64_t cursor; /* seq of the next event to look at */
    uint64_t n_pending, limit, n_lost;
};

struct hub {
    pthread_mutex_t mutex;
    uint64_t (*clock_unix_ms)(void);
    uint64_t incarnation;
    uint64_t last_seq; /* 0: none yet; events last_seq-n_history+1 … last_seq are in the ring */
    struct hub_subscriber *subscribers;
    bool closed;
    uint32_t n_history;
    struct event ring[]; /* event seq is at seq % n_history */
};

int hub_new(uint32_t n_history, uint64_t incarnation, uint64_t (*clock_unix_ms)(void),
            struct hub **ret_hub)
{
    struct hub *hub;

    assert(n_history > 0);
    hub = calloc(1, sizeof(*hub) + n_history * sizeof(hub->ring[0]));
    if (!hub)
        return error_origin(-ENOMEM);
    pthread_mutex_init(&hub->mutex, NULL);
    hub->clock_unix_ms = clock_unix_ms;
    hub->incarnation = incarnation;
    hub->n_history = n_history;
    *ret_hub = hub;
    return 0;
}

struct hub *hub_free(struct hub *hub)
{
    if (!hub)
        return NULL;
    assert(!hub->subscribers);
    pthread_mutex_destroy(&hub->mutex);
    free(hub);
    return NULL;
}

uint64_t hub_incarnation(const struct hub *hub)
{
    return hub->incarnation;
}

static const struct event *at(const struct hub *hub, uint64_t seq)
{
    return &hub->ring[seq % hub->n_history];
}

static uint64_t oldest_seq(const struct hub *hub)
{
    return hub->last_seq < hub->n_history ? 1 : hub->last_seq - hub->n_history + 1;
}

static bool concerns(const struct hub_subscriber *subscriber, const struct event *event)
{
    return event->tenant == subscriber->tenant || event->tenant == EVENT_ALL_TENANTS;
}

/* --- all with the hub locked ------------------------------------------------------------------ */

static void wake(struct hub_subscriber *subscriber)
{
    if (!subscriber->idle)
        return;
    subscriber->idle = false;
    subscriber->wake(subscriber->user);
}

/* The subscriber's next own event; there is one. */
static const struct event *advance(struct hub_subscriber *subscriber)
{
    const struct event *event;

    assert(subscriber->n_pending > 0);
    do {
        event = at(subscriber->hub, subscriber->cursor++);
    } while (!concerns(subscriber, event));
    subscriber->n_pending--;
    return event;
}

static void lose_one(struct hub_subscriber *subscriber)
{
    advance(subscriber);
    subscriber->n_lost++;
}

/* The oldest event is about to be overwritten. */
static void leave(struct hub_subscriber *subscriber, uint64_t oldest)
{
    if (subscriber->cursor != oldest)
        return;
    if (concerns(subscriber, at(subscriber->hub, oldest)))
        lose_one(subscriber);
    else
        subscriber->cursor++;
}

static void take_notice(struct hub_subscriber *subscriber)
{
    if (subscriber->n_pending == subscriber->limit)
        lose_one(subscriber);
    subscriber->n_pending++;
    wake(subscriber);
}

/* Where to begin, and what has been missed by then. */
static void seek(struct hub_subscriber *subscriber, uint64_t after_seq)
{
    const struct hub *hub = subscriber->hub;
    uint64_t oldest = oldest_seq(hub);

    if (after_seq > hub->last_seq)
        after_seq = hub->last_seq;
    if (after_seq + 1 < oldest) {
        /* Whose the forgotten ones were is forgotten, too: at most so many. Who asks for all that
         * is kept has missed nothing. */
        subscriber->n_lost = after_seq ? oldest - 1 - after_seq : 0;
        after_seq = oldest - 1;
    }
    subscriber->cursor = after_seq + 1;
    for (uint64_t seq = subscriber->cursor; seq <= hub->last_seq; seq++)
        subscriber->n_pending += concerns(subscriber, at(hub, seq));
    subscriber->limit = subscriber->queue + subscriber->n_pending;
}

/* --- the interface ---------------------------------------------------------------------------- */

void hub_publish(struct hub *hub, const struct event *event)
{
    uint64_t time_unix_ms = hub->clock_unix_ms(), oldest;
    struct event *place;

    pthread_mutex_lock(&hub->mutex);
    if (hub->closed) {
        pthread_mutex_unlock(&hub->mutex);
        return;
    }
    oldest = oldest_seq(hub);
    if (hub->last_seq >= hub->n_history) {
        for (struct hub_subscriber *s = hub->subscribers; s; s = s->next)
            leave(s, oldest);
    }
    hub->last_seq++;
    place = &hub->ring[hub->last_seq % hub->n_history];
    *place = *event;
    place->seq = hub->last_seq;
    place->time_unix_ms = time_unix_ms;
    for (struct hub_subscriber *s = hub->subscribers; s; s = s->next) {
        if (concerns(s, place))
            take_notice(s);
    }
    pthread_mutex_unlock(&hub->mutex);
}

int hub_subscribe(struct hub *hub, uint32_t tenant, uint64_t after_seq, uint32_t queue,
                  void (*wake_fn)(void *user), void *user, struct hub_subscriber **ret_subscriber)
{
    struct hub_subscriber *subscriber = calloc(1, sizeof(*subscriber));

    if (!subscriber)
        return error_origin(-ENOMEM);
    subscriber->hub = hub;
    subscriber->tenant = tenant;
    subscriber->wake = wake_fn;
    subscriber->user = user;
    subscriber->idle = true;
    subscriber->queue = queue < 1 ? 1 : queue > hub->n_history ? hub->n_history : queue;
    pthread_mutex_lock(&hub->mutex);
    seek(subscriber, after_seq);
    subscriber->next = hub->subscribers;
    if (hub->subscribers)
        hub->subscribers->prev = subscriber;
    hub->subscribers = subscriber;
    *ret_subscriber = subscriber; /* before wake(), which may lead to hub_next() elsewhere */
    if (subscriber->n_pending || hub->closed)
        wake(subscriber);
    pthread_mutex_unlock(&hub->mutex);
    return 0;
}

int hub_next(struct hub_subscriber *subscriber, struct event *ret_event, uint64_t *ret_lost)
{
    struct hub *hub = subscriber->hub;
    int r = 0;

    pthread_mutex_lock(&hub->mutex);
    if (subscriber->n_pending) {
        *ret_event = *advance(subscriber);
        *ret_lost = subscriber->n_lost;
        if (subscriber->limit > subscriber->queue)
            subscriber->limit--;
    } else if (hub->closed) {
        r = 2;
    } else {
        subscriber->idle = true;
        r = 1;
    }
    pthread_mutex_unlock(&hub->mutex);
    return r;
}

struct hub_subscriber *hub_unsubscribe(struct hub_subscriber *subscriber)
{
    struct hub *hub;

    if (!subscriber)
        return NULL;
    hub = subscriber->hub;
    pthread_mutex_lock(&hub->mutex);
    if (subscriber->prev)
        subscriber->prev->next = subscriber->next;
    else
        hub->subscribers = subscriber->next;
    if (subscriber->next)
        subscriber->next->prev = subscriber->prev;
    pthread_mutex_unlock(&hub->mutex);
    free(subscriber);
    return NULL;
}

void hub_close(struct hub *hub)
{
    pthread_mutex_lock(&hub->mutex);
    hub->closed = true;
    for (struct hub_subscriber *s = hub->subscribers; s; s = s->next)
        wake(s);
    pthread_mutex_unlock(&hub->mutex);
}
