#pragma once

/* One unary call over the gRPC C core, with protobuf-c messages; and its parts. */

#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>

#include "clients/c/client.h"

/**
 * client_channel_new() - to unix:path, a connection of its own; connects when first used
 * @for_events: with small windows, so that what a slow reader has not read waits in the daemon,
 *              where it is counted
 * Return: NULL: no memory.
 */
struct grpc_channel *client_channel_new(const char *path, bool for_events);
void client_channel_free(struct grpc_channel *channel);

/**
 * client_call() - send a request, wait for the reply
 * @method:    "/package.Service/Method"
 * @ret_reply: of type reply_type; free with client_message_free()
 * Return: 0; a gRPC status with error filled.
 */
int client_call(struct dpq_client *client, const char *method, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *reply_type, ProtobufCMessage **ret_reply,
                struct dpq_client_error *error) _must_check_;

/* --- its parts, for calls that take longer ---------------------------------------------------- */

/** client_pack() - the caller's: grpc_byte_buffer_destroy() */
grpc_byte_buffer *client_pack(const ProtobufCMessage *message);

/** client_unpack() - @buffer: may be NULL; stays the caller's. Return: 0; DATA_LOSS */
int client_unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *type,
                  ProtobufCMessage **ret_message, struct dpq_client_error *error) _must_check_;

/** client_refused() - a status that is not OK. Return: its enum dpq_client_code */
int client_refused(grpc_status_code status, grpc_slice details, const grpc_metadata_array *trailing,
                   struct dpq_client_error *error);

/* --- messages --------------------------------------------------------------------------------- */

ProtobufCMessage *client_message_free(ProtobufCMessage *message);
DEFINE_CLEANUP(ProtobufCMessage *, client_message_free);

/* A string that the wire may carry: never NULL. */
static inline char *client_text(const char *text)
{
    return (char *)(uintptr_t)(text ? text : "");
}

static inline ProtobufCBinaryData client_data(const void *bytes, size_t n_bytes)
{
    return (ProtobufCBinaryData){ .len = n_bytes, .data = (uint8_t *)(uintptr_t)bytes };
}
