#include "daemon/rpc/rpc_error.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "daemon/rpc/rpc_check.h"
#include "lib/base/defs.h"

/* --- a writer for some small messages that have no .proto here -------------------------------- */

enum {
    /* a code, two texts as long as session_error's, at most 4 entries of metadata, the rest is
     * names and tags */
    DETAILS_BYTES = 2048,
    NO_ROOM_RETRY_MS = 200,
};

struct writer {
    size_t n;
    uint8_t bytes[DETAILS_BYTES];
};

static void put_byte(struct writer *w, uint8_t byte)
{
    assert(w->n < sizeof(w->bytes)); /* everything that goes in has a fixed limit */
    w->bytes[w->n++] = byte;
}

static void put_varint(struct writer *w, uint64_t value)
{
    for (; value >= 128; value >>= 7)
        put_byte(w, (uint8_t)(value | 128));
    put_byte(w, (uint8_t)value);
}

static void put_number(struct writer *w, uint32_t field, uint64_t value)
{
    put_varint(w, field << 3);
    put_varint(w, value);
}

static void put_bytes(struct writer *w, uint32_t field, const void *bytes, size_t n_bytes)
{
    put_varint(w, field << 3 | 2);
    put_varint(w, n_bytes);
    assert(n_bytes <= sizeof(w->bytes) - w->n);
    memcpy(w->bytes + w->n, bytes, n_bytes);
    w->n += n_bytes;
}

static void put_text(struct writer *w, uint32_t field, const char *text)
{
    put_bytes(w, field, text, strlen(text));
}

static void put_any(struct writer *w, uint32_t field, const char *type, const struct writer *value)
{
    struct writer any = { 0 };

    put_text(&any, 1, type);
    put_bytes(&any, 2, value->bytes, value->n);
    put_bytes(w, field, any.bytes, any.n);
}

/* an entry of map<string, string> */
static void put_entry(struct writer *w, uint32_t field, const char *key, const char *value)
{
    struct writer entry = { 0 };

    put_text(&entry, 1, key);
    put_text(&entry, 2, value);
    put_bytes(w, field, entry.bytes, entry.n);
}

static void put_place(struct writer *w, uint32_t field, const char *key, int64_t value)
{
    char text[24];

    if (value < 0)
        return;
    snprintf(text, sizeof(text), "%lld", (long long)value);
    put_entry(w, field, key, text);
}

/* --- the messages ----------------------------------------------------------------------------- */

static void put_error_info(struct writer *w, const struct session_error *error)
{
    struct writer info = { 0 };

    put_text(&info, 1, error->reason);
    put_text(&info, 2, "deltapq.v1");
    put_place(&info, 3, "layer", error->layer);
    if (error->kind >= 0)
        put_entry(&info, 3, "kind", error->kind == DPQ_V ? "V" : "K");
    put_place(&info, 3, "head", error->head);
    put_place(&info, 3, "token", error->token);
    put_any(w, 3, "type.googleapis.com/google.rpc.ErrorInfo", &info);
}

static void put_retry_info(struct writer *w, uint32_t retry_ms)
{
    struct writer info = { 0 }, duration = { 0 };

    put_number(&duration, 1, retry_ms / 1000);
    put_number(&duration, 2, (uint64_t)(retry_ms % 1000) * 1000000);
    put_bytes(&info, 1, duration.bytes, duration.n);
    put_any(w, 3, "type.googleapis.com/google.rpc.RetryInfo", &info);
}

grpc_slice rpc_error_details(const struct session_error *error)
{
    struct writer w = { 0 };

    put_number(&w, 1, (uint64_t)rpc_error_status(error->code));
    put_text(&w, 2, error->message);
    put_error_info(&w, error);
    if (error->retry_ms > 0)
        put_retry_info(&w, error->retry_ms);
    return grpc_slice_from_copied_buffer((const char *)w.bytes, w.n);
}

/* Clients that take what is theirs make room: soon, or when they are let go as stalled. */
void rpc_error_no_room(struct session_error *error, const char *what, uint64_t n_bytes,
                       uint64_t limit_bytes)
{
    session_error_set(error, SESSION_RESOURCE_EXHAUSTED, "MEMORY",
                      "no room for a %s of %llu bytes: messages of other calls take all of %llu",
                      what, (unsigned long long)n_bytes, (unsigned long long)limit_bytes);
    error->retry_ms = NO_ROOM_RETRY_MS;
}

void rpc_error_clean(struct session_error *error)
{
    error->message[sizeof(error->message) - 1] = '\0';
    error->reason[sizeof(error->reason) - 1] = '\0';
    for (char *p = error->message; *(p += rpc_check_utf8(p));)
        *p = '?';
}

grpc_status_code rpc_error_status(enum session_code code)
{
    static const grpc_status_code codes[] = {
        [SESSION_OK] = GRPC_STATUS_OK,
        [SESSION_INVALID_ARGUMENT] = GRPC_STATUS_INVALID_ARGUMENT,
        [SESSION_NOT_FOUND] = GRPC_STATUS_NOT_FOUND,
        [SESSION_OUT_OF_RANGE] = GRPC_STATUS_OUT_OF_RANGE,
        [SESSION_PERMISSION_DENIED] = GRPC_STATUS_PERMISSION_DENIED,
        [SESSION_RESOURCE_EXHAUSTED] = GRPC_STATUS_RESOURCE_EXHAUSTED,
        [SESSION_FAILED_PRECONDITION] = GRPC_STATUS_FAILED_PRECONDITION,
        [SESSION_ALREADY_EXISTS] = GRPC_STATUS_ALREADY_EXISTS,
        [SESSION_ABORTED] = GRPC_STATUS_ABORTED,
        [SESSION_DATA_LOSS] = GRPC_STATUS_DATA_LOSS,
        [SESSION_CANCELLED] = GRPC_STATUS_CANCELLED,
        [SESSION_UNAVAILABLE] = GRPC_STATUS_UNAVAILABLE,
        [SESSION_INTERNAL] = GRPC_STATUS_INTERNAL,
    };

    return (size_t)code < ARRAY_SIZE(codes) ? codes[code] : GRPC_STATUS_INTERNAL;
}
