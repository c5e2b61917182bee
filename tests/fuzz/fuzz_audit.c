/*
 * audit: whatever the bytes are, they are refused, or they are what the rows read from them give
 *
 * Input: an audit section. It is parsed as it is, and once more with its header put right for the
 * rows that there is room for, so that the rest is reached. Each row accepted has a sentence.
 */

#include <stdlib.h>
#include <string.h>

#include "lib/risk/risk_audit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_ROWS = 64 };

static void parse(const uint8_t *bytes, size_t n_bytes)
{
    static struct risk_audit_row rows[MAX_ROWS];
    char text[RISK_AUDIT_TEXT_BYTES];
    uint8_t *again;
    size_t n_rows = MAX_ROWS + 1;

    if (risk_audit_parse(bytes, n_bytes, MAX_ROWS, rows, &n_rows)) {
        if (n_rows != MAX_ROWS + 1)
            abort();
        return;
    }
    again = malloc(risk_audit_bytes(n_rows));
    if (!again || n_rows > MAX_ROWS || risk_audit_bytes(n_rows) != n_bytes)
        abort();
    risk_audit_write(rows, n_rows, again);
    if (memcmp(again, bytes, n_bytes))
        abort();
    free(again);
    for (size_t i = 0; i < n_rows; i++) {
        risk_audit_reason_text(&rows[i], text);
        if (!memchr(text, 0, sizeof(text)) || !text[0])
            abort();
        risk_audit_choose(&rows[i], (uint32_t)n_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n_head = risk_audit_bytes(0), n_row = risk_audit_bytes(1) - n_head;
    size_t n_rows = size < n_head ? 0 : (size - n_head) / n_row;
    uint8_t *bytes;

    parse(data, size);
    if (size < n_head || n_rows > MAX_ROWS)
        return 0;
    bytes = malloc(n_head + n_rows * n_row);
    if (!bytes)
        abort();
    risk_audit_write(NULL, 0, bytes);
    bytes[16] = (uint8_t)n_rows;
    memcpy(bytes + n_head, data + n_head, n_rows * n_row);
    parse(bytes, n_head + n_rows * n_row);
    free(bytes);
    return 0;
}
