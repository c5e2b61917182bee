#pragma once

/*
 * The hub: events for any number of subscribers
 *
 * Each tenant has a ring of its own with numbers of its own, 1, 2, 3 …: what nobody else is told
 * leaves no gaps, and what a subscriber missed is a difference of numbers. A publisher takes the
 * hub's lock, copies one struct and never waits, whoever listens. A subscriber reads at its own
 * pace with hub_take(); what it did not fetch in time is counted as lost.
 *
 * One wake for all: when there is something new, the wake function of one subscriber is called, and
 * then none until hub_arm(). It is called with the hub's lock held: it may post to another thread
 * (rpc_call_wake), nothing else.
 */

#include <stdbool.h>

#include "lib/base/defs.h"

enum event_kind {
    EVENT_SEQUENCE_CREATED = 10, /* numbers as in the .proto's oneof */
    EVENT_SEQUENCE_RELEASED,
    EVENT_TILE_STORED,
    EVENT_TILE_EVICTED,
    EVENT_TILE_SHARED,
    EVENT_CLIENT_ATTACHED,
    EVENT_CLIENT_GONE,
    EVENT_PROFILE_INSTALLED,
    EVENT_CALIBRATION_PROGRESS,
    EVENT_SPACE_EXHAUSTED,
    EVENT_SEQUENCE_FORKED = 30,
    EVENT_SEQUENCE_TRIMMED,
    EVENT_PROFILE_REMOVED,
    EVENT_ZONE_CHANGED = 40,
    EVENT_STREAM_RESET,
    EVENT_ALL_CLEARED,
    EVENT_FINE_DROPPED = 50,
    EVENT_TOKENS_EVICTED,
};

#define EVENT_ALL_TENANTS UINT32_MAX

struct event_risk {
    uint32_t layer, head;
    uint8_t kind, from, to, cause; /* zones: enum risk_zone_name; enum risk_cause */
    float mu;
};

struct event {
    uint64_t seq;          /* set by hub_publish(): the tenant's */
    uint64_t time_unix_ms; /* 0: hub_publish() asks the clock that it was given */
    enum event_kind kind;
    uint32_t tenant;    /* only this tenant's subscribers see it; or EVENT_ALL_TENANTS */
    uint64_t id;        /* sequence or client */
    uint64_t a, b, c;   /* the message's numbers in field order, after the id */
    uint8_t digest[32]; /* tile key or profile id */
    char text[128];     /* client or model name, label */
    struct event_risk risk;
};

struct hub;
struct hub_subscriber;

/** hub_new() - @n_history: events kept for each tenant */
int hub_new(uint32_t n_tenants, uint32_t n_history, uint64_t incarnation,
            uint64_t (*clock_unix_ms)(void), struct hub **ret_hub) _must_check_;
struct hub *hub_free(struct hub *hub);
uint64_t hub_incarnation(const struct hub *hub);

/** hub_now_ms() - by the clock that it was given */
uint64_t hub_now_ms(const struct hub *hub);

void hub_publish(struct hub *hub, const struct event *event);

/** hub_publish_all() - n of them; whoever looks sees all or none, so that they are told together */
void hub_publish_all(struct hub *hub, const struct event *events, uint32_t n);

#define HUB_FROM_NOW    UINT64_MAX       /* only what is new */
#define HUB_FROM_OLDEST (UINT64_MAX - 1) /* all that is kept; what is not has not been missed */

struct hub_request {
    uint32_t tenant;
    uint64_t after_seq; /* events after this one first; those that are not kept any more are lost */
    uint32_t queue;     /* so many that it has not taken are kept for it: 1 … n_history */
    bool acknowledges;  /* it will say what it has dealt with: hub_ack() */
    void (*wake)(void *user);
    void *user;
};

/** hub_subscribe() - wake may be called before it returns */
int hub_subscribe(struct hub *hub, const struct hub_request *request,
                  struct hub_subscriber **ret_subscriber) _must_check_;

/** hub_subscriber_id() - for hub_ack(): never 0, and none of another incarnation's */
uint64_t hub_subscriber_id(const struct hub_subscriber *subscriber);

/** hub_where() - the next event that there will be for it, and what it has missed by now */
void hub_where(struct hub_subscriber *subscriber, uint64_t *ret_next_seq, uint64_t *ret_lost);

enum { HUB_BATCH = 256 };

/* What a subscriber took. Zeroed before first use; then given to one after another: what most of
 * them are told is copied once. */
struct hub_batch {
    uint64_t first_seq; /* of n events; n = 0: of the next one there will be */
    uint32_t n;
    bool is_same;  /* events are those that were there before */
    uint64_t lost; /* by this subscriber, so far */
    /* events[0 … held_n-1] are the tenant's from held_seq on: as long as n > 0, what was taken */
    uint32_t held_tenant, held_n;
    uint64_t held_seq;
    struct event events[HUB_BATCH];
};

/**
 * hub_take() - the next events, at most HUB_BATCH
 * Return: 0; 1 when there are none now, first_seq and lost are set; 2 when the hub is closing.
 */
int hub_take(struct hub_subscriber *subscriber, struct hub_batch *batch);

/** hub_is_full() - as much waits for it as a batch, or half its queue, holds; or the hub closes */
bool hub_is_full(struct hub_subscriber *subscriber);

/** hub_next() - one event; returns as hub_take(), outputs untouched unless 0 */
int hub_next(struct hub_subscriber *subscriber, struct event *ret_event, uint64_t *ret_lost);

/** hub_arm() - from here on the next event wakes; called before looking for events */
void hub_arm(struct hub *hub);

/**
 * hub_ack() - a subscriber has dealt with what it took, up to an event
 * @seq:       lower than before: nothing changes
 * @ret_acked: where it stands now; @ret_last: the tenant's last event
 * Return: 0; 1 when the tenant has no such subscriber; 2 when it was not given that event.
 */
int hub_ack(struct hub *hub, uint32_t tenant, uint64_t id, uint64_t seq, uint64_t *ret_acked,
            uint64_t *ret_last);

/** after it returns wake is not called any more; accepts NULL, returns NULL */
struct hub_subscriber *hub_unsubscribe(struct hub_subscriber *subscriber);

/** hub_close() - somebody is woken, and each gets 2 once it has read what is left */
void hub_close(struct hub *hub);

struct hub_counts {
    uint64_t n_subscribers;
    uint64_t n_published, n_lost; /* by all subscribers, those that are gone, too */
    /* The largest, of subscribers that acknowledge; of the others, not yet taken: */
    uint64_t lag_events; /* not acknowledged */
    uint64_t lag_ms;     /* since the oldest of these; if it is not kept, since the last ack */
};

/** hub_get_counts() - @tenant: UINT32_MAX for all */
void hub_get_counts(struct hub *hub, uint32_t tenant, struct hub_counts *ret_counts);
