/*
 * Records: a sequence's own bytes, on a strip
 *
 * One that is written anew is committed under the next version before the old one is freed. Attach
 * finds both after a crash in between, and the later one counts.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

struct record {
    struct strip strip;
};

int record_new(struct store *store, uint64_t sequence_id, const void *bytes, uint64_t n_bytes,
               uint64_t room_bytes, struct record *old, uint64_t now_ns, struct record **ret_record)
{
    struct arena_line line = {
        .kind = SLOT_KIND_RECORD,
        .sequence_id = sequence_id,
        .first_index = old ? old->strip.line.first_index + 1 : 0,
        .first_position = align_up(room_bytes, ARENA_PAGE),
    };
    struct record *record;
    int r;

    assert(n_bytes && n_bytes <= room_bytes);
    if (room_bytes > UINT32_MAX - ARENA_PAGE)
        return STORE_E_FULL;
    record = calloc(1, sizeof(*record));
    if (!record)
        return error_origin(-ENOMEM);
    r = strip_init(&record->strip, store, &line, line.first_position, now_ns);
    if (r) {
        free(record);
        return r;
    }
    r = strip_grow(&record->strip, bytes, n_bytes, 0);
    assert(!r); /* it has its slots and its checksum */
    record_free(old, now_ns);
    *ret_record = record;
    return 0;
}

int record_recover(struct store *store, const struct arena_line *line, uint32_t slot)
{
    struct record *record = calloc(1, sizeof(*record));

    if (!record)
        return error_origin(-ENOMEM);
    strip_recover(&record->strip, store, line, slot);
    return 0;
}

int record_grow(struct record *record, const void *bytes, uint64_t n_bytes)
{
    if (n_bytes > record->strip.room_bytes - record->strip.n_bytes)
        return STORE_E_FULL;
    return strip_grow(&record->strip, bytes, n_bytes, 0);
}

uint64_t record_sequence_id(const struct record *record)
{
    return record->strip.line.sequence_id;
}

int record_bytes(struct record *record, const uint8_t **ret_bytes, uint64_t *ret_n_bytes,
                 uint64_t *ret_room_bytes)
{
    struct strip *strip = &record->strip;
    int r = strip_check(strip);

    if (r)
        return r;
    *ret_bytes = arena_extent(&strip->store->arena, strip->first_page);
    *ret_n_bytes = strip->n_bytes;
    *ret_room_bytes = strip->room_bytes;
    return 0;
}

struct record *record_next(struct store *store, struct record *record)
{
    return (struct record *)strip_of_kind(record ? record->strip.next : store->strips,
                                          SLOT_KIND_RECORD);
}

struct record *record_free(struct record *record, uint64_t now_ns)
{
    if (record) {
        strip_deinit(&record->strip, now_ns);
        free(record);
    }
    return NULL;
}
