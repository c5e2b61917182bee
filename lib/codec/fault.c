#include "lib/codec/fault.h"

#include <stdarg.h>
#include <stdio.h>

static void fill(struct dpq_fault *fault, int32_t layer, int32_t kind, int32_t head, int64_t token,
                 const char *format, va_list args)
{
    fault->layer = layer;
    fault->kind = kind;
    fault->head = head;
    fault->token = token;
    vsnprintf(fault->message, sizeof(fault->message), format, args);
}

int fault_set(struct dpq_fault *fault, int outcome, const char *format, ...)
{
    va_list args;

    if (!fault)
        return outcome;
    va_start(args, format);
    fill(fault, -1, -1, -1, -1, format, args);
    va_end(args);
    return outcome;
}

int fault_set_at(struct dpq_fault *fault, int outcome, int32_t layer, int32_t kind, int32_t head,
                 int64_t token, const char *format, ...)
{
    va_list args;

    if (!fault)
        return outcome;
    va_start(args, format);
    fill(fault, layer, kind, head, token, format, args);
    va_end(args);
    return outcome;
}
