/* Export files for programs outside: the one reader, by deltapq.h's names. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/crc32c.h"
#include "lib/base/error.h"
#include "lib/deltapq.h"
#include "lib/store/export_file.h"

struct dpq_export {
    struct export_reader reader;
};

int dpq_export_new(const void *bytes, size_t n_bytes, struct dpq_export **ret_export)
{
    struct dpq_export *e = calloc(1, sizeof(*e));

    if (!e)
        return error_origin(-ENOMEM);
    export_reader_init(&e->reader, bytes, n_bytes);
    *ret_export = e;
    return 0;
}

struct dpq_export *dpq_export_free(struct dpq_export *export_file)
{
    free(export_file);
    return NULL;
}

static int say(struct dpq_fault *fault, int outcome, const char *message)
{
    if (fault) {
        *fault = (struct dpq_fault){ .layer = -1, .kind = -1, .head = -1, .token = -1 };
        strncpy(fault->message, message, sizeof(fault->message) - 1);
    }
    return outcome;
}

int dpq_export_next(struct dpq_export *export_file, struct dpq_export_record *ret_record,
                    struct dpq_fault *ret_fault)
{
    struct export_reader *reader = &export_file->reader;
    struct dpq_export_record to = { 0 };
    struct export_record record;
    uint64_t before = reader->at;
    int e = export_next(reader, &record);

    if (e == EXPORT_E_CUT)
        return say(ret_fault, DPQ_E_CUT, "the file ends within a record: it is not complete");
    if (e == EXPORT_E_VERSION)
        return say(ret_fault, DPQ_E_VERSION, "an export file of a version that is not known here");
    if (e)
        return say(ret_fault, DPQ_E_CORRUPT, reader->reason);
    to.kind = record.kind;
    to.offset = before ? before : EXPORT_HEADER_BYTES;
    to.n_bytes = reader->at - to.offset;
    memcpy(&to.crc32c, reader->bytes + to.offset + 4, sizeof(to.crc32c));
    memcpy(&to.n_payload, reader->bytes + to.offset + 8, sizeof(to.n_payload));
    to.payload = reader->bytes + to.offset + EXPORT_HEADER_BYTES;
    if (record.kind == EXPORT_SEQUENCE) {
        to.n_tokens = record.sequence.n_tokens;
    } else if (record.kind == EXPORT_TILE) {
        to.first_index = record.tile.first_index;
        to.n_tokens = EXPORT_TILE_TOKENS;
    } else if (record.kind == EXPORT_TAIL) {
        to.first_index = record.tail.first_index;
        to.n_tokens = record.tail.n_tokens;
    }
    *ret_record = to;
    return 0;
}

uint32_t dpq_crc32c(uint32_t crc, const void *bytes, size_t n_bytes)
{
    return crc32c(crc, bytes, n_bytes);
}
