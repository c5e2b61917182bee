/*
 * The commit protocol
 *
 *     word = WRITING, g+1 (relaxed); release fence; payload; line; word = COMMITTED, g+1 (release)
 *     word = FREE, g+2 (relaxed); release fence; whatever the extent's next owner writes
 *
 * The fence behind the relaxed store is what keeps the payload behind the word for readers: a
 * release store would order what came before it, and that is not the question. A reader that finds
 * the same COMMITTED word before and after it read therefore read what was committed. The line's
 * checksum covers the generation, so a word above an older line is refused as well. A process that
 * dies leaves exactly the stores that it made, in this order.
 */
#include "lib/store/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/crc32c.h"
#include "lib/base/error.h"
#include "lib/base/hash.h"

#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
/* The fences order what other mappings of these pages see, which that sanitizer does not watch. */
#pragma GCC diagnostic ignored "-Wtsan"
#endif

int arena_format(uint8_t *bytes, uint64_t n_bytes, const uint8_t tenant_hash[32],
                 uint64_t first_epoch, struct arena *ret_arena)
{
    uint64_t n_slots = n_bytes / ARENA_BYTES_PER_SLOT;
    struct arena a = { .bytes = bytes };
    struct arena_header *h = &a.header;

    if (n_slots < ARENA_MIN_SLOTS)
        n_slots = ARENA_MIN_SLOTS;
    *h = (struct arena_header){
        .magic = ARENA_MAGIC,
        .schema_major = ARENA_SCHEMA_MAJOR,
        .schema_minor = ARENA_SCHEMA_MINOR,
        .n_bytes = n_bytes,
        .n_slots = n_slots,
        .slots_offset = ARENA_PAGE,
        .extents_offset = align_up(ARENA_PAGE + n_slots * ARENA_LINE_BYTES, ARENA_PAGE),
        .line_bytes = ARENA_LINE_BYTES,
        .page_bytes = ARENA_PAGE,
        .key_scheme = ARENA_KEY_SCHEME,
        .tile_format = ARENA_TILE_FORMAT,
        .epoch = first_epoch,
        .seq = 1,
    };
    if (h->extents_offset + ARENA_PAGE > n_bytes)
        return 1;
    a.generations = calloc(n_slots, sizeof(*a.generations));
    if (!a.generations)
        return error_origin(-ENOMEM);
    memcpy(h->tenant_hash, tenant_hash, sizeof(h->tenant_hash));
    h->crc32c = crc32c(0, h, offsetof(struct arena_header, crc32c));
    memcpy(bytes, h, sizeof(*h)); /* the other copy, all zero, is not a valid one */
    a.lines = (struct arena_line *)(bytes + h->slots_offset);
    *ret_arena = a;
    return 0;
}

void arena_deinit(struct arena *arena)
{
    free(arena->generations);
    arena->generations = NULL;
}

uint64_t arena_n_pages(const struct arena *arena)
{
    return (arena->header.n_bytes - arena->header.extents_offset) / ARENA_PAGE;
}

static void set_word(struct arena *arena, uint64_t slot, enum slot_state state)
{
    atomic_store_explicit(&arena->lines[slot].word, slot_word(arena->generations[slot], state),
                          memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

uint64_t arena_begin(struct arena *arena, uint64_t slot)
{
    arena->generations[slot]++;
    set_word(arena, slot, SLOT_WRITING);
    return arena->generations[slot];
}

void arena_release(struct arena *arena, uint64_t slot)
{
    arena->generations[slot]++;
    set_word(arena, slot, SLOT_FREE);
}

uint64_t line_checksum(const struct arena_line *line)
{
    struct arena_line copy = *line;
    uint64_t generation = atomic_load_explicit(&copy.word, memory_order_relaxed) >> 2;

    atomic_init(&copy.word, slot_word(generation, SLOT_COMMITTED));
    return hash_xxh3(&copy, offsetof(struct arena_line, line_checksum));
}

void arena_commit(struct arena *arena, uint64_t slot, const struct arena_line *line)
{
    struct arena_line *to = &arena->lines[slot], filled = *line;
    uint64_t word = slot_word(arena->generations[slot], SLOT_COMMITTED);

    atomic_init(&filled.word, word);
    filled.line_checksum = line_checksum(&filled);
    memcpy((uint8_t *)to + sizeof(to->word), (uint8_t *)&filled + sizeof(filled.word),
           sizeof(filled) - sizeof(filled.word));
    atomic_store_explicit(&to->word, word, memory_order_release);
}
