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
 *
 * The header has two copies for the same reason: only the older one is ever written.
 */
#include "lib/store/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/crc32c.h"
#include "lib/base/error.h"
#include "lib/base/hash.h"
#include "lib/store/extent.h"

#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
/* The fences order what other mappings of these pages see, which that sanitizer does not watch. */
#pragma GCC diagnostic ignored "-Wtsan"
#endif

/* --- header ----------------------------------------------------------------------------------- */

static uint32_t header_crc(const struct arena_header *h)
{
    return crc32c(0, h, offsetof(struct arena_header, crc32c));
}

static bool header_valid(const struct arena_header *h)
{
    return h->magic == ARENA_MAGIC && header_crc(h) == h->crc32c;
}

/* The valid copy with the higher seq. Return: which; -1: none. */
static int header_choose(const uint8_t *bytes, uint64_t n_bytes, struct arena_header *ret_header)
{
    struct arena_header copies[2];
    int newest = 0;

    if (n_bytes < 2 * ARENA_PAGE)
        return -1;
    memcpy(&copies[0], bytes, sizeof(copies[0]));
    memcpy(&copies[1], bytes + ARENA_HEADER_STEP, sizeof(copies[1]));
    if (header_valid(&copies[1]) && (!header_valid(&copies[0]) || copies[1].seq > copies[0].seq))
        newest = 1;
    if (!header_valid(&copies[newest]))
        return -1;
    *ret_header = copies[newest];
    return newest;
}

static bool header_consistent(const struct arena_header *h, uint64_t n_bytes)
{
    return h->n_bytes == n_bytes && h->line_bytes == ARENA_LINE_BYTES &&
           h->page_bytes == ARENA_PAGE && h->slots_offset == ARENA_PAGE && h->n_slots &&
           h->n_slots <= n_bytes / ARENA_LINE_BYTES && h->n_slots < UINT32_MAX &&
           h->extents_offset < n_bytes && h->extents_offset % ARENA_PAGE == 0 &&
           h->extents_offset >= h->slots_offset + h->n_slots * ARENA_LINE_BYTES &&
           (n_bytes - h->extents_offset) / ARENA_PAGE >= 1 &&
           (n_bytes - h->extents_offset) / ARENA_PAGE <= EXTENT_MAX_PAGES;
}

void arena_write_header(struct arena *arena)
{
    struct arena_header *h = &arena->header;

    h->seq++;
    h->crc32c = header_crc(h);
    arena->newest ^= 1;
    memcpy(arena->bytes + arena->newest * ARENA_HEADER_STEP, h, sizeof(*h));
    atomic_thread_fence(memory_order_release);
}

_Atomic uint64_t *arena_fault_word(uint8_t *bytes)
{
    return (_Atomic uint64_t *)(bytes + ARENA_FAULT_OFFSET);
}

/* --- life ------------------------------------------------------------------------------------- */

static int make_private(struct arena *a)
{
    a->lines = (struct arena_line *)(a->bytes + a->header.slots_offset);
    a->generations = calloc(a->header.n_slots, sizeof(*a->generations));
    return a->generations ? 0 : error_origin(-ENOMEM);
}

int arena_format(uint8_t *bytes, uint64_t n_bytes, const struct arena_identity *identity,
                 uint64_t n_slots, uint64_t first_epoch, struct arena *ret_arena)
{
    struct arena a = { .bytes = bytes };
    struct arena_header *h = &a.header;
    int r;

    if (!n_slots)
        n_slots = n_bytes / ARENA_BYTES_PER_SLOT;
    if (n_slots < ARENA_MIN_SLOTS)
        n_slots = ARENA_MIN_SLOTS;
    if (n_slots > n_bytes / ARENA_LINE_BYTES)
        return ARENA_E_SIZE;
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
        .unready = 1, /* this start */
    };
    memcpy(h->tenant_hash, identity->tenant_hash, sizeof(h->tenant_hash));
    memcpy(h->secret_id, identity->secret_id, sizeof(h->secret_id));
    if (!header_consistent(h, n_bytes))
        return ARENA_E_SIZE;
    r = make_private(&a);
    if (r)
        return error_fold(r);
    arena_write_header(&a); /* both copies stand from the start */
    arena_write_header(&a);
    *ret_arena = a;
    return 0;
}

void arena_deinit(struct arena *arena)
{
    free(arena->generations);
    arena->generations = NULL;
}

int arena_judge(const uint8_t *bytes, uint64_t n_bytes, const struct arena_identity *identity,
                struct arena_header *ret_header)
{
    struct arena_header h;

    if (header_choose(bytes, n_bytes, &h) < 0)
        return ARENA_E_HEADER;
    if (h.schema_major != ARENA_SCHEMA_MAJOR)
        return ARENA_E_SCHEMA;
    if (!header_consistent(&h, n_bytes))
        return ARENA_E_GEOMETRY;
    *ret_header = h;
    if (!identity)
        return 0;
    if (h.key_scheme != ARENA_KEY_SCHEME || h.tile_format != ARENA_TILE_FORMAT)
        return ARENA_E_FORMAT;
    if (memcmp(h.tenant_hash, identity->tenant_hash, sizeof(h.tenant_hash)))
        return ARENA_E_TENANT;
    if (memcmp(h.secret_id, identity->secret_id, sizeof(h.secret_id)))
        return ARENA_E_SECRET;
    if (h.faults + (atomic_load(arena_fault_word((uint8_t *)bytes)) != 0) >= ARENA_MAX_FAULTS)
        return ARENA_E_FAULTS;
    if (h.unready >= ARENA_MAX_UNREADY)
        return ARENA_E_UNREADY;
    return 0;
}

int arena_attach(uint8_t *bytes, uint64_t n_bytes, const struct arena_identity *identity,
                 struct arena *ret_arena)
{
    struct arena a = { .bytes = bytes };
    int r = arena_judge(bytes, n_bytes, identity, &a.header);

    if (r)
        return r;
    a.newest = (uint32_t)header_choose(bytes, n_bytes, &a.header);
    r = make_private(&a);
    if (r)
        return error_fold(r);
    a.header.faults += atomic_load(arena_fault_word(bytes)) != 0;
    a.header.unready++;
    a.header.clean = 0;
    arena_write_header(&a);
    /* after the count is in: a kill between the two counts the fault twice, not never */
    atomic_store(arena_fault_word(bytes), 0);
    *ret_arena = a;
    return 0;
}

void arena_begin_epoch(struct arena *arena)
{
    arena->header.epoch++;
    if (!arena->header.epoch) /* 0 is no epoch */
        arena->header.epoch++;
    arena_write_header(arena);
}

uint64_t arena_n_pages(const struct arena *arena)
{
    return (arena->header.n_bytes - arena->header.extents_offset) / ARENA_PAGE;
}

/* --- slots ------------------------------------------------------------------------------------ */

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

void arena_bury(struct arena *arena, uint64_t slot)
{
    set_word(arena, slot, SLOT_BURIED);
}

void arena_release(struct arena *arena, uint64_t slot)
{
    arena->generations[slot]++;
    set_word(arena, slot, SLOT_FREE);
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

/* --- lines ------------------------------------------------------------------------------------ */

uint64_t line_checksum(const struct arena_line *line)
{
    struct arena_line copy = *line;
    uint64_t generation = atomic_load_explicit(&copy.word, memory_order_relaxed) >> 2;

    atomic_init(&copy.word, slot_word(generation, SLOT_COMMITTED));
    return hash_xxh3(&copy, offsetof(struct arena_line, line_checksum));
}

uint64_t line_room_bytes(const struct arena_line *line)
{
    if (line->kind == SLOT_KIND_RECORD)
        return line->first_position;
    if (line->kind == DPQ_SLOT_TAIL)
        return (uint64_t)line->n_bytes / line->n_tokens * DPQ_TILE_TOKENS;
    return line->n_bytes;
}

static bool counts_good(const struct arena_line *line)
{
    if (!line->n_bytes || line->dtype > DPQ_BF16 || line->n_tokens > DPQ_TILE_TOKENS)
        return false;
    if (line->kind == SLOT_KIND_RECORD)
        return !line->n_tokens && line->first_position >= line->n_bytes &&
               line->first_position <= UINT32_MAX;
    if (line->kind == DPQ_SLOT_TAIL)
        return line->n_tokens && line->n_bytes % line->n_tokens == 0;
    return (line->kind == DPQ_SLOT_BASE || line->kind == DPQ_SLOT_FINE) &&
           line->n_tokens == DPQ_TILE_TOKENS;
}

bool arena_line_good(const struct arena_header *header, const struct arena_line *line)
{
    uint64_t room = header->n_bytes - header->extents_offset;
    uint64_t at = (uint64_t)line->first_page * ARENA_PAGE;

    return line_checksum(line) == line->line_checksum && counts_good(line) && at < room &&
           line_room_bytes(line) <= room - at;
}
