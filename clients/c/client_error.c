/*
 * What a call says when it does not succeed
 *
 * The daemon attaches a google.rpc.Status to each error: {1 code, 2 message, 3 Any …}, where an Any
 * is {1 type URL, 2 bytes} and the ErrorInfo in it {1 reason, 2 domain, 3 metadata}. Of all that
 * only the reason is wanted: three nested look-ups of a field, over bytes that came from outside.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "clients/c/client.h"

int client_error_set(struct dpq_client_error *error, int code, const char *reason,
                     const char *format, ...)
{
    va_list args;

    if (!error)
        return code;
    *error = (struct dpq_client_error){ .code = code };
    snprintf(error->reason, sizeof(error->reason), "%s", reason);
    va_start(args, format);
    vsnprintf(error->message, sizeof(error->message), format, args);
    va_end(args);
    return code;
}

struct span {
    const uint8_t *at;
    size_t n;
};

static bool take_varint(struct span *s, uint64_t *ret_value)
{
    uint64_t value = 0;

    for (unsigned shift = 0; s->n && shift < 64; shift += 7) {
        uint8_t byte = *s->at++;

        s->n--;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

/* The next field of a message; value is empty unless the field is length-delimited. */
static bool take_field(struct span *s, uint64_t *ret_field, struct span *ret_value)
{
    uint64_t tag, n = 0;

    if (!take_varint(s, &tag))
        return false;
    *ret_value = (struct span){ .at = s->at };
    switch (tag & 7) {
    case 0:
        if (!take_varint(s, &n))
            return false;
        n = 0;
        break;
    case 1:
        n = 8;
        break;
    case 2:
        if (!take_varint(s, &n))
            return false;
        *ret_value = (struct span){ .at = s->at, .n = (size_t)n };
        break;
    case 5:
        n = 4;
        break;
    default:
        return false;
    }
    if (n > s->n) /* then the value is not there either */
        return false;
    s->at += n;
    s->n -= (size_t)n;
    *ret_field = tag >> 3;
    return true;
}

static bool find_field(struct span message, uint64_t field, struct span *ret_value)
{
    uint64_t have;

    while (message.n && take_field(&message, &have, ret_value))
        if (have == field)
            return true;
    return false;
}

static bool ends_with(struct span s, const char *end)
{
    size_t n = strlen(end);

    return s.n >= n && !memcmp(s.at + s.n - n, end, n);
}

void client_error_reason(const uint8_t *bytes, size_t n_bytes, char ret_reason[32])
{
    struct span status = { .at = bytes, .n = n_bytes }, any, type, info, reason;
    uint64_t field;

    ret_reason[0] = '\0';
    while (status.n && take_field(&status, &field, &any)) {
        if (field != 3 || !find_field(any, 1, &type) || !ends_with(type, "/google.rpc.ErrorInfo"))
            continue;
        if (!find_field(any, 2, &info) || !find_field(info, 1, &reason) || reason.n > 31)
            return;
        memcpy(ret_reason, reason.at, reason.n);
        ret_reason[reason.n] = '\0';
        return;
    }
}
