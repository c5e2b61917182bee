#include "daemon/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void text_deinit(struct text *text)
{
    free(text->bytes);
    *text = (struct text)TEXT_NULL;
}

static bool text_reserve(struct text *text, size_t n)
{
    size_t size = text->n_allocated ? text->n_allocated : 4096;
    char *bytes;

    if (text->failed)
        return false;
    if (n <= text->n_allocated - text->n)
        return true;
    while (size - text->n < n)
        size *= 2;
    bytes = realloc(text->bytes, size);
    if (!bytes) {
        text->failed = true;
        return false;
    }
    text->bytes = bytes;
    text->n_allocated = size;
    return true;
}

void text_add(struct text *text, const char *bytes, size_t n)
{
    if (!n || !text_reserve(text, n))
        return;
    memcpy(text->bytes + text->n, bytes, n);
    text->n += n;
}

void text_printf(struct text *text, const char *format, ...)
{
    va_list args, again;
    int n;

    va_start(args, format);
    va_copy(again, args);
    n = vsnprintf(NULL, 0, format, args);
    if (n < 0)
        text->failed = true;
    else if (text_reserve(text, (size_t)n + 1)) {
        vsnprintf(text->bytes + text->n, (size_t)n + 1, format, again);
        text->n += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

/* Length of the UTF-8 sequence at s, 0 when it is none (overlong and surrogate forms included). */
static size_t utf8_length(const unsigned char *s)
{
    uint32_t c;
    size_t n;

    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    c = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) { /* stops at the terminating NUL */
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if ((n == 3 && c < 0x800) || (n == 4 && (c < 0x10000 || c > 0x10ffff)) ||
        (c >= 0xd800 && c < 0xe000))
        return 0;
    return n;
}

void text_json_string(struct text *text, const char *string)
{
    text_add(text, "\"", 1);
    for (const char *s = string; *s;) {
        size_t n = utf8_length((const unsigned char *)s);

        if (!n)
            text_add(text, "\\ufffd", 6);
        else if (*s == '"' || *s == '\\')
            text_printf(text, "\\%c", *s);
        else if ((unsigned char)*s < 0x20 || *s == 0x7f)
            text_printf(text, "\\u%04x", (unsigned)(unsigned char)*s);
        else
            text_add(text, s, n);
        s += n ? n : 1;
    }
    text_add(text, "\"", 1);
}

void text_label(struct text *text, const char *string)
{
    text_add(text, "\"", 1);
    for (const char *s = string; *s; s++) {
        if (*s == '"' || *s == '\\')
            text_printf(text, "\\%c", *s);
        else if (*s == '\n')
            text_add(text, "\\n", 2);
        else
            text_add(text, s, 1);
    }
    text_add(text, "\"", 1);
}
