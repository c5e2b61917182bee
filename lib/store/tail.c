/*
 * Raw tails: the one thing in an arena that grows
 *
 * Room for 128 rows is taken at once. New rows are written behind the committed ones, a second slot
 * is committed that names the same extent with the greater length, and only then is the first slot
 * freed; the next growth goes the other way round. A reader of the old line is not disturbed: its
 * bytes do not change. A crash in between leaves two lines over one extent, and the longer one
 * holds all that the shorter does.
 */

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

struct tail {
    struct limbo limbo;
    struct store *store;
    struct place place; /* the extent; its slot is the one that is committed, if any is */
    uint64_t other_slot;
    bool committed;
    uint32_t n_tokens, dtype;
    uint64_t row_bytes, lease_until_ns;
    struct arena_line line; /* what both slots say, but for the length */
    struct hash_stream *hash;
};

/* The tail owns two slots and one extent. */
static int take(struct tail *t, uint64_t now_ns)
{
    struct store *s = t->store;
    int r;

    if (t->row_bytes > s->stats.arena_bytes / DPQ_TILE_TOKENS)
        return STORE_E_FULL;
    pthread_mutex_lock(&s->mutex);
    r = space_take(s, t->row_bytes * DPQ_TILE_TOKENS, now_ns, &t->place);
    if (!r) {
        r = space_take_slot(s, now_ns, &t->other_slot);
        if (r)
            space_give(s, &t->place);
        else
            s->n_tails++;
    }
    pthread_mutex_unlock(&s->mutex);
    return r;
}

int tail_new(struct store *store, uint64_t sequence_id, const uint8_t profile[32], uint32_t dtype,
             uint64_t row_bytes, uint64_t first_index, uint64_t first_position, uint64_t now_ns,
             struct tail **ret_tail)
{
    struct tail *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return error_origin(-ENOMEM);
    t->store = store;
    t->dtype = dtype;
    t->row_bytes = row_bytes;
    t->line = (struct arena_line){
        .kind = DPQ_SLOT_TAIL,
        .dtype = (uint8_t)dtype,
        .sequence_id = sequence_id,
        .first_index = first_index,
        .first_position = first_position,
    };
    memcpy(t->line.profile, profile, sizeof(t->line.profile));
    r = hash_stream_new(&t->hash);
    if (!r)
        r = take(t, now_ns);
    if (r) {
        hash_stream_free(t->hash);
        free(t);
        return r;
    }
    t->line.first_page = t->place.first_page;
    t->place.n_bytes = 0;
    *ret_tail = t;
    return 0;
}

/* The rows are copied without the mutex, behind what anybody reads; the rest is short. */
void tail_grow(struct tail *tail, const void *rows, uint32_t n_tokens)
{
    struct store *s = tail->store;
    uint64_t n_bytes = n_tokens * tail->row_bytes, old = tail->place.slot;
    struct place grown = tail->place;

    assert(n_tokens && n_tokens <= DPQ_TILE_TOKENS - tail->n_tokens);
    grown.slot = tail->other_slot;
    grown.generation = arena_begin(&s->arena, grown.slot);
    memcpy(place_bytes(s, &grown) + grown.n_bytes, rows, n_bytes);
    hash_stream_add(tail->hash, rows, n_bytes);
    grown.n_bytes += n_bytes;
    grown.checksum = hash_stream_value(tail->hash);
    tail->line.n_tokens = (uint8_t)(tail->n_tokens + n_tokens);
    tail->line.n_bytes = grown.n_bytes;
    tail->line.checksum = grown.checksum;
    arena_commit(&s->arena, grown.slot, &tail->line);
    if (tail->committed)
        arena_release(&s->arena, old);

    pthread_mutex_lock(&s->mutex);
    tail->place = grown;
    tail->other_slot = old;
    tail->committed = true;
    tail->n_tokens += n_tokens;
    s->stats.tail_bytes += n_bytes;
    pthread_mutex_unlock(&s->mutex);
}

uint32_t tail_n_tokens(const struct tail *tail)
{
    return tail->n_tokens;
}

uint32_t tail_dtype(const struct tail *tail)
{
    return tail->dtype;
}

void tail_object(const struct tail *tail, struct store_object *ret_object)
{
    struct store *s = tail->store;

    pthread_mutex_lock(&s->mutex);
    *ret_object = (struct store_object){
        .ref = { .slot = tail->committed ? tail->place.slot : SLOT_NONE,
                 .generation = tail->place.generation },
        .bytes = place_bytes(s, &tail->place),
        .n_bytes = tail->place.n_bytes,
    };
    pthread_mutex_unlock(&s->mutex);
}

void tail_lease(struct tail *tail, uint64_t until_ns)
{
    pthread_mutex_lock(&tail->store->mutex);
    if (until_ns > tail->lease_until_ns)
        tail->lease_until_ns = until_ns;
    pthread_mutex_unlock(&tail->store->mutex);
}

struct tail *tail_free(struct tail *tail, uint64_t now_ns, uint64_t *ret_freed_bytes)
{
    uint64_t freed = 0;
    struct store *s;

    if (tail) {
        s = tail->store;
        freed = place_cost(&tail->place) + ARENA_LINE_BYTES;
        hash_stream_free(tail->hash);
        pthread_mutex_lock(&s->mutex);
        s->n_tails--;
        s->stats.tail_bytes -= tail->place.n_bytes;
        space_give_slot(s, tail->other_slot);
        space_bury(s, &tail->limbo, &tail->place, NULL, tail->lease_until_ns, now_ns);
        pthread_mutex_unlock(&s->mutex);
    }
    if (ret_freed_bytes)
        *ret_freed_bytes = freed;
    return NULL;
}
