#include "daemon/session_record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"

enum {
    VERSION = 1,
    KIND_BEGIN = 1,
    KIND_IDS = 2,
    KIND_SEAL = 3,
    MAX_IDS = 1 << 30, /* a sequence's tokens */
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

struct seal_bytes {
    struct entry entry;
    uint64_t n_tiles, generation;
};

_Static_assert(sizeof(struct begin_bytes) == 8 + 96, "wire");
_Static_assert(sizeof(struct ids_bytes) == 16, "wire");
_Static_assert(sizeof(struct seal_bytes) == 24, "wire");

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

static uint8_t *put_seal(uint8_t *to, uint64_t n_tiles, uint64_t generation)
{
    struct seal_bytes seal = { { KIND_SEAL, 16 }, n_tiles, generation };

    memcpy(to, &seal, sizeof(seal));
    return to + sizeof(seal);
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
    size_t n = sizeof(begin) + ids_size(content->n_ids) + sizeof(struct seal_bytes);
    uint8_t *bytes = malloc(n), *to = bytes;

    if (!bytes)
        return error_origin(-ENOMEM);
    memcpy(begin.profile_id, b->profile_id, sizeof(begin.profile_id));
    memcpy(begin.scope, b->scope, sizeof(begin.scope));
    memcpy(to, &begin, sizeof(begin));
    to = put_ids(to + sizeof(begin), 0, content->ids, content->n_ids);
    put_seal(to, content->n_tiles, content->generation);
    *ret_bytes = bytes;
    *ret_n_bytes = n;
    return 0;
}

int record_pack_change(const struct record_change *change, uint8_t **ret_bytes, size_t *ret_n_bytes)
{
    size_t n = (change->has_ids ? ids_size(change->n_ids) : 0) +
               (change->has_seal ? sizeof(struct seal_bytes) : 0);
    uint8_t *bytes = malloc(n + 1), *to = bytes;

    if (!bytes)
        return error_origin(-ENOMEM);
    if (change->has_ids)
        to = put_ids(to, change->first_token, change->ids, change->n_ids);
    if (change->has_seal)
        put_seal(to, change->n_tiles, change->generation);
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
    if (b.entry.kind != KIND_BEGIN || b.entry.n_bytes != 96 || b.version != VERSION)
        return RECORD_E_FOREIGN;
    content->begin = (struct record_begin){ .rate = b.rate,
                                            .position_base = b.position_base,
                                            .fork_origin = b.fork_origin,
                                            .n_adopted_tokens = b.n_adopted_tokens };
    memcpy(content->begin.profile_id, b.profile_id, sizeof(b.profile_id));
    memcpy(content->begin.scope, b.scope, sizeof(b.scope));
    return 0;
}

static int read_ids(const uint8_t *body, uint32_t n_bytes, size_t *capacity,
                    struct record_content *content)
{
    size_t n_ids = n_bytes < 8 ? 0 : (n_bytes - 8) / sizeof(uint32_t), end;
    uint64_t first;

    if (n_bytes < 8 || n_bytes % 4)
        return RECORD_E_FOREIGN;
    memcpy(&first, body, sizeof(first));
    if (first > content->n_ids || first + n_ids > MAX_IDS) /* a gap */
        return RECORD_E_FOREIGN;
    end = (size_t)first + n_ids;
    if (end > *capacity) {
        size_t more = end < 2 * *capacity ? 2 * *capacity : end;
        uint32_t *ids = realloc(content->ids, more * sizeof(*ids));

        if (!ids)
            return error_origin(-ENOMEM);
        content->ids = ids;
        *capacity = more;
    }
    if (n_ids)
        memcpy(content->ids + first, body + 8, n_ids * sizeof(uint32_t));
    content->n_ids = end;
    return 0;
}

static int read_entry(const struct entry *entry, const uint8_t *body, size_t *capacity,
                      struct record_content *content)
{
    switch (entry->kind) {
    case KIND_BEGIN:
        return RECORD_E_FOREIGN; /* once */
    case KIND_IDS:
        return read_ids(body, entry->n_bytes, capacity, content);
    case KIND_SEAL:
        if (entry->n_bytes != 16)
            return RECORD_E_FOREIGN;
        memcpy(&content->n_tiles, body, 8);
        memcpy(&content->generation, body + 8, 8);
        return content->n_tiles > MAX_IDS / 128 ? RECORD_E_FOREIGN : 0;
    default:
        return 0;
    }
}

int record_parse(const uint8_t *bytes, size_t n_bytes, struct record_content *ret_content)
{
    struct record_content content = { 0 };
    size_t capacity = 0, at = sizeof(struct begin_bytes);
    int r = read_begin(bytes, n_bytes, &content);

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
            r = read_entry(&entry, bytes + at, &capacity, &content);
        at += align_up(entry.n_bytes, 8);
    }
    if (r) {
        record_content_deinit(&content);
        return r;
    }
    *ret_content = content;
    return 0;
}

void record_content_deinit(struct record_content *content)
{
    free(content->ids);
    content->ids = NULL;
}
