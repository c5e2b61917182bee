/*
 * Monitor.Watch: the hub's events, one message in flight
 *
 * What is not sent yet waits in the hub, where its number is limited, not here. A subscriber that
 * reads slowly is therefore at most its queue and what the transport has taken behind.
 */
#include <string.h>

#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/monitor.pb-c.h"

enum {
    DEFAULT_QUEUE = 1024,
    MAX_QUEUE = 65536,
};

struct watch_state {
    struct hub_subscriber *subscriber;
};

/* Room for whatever an event is. */
union what {
    Deltapq__V1__SequenceCreated sequence_created;
    Deltapq__V1__SequenceReleased sequence_released;
    Deltapq__V1__TileStored tile_stored;
    Deltapq__V1__TileEvicted tile_evicted;
    Deltapq__V1__TileShared tile_shared;
    Deltapq__V1__ClientAttached client_attached;
    Deltapq__V1__ClientGone client_gone;
    Deltapq__V1__ProfileInstalled profile_installed;
    Deltapq__V1__CalibrationProgress calibration_progress;
    Deltapq__V1__SpaceExhausted space_exhausted;
    Deltapq__V1__SequenceForked sequence_forked;
    Deltapq__V1__SequenceTrimmed sequence_trimmed;
    Deltapq__V1__ProfileRemoved profile_removed;
    Deltapq__V1__ZoneChanged zone_changed;
    Deltapq__V1__StreamReset stream_reset;
    Deltapq__V1__AllCleared all_cleared;
    Deltapq__V1__FineDropped fine_dropped;
    Deltapq__V1__TokensEvicted tokens_evicted;
};

static ProtobufCBinaryData digest(const struct event *event)
{
    return (ProtobufCBinaryData){ .len = sizeof(event->digest), .data = (uint8_t *)event->digest };
}

/* PROTOBUF_C_MESSAGE_INIT, then the fields in their order */
#define SET(type, member, ...) \
    (what->member = \
         (Deltapq__V1__##type){ PROTOBUF_C_MESSAGE_INIT(&deltapq__v1__##member##__descriptor), \
                                __VA_ARGS__ }, \
     message->member = &what->member)

/* How streams are: 0; 1 of another sort. */
static int fill_risk(Deltapq__V1__Event *message, union what *what, const struct event *event)
{
    const struct event_risk *risk = &event->risk;

    switch (event->kind) {
    case EVENT_ZONE_CHANGED:
        SET(ZoneChanged, zone_changed, event->id, event->a, risk->layer, risk->kind, risk->head,
            (Deltapq__V1__Zone)risk->from, (Deltapq__V1__Zone)risk->to,
            (Deltapq__V1__RiskCause)risk->cause, risk->mu);
        return 0;
    case EVENT_STREAM_RESET:
        SET(StreamReset, stream_reset, event->id, event->a, risk->layer, risk->kind, risk->head,
            event->b != 0);
        return 0;
    case EVENT_ALL_CLEARED:
        SET(AllCleared, all_cleared, event->id, event->a);
        return 0;
    default:
        return 1;
    }
}

static void fill_what(Deltapq__V1__Event *message, union what *what, const struct event *event)
{
    message->what_case = (Deltapq__V1__Event__WhatCase)event->kind;
    switch (event->kind) {
    case EVENT_SEQUENCE_CREATED:
        SET(SequenceCreated, sequence_created, event->id, event->a);
        break;
    case EVENT_SEQUENCE_RELEASED:
        SET(SequenceReleased, sequence_released, event->id, event->a, event->b);
        break;
    case EVENT_TILE_STORED:
        SET(TileStored, tile_stored, event->id, event->a, event->b, event->c);
        break;
    case EVENT_TILE_EVICTED:
        SET(TileEvicted, tile_evicted, digest(event), event->a);
        break;
    case EVENT_TILE_SHARED:
        SET(TileShared, tile_shared, event->id, event->a);
        break;
    case EVENT_CLIENT_ATTACHED:
        SET(ClientAttached, client_attached, event->id, (char *)event->text);
        break;
    case EVENT_CLIENT_GONE:
        SET(ClientGone, client_gone, event->id, event->a, (uint32_t)event->b);
        break;
    case EVENT_PROFILE_INSTALLED:
        SET(ProfileInstalled, profile_installed, digest(event), (char *)event->text);
        break;
    case EVENT_CALIBRATION_PROGRESS:
        SET(CalibrationProgress, calibration_progress, (char *)event->text, event->a, event->b);
        break;
    case EVENT_SPACE_EXHAUSTED:
        SET(SpaceExhausted, space_exhausted, event->a);
        break;
    case EVENT_SEQUENCE_FORKED:
        SET(SequenceForked, sequence_forked, event->id, event->a, event->b);
        break;
    case EVENT_SEQUENCE_TRIMMED:
        SET(SequenceTrimmed, sequence_trimmed, event->id, event->a, event->b);
        break;
    case EVENT_PROFILE_REMOVED:
        SET(ProfileRemoved, profile_removed, digest(event), (char *)event->text);
        break;
    case EVENT_FINE_DROPPED:
        SET(FineDropped, fine_dropped, digest(event), event->id, event->a, event->b, event->c);
        break;
    case EVENT_TOKENS_EVICTED:
        SET(TokensEvicted, tokens_evicted, event->id, event->a, event->b, event->c);
        break;
    default:
        if (fill_risk(message, what, event))
            message->what_case = DELTAPQ__V1__EVENT__WHAT__NOT_SET;
    }
}

static void send_event(struct rpc_call *call, const struct event *event, uint64_t lost)
{
    Deltapq__V1__Event message = DELTAPQ__V1__EVENT__INIT;
    union what what;

    message.seq = event->seq;
    message.incarnation = hub_incarnation(call->server->options.hub);
    message.time_unix_ms = event->time_unix_ms;
    message.lost = lost;
    fill_what(&message, &what, event);
    rpc_call_send(call, &message.base);
}

/* After a wake, and when the last message has been taken. */
void rpc_watch_pump(struct rpc_call *call)
{
    struct watch_state *state = call->state;
    struct event event;
    uint64_t lost;

    if (!state || !state->subscriber || call->sending)
        return;
    switch (hub_next(state->subscriber, &event, &lost)) {
    case 0:
        send_event(call, &event, lost);
        break;
    case 2:
        rpc_call_refuse(call, SESSION_UNAVAILABLE, "SHUTDOWN", "the daemon is shutting down");
        break;
    default: /* nothing: the hub will wake */
        break;
    }
}

void rpc_watch_over(struct rpc_call *call)
{
    struct watch_state *state = call->state;

    state->subscriber = hub_unsubscribe(state->subscriber);
}

static void wake(void *user)
{
    rpc_call_wake(user); /* alive: it is unsubscribed when it is over, at the latest */
}

static uint64_t where_to_begin(const Deltapq__V1__WatchRequest *request, uint64_t incarnation)
{
    if (request->from_now)
        return UINT64_MAX;
    if (request->incarnation && request->incarnation != incarnation)
        return 0; /* numbers of another daemon's mean nothing here */
    return request->after_seq;
}

void rpc_watch(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__WatchRequest *request = message;
    struct hub *hub = call->server->options.hub;
    uint32_t queue = request->queue ? request->queue : DEFAULT_QUEUE;
    struct watch_state *state;

    if (queue > MAX_QUEUE) {
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "QUEUE", "queue %u is more than %d events",
                        queue, MAX_QUEUE);
        return;
    }
    state = rpc_call_state(call, sizeof(*state));
    if (!state)
        return;
    if (hub_subscribe(hub, call->tenant, where_to_begin(request, hub_incarnation(hub)), queue, wake,
                      call, &state->subscriber)) {
        rpc_call_no_memory(call);
        return;
    }
    rpc_call_send_headers(call); /* the client knows from here on that it misses nothing */
}
