/* clients/c/client_event.c: events as flat structs */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "clients/c/client_event.h"

static void test_zone_changed(void **state)
{
    Deltapq__V1__Event message = DELTAPQ__V1__EVENT__INIT;
    Deltapq__V1__ZoneChanged what = DELTAPQ__V1__ZONE_CHANGED__INIT;
    struct dpq_client_event event;

    (void)state;
    what.sequence_id = UINT64_MAX;
    what.first_token = 96;
    what.layer = 3;
    what.kind = 1;
    what.head = 2;
    what.from = DELTAPQ__V1__ZONE__ZONE_YELLOW;
    what.to = DELTAPQ__V1__ZONE__ZONE_RED;
    what.cause = DELTAPQ__V1__RISK_CAUSE__RISK_CAUSE_CUSUM;
    what.mu = 1.5f;
    message.seq = 7;
    message.time_unix_ms = 8;
    message.what_case = DELTAPQ__V1__EVENT__WHAT_ZONE_CHANGED;
    message.zone_changed = &what;
    client_event_fill(&message, &event);
    assert_true(event.seq == 7 && event.time_unix_ms == 8 && event.what == DPQ_CLIENT_ZONE_CHANGED);
    assert_true(event.id == UINT64_MAX && event.first_token == 96);
    assert_true(event.layer == 3 && event.kind == 1 && event.head == 2);
    assert_true(event.zone_from == 1 && event.zone_to == 2 && event.cause == 6 && event.mu == 1.5f);
    assert_true(!event.n_tokens && !event.n_bytes && !event.all_streams && !event.text[0]);
}

static void test_bytes_and_texts(void **state)
{
    Deltapq__V1__Event message = DELTAPQ__V1__EVENT__INIT;
    Deltapq__V1__ProfileInstalled what = DELTAPQ__V1__PROFILE_INSTALLED__INIT;
    struct dpq_client_event event;
    uint8_t digest[32] = { 1, 2, 3 };
    char name[300];

    (void)state;
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    what.profile_id = (ProtobufCBinaryData){ .len = 32, .data = digest };
    what.model_name = name;
    message.what_case = DELTAPQ__V1__EVENT__WHAT_PROFILE_INSTALLED;
    message.profile_installed = &what;
    client_event_fill(&message, &event);
    assert_memory_equal(event.digest, digest, 32);
    assert_int_equal(strlen(event.text), sizeof(event.text) - 1);
    what.profile_id.len = 31; /* not a digest */
    client_event_fill(&message, &event);
    assert_int_equal(event.digest[0], 0);
}

/* Each field of each event is somewhere. */
static void test_nothing_is_left_out(void **state)
{
    const ProtobufCMessageDescriptor *all = &deltapq__v1__event__descriptor;
    uint32_t n = 0;

    (void)state;
    for (unsigned i = 0; i < all->n_fields; i++) {
        const ProtobufCMessageDescriptor *type = all->fields[i].descriptor;
        uint64_t bytes[32] = { 0 }; /* a message of this type, made of 1s */
        Deltapq__V1__Event message = DELTAPQ__V1__EVENT__INIT;
        struct dpq_client_event event, empty;

        if (all->fields[i].type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        for (unsigned k = 0; k < type->n_fields; k++) {
            uint8_t digest[32] = { 1 };
            ProtobufCBinaryData data = { .len = 32, .data = digest };
            char *text = (char *)(uintptr_t) "1";
            uint64_t one = 1;
            uint8_t *at = (uint8_t *)bytes + type->fields[k].offset;

            assert_true(type->sizeof_message <= sizeof(bytes));
            type->message_init((ProtobufCMessage *)bytes);
            message.what_case = (Deltapq__V1__Event__WhatCase)all->fields[i].id;
            message.sequence_created = (Deltapq__V1__SequenceCreated *)bytes;
            client_event_fill(&message, &empty);
            assert_int_equal(empty.what, all->fields[i].id);
            if (type->fields[k].type == PROTOBUF_C_TYPE_BYTES)
                memcpy(at, &data, sizeof(data));
            else if (type->fields[k].type == PROTOBUF_C_TYPE_STRING)
                memcpy(at, &text, sizeof(text));
            else
                memcpy(at, &one,
                       type->fields[k].type == PROTOBUF_C_TYPE_UINT64 ||
                               type->fields[k].type == PROTOBUF_C_TYPE_FIXED64
                           ? 8
                           : 4);
            client_event_fill(&message, &event);
            assert_memory_not_equal(&event, &empty, sizeof(event));
            n++;
        }
    }
    assert_true(n > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zone_changed),
        cmocka_unit_test(test_bytes_and_texts),
        cmocka_unit_test(test_nothing_is_left_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
