#include "daemon/session_record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"

enum {
    VERSION = 2,
    KIND_BEGIN = 1,
    KIND_IDS = 2,
    KIND_SEAL = 3,
    KIND_MAKER = 4,
    KIND_TAIL = 5,
    KIND_PIN = 6,
    KIND_KEEP = 16,
    KIND_CUT = 17,
    MAX_IDS = 1 << 30, /* a sequence's tokens */
    MAX_TILES = MAX_IDS / 128,
};

struct entry {
    uint32_t kind, n_bytes;
};

struct begin_bytes {
    struct entry entry;
    uint32_t version, rate;
    uint64_t position_base, fork_origin, n_adopted_tokens;
    uint8_t profile_id[32], scope[32];
};

struct ids_bytes { /* the ids follow */
    struct entry entry;
    uint64_t first_token;
};

struct pair_bytes { /* SEAL, MAKER, TAIL */
    struct entry entry;
    uint64_t a, b;
};

struct single_bytes { /* PIN, KEEP, CUT */
    struct entry entry;
    uint64_t value;
};

_Static_assert(sizeof(struct begin_bytes) == 8 + 96, "wire");
_Static_assert(sizeof(struct ids_bytes) == 16, "wire");
_Static_assert(sizeof(struct pair_bytes) == 24, "wire");
_Static_assert(sizeof(struct single_bytes) == 16, "wire");
_Static_assert(2 * sizeof(struct pair_bytes) + sizeof(struct single_bytes) == RECORD_CUT_BYTES,
               "room that is kept for it");

/* --- writing ---------------------------------------------------------------------------------- */

static size_t ids_size(size_t n_ids)
{
    return align_up(sizeof(struct ids_bytes) + n_ids * sizeof(uint32_t), 8);
}

static uint8_t *put_ids(uint8_t *to, uint64_t first_token, const uint32_t *ids, size_t n_ids)
{
    struct ids_bytes head = {
        .entry = { KIND_IDS, (uint32_t)(8 + n_ids * sizeof(uint32_t)) },
        .first_token = first_token,
    };

    memset(to, 0, ids_size(n_ids));
    memcpy(to, &head, sizeof(head));
    if (n_ids)
        memcpy(to + sizeof(head), ids, n_ids * sizeof(uint32_t));
    return to + ids_size(n_ids);
}

static uint8_t *put_pair(uint8_t *to, uint32_t kind, uint64_t a, uint64_t b)
{
    struct pair_bytes pair = { { kind, 16 }, a, b };

    memcpy(to, &pair, sizeof(pair));
    return to + sizeof(pair);
}

static uint8_t *put_single(uint8_t *to, uint32_t kind, uint64_t value)
{
    struct single_bytes single = { { kind, 8 }, value };

    memcpy(to, &single, sizeof(single));
    return to + sizeof(single);
}

int record_pack(const struct record_content *content, uint8_t **ret_bytes, size_t *ret_n_bytes)
{
    const struct record_begin *b = &content->begin;
    struct begin_bytes begin = {
        .entry = { KIND_BEGIN, 96 },
        .version = VERSION,
        .rate = b->rate,
        .position_base = b->position_base,
        .fork_origin = b->fork_origin,
        .n_adopted_tokens = b->n_adopted_tokens,
    };
    size_t n = sizeof(begin) + ids_size(content->n_ids) +
               (content->n_makers + 2) * sizeof(struct pair_bytes) +
               3 * sizeof(struct single_bytes);
    uint8_t *bytes = malloc(n), *to = bytes;

    if (!bytes)
        return error_origin(-ENOMEM);
    memcpy(begin.profile_id, b->profile_id, sizeof(begin.profile_id));
    memcpy(begin.scope, b->scope, sizeof(begin.scope));
    memcpy(to, &begin, sizeof(begin));
    to = put_ids(to + sizeof(begin), 0, content->ids, content->n_ids);
    for (size_t i = 0; i < content->n_makers; i++)
        to = put_pair(to, KIND_MAKER, content->makers[i].first_tile, content->makers[i].id);
    to = put_pair(to, KIND_TAIL, content->tail.version, content->tail.lossy_end);
    to = put_pair(to, KIND_SEAL, content->n_tiles, content->generation);
    to = put_single(to, KIND_PIN, content->pinned_until_ns);
    to = put_single(to, KIND_KEEP, content->keeps);
    put_single(to, KIND_CUT, content->n_evicted_end);
    *ret_bytes = bytes;
    *ret_n_bytes = n;
    return 0;
}

int record_pack_change(const struct record_change *change, uint8_t **ret_bytes, size_t *ret_n_bytes)
{
    uint32_t n_pairs = change->has_maker + change->has_tail + change->has_seal;
    uint32_t n_singles = change->has_pin + change->has_cut;
    size_t n = (change->has_ids ? ids_size(change->n_ids) : 0) +
               n_pairs * sizeof(struct pair_bytes) + n_singles * sizeof(struct single_bytes);
    uint8_t *bytes = malloc(n + 1), *to = bytes;

    if (!bytes)
        return error_origin(-ENOMEM);
    if (change->has_ids)
        to = put_ids(to, change->first_token, change->ids, change->n_ids);
    if (change->has_maker)
        to = put_pair(to, KIND_MAKER, change->maker.first_tile, change->maker.id);
    if (change->has_tail)
        to = put_pair(to, KIND_TAIL, change->tail.version, change->tail.lossy_end);
    if (change->has_seal)
        to = put_pair(to, KIND_SEAL, change->n_tiles, change->generation);
    if (change->has_pin)
        to = put_single(to, KIND_PIN, change->pinned_until_ns);
    if (change->has_cut)
        put_single(to, KIND_CUT, change->n_evicted_end);
    *ret_bytes = bytes;
    *ret_n_bytes = n;
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

static int read_begin(const uint8_t *at, size_t n, struct record_content *content)
{
    struct begin_bytes b;

    if (n < sizeof(b))
        return RECORD_E_FOREIGN;
    memcpy(&b, at, sizeof(b));
    if (b.entry.kind != KIND_BEGIN || b.entry.n_bytes != 96 || !b.version || b.version > VERSION)
        return RECORD_E_FOREIGN;
    content->begin = (struct record_begin){ .rate = b.rate,
                                            .position_base = b.position_base,
                                            .fork_origin = b.fork_origin,
                                            .n_adopted_tokens = b.n_adopted_tokens };
    memcpy(content->begin.profile_id, b.profile_id, sizeof(b.profile_id));
    memcpy(content->begin.scope, b.scope, sizeof(b.scope));
    return 0;
}

/* Room for n elements, twice as much as before at least. NULL: no memory */
static void *enlarge(void *array, size_t *capacity, size_t n, size_t element_bytes)
{
    size_t more = n < 2 * *capacity ? 2 * *capacity : n;

    array = realloc(array, more * element_bytes);
    if (array)
        *capacity = more;
    return array;
}

struct parse {
    struct record_content content;
    size_t ids_capacity, makers_capacity;
};

static int read_ids(struct parse *parse, const uint8_t *body, uint32_t n_bytes)
{
    struct record_content *content = &parse->content;
    size_t n_ids = n_bytes < 8 ? 0 : (n_bytes - 8) / sizeof(uint32_t), end;
    uint64_t first;

    if (n_bytes < 8 || n_bytes % 4)
        return RECORD_E_FOREIGN;
    memcpy(&first, body, sizeof(first));
    if (first > content->n_ids || first + n_ids > MAX_IDS) /* a gap */
        return RECORD_E_FOREIGN;
    end = (size_t)first + n_ids;
    if (end > parse->ids_capacity) {
        uint32_t *ids = enlarge(content->ids, &parse->ids_capacity, end, sizeof(*ids));

        if (!ids)
            return error_origin(-ENOMEM);
        content->ids = ids;
    }
    if (n_ids)
        memcpy(content->ids + first, body + 8, n_ids * sizeof(uint32_t));
    content->n_ids = end;
    return 0;
}

/* Those of tiles that are there no more. */
static void cut_makers(struct record_content *content, uint64_t n_tiles)
{
    while (content->n_makers && content->makers[content->n_makers - 1].first_tile >= n_tiles)
        content->n_makers--;
}

static int read_maker(struct parse *parse, uint64_t first_tile, uint64_t id)
{
    struct record_content *content = &parse->content;

    if (first_tile > MAX_TILES)
        return RECORD_E_FOREIGN;
    cut_makers(content, first_tile);
    if (content->n_makers == parse->makers_capacity) {
        struct record_maker *makers = enlarge(content->makers, &parse->makers_capacity,
                                              content->n_makers + 1, sizeof(*makers));

        if (!makers)
            return error_origin(-ENOMEM);
        content->makers = makers;
    }
    content->makers[content->n_makers++] = (struct record_maker){ first_tile, id };
    return 0;
}

static int read_pair(struct parse *parse, uint32_t kind, const uint8_t *body)
{
    struct record_content *content = &parse->content;
    uint64_t a, b;

    memcpy(&a, body, 8);
    memcpy(&b, body + 8, 8);
    if (kind == KIND_MAKER)
        return read_maker(parse, a, b);
    if (kind == KIND_TAIL) {
        content->tail = (struct record_tail){ a, b };
        return a > UINT32_MAX ? RECORD_E_FOREIGN : 0;
    }
    content->n_tiles = a;
    content->generation = b;
    cut_makers(content, a);
    return a > MAX_TILES ? RECORD_E_FOREIGN : 0;
}

static int read_single(struct parse *parse, uint32_t kind, const uint8_t *body)
{
    struct record_content *content = &parse->content;
    uint64_t value;

    memcpy(&value, body, 8);
    if (kind == KIND_PIN)
        content->pinned_until_ns = value;
    else if (kind == KIND_KEEP)
        content->keeps = value;
    else
        content->n_evicted_end = value;
    return kind == KIND_CUT && value > MAX_IDS ? RECORD_E_FOREIGN : 0;
}

static int read_entry(struct parse *parse, const struct entry *entry, const uint8_t *body)
{
    switch (entry->kind) {
    case KIND_BEGIN:
        return RECORD_E_FOREIGN; /* once */
    case KIND_IDS:
        return read_ids(parse, body, entry->n_bytes);
    case KIND_SEAL:
    case KIND_MAKER:
    case KIND_TAIL:
        return entry->n_bytes == 16 ? read_pair(parse, entry->kind, body) : RECORD_E_FOREIGN;
    case KIND_PIN:
    case KIND_KEEP:
    case KIND_CUT:
        return entry->n_bytes == 8 ? read_single(parse, entry->kind, body) : RECORD_E_FOREIGN;
    default:
        return 0;
    }
}

int record_parse(const uint8_t *bytes, size_t n_bytes, struct record_content *ret_content)
{
    struct parse parse = { 0 };
    size_t at = sizeof(struct begin_bytes);
    int r = read_begin(bytes, n_bytes, &parse.content);

    while (!r && at < n_bytes) {
        struct entry entry;

        if (n_bytes - at < sizeof(entry)) {
            r = RECORD_E_FOREIGN;
            break;
        }
        memcpy(&entry, bytes + at, sizeof(entry));
        at += sizeof(entry);
        if (align_up(entry.n_bytes, 8) > n_bytes - at)
            r = RECORD_E_FOREIGN;
        else
            r = read_entry(&parse, &entry, bytes + at);
        at += align_up(entry.n_bytes, 8);
    }
    if (r) {
        record_content_deinit(&parse.content);
        return r;
    }
    *ret_content = parse.content;
    return 0;
}

void record_content_deinit(struct record_content *content)
{
    free(content->ids);
    free(content->makers);
    content->ids = NULL;
    content->makers = NULL;
}
