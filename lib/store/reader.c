/*
 * Reading an arena from another process
 *
 * The mapping is read-only and is not trusted: a line is copied once, judged in the copy, and used
 * from the copy. The word is loaded before (acquire) and compared after what it protects was read,
 * behind an acquire fence: then what was read belongs to that generation.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

int dpq_reader_new(int fd, struct dpq_reader **ret_reader, struct dpq_fault *ret_fault)
{
    _cleanup_(dpq_reader_freep) struct dpq_reader *reader = calloc(1, sizeof(*reader));
    int r;

    if (!reader)
        return error_origin(-ENOMEM);
    r = map_open_arena(fd, (const void **)&reader->bytes, &reader->n_bytes);
    if (r == MAP_E_KIND)
        return say(ret_fault, DPQ_E_CORRUPT,
                   "the descriptor is neither a sealed memfd nor a file on a tmpfs");
    if (r)
        return error_fold(r);
    r = arena_judge(reader->bytes, reader->n_bytes, NULL, &reader->header);
    if (r == ARENA_E_HEADER)
        return say(ret_fault, DPQ_E_CORRUPT, "the arena has no valid header");
    if (r == ARENA_E_SCHEMA)
        return say(ret_fault, DPQ_E_VERSION, "the arena's schema is another one");
    if (r)
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
    if (!arena_line_good(&reader->header, &line) || line.kind == SLOT_KIND_RECORD)
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
