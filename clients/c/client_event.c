/*
 * An event as a flat struct
 *
 * Messages are told apart by their place in the oneof; their fields are found by name, so that one
 * that is new to a message, or a new message of known fields, needs nothing here.
 */
#include "clients/c/client_event.h"

#include <stdio.h>
#include <string.h>

#define FIELD(name, member) \
    { \
        name, offsetof(struct dpq_client_event, member), \
            sizeof(((struct dpq_client_event *)0)->member) \
    }

static const struct {
    const char *name;
    size_t offset, n_bytes;
} FIELDS[] = {
    FIELD("sequence_id", id),
    FIELD("client_id", id),
    FIELD("origin_id", origin_id),
    FIELD("first_token", first_token),
    FIELD("n_tokens", n_tokens),
    FIELD("generation", generation),
    FIELD("stored_bytes", n_bytes),
    FIELD("freed_bytes", n_bytes),
    FIELD("freed_staging_bytes", n_bytes),
    FIELD("wanted_bytes", n_bytes),
    FIELD("n_dropped_sequences", n_sequences),
    FIELD("done", done),
    FIELD("total", total),
    FIELD("key", digest),
    FIELD("profile_id", digest),
    FIELD("client_name", text),
    FIELD("model_name", text),
    FIELD("label", text),
    FIELD("layer", layer),
    FIELD("kind", kind),
    FIELD("head", head),
    FIELD("all_streams", all_streams),
    FIELD("from", zone_from),
    FIELD("to", zone_to),
    FIELD("cause", cause),
    FIELD("mu", mu),
};

static size_t width_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return 8;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_ENUM:
    case PROTOBUF_C_TYPE_FLOAT:
        return 4;
    default:
        return 0;
    }
}

static void copy_field(const ProtobufCFieldDescriptor *field, const void *from, uint8_t *to,
                       size_t n_bytes)
{
    const ProtobufCBinaryData *data = from;
    const char *text;

    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        memcpy(&text, from, sizeof(text));
        snprintf((char *)to, n_bytes, "%s", text);
        break;
    case PROTOBUF_C_TYPE_BYTES:
        if (data->len == n_bytes)
            memcpy(to, data->data, n_bytes);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        *(bool *)to = *(const protobuf_c_boolean *)from;
        break;
    default:
        if (width_of(field->type) == n_bytes)
            memcpy(to, from, n_bytes);
    }
}

void client_event_fill(const Deltapq__V1__Event *message, struct dpq_client_event *ret_event)
{
    const ProtobufCMessage *what = (const ProtobufCMessage *)message->sequence_created;

    *ret_event = (struct dpq_client_event){
        .seq = message->seq,
        .time_unix_ms = message->time_unix_ms,
        .what = (uint32_t)message->what_case, /* none: one that this client does not know */
    };
    if (!message->what_case || !what)
        return;
    for (unsigned i = 0; i < what->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &what->descriptor->fields[i];

        for (size_t k = 0; k < ARRAY_SIZE(FIELDS); k++)
            if (!strcmp(field->name, FIELDS[k].name))
                copy_field(field, (const uint8_t *)what + field->offset,
                           (uint8_t *)ret_event + FIELDS[k].offset, FIELDS[k].n_bytes);
    }
}
