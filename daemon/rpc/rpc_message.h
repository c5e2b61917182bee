#pragma once

/* protobuf-c messages in and out of gRPC's byte buffers. */

#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <protobuf-c/protobuf-c.h>

/**
 * rpc_message_unpack() - judge the bytes of a message
 * Allocates in proportion to the bytes at most, whatever they say.
 * Return: the message, freed with rpc_message_free(); NULL when the bytes are none, or out of
 * memory
 */
ProtobufCMessage *rpc_message_unpack(const ProtobufCMessageDescriptor *descriptor,
                                     grpc_byte_buffer *buffer);

/** rpc_message_free() - accepts NULL */
void rpc_message_free(ProtobufCMessage *message);

/** rpc_message_pack() - the caller's, to be destroyed after its batch was started */
grpc_byte_buffer *rpc_message_pack(const ProtobufCMessage *message);

/** rpc_message_pack_slice() - the same as one slice, the caller's */
grpc_slice rpc_message_pack_slice(const ProtobufCMessage *message);

/**
 * rpc_message_pack_with() - the same, and a bytes field that is not copied
 * @message:      without that field
 * @field:        its number
 * @bytes:        malloc'ed; freed when gRPC has no more use for it
 */
grpc_byte_buffer *rpc_message_pack_with(const ProtobufCMessage *message, uint32_t field,
                                        void *bytes, size_t n_bytes);
