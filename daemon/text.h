#pragma once

/* A text that grows: replies of the status pages. Running out of memory is remembered, not raised:
 * write everything, then ask text_failed() once. */

#include <stdbool.h>

#include "lib/base/defs.h"

struct text {
    char *bytes; /* not NUL-terminated; NULL when empty */
    size_t n, n_allocated;
    bool failed;
};

#define TEXT_NULL \
    { \
        0 \
    }

void text_deinit(struct text *text);

void text_add(struct text *text, const char *bytes, size_t n);
void text_printf(struct text *text, const char *format, ...) _printf_(2, 3);

/** text_json_string() - in quotes, escaped. Bytes that are not UTF-8 become U+FFFD. */
void text_json_string(struct text *text, const char *string);

/** text_label() - a Prometheus label's value in quotes, escaped */
void text_label(struct text *text, const char *string);
