/* daemon/rpc/rpc_message.c: messages in and out of byte buffers, with a limit on memory */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>

#include "daemon/rpc/rpc_message.h"
#include "deltapq/v1/kv_cache.pb-c.h"

static grpc_byte_buffer *buffer_of(const void *bytes, size_t n_bytes)
{
    /* in two pieces, as messages come */
    grpc_slice slices[2] = { grpc_slice_from_copied_buffer(bytes, n_bytes / 2),
                             grpc_slice_from_copied_buffer((const char *)bytes + n_bytes / 2,
                                                           n_bytes - n_bytes / 2) };
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(slices, 2);

    grpc_slice_unref(slices[0]);
    grpc_slice_unref(slices[1]);
    return buffer;
}

static ProtobufCMessage *unpack(const ProtobufCMessageDescriptor *descriptor, const void *bytes,
                                size_t n_bytes)
{
    grpc_byte_buffer *buffer = buffer_of(bytes, n_bytes);
    ProtobufCMessage *message = rpc_message_unpack(descriptor, buffer);

    grpc_byte_buffer_destroy(buffer);
    return message;
}

static void test_there_and_back(void **state)
{
    Deltapq__V1__AppendRequest request = DELTAPQ__V1__APPEND_REQUEST__INIT;
    uint32_t ids[3] = { 1, 1000, UINT32_MAX };
    Deltapq__V1__AppendRequest *copy;
    grpc_byte_buffer *buffer;

    (void)state;
    request.sequence_id = 77;
    request.token_ids = ids;
    request.n_token_ids = 3;
    buffer = rpc_message_pack(&request.base);
    copy = (void *)rpc_message_unpack(&deltapq__v1__append_request__descriptor, buffer);
    grpc_byte_buffer_destroy(buffer);
    assert_non_null(copy);
    assert_int_equal(copy->sequence_id, 77);
    assert_int_equal(copy->n_token_ids, 3);
    assert_memory_equal(copy->token_ids, ids, sizeof(ids));
    rpc_message_free(&copy->base);
    rpc_message_free(NULL);
}

static void test_bytes_by_reference(void **state)
{
    const size_t sizes[] = { 1, 23, 24, 127, 128, 100000, 1 << 20 };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        Deltapq__V1__ReadReply reply = DELTAPQ__V1__READ_REPLY__INIT, *copy;
        uint8_t *bytes = malloc(sizes[i]);
        grpc_byte_buffer *buffer;

        assert_non_null(bytes);
        memset(bytes, 0x5a, sizes[i]);
        reply.generation = 1234567;
        reply.n_coded_tokens = 8;
        buffer = rpc_message_pack_with(&reply.base, 1, bytes, sizes[i]); /* frees bytes */
        copy = (void *)rpc_message_unpack(&deltapq__v1__read_reply__descriptor, buffer);
        grpc_byte_buffer_destroy(buffer);
        assert_non_null(copy);
        assert_int_equal(copy->generation, 1234567);
        assert_int_equal(copy->n_coded_tokens, 8);
        assert_int_equal(copy->inline_data.len, sizes[i]);
        assert_int_equal(copy->inline_data.data[0], 0x5a);
        assert_int_equal(copy->inline_data.data[sizes[i] - 1], 0x5a);
        rpc_message_free(&copy->base);
    }
}

static void test_bytes_that_are_no_message(void **state)
{
    static const char *const texts[] = { "\x22\xff", "\x07",
                                         "\x0a\x05"
                                         "abc" };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        assert_null(unpack(&deltapq__v1__append_request__descriptor, texts[i], strlen(texts[i])));
}

/* n copies of a piece, and whether they are taken */
static void repeat(const ProtobufCMessageDescriptor *descriptor, const char *piece, size_t n_piece,
                   size_t n, bool good)
{
    char *bytes = malloc(n_piece * n);
    ProtobufCMessage *message;

    assert_non_null(bytes);
    for (size_t i = 0; i < n; i++)
        memcpy(bytes + i * n_piece, piece, n_piece);
    message = unpack(descriptor, bytes, n_piece * n);
    assert_int_equal(message != NULL, good);
    rpc_message_free(message);
    free(bytes);
}

static void test_memory_is_in_proportion(void **state)
{
    const ProtobufCMessageDescriptor *request = &deltapq__v1__lookup_request__descriptor;
    const ProtobufCMessageDescriptor *reply = &deltapq__v1__lookup_reply__descriptor;
    char *ids = malloc(8 + (1 << 20));
    ProtobufCMessage *message;

    (void)state;
    assert_non_null(ids);
    repeat(request, "\x78\x00", 2, 100, true); /* unknown fields */
    repeat(request, "\x78\x00", 2, 1 << 20, false);
    repeat(reply, "\x2a\x00", 2, 100, true); /* empty submessages */
    repeat(reply, "\x2a\x00", 2, 1 << 20, false);

    memcpy(ids, "\x32\x80\x80\x40", 4); /* 2^20 numbers of one byte, packed: the honest extreme */
    memset(ids + 4, 1, 1 << 20);
    message = unpack(request, ids, 4 + (1 << 20));
    assert_non_null(message);
    assert_int_equal(((Deltapq__V1__LookupRequest *)message)->n_token_ids, 1 << 20);
    rpc_message_free(message);
    free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_bytes_by_reference),
        cmocka_unit_test(test_bytes_that_are_no_message),
        cmocka_unit_test(test_memory_is_in_proportion),
    };
    int r;

    grpc_init();
    r = cmocka_run_group_tests(tests, NULL, NULL);
    grpc_shutdown();
    return r;
}
