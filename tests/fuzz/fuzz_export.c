/* export_file: whatever the bytes are, records lie inside them, and reading ends */

#include <stdlib.h>

#include "tests/util/export_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned walk(const uint8_t *p, uint64_t n)
{
    unsigned sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += p[i];
    return sum;
}

static unsigned touch(const struct export_record *r)
{
    switch (r->kind) {
    case EXPORT_PROFILE:
        return walk(r->profile.bytes, r->profile.n_bytes);
    case EXPORT_SEQUENCE:
        return walk(r->sequence.tokens, 4 * r->sequence.n_tokens) +
               walk(r->sequence.adapter, r->sequence.n_adapter) +
               walk(r->sequence.salt, r->sequence.n_salt);
    case EXPORT_TILE:
        return walk(r->tile.base, r->tile.n_base) + walk(r->tile.fine, r->tile.n_fine);
    case EXPORT_TAIL:
        return walk(r->tail.rows, r->tail.n_bytes);
    default:
        return 0;
    }
}

/* Each record's checksum is put right before it is read, so that the rest is reached. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size ? size : 1);
    static volatile unsigned sink;

    if (!bytes)
        return 0;
    if (size)
        memcpy(bytes, data, size);
    for (int sealed = 0; sealed < 2; sealed++) {
        struct export_reader reader;
        struct export_record record;

        export_reader_init(&reader, bytes, size);
        do {
            if (sealed)
                export_seal(bytes, size, reader.at ? reader.at : 16);
            if (export_next(&reader, &record))
                break;
            sink += touch(&record);
        } while (true);
    }
    free(bytes);
    return 0;
}
