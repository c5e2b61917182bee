/*
 * Strips: the only things in an arena that grow
 *
 * Room is taken at once. New bytes are written behind the committed ones, a second slot is
 * committed that names the same extent with the greater length, and only then is the first slot
 * freed; the next growth goes the other way round. A reader of the old line is not disturbed: its
 * bytes do not change. A crash in between leaves two lines over one extent, and the longer one
 * holds all that the shorter does.
 *
 * The checksum covers all bytes and is continued from growth to growth: a strip that an earlier
 * process left is read once, and compared, before it grows on.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

static void link_strip(struct strip *strip)
{
    struct store *s = strip->store;

    strip->prev = NULL;
    strip->next = s->strips;
    if (s->strips)
        s->strips->prev = strip;
    s->strips = strip;
}

static void unlink_strip(struct strip *strip)
{
    struct store *s = strip->store;

    if (s->scrub_strip == strip)
        s->scrub_strip = strip->next;
    if (strip->prev)
        strip->prev->next = strip->next;
    else
        s->strips = strip->next;
    if (strip->next)
        strip->next->prev = strip->prev;
}

/* --- life ------------------------------------------------------------------------------------- */

/* It owns two slots and one extent. */
static int take(struct strip *strip, uint64_t now_ns)
{
    struct store *s = strip->store;
    struct place p;
    int r;

    store_lock(s);
    r = space_take(s, strip->room_bytes, now_ns, &p);
    if (!r) {
        r = space_take_slot(s, now_ns, &strip->slots[1]);
        if (r)
            space_give(s, &p);
    }
    if (!r) {
        strip->slots[0] = p.slot;
        strip->first_page = strip->line.first_page = p.first_page;
        strip->n_pages = p.n_pages;
        link_strip(strip);
    }
    store_unlock(s);
    return r;
}

int strip_init(struct strip *strip, struct store *store, const struct arena_line *line,
               uint64_t room_bytes, uint64_t now_ns)
{
    int r;

    *strip = (struct strip){ .store = store, .at = -1, .room_bytes = room_bytes, .line = *line };
    r = hash_stream_new(&strip->hash);
    if (r)
        return error_fold(r);
    r = take(strip, now_ns);
    if (r)
        strip->hash = hash_stream_free(strip->hash);
    return r;
}

void strip_recover(struct strip *strip, struct store *store, const struct arena_line *line,
                   uint32_t slot)
{
    *strip = (struct strip){
        .store = store,
        .slots = { slot, SLOT_NIL },
        .generation = store->arena.generations[slot],
        .first_page = line->first_page,
        .n_pages = pages_of(line_room_bytes(line)),
        .n_bytes = line->n_bytes,
        .room_bytes = line_room_bytes(line),
        /* records are not handed out */
        .lease_until_ns = line->kind == DPQ_SLOT_TAIL ? store->grace_until_ns : 0,
        .line = *line,
        .unchecked = true,
    };
    link_strip(strip);
}

static void give_slot(struct store *s, uint32_t slot)
{
    if (slot != SLOT_NIL)
        space_give_slot(s, slot);
}

uint64_t strip_deinit(struct strip *strip, uint64_t now_ns)
{
    struct store *s = strip->store;
    struct place p = { .first_page = strip->first_page, .n_pages = strip->n_pages };
    uint64_t freed = (uint64_t)strip->n_pages * ARENA_PAGE;

    for (int i = 0; i < 2; i++)
        freed += strip->slots[i] != SLOT_NIL ? ARENA_LINE_BYTES : 0;
    store_lock(s);
    while (strip->n_readers)
        pthread_cond_wait(&s->scrubbed, &s->mutex);
    unlink_strip(strip);
    if (strip->at < 0) {
        give_slot(s, strip->slots[0]);
        extent_give(&s->extents, p.first_page, p.n_pages);
    } else {
        p.slot = strip->slots[strip->at];
        space_bury(s, &p, strip->lease_until_ns, now_ns);
        space_reap(s, now_ns);
    }
    give_slot(s, strip->slots[strip->at == 1 ? 0 : 1]);
    store_unlock(s);
    strip->hash = hash_stream_free(strip->hash);
    return freed;
}

void strip_forget(struct strip *strip)
{
    unlink_strip(strip);
    strip->hash = hash_stream_free(strip->hash);
}

struct strip *strip_of_kind(struct strip *strip, uint32_t kind)
{
    while (strip && strip->line.kind != kind)
        strip = strip->next;
    return strip;
}

/* --- growing ---------------------------------------------------------------------------------- */

/* It may grow meanwhile: behind these bytes, into another line. */
int strip_verify(struct strip *strip, uint64_t *ret_n_bytes)
{
    struct store *s = strip->store;
    struct place p = { .first_page = strip->first_page };
    struct arena_line line;
    bool good = true;

    store_lock(s);
    if (strip->at >= 0) {
        p.slot = strip->slots[strip->at];
        /* now: two growths later it is another line, and a growth may just be freeing its word */
        memcpy((uint8_t *)&line + sizeof(line.word),
               (const uint8_t *)&s->arena.lines[p.slot] + sizeof(line.word),
               sizeof(line) - sizeof(line.word));
        atomic_init(&line.word, slot_word(strip->generation, SLOT_COMMITTED));
    }
    p.n_bytes = (uint32_t)strip->n_bytes;
    strip->n_readers++;
    store_unlock(s);
    if (p.n_bytes)
        good = place_matches(s, &p, &line);
    store_lock(s);
    strip->n_readers--;
    if (good)
        strip->unchecked = false;
    else
        s->stats.n_corrupt += !strip->corrupt;
    strip->corrupt = strip->corrupt || !good;
    pthread_cond_broadcast(&s->scrubbed);
    store_unlock(s);
    *ret_n_bytes = p.n_bytes;
    return good ? 0 : STORE_E_CORRUPT;
}

int strip_check(struct strip *strip)
{
    uint64_t n_bytes;
    bool unchecked;

    store_lock(strip->store);
    unchecked = strip->unchecked;
    store_unlock(strip->store);
    return unchecked ? strip_verify(strip, &n_bytes) : 0;
}

/* The checksum so far, in a form that goes on. */
static int take_up_hash(struct strip *strip)
{
    struct hash_stream *hash;
    int r;

    if (strip->hash)
        return 0;
    r = hash_stream_new(&hash);
    if (r)
        return error_fold(r);
    hash_stream_add(hash, arena_extent(&strip->store->arena, strip->first_page), strip->n_bytes);
    if (hash_stream_value(hash) != strip->line.checksum) {
        hash_stream_free(hash);
        return STORE_E_CORRUPT;
    }
    strip->hash = hash;
    return 0;
}

static int take_other_slot(struct strip *strip)
{
    uint32_t *other = &strip->slots[strip->at == 0];
    int r = 0;

    if (*other != SLOT_NIL)
        return 0;
    store_lock(strip->store);
    r = space_take_slot(strip->store, 0, other);
    store_unlock(strip->store);
    return r;
}

void strip_complete(struct strip *strip)
{
    if (strip->store->n_free_slots)
        (void)!take_other_slot(strip); /* which is there then */
}

/* The bytes are copied without the mutex, behind what anybody reads; the rest is short. */
int strip_grow(struct strip *strip, const void *bytes, uint64_t n_bytes, uint32_t n_tokens)
{
    struct store *s = strip->store;
    uint64_t generation, grown = strip->n_bytes + n_bytes;
    int to = strip->at == 0, r;

    assert(n_bytes && n_bytes <= strip->room_bytes - strip->n_bytes);
    r = take_up_hash(strip);
    if (!r)
        r = take_other_slot(strip);
    if (r)
        return r;
    generation = arena_begin(&s->arena, strip->slots[to]);
    memcpy(arena_extent(&s->arena, strip->first_page) + strip->n_bytes, bytes, n_bytes);
    hash_stream_add(strip->hash, bytes, n_bytes);
    strip->line.n_tokens = (uint8_t)n_tokens;
    strip->line.n_bytes = (uint32_t)grown;
    strip->line.checksum = hash_stream_value(strip->hash);
    arena_commit(&s->arena, strip->slots[to], &strip->line);
    if (strip->at >= 0)
        arena_release(&s->arena, strip->slots[strip->at]);

    store_lock(s);
    strip->at = to;
    strip->generation = generation;
    strip->n_bytes = grown;
    strip->unchecked = false;
    if (strip->line.kind == DPQ_SLOT_TAIL)
        s->stats.tail_bytes += n_bytes;
    store_unlock(s);
    return 0;
}

struct store_object strip_object(struct strip *strip)
{
    struct store *s = strip->store;
    struct place p = { .first_page = strip->first_page };
    struct store_object o;

    store_lock(s);
    p.slot = strip->at < 0 ? SLOT_NIL : strip->slots[strip->at];
    p.n_bytes = (uint32_t)strip->n_bytes;
    o = place_object(s, &p, strip->generation);
    store_unlock(s);
    return o;
}

void strip_lease(struct strip *strip, uint64_t until_ns)
{
    store_lock(strip->store);
    store_note_lease(strip->store, until_ns);
    if (until_ns > strip->lease_until_ns)
        strip->lease_until_ns = until_ns;
    store_unlock(strip->store);
}
