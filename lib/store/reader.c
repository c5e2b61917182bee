/*
 * Reading an arena from another process
 *
 * The mapping is read-only and is not trusted: a line is copied once, judged in the copy, and used
 * from the copy. The word is loaded before (acquire) and compared after what it protects was read,
 * behind an acquire fence: then what was read belongs to that generation.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/crc32c.h"
#include "lib/base/error.h"
#include "lib/base/hash.h"
#include "lib/store/arena.h"
#include "lib/store/map.h"

#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan" /* see arena.c */
#endif

struct dpq_reader {
    const uint8_t *bytes;
    uint64_t n_bytes;
    struct arena_header header;
};

DEFINE_CLEANUP(struct dpq_reader *, dpq_reader_free);

static int say(struct dpq_fault *fault, int outcome, const char *message)
{
    if (fault) {
        *fault = (struct dpq_fault){ .layer = -1, .kind = -1, .head = -1, .token = -1 };
        strncpy(fault->message, message, sizeof(fault->message) - 1);
    }
    return outcome;
}

static bool valid(const struct arena_header *h)
{
    return h->magic == ARENA_MAGIC &&
           crc32c(0, h, offsetof(struct arena_header, crc32c)) == h->crc32c;
}

/* The valid copy with the higher seq. */
static int choose_header(const uint8_t *bytes, uint64_t n_bytes, struct arena_header *ret_header)
{
    struct arena_header copies[2];

    if (n_bytes < 2 * ARENA_PAGE)
        return 1;
    memcpy(&copies[0], bytes, sizeof(copies[0]));
    memcpy(&copies[1], bytes + ARENA_HEADER_STEP, sizeof(copies[1]));
    if (valid(&copies[1]) && (!valid(&copies[0]) || copies[1].seq > copies[0].seq))
        copies[0] = copies[1];
    if (!valid(&copies[0]))
        return 1;
    *ret_header = copies[0];
    return 0;
}

static bool consistent(const struct arena_header *h, uint64_t n_bytes)
{
    return h->n_bytes == n_bytes && h->line_bytes == ARENA_LINE_BYTES &&
           h->page_bytes == ARENA_PAGE && h->slots_offset == ARENA_PAGE &&
           h->n_slots <= n_bytes / ARENA_LINE_BYTES && h->extents_offset <= n_bytes &&
           h->extents_offset % ARENA_PAGE == 0 &&
           h->extents_offset >= h->slots_offset + h->n_slots * ARENA_LINE_BYTES;
}

int dpq_reader_new(int fd, struct dpq_reader **ret_reader, struct dpq_fault *ret_fault)
{
    _cleanup_(dpq_reader_freep) struct dpq_reader *reader = calloc(1, sizeof(*reader));
    int r;

    if (!reader)
        return error_origin(-ENOMEM);
    r = map_open(fd, F_SEAL_SHRINK | F_SEAL_GROW, false, (const void **)&reader->bytes,
                 &reader->n_bytes);
    if (r == MAP_E_KIND)
        return say(ret_fault, DPQ_E_CORRUPT, "the descriptor is not a sealed memfd");
    if (r)
        return error_fold(r);
    if (choose_header(reader->bytes, reader->n_bytes, &reader->header))
        return say(ret_fault, DPQ_E_CORRUPT, "the arena has no valid header");
    if (reader->header.schema_major != ARENA_SCHEMA_MAJOR)
        return say(ret_fault, DPQ_E_VERSION, "the arena's schema is another one");
    if (!consistent(&reader->header, reader->n_bytes))
        return say(ret_fault, DPQ_E_CORRUPT, "the arena's header contradicts itself");
    *ret_reader = steal_ptr(reader);
    return 0;
}

struct dpq_reader *dpq_reader_free(struct dpq_reader *reader)
{
    if (!reader)
        return NULL;
    dpq_unmap(reader->bytes, reader->n_bytes);
    free(reader);
    return NULL;
}

static const struct arena_line *line_at(const struct dpq_reader *reader, uint64_t slot)
{
    return (const struct arena_line *)(reader->bytes + reader->header.slots_offset) + slot;
}

/* A reference from a daemon that is not the arena's may be anything. */
static bool in_table(const struct dpq_reader *reader, const struct dpq_slot_ref *ref)
{
    return ref->slot < reader->header.n_slots && !(ref->generation >> 62);
}

static bool line_good(const struct dpq_reader *reader, const struct arena_line *line)
{
    uint64_t room = reader->n_bytes - reader->header.extents_offset;
    uint64_t at = (uint64_t)line->first_page * ARENA_PAGE;

    return line_checksum(line) == line->line_checksum && line->kind >= DPQ_SLOT_BASE &&
           line->kind <= DPQ_SLOT_TAIL && at <= room && line->n_bytes <= room - at &&
           line->n_tokens <= DPQ_TILE_TOKENS && line->dtype <= DPQ_BF16;
}

int dpq_reader_slot(const struct dpq_reader *reader, const struct dpq_slot_ref *ref, bool verify,
                    struct dpq_slot_view *ret_view)
{
    uint64_t want = slot_word(ref->generation, SLOT_COMMITTED);
    const struct arena_line *shared;
    struct arena_line line;
    struct dpq_slot_view view;

    if (!in_table(reader, ref))
        return DPQ_E_GONE;
    shared = line_at(reader, ref->slot);
    if (atomic_load_explicit(&shared->word, memory_order_acquire) != want)
        return DPQ_E_GONE;
    memcpy(&line, shared, sizeof(line));
    atomic_init(&line.word, want);
    if (dpq_reader_check(reader, ref))
        return DPQ_E_GONE;
    if (!line_good(reader, &line))
        return DPQ_E_CORRUPT;
    view = (struct dpq_slot_view){
        .kind = line.kind,
        .dtype = line.dtype,
        .first_index = line.first_index,
        .n_tokens = line.n_tokens,
        .bytes =
            reader->bytes + reader->header.extents_offset + (uint64_t)line.first_page * ARENA_PAGE,
        .n_bytes = line.n_bytes,
        .first_position = line.first_position,
    };
    if (verify && hash_xxh3(view.bytes, view.n_bytes) != line.checksum)
        return dpq_reader_check(reader, ref) ? DPQ_E_GONE : DPQ_E_CORRUPT;
    *ret_view = view;
    return 0;
}

int dpq_reader_check(const struct dpq_reader *reader, const struct dpq_slot_ref *ref)
{
    atomic_thread_fence(memory_order_acquire);
    if (!in_table(reader, ref) ||
        atomic_load_explicit(&line_at(reader, ref->slot)->word, memory_order_relaxed) !=
            slot_word(ref->generation, SLOT_COMMITTED))
        return DPQ_E_GONE;
    return 0;
}
