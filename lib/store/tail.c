/* Raw tails: rows of tokens on a strip with room for 128 of them */

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/store/store_internal.h"

struct tail {
    struct strip strip;
    uint64_t row_bytes;
};

int tail_new(struct store *store, uint64_t sequence_id, const uint8_t profile[32], uint32_t dtype,
             uint64_t row_bytes, uint64_t first_index, uint64_t first_position, uint64_t now_ns,
             struct tail **ret_tail)
{
    struct arena_line line = {
        .kind = DPQ_SLOT_TAIL,
        .dtype = (uint8_t)dtype,
        .sequence_id = sequence_id,
        .first_index = first_index,
        .first_position = first_position,
    };
    struct tail *t;
    int r;

    if (row_bytes > store->stats.arena_bytes / DPQ_TILE_TOKENS)
        return STORE_E_FULL;
    t = calloc(1, sizeof(*t));
    if (!t)
        return error_origin(-ENOMEM);
    memcpy(line.profile, profile, sizeof(line.profile));
    t->row_bytes = row_bytes;
    r = strip_init(&t->strip, store, &line, row_bytes * DPQ_TILE_TOKENS, now_ns);
    if (r) {
        free(t);
        return r;
    }
    *ret_tail = t;
    return 0;
}

int tail_recover(struct store *store, const struct arena_line *line, uint32_t slot)
{
    struct tail *t = calloc(1, sizeof(*t));

    if (!t)
        return error_origin(-ENOMEM);
    t->row_bytes = line->n_bytes / line->n_tokens;
    strip_recover(&t->strip, store, line, slot);
    store->stats.tail_bytes += line->n_bytes;
    return 0;
}

void tail_set_version(struct tail *tail, uint32_t version)
{
    assert(tail->strip.at < 0);
    tail->strip.line.n_numbers = version;
}

int tail_grow(struct tail *tail, const void *rows, uint32_t n_tokens)
{
    uint32_t n = tail_n_tokens(tail);

    assert(n_tokens && n_tokens <= DPQ_TILE_TOKENS - n);
    return strip_grow(&tail->strip, rows, n_tokens * tail->row_bytes, n + n_tokens);
}

uint32_t tail_n_tokens(const struct tail *tail)
{
    return tail->strip.line.n_tokens;
}

uint32_t tail_dtype(const struct tail *tail)
{
    return tail->strip.line.dtype;
}

uint64_t tail_sequence_id(const struct tail *tail)
{
    return tail->strip.line.sequence_id;
}

uint64_t tail_first_index(const struct tail *tail)
{
    return tail->strip.line.first_index;
}

uint32_t tail_version(const struct tail *tail)
{
    return tail->strip.line.n_numbers;
}

void tail_object(const struct tail *tail, struct store_object *ret_object)
{
    *ret_object = strip_object((struct strip *)&tail->strip);
}

void tail_lease(struct tail *tail, uint64_t until_ns)
{
    strip_lease(&tail->strip, until_ns);
}

int tail_check(struct tail *tail)
{
    return strip_check(&tail->strip);
}

struct tail *tail_next(struct store *store, struct tail *tail)
{
    return (struct tail *)strip_of_kind(tail ? tail->strip.next : store->strips, DPQ_SLOT_TAIL);
}

struct tail *tail_free(struct tail *tail, uint64_t now_ns, uint64_t *ret_freed_bytes)
{
    uint64_t freed = 0;
    struct store *s;

    if (tail) {
        s = tail->strip.store;
        freed = strip_deinit(&tail->strip, now_ns);
        store_lock(s);
        s->stats.tail_bytes -= tail->strip.n_bytes;
        store_unlock(s);
        free(tail);
    }
    if (ret_freed_bytes)
        *ret_freed_bytes = freed;
    return NULL;
}
