/*
 * Server reflection: a walk over the embedded FileDescriptorSet
 *
 * No index: the set has some tens of kilobytes, most of which are stepped over, and nobody asks
 * often.
 *
 *     FileDescriptorSet  {1 file*}
 *     FileDescriptorProto{1 name, 2 package, 4 message*, 5 enum*, 6 service*}
 *     DescriptorProto    {1 name, 3 message*, 4 enum*, 2 field*, 8 oneof*}
 *     ServiceDescriptor  {1 name, 2 method*}     EnumDescriptorProto {1 name, 2 value*}
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "daemon/rpc/rpc_methods.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

/* descriptor_set.c, generated */
extern const unsigned char descriptor_set[];
extern const size_t descriptor_set_bytes;

enum {
    SET_FILE = 1,
    NAME = 1, /* of all descriptors */
    FILE_PACKAGE = 2,
    FILE_MESSAGE = 4,
    FILE_ENUM = 5,
    FILE_SERVICE = 6,
    MAX_SERVICES = 16,
};

/* --- the walk --------------------------------------------------------------------------------- */

struct span {
    const uint8_t *begin, *end;
};

static uint64_t take_varint(struct span *from)
{
    uint64_t value = 0;

    for (int shift = 0; from->begin < from->end && shift < 64; shift += 7) {
        value |= (uint64_t)(*from->begin & 127) << shift;
        if (!(*from->begin++ & 128))
            break;
    }
    return value;
}

/* The next field that has a length; others are stepped over. False: there is none, or these bytes
 * are no message (a symbol that was asked for can lead into text). */
static bool take_field(struct span *from, uint32_t *ret_field, struct span *ret_content)
{
    while (from->begin < from->end) {
        uint64_t tag = take_varint(from), n_bytes;

        if ((tag & 7) == 0) {
            take_varint(from);
            continue;
        }
        n_bytes = (tag & 7) == 2 ? take_varint(from) : UINT64_MAX; /* descriptors have no others */
        if (n_bytes > (uint64_t)(from->end - from->begin))
            return false;
        *ret_field = (uint32_t)(tag >> 3);
        *ret_content = (struct span){ from->begin, from->begin + n_bytes };
        from->begin += n_bytes;
        return true;
    }
    return false;
}

/* The first one of that number; empty when there is none. */
static struct span field_of(struct span message, uint32_t field)
{
    struct span content;
    uint32_t f;

    while (take_field(&message, &f, &content)) {
        if (f == field)
            return content;
    }
    return (struct span){ message.end, message.end };
}

static size_t length(struct span span)
{
    return (size_t)(span.end - span.begin);
}

static bool is_text(struct span span, const char *text, size_t n)
{
    return length(span) == n && !memcmp(span.begin, text, n);
}

/* --- questions -------------------------------------------------------------------------------- */

static bool next_file(struct span *set, struct span *ret_file)
{
    uint32_t field;

    while (take_field(set, &field, ret_file)) {
        if (field == SET_FILE)
            return true;
    }
    return false;
}

static struct span whole_set(void)
{
    return (struct span){ descriptor_set, descriptor_set + descriptor_set_bytes };
}

static bool find_file(const char *name, struct span *ret_file)
{
    struct span set = whole_set();

    while (next_file(&set, ret_file)) {
        if (is_text(field_of(*ret_file, NAME), name, strlen(name)))
            return true;
    }
    return false;
}

/* A member of that name: of a file (its messages, enums, services), or of one of these. */
static bool find_member(struct span scope, bool is_file, const char *name, size_t n,
                        struct span *ret_member)
{
    uint32_t field;

    while (take_field(&scope, &field, ret_member)) {
        if (is_file && field != FILE_MESSAGE && field != FILE_ENUM && field != FILE_SERVICE)
            continue;
        if (field != NAME && is_text(field_of(*ret_member, NAME), name, n))
            return true;
    }
    return false;
}

/* "package.Outer.Inner": from the file inwards, one name at a time. */
static bool has_symbol(struct span file, const char *symbol)
{
    struct span package = field_of(file, FILE_PACKAGE), scope = file;
    size_t n = length(package);
    bool is_file = true;

    if (n) {
        if (strncmp(symbol, (const char *)package.begin, n) || symbol[n] != '.')
            return false;
        symbol += n + 1;
    }
    for (;; symbol += n + 1, is_file = false) {
        n = strcspn(symbol, ".");
        if (!find_member(scope, is_file, symbol, n, &scope))
            return false;
        if (!symbol[n])
            return true;
    }
}

static bool find_symbol(const char *symbol, struct span *ret_file)
{
    struct span set = whole_set();

    while (next_file(&set, ret_file)) {
        if (has_symbol(*ret_file, symbol))
            return true;
    }
    return false;
}

/* --- replies ---------------------------------------------------------------------------------- */

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;

#define REQUEST(name)  GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name
#define RESPONSE(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##name

struct service_names {
    size_t n;
    char text[MAX_SERVICES][96];
};

static void list_services(struct service_names *names)
{
    struct span set = whole_set(), file, content, package, name;
    uint32_t field;

    while (next_file(&set, &file)) {
        package = field_of(file, FILE_PACKAGE);
        while (take_field(&file, &field, &content)) {
            if (field != FILE_SERVICE)
                continue;
            name = field_of(content, NAME);
            assert(names->n < MAX_SERVICES);
            snprintf(names->text[names->n++], sizeof(names->text[0]), "%.*s.%.*s",
                     (int)length(package), (const char *)package.begin, (int)length(name),
                     (const char *)name.begin);
        }
    }
}

static void reply_services(struct rpc_call *call, reflection_response *reply)
{
    struct service_names names = { 0 };
    Grpc__Reflection__V1__ServiceResponse services[MAX_SERVICES], *pointers[MAX_SERVICES];
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;

    list_services(&names);
    for (size_t i = 0; i < names.n; i++) {
        grpc__reflection__v1__service_response__init(&services[i]);
        services[i].name = names.text[i];
        pointers[i] = &services[i];
    }
    list.n_service = names.n;
    list.service = pointers;
    reply->message_response_case = RESPONSE(LIST_SERVICES_RESPONSE);
    reply->list_services_response = &list;
    rpc_call_send(call, &reply->base);
}

static void reply_file(struct rpc_call *call, reflection_response *reply, struct span file)
{
    ProtobufCBinaryData bytes = { .len = length(file), .data = (uint8_t *)file.begin };
    Grpc__Reflection__V1__FileDescriptorResponse found =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;

    found.n_file_descriptor_proto = 1;
    found.file_descriptor_proto = &bytes;
    reply->message_response_case = RESPONSE(FILE_DESCRIPTOR_RESPONSE);
    reply->file_descriptor_response = &found;
    rpc_call_send(call, &reply->base);
}

static void reply_error(struct rpc_call *call, reflection_response *reply, grpc_status_code code,
                        const char *message)
{
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;

    error.error_code = (int32_t)code;
    error.error_message = (char *)message;
    reply->message_response_case = RESPONSE(ERROR_RESPONSE);
    reply->error_response = &error;
    rpc_call_send(call, &reply->base);
}

void rpc_reflect(struct rpc_call *call, const void *message)
{
    const reflection_request *request = message;
    reflection_response reply = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    struct span file;

    reply.valid_host = request->host;
    reply.original_request = (reflection_request *)request;
    switch (request->message_request_case) {
    case REQUEST(LIST_SERVICES):
        reply_services(call, &reply);
        return;
    case REQUEST(FILE_BY_FILENAME):
        if (find_file(request->file_by_filename, &file))
            reply_file(call, &reply, file);
        else
            reply_error(call, &reply, GRPC_STATUS_NOT_FOUND, "there is no such file");
        return;
    case REQUEST(FILE_CONTAINING_SYMBOL):
        if (find_symbol(request->file_containing_symbol, &file))
            reply_file(call, &reply, file);
        else
            reply_error(call, &reply, GRPC_STATUS_NOT_FOUND, "there is no such symbol");
        return;
    case REQUEST(FILE_CONTAINING_EXTENSION):
    case REQUEST(ALL_EXTENSION_NUMBERS_OF_TYPE):
        reply_error(call, &reply, GRPC_STATUS_NOT_FOUND, "there are no extensions in proto3");
        return;
    default:
        reply_error(call, &reply, GRPC_STATUS_INVALID_ARGUMENT, "the request asks for nothing");
    }
}
