#pragma once

/*
 * The hub: events for any number of subscribers
 *
 * A publisher takes only the hub's lock, copies one struct and never waits. The last n_history
 * events are kept, so that a subscriber can resume by sequence number. A subscriber reads at its
 * own pace with hub_next(); what it did not fetch in time is counted as lost.
 *
 * Each subscriber has a wake function, called when there is something new. It is called with the
 * hub's lock held: it may post to another thread (rpc_kick), nothing else.
 */

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
    uint64_t seq;          /* set by hub_publish() */
    uint64_t time_unix_ms; /* set by hub_publish() from the clock it was given */
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

int hub_new(uint32_t n_history, uint64_t incarnation, uint64_t (*clock_unix_ms)(void),
            struct hub **ret_hub) _must_check_;
struct hub *hub_free(struct hub *hub);
uint64_t hub_incarnation(const struct hub *hub);

void hub_publish(struct hub *hub, const struct event *event);

/**
 * hub_subscribe() - begin to listen
 * @after_seq: events after this one come first, as far as kept; UINT64_MAX: only new ones
 * @queue:     at most this many undelivered events are kept for it (1 … n_history)
 * @wake:      may be called before hub_subscribe() returns
 */
int hub_subscribe(struct hub *hub, uint32_t tenant, uint64_t after_seq, uint32_t queue,
                  void (*wake)(void *user), void *user,
                  struct hub_subscriber **ret_subscriber) _must_check_;

/** hub_next() - 0 with the next event; 1 when there is none now; 2 when the hub is closing */
int hub_next(struct hub_subscriber *subscriber, struct event *ret_event, uint64_t *ret_lost);

/** after it returns wake is not called any more; accepts NULL, returns NULL */
struct hub_subscriber *hub_unsubscribe(struct hub_subscriber *subscriber);

/** hub_close() - every subscriber is woken and gets 2 once it has read what is left */
void hub_close(struct hub *hub);
