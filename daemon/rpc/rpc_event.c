/*
 * Events on the wire: each one is packed once, for however many subscribers
 */
#include "daemon/rpc/rpc_event.h"

#include <assert.h>

#include "daemon/rpc/rpc_message.h"
#include "deltapq/v1/monitor.pb-c.h"

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

static void fill(Deltapq__V1__Event *message, union what *what, const struct event *event)
{
    *message = (Deltapq__V1__Event)DELTAPQ__V1__EVENT__INIT;
    message->seq = event->seq;
    message->time_unix_ms = event->time_unix_ms;
    fill_what(message, what, event);
}

grpc_slice rpc_event_pack(const struct event *events, uint32_t n)
{
    Deltapq__V1__Event messages[HUB_BATCH], *pointers[HUB_BATCH];
    union what whats[HUB_BATCH];
    Deltapq__V1__Events all = DELTAPQ__V1__EVENTS__INIT;

    assert(n <= HUB_BATCH);
    for (uint32_t i = 0; i < n; i++) {
        fill(&messages[i], &whats[i], &events[i]);
        pointers[i] = &messages[i];
    }
    all.n_events = n;
    all.events = pointers;
    return rpc_message_pack_slice(&all.base);
}

grpc_byte_buffer *rpc_event_message(const struct rpc_event_head *head, grpc_slice packed)
{
    Deltapq__V1__Events message = DELTAPQ__V1__EVENTS__INIT;
    grpc_byte_buffer *buffer;
    grpc_slice slices[2];

    message.subscriber_id = head->subscriber_id;
    message.incarnation = head->incarnation;
    message.lost = head->lost;
    message.next_seq = head->next_seq;
    slices[0] = rpc_message_pack_slice(&message.base); /* fields may come in any order */
    slices[1] = packed;
    buffer = grpc_raw_byte_buffer_create(slices, 2);
    grpc_slice_unref(slices[0]);
    return buffer;
}
