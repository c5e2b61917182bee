#pragma once

/* One unary call over the gRPC C core, with protobuf-c messages. */

#include <protobuf-c/protobuf-c.h>

#include "clients/c/client.h"

/** client_channel_new() - to unix:path; connects when first used. NULL: no memory */
struct grpc_channel *client_channel_new(const char *path);
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
