#include "daemon/rpc/rpc_message.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <stdlib.h>

#include "daemon/rpc/rpc_state.h"

enum {
    /* What unpacking may allocate: some tables of protobuf-c's, and for each byte on the wire five
     * of memory. A packed number of one byte becomes four; empty submessages or unknown fields
     * would become more than twenty. */
    BUDGET_BYTES = 65536,
    BUDGET_FACTOR = 5,
    ALLOCATION_BYTES = 16, /* what an allocation costs beside its bytes */
};

static void *budget_alloc(void *budget, size_t n_bytes)
{
    size_t *left = budget;

    if (*left < ALLOCATION_BYTES || n_bytes > *left - ALLOCATION_BYTES)
        return NULL;
    *left -= n_bytes + ALLOCATION_BYTES;
    return malloc(n_bytes);
}

static void budget_free(void *budget, void *p)
{
    (void)budget;
    free(p);
}

ProtobufCMessage *rpc_message_unpack(const ProtobufCMessageDescriptor *descriptor,
                                     grpc_byte_buffer *buffer)
{
    grpc_byte_buffer_reader reader;
    ProtobufCAllocator allocator = { .alloc = budget_alloc, .free = budget_free };
    ProtobufCMessage *message;
    grpc_slice bytes;
    size_t budget;

    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return NULL;
    bytes = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    budget = BUDGET_BYTES + BUDGET_FACTOR * GRPC_SLICE_LENGTH(bytes);
    allocator.allocator_data = &budget;
    message = protobuf_c_message_unpack(descriptor, &allocator, GRPC_SLICE_LENGTH(bytes),
                                        GRPC_SLICE_START_PTR(bytes));
    grpc_slice_unref(bytes);
    return message;
}

void rpc_message_free(ProtobufCMessage *message)
{
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
}

grpc_slice rpc_message_pack_slice(const ProtobufCMessage *message)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));

    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    return slice;
}

grpc_byte_buffer *rpc_message_pack(const ProtobufCMessage *message)
{
    grpc_slice slice = rpc_message_pack_slice(message);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);

    grpc_slice_unref(slice);
    return buffer;
}

/* On any thread of gRPC's, as late as it likes. */
static void let_go(void *bytes)
{
    RPC_ACQUIRE(bytes);
    free(bytes);
}

static size_t write_varint(uint8_t *p, uint64_t value)
{
    size_t n = 0;

    for (; value >= 128; value >>= 7)
        p[n++] = (uint8_t)(value | 128);
    p[n++] = (uint8_t)value;
    return n;
}

grpc_byte_buffer *rpc_message_pack_with(const ProtobufCMessage *message, uint32_t field,
                                        void *bytes, size_t n_bytes)
{
    uint8_t head[16];
    size_t n_head = write_varint(head, (uint64_t)field << 3 | 2);
    grpc_slice slices[3];
    grpc_byte_buffer *buffer;

    n_head += write_varint(head + n_head, n_bytes);
    RPC_RELEASE(bytes);
    slices[0] = rpc_message_pack_slice(message); /* fields may come in any order */
    slices[1] = grpc_slice_from_copied_buffer((const char *)head, n_head);
    slices[2] = grpc_slice_new_with_user_data(bytes, n_bytes, let_go, bytes);
    buffer = grpc_raw_byte_buffer_create(slices, 3);
    for (int i = 0; i < 3; i++)
        grpc_slice_unref(slices[i]);
    return buffer;
}
