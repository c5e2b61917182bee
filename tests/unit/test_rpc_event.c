/* daemon/rpc/rpc_event.c: events on the wire */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>

#include "daemon/rpc/rpc_event.h"
#include "deltapq/v1/monitor.pb-c.h"

/* As long as it gets on the wire. */
static struct event longest(enum event_kind kind)
{
    struct event event = { .seq = UINT64_MAX,
                           .time_unix_ms = UINT64_MAX,
                           .kind = kind,
                           .id = UINT64_MAX,
                           .a = UINT64_MAX,
                           .b = UINT64_MAX,
                           .c = UINT64_MAX,
                           .risk = { UINT32_MAX, UINT32_MAX, 1, 2, 2, UINT8_MAX, 1 } };

    memset(event.digest, 0xff, sizeof(event.digest));
    memset(event.text, 'x', sizeof(event.text) - 1);
    return event;
}

static size_t fill_all(enum event_kind kind, struct event *events, grpc_slice *ret_packed)
{
    for (int i = 0; i < HUB_BATCH; i++)
        events[i] = longest(kind);
    *ret_packed = rpc_event_pack(events, HUB_BATCH);
    return GRPC_SLICE_LENGTH(*ret_packed);
}

/* A message holds 256 events of whatever kind, and stays below 64 KiB. */
static void test_a_full_message_is_below_64_KiB(void **state)
{
    const ProtobufCMessageDescriptor *all = &deltapq__v1__event__descriptor;
    struct event *events = calloc(HUB_BATCH, sizeof(*events));
    enum { HEAD = 64 };
    uint32_t n = 0;

    (void)state;
    assert_non_null(events);
    for (unsigned i = 0; i < all->n_fields; i++) {
        grpc_slice packed;

        if (all->fields[i].type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        assert_in_range(fill_all((enum event_kind)all->fields[i].id, events, &packed),
                        HUB_BATCH * 20, 65535 - HEAD);
        grpc_slice_unref(packed);
        n++;
    }
    assert_true(n >= 18);
    free(events);
}

static Deltapq__V1__Events *message_of(const struct rpc_event_head *head, grpc_slice packed)
{
    grpc_byte_buffer *buffer = rpc_event_message(head, packed);
    grpc_byte_buffer_reader reader;
    Deltapq__V1__Events *message;
    grpc_slice bytes;

    assert_true(grpc_byte_buffer_reader_init(&reader, buffer));
    bytes = grpc_byte_buffer_reader_readall(&reader);
    message =
        deltapq__v1__events__unpack(NULL, GRPC_SLICE_LENGTH(bytes), GRPC_SLICE_START_PTR(bytes));
    grpc_slice_unref(bytes);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(buffer);
    assert_non_null(message);
    return message;
}

static void test_a_message_is_a_head_and_shared_events(void **state)
{
    struct event events[2] = {
        { .seq = 7, .kind = EVENT_TILE_STORED, .id = 1, .a = 2, .b = 3, .c = 4 },
        { .seq = 8, .kind = EVENT_ZONE_CHANGED, .id = 5, .a = 96 }
    };
    struct rpc_event_head head = { 11, 12, 13, 7 };
    grpc_slice packed;

    (void)state;
    events[1].risk = (struct event_risk){ .layer = 3, .kind = 1, .head = 2, .to = 2, .mu = 1.5f };
    packed = rpc_event_pack(events, 2);
    for (uint64_t subscriber = 11; subscriber < 13; subscriber++) {
        Deltapq__V1__Events *m;

        head.subscriber_id = subscriber;
        m = message_of(&head, packed);
        assert_true(m->subscriber_id == subscriber && m->incarnation == 12 && m->lost == 13 &&
                    m->next_seq == 7 && m->n_events == 2);
        assert_int_equal(m->events[0]->what_case, DELTAPQ__V1__EVENT__WHAT_TILE_STORED);
        assert_true(m->events[0]->seq == 7 && m->events[0]->tile_stored->sequence_id == 1 &&
                    m->events[0]->tile_stored->first_token == 2 &&
                    m->events[0]->tile_stored->stored_bytes == 3 &&
                    m->events[0]->tile_stored->generation == 4);
        assert_int_equal(m->events[1]->what_case, DELTAPQ__V1__EVENT__WHAT_ZONE_CHANGED);
        assert_true(m->events[1]->zone_changed->layer == 3 &&
                    m->events[1]->zone_changed->kind == 1 &&
                    m->events[1]->zone_changed->head == 2 && m->events[1]->zone_changed->to == 2 &&
                    m->events[1]->zone_changed->mu == 1.5f);
        deltapq__v1__events__free_unpacked(m, NULL);
    }
    grpc_slice_unref(packed);
}

static void test_a_greeting_has_no_events(void **state)
{
    const struct rpc_event_head head = { 1, 2, 0, 4 };
    Deltapq__V1__Events *m = message_of(&head, grpc_empty_slice());

    (void)state;
    assert_true(m->n_events == 0 && m->next_seq == 4 && m->lost == 0);
    deltapq__v1__events__free_unpacked(m, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_full_message_is_below_64_KiB),
        cmocka_unit_test(test_a_message_is_a_head_and_shared_events),
        cmocka_unit_test(test_a_greeting_has_no_events),
    };
    int n_failed;

    grpc_init();
    n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    grpc_shutdown();
    return n_failed;
}
