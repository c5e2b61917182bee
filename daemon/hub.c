/*
 * The hub: a ring of events for each tenant, any number of cursors
 *
 * A subscriber holds no copies, only where it is in its tenant's ring. It loses events in two ways:
 * its limit (of events not taken) is exceeded, or the ring comes round to where it stands. Both are
 * found out when it takes the next ones; publishing does not look at subscribers at all.
 *
 *     ring   | oldest … | … acknowledged | … taken | cursor … not taken | last
 *
 * The backlog that a resuming subscriber asked for does not count against its queue: the limit
 * begins at queue + backlog and comes down by one with each event taken.
 */
#include "daemon/hub.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"

struct channel {
    uint64_t last_seq; /* 0: none yet; events last_seq-n_history+1 … last_seq are in the ring */
    uint64_t n_lost;   /* by subscribers that are gone */
    struct hub_subscriber *subscribers;
    struct event *ring; /* [n_history]: event seq is at seq % n_history */
};

struct hub_subscriber {
    struct hub *hub;
    struct channel *channel;
    struct hub_subscriber *prev, *next;
    struct hub_request request;
    uint64_t id;
    uint64_t cursor;   /* seq of the next event to take */
    uint64_t acked;    /* all up to this one are dealt with */
    uint64_t acked_ms; /* when it last said so; without acknowledgements: when it last took */
    uint64_t limit, n_lost;
};

struct hub {
    pthread_mutex_t mutex;
    uint64_t (*clock_unix_ms)(void);
    uint64_t incarnation, n_ids;
    bool closed, armed;
    uint32_t n_tenants, n_history;
    struct channel channels[]; /* [n_tenants] */
};

int hub_new(uint32_t n_tenants, uint32_t n_history, uint64_t incarnation,
            uint64_t (*clock_unix_ms)(void), struct hub **ret_hub)
{
    struct hub *hub;
    bool failed = false;

    assert(n_history > 0);
    hub = calloc(1, sizeof(*hub) + n_tenants * sizeof(hub->channels[0]));
    if (!hub)
        return error_origin(-ENOMEM);
    pthread_mutex_init(&hub->mutex, NULL);
    hub->clock_unix_ms = clock_unix_ms;
    hub->incarnation = incarnation;
    hub->armed = true;
    hub->n_tenants = n_tenants;
    hub->n_history = n_history;
    for (uint32_t i = 0; i < n_tenants; i++) {
        hub->channels[i].ring = calloc(n_history, sizeof(struct event));
        failed = failed || !hub->channels[i].ring;
    }
    if (failed) {
        hub_free(hub);
        return error_origin(-ENOMEM);
    }
    *ret_hub = hub;
    return 0;
}

struct hub *hub_free(struct hub *hub)
{
    if (!hub)
        return NULL;
    for (uint32_t i = 0; i < hub->n_tenants; i++) {
        assert(!hub->channels[i].subscribers);
        free(hub->channels[i].ring);
    }
    pthread_mutex_destroy(&hub->mutex);
    free(hub);
    return NULL;
}

uint64_t hub_incarnation(const struct hub *hub)
{
    return hub->incarnation;
}

uint64_t hub_now_ms(const struct hub *hub)
{
    return hub->clock_unix_ms();
}

uint64_t hub_subscriber_id(const struct hub_subscriber *subscriber)
{
    return subscriber->id;
}

/* --- all with the hub locked ------------------------------------------------------------------ */

static struct event *at(const struct hub *hub, const struct channel *channel, uint64_t seq)
{
    return &channel->ring[seq % hub->n_history];
}

static uint64_t oldest_seq(const struct hub *hub, const struct channel *channel)
{
    return channel->last_seq < hub->n_history ? 1 : channel->last_seq - hub->n_history + 1;
}

static void wake_one(const struct channel *channel)
{
    if (channel->subscribers)
        channel->subscribers->request.wake(channel->subscribers->request.user);
}

static void put(struct hub *hub, struct channel *channel, const struct event *event,
                uint64_t time_unix_ms)
{
    struct event *place = at(hub, channel, ++channel->last_seq);

    *place = *event;
    place->seq = channel->last_seq;
    place->time_unix_ms = time_unix_ms;
    if (hub->armed && channel->subscribers) {
        hub->armed = false;
        wake_one(channel);
    }
}

static void put_for(struct hub *hub, const struct event *event, uint64_t now_ms)
{
    uint64_t time_unix_ms = event->time_unix_ms ? event->time_unix_ms : now_ms;

    for (uint32_t i = 0; i < hub->n_tenants; i++)
        if (event->tenant == i || event->tenant == EVENT_ALL_TENANTS)
            put(hub, &hub->channels[i], event, time_unix_ms);
}

static uint64_t n_pending(const struct hub_subscriber *s)
{
    return s->channel->last_seq + 1 - s->cursor;
}

/* Of those not taken, how many are lost by now. */
static uint64_t n_overdue(const struct hub_subscriber *s)
{
    uint64_t kept = s->limit < s->hub->n_history ? s->limit : s->hub->n_history;

    return n_pending(s) > kept ? n_pending(s) - kept : 0;
}

static void lose_overdue(struct hub_subscriber *s)
{
    uint64_t n = n_overdue(s);

    s->n_lost += n;
    s->cursor += n;
}

/* Where to begin, and what has been missed by then. */
static void seek(struct hub_subscriber *s, uint64_t after_seq)
{
    const struct channel *channel = s->channel;
    uint64_t oldest = oldest_seq(s->hub, channel);

    if (after_seq == HUB_FROM_OLDEST)
        after_seq = oldest - 1;
    if (after_seq > channel->last_seq)
        after_seq = channel->last_seq;
    if (after_seq + 1 < oldest) {
        s->n_lost = oldest - 1 - after_seq;
        after_seq = oldest - 1;
    }
    s->cursor = after_seq + 1;
    s->acked = after_seq;
    s->acked_ms = s->hub->clock_unix_ms();
    s->limit = s->request.queue + n_pending(s);
}

static void advance(struct hub_subscriber *s, uint32_t n)
{
    uint64_t extra = s->limit - s->request.queue;

    s->cursor += n;
    if (!s->request.acknowledges)
        s->acked_ms = s->hub->clock_unix_ms();
    s->limit -= extra < n ? extra : n;
}

static bool holds(const struct hub_batch *batch, const struct hub_subscriber *s, uint64_t n)
{
    return batch->held_tenant == s->request.tenant && batch->held_seq == s->cursor &&
           batch->held_n == n;
}

static void hold(struct hub_batch *batch, const struct hub_subscriber *s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        batch->events[i] = *at(s->hub, s->channel, s->cursor + i);
    batch->held_tenant = s->request.tenant;
    batch->held_seq = s->cursor;
    batch->held_n = n;
}

/* --- the interface ---------------------------------------------------------------------------- */

void hub_publish(struct hub *hub, const struct event *event)
{
    hub_publish_all(hub, event, 1);
}

void hub_publish_all(struct hub *hub, const struct event *events, uint32_t n)
{
    uint64_t now_ms = hub->clock_unix_ms();

    pthread_mutex_lock(&hub->mutex);
    for (uint32_t i = 0; i < n && !hub->closed; i++)
        put_for(hub, &events[i], now_ms);
    pthread_mutex_unlock(&hub->mutex);
}

int hub_subscribe(struct hub *hub, const struct hub_request *request,
                  struct hub_subscriber **ret_subscriber)
{
    struct hub_subscriber *s = calloc(1, sizeof(*s));
    struct channel *channel = &hub->channels[request->tenant];

    assert(request->tenant < hub->n_tenants);
    if (!s)
        return error_origin(-ENOMEM);
    s->hub = hub;
    s->channel = channel;
    s->request = *request;
    if (s->request.queue < 1)
        s->request.queue = 1;
    if (s->request.queue > hub->n_history)
        s->request.queue = hub->n_history;
    pthread_mutex_lock(&hub->mutex);
    s->id = hub->incarnation + ++hub->n_ids;
    if (!s->id)
        s->id = hub->incarnation + ++hub->n_ids;
    seek(s, request->after_seq);
    s->next = channel->subscribers;
    if (s->next)
        s->next->prev = s;
    channel->subscribers = s;
    *ret_subscriber = s; /* before wake(), which may lead to hub_take() elsewhere */
    if (n_pending(s) || hub->closed)
        wake_one(channel);
    pthread_mutex_unlock(&hub->mutex);
    return 0;
}

void hub_where(struct hub_subscriber *s, uint64_t *ret_next_seq, uint64_t *ret_lost)
{
    pthread_mutex_lock(&s->hub->mutex);
    lose_overdue(s);
    *ret_next_seq = s->cursor;
    *ret_lost = s->n_lost;
    pthread_mutex_unlock(&s->hub->mutex);
}

int hub_take(struct hub_subscriber *s, struct hub_batch *batch)
{
    struct hub *hub = s->hub;
    uint64_t n;
    int r = 0;

    pthread_mutex_lock(&hub->mutex);
    lose_overdue(s);
    n = n_pending(s) < HUB_BATCH ? n_pending(s) : HUB_BATCH;
    batch->first_seq = s->cursor;
    batch->n = (uint32_t)n;
    batch->lost = s->n_lost;
    if (n) {
        batch->is_same = holds(batch, s, n);
        if (!batch->is_same)
            hold(batch, s, (uint32_t)n);
        advance(s, (uint32_t)n);
    } else {
        r = hub->closed ? 2 : 1;
    }
    pthread_mutex_unlock(&hub->mutex);
    return r;
}

int hub_next(struct hub_subscriber *s, struct event *ret_event, uint64_t *ret_lost)
{
    struct hub *hub = s->hub;
    int r = 0;

    pthread_mutex_lock(&hub->mutex);
    lose_overdue(s);
    if (n_pending(s)) {
        *ret_event = *at(hub, s->channel, s->cursor);
        *ret_lost = s->n_lost;
        advance(s, 1);
    } else {
        r = hub->closed ? 2 : 1;
    }
    pthread_mutex_unlock(&hub->mutex);
    return r;
}

bool hub_is_full(struct hub_subscriber *s)
{
    uint32_t half = (s->request.queue + 1) / 2, most = half < HUB_BATCH ? half : HUB_BATCH;
    bool full;

    pthread_mutex_lock(&s->hub->mutex);
    full = n_pending(s) >= most || s->hub->closed;
    pthread_mutex_unlock(&s->hub->mutex);
    return full;
}

void hub_arm(struct hub *hub)
{
    pthread_mutex_lock(&hub->mutex);
    hub->armed = true;
    pthread_mutex_unlock(&hub->mutex);
}

static struct hub_subscriber *find(struct channel *channel, uint64_t id)
{
    struct hub_subscriber *s = channel->subscribers;

    while (s && s->id != id)
        s = s->next;
    return s;
}

int hub_ack(struct hub *hub, uint32_t tenant, uint64_t id, uint64_t seq, uint64_t *ret_acked,
            uint64_t *ret_last)
{
    struct hub_subscriber *s;
    int r = 0;

    assert(tenant < hub->n_tenants);
    pthread_mutex_lock(&hub->mutex);
    s = find(&hub->channels[tenant], id);
    if (!s) {
        r = 1;
    } else if (seq >= s->cursor) {
        r = 2;
    } else {
        if (seq > s->acked) {
            s->acked = seq;
            s->acked_ms = hub->clock_unix_ms();
        }
        *ret_acked = s->acked;
        *ret_last = s->channel->last_seq;
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
    subscriber->channel->n_lost += subscriber->n_lost + n_overdue(subscriber);
    if (subscriber->prev)
        subscriber->prev->next = subscriber->next;
    else
        subscriber->channel->subscribers = subscriber->next;
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
    for (uint32_t i = 0; i < hub->n_tenants; i++)
        wake_one(&hub->channels[i]);
    pthread_mutex_unlock(&hub->mutex);
}

/* --- counts; locked --------------------------------------------------------------------------- */

static void add_lag(const struct hub_subscriber *s, uint64_t now_ms, struct hub_counts *counts)
{
    const struct channel *channel = s->channel;
    uint64_t acked = s->request.acknowledges ? s->acked : s->cursor - 1;
    uint64_t lag = channel->last_seq - acked, since_ms = s->acked_ms;

    if (!lag)
        return;
    if (acked + 1 >= oldest_seq(s->hub, channel))
        since_ms = at(s->hub, channel, acked + 1)->time_unix_ms;
    if (counts->lag_events < lag)
        counts->lag_events = lag;
    if (now_ms > since_ms && counts->lag_ms < now_ms - since_ms)
        counts->lag_ms = now_ms - since_ms;
}

static void add_channel(const struct channel *channel, uint64_t now_ms, struct hub_counts *counts)
{
    counts->n_published += channel->last_seq;
    counts->n_lost += channel->n_lost;
    for (const struct hub_subscriber *s = channel->subscribers; s; s = s->next) {
        counts->n_subscribers++;
        counts->n_lost += s->n_lost + n_overdue(s);
        add_lag(s, now_ms, counts);
    }
}

void hub_get_counts(struct hub *hub, uint32_t tenant, struct hub_counts *ret_counts)
{
    uint64_t now_ms = hub->clock_unix_ms();
    struct hub_counts counts = { 0 };

    pthread_mutex_lock(&hub->mutex);
    for (uint32_t i = 0; i < hub->n_tenants; i++)
        if (tenant == i || tenant == UINT32_MAX)
            add_channel(&hub->channels[i], now_ms, &counts);
    pthread_mutex_unlock(&hub->mutex);
    *ret_counts = counts;
}
