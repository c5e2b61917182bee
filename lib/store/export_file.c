#include "lib/store/export_file.h"

#include <assert.h>
#include <string.h>

#include "lib/base/crc32c.h"
#include "lib/base/error.h"

#define MAGIC "DPQEXPRT"

struct file_header {
    char magic[8];
    uint32_t version;
    uint32_t reserved;
};

/* Before each record's payload, which ends with zeroes up to a multiple of 8. */
struct record_header {
    uint32_t kind;
    uint32_t crc32c;  /* of n_bytes and the payload, the zeroes left out */
    uint64_t n_bytes; /* of the payload */
};

struct sequence_part { /* then u32[n_tokens], adapter, salt */
    uint8_t profile[32];
    uint32_t dtype, rate;
    uint64_t position_base, n_tokens;
    uint32_t n_adapter, n_salt;
};

struct tile_part { /* then base, then fine */
    uint64_t first_index, n_base, n_fine;
};

struct tail_part { /* then the rows */
    uint64_t first_index;
    uint32_t n_tokens, reserved;
};

_Static_assert(sizeof(struct file_header) == 16, "wire");
_Static_assert(sizeof(struct record_header) == 16, "wire");
_Static_assert(sizeof(struct sequence_part) == 64, "wire");
_Static_assert(sizeof(struct tile_part) == 24, "wire");
_Static_assert(sizeof(struct tail_part) == 16, "wire");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the formats are little-endian");

/* --- reading --------------------------------------------------------------------------------- */

void export_reader_init(struct export_reader *reader, const void *bytes, uint64_t n_bytes)
{
    *reader = (struct export_reader){ .bytes = bytes, .n_bytes = n_bytes };
}

void export_reader_extend(struct export_reader *reader, const void *bytes, uint64_t n_bytes)
{
    assert(n_bytes >= reader->at);
    reader->bytes = bytes;
    reader->n_bytes = n_bytes;
}

uint64_t export_reader_drop(struct export_reader *reader)
{
    uint64_t n = reader->at;

    reader->bytes += n;
    reader->n_bytes -= n;
    reader->at = 0;
    return n;
}

void export_reader_skip(struct export_reader *reader, uint64_t next_index)
{
    uint64_t n = next_index - reader->next_index;

    assert(reader->in_sequence && !reader->has_tail && next_index % EXPORT_TILE_TOKENS == 0);
    assert(next_index >= reader->next_index && n <= reader->n_left);
    reader->next_index = next_index;
    reader->n_left -= n;
}

int export_record_bytes(const struct export_reader *reader, enum export_kind *ret_kind,
                        uint64_t *ret_n_bytes)
{
    struct record_header h;

    if (!reader->has_header || reader->n_bytes - reader->at < sizeof(h))
        return EXPORT_E_CUT;
    memcpy(&h, reader->bytes + reader->at, sizeof(h));
    *ret_kind = (enum export_kind)h.kind;
    *ret_n_bytes = h.n_bytes;
    return 0;
}

static int corrupt(struct export_reader *r, const char *reason)
{
    r->reason = reason;
    return EXPORT_E_CORRUPT;
}

static int check_file_header(struct export_reader *r)
{
    struct file_header h;

    if (r->n_bytes < sizeof(h))
        return EXPORT_E_CUT;
    memcpy(&h, r->bytes, sizeof(h));
    if (memcmp(h.magic, MAGIC, sizeof(h.magic)))
        return corrupt(r, "this is not an export file: the magic is missing");
    if (h.version != EXPORT_VERSION)
        return EXPORT_E_VERSION;
    if (h.reserved)
        return corrupt(r, "reserved bytes of the header are not 0");
    r->at = sizeof(h);
    r->has_header = true;
    return 0;
}

/* the sum does not cover them, and nobody reads them: so they are what they have to be */
static bool all_zero(const uint8_t *p, uint64_t n)
{
    while (n && !p[n - 1])
        n--;
    return !n;
}

static uint32_t checksum(uint64_t n_bytes, const uint8_t *payload)
{
    return crc32c(crc32c(0, &n_bytes, sizeof(n_bytes)), payload, n_bytes);
}

static int take_sequence(struct export_reader *r, const uint8_t *p, uint64_t n,
                         struct export_sequence *s)
{
    struct sequence_part part;
    uint64_t token_bytes;

    if (n < sizeof(part))
        return corrupt(r, "a sequence is too short");
    memcpy(&part, p, sizeof(part));
    if (r->n_left)
        return corrupt(r, "a sequence began before the one before it was complete");
    if (part.n_tokens > EXPORT_MAX_TOKENS || part.n_adapter > EXPORT_MAX_NAME ||
        part.n_salt > EXPORT_MAX_NAME || part.dtype > 2 || part.rate > 2)
        return corrupt(r, "a sequence's dtype, rate or lengths are out of range");
    token_bytes = part.n_tokens * sizeof(uint32_t);
    if (n != sizeof(part) + token_bytes + part.n_adapter + part.n_salt)
        return corrupt(r, "a sequence's lengths do not add up");
    memcpy(s->profile, part.profile, sizeof(s->profile));
    s->dtype = part.dtype;
    s->rate = part.rate;
    s->position_base = part.position_base;
    s->n_tokens = part.n_tokens;
    s->tokens = p + sizeof(part);
    s->adapter = s->tokens + token_bytes;
    s->n_adapter = part.n_adapter;
    s->salt = s->adapter + part.n_adapter;
    s->n_salt = part.n_salt;
    r->in_sequence = true;
    r->has_tail = false;
    r->n_left = part.n_tokens;
    r->next_index = 0;
    return 0;
}

static int take_tile(struct export_reader *r, const uint8_t *p, uint64_t n,
                     struct export_record *record)
{
    struct tile_part part;

    if (n < sizeof(part))
        return corrupt(r, "a tile is too short");
    memcpy(&part, p, sizeof(part));
    if (!part.n_base || part.n_base > n || part.n_fine > n ||
        n != sizeof(part) + part.n_base + part.n_fine)
        return corrupt(r, "a tile's lengths do not add up");
    if (!r->in_sequence || r->has_tail || part.first_index != r->next_index ||
        r->n_left < EXPORT_TILE_TOKENS)
        return corrupt(r, "a tile is not where one belongs");
    record->tile.first_index = part.first_index;
    record->tile.base = p + sizeof(part);
    record->tile.n_base = part.n_base;
    record->tile.fine = part.n_fine ? record->tile.base + part.n_base : NULL;
    record->tile.n_fine = part.n_fine;
    r->next_index += EXPORT_TILE_TOKENS;
    r->n_left -= EXPORT_TILE_TOKENS;
    return 0;
}

static int take_tail(struct export_reader *r, const uint8_t *p, uint64_t n,
                     struct export_record *record)
{
    struct tail_part part;

    if (n < sizeof(part))
        return corrupt(r, "a tail is too short");
    memcpy(&part, p, sizeof(part));
    if (!r->in_sequence || r->has_tail || part.first_index != r->next_index ||
        part.n_tokens != r->n_left || !part.n_tokens || part.n_tokens >= EXPORT_TILE_TOKENS)
        return corrupt(r, "a tail is not where one belongs");
    if (part.reserved || n == sizeof(part) || (n - sizeof(part)) % part.n_tokens)
        return corrupt(r, "a tail's length is not that of whole rows");
    record->tail.first_index = part.first_index;
    record->tail.n_tokens = part.n_tokens;
    record->tail.rows = p + sizeof(part);
    record->tail.n_bytes = n - sizeof(part);
    r->n_left = 0;
    r->has_tail = true;
    return 0;
}

static int take_end(struct export_reader *r, const uint8_t *p, uint64_t n,
                    struct export_record *record)
{
    if (n != sizeof(uint64_t))
        return corrupt(r, "the end has another length");
    memcpy(&record->n_records, p, sizeof(record->n_records));
    if (record->n_records != r->n_records)
        return corrupt(r, "records are missing");
    if (r->n_left)
        return corrupt(r, "the file ends before its last sequence does");
    r->ended = true;
    return 0;
}

static int take(struct export_reader *r, uint32_t kind, const uint8_t *p, uint64_t n,
                struct export_record *record)
{
    switch (kind) {
    case EXPORT_PROFILE:
        if (r->n_records || !n)
            return corrupt(r, "a profile is not where one belongs");
        record->profile.bytes = p;
        record->profile.n_bytes = n;
        return 0;
    case EXPORT_SEQUENCE:
        return take_sequence(r, p, n, &record->sequence);
    case EXPORT_TILE:
        return take_tile(r, p, n, record);
    case EXPORT_TAIL:
        return take_tail(r, p, n, record);
    case EXPORT_END:
        return take_end(r, p, n, record);
    default:
        return corrupt(r, "a record is of no known kind");
    }
}

int export_next(struct export_reader *r, struct export_record *ret_record)
{
    struct export_record record = { 0 };
    struct record_header h;
    const uint8_t *payload;
    uint64_t left, padded;
    int e;

    if (!r->has_header) {
        e = check_file_header(r);
        if (e)
            return e;
    }
    if (r->ended)
        return corrupt(r, "there is nothing after the end");
    left = r->n_bytes - r->at;
    if (left < sizeof(h))
        return EXPORT_E_CUT;
    memcpy(&h, r->bytes + r->at, sizeof(h));
    if (h.n_bytes > EXPORT_MAX_RECORD)
        return corrupt(r, "a record is longer than any can be");
    padded = align_up(h.n_bytes, 8);
    if (left - sizeof(h) < padded)
        return EXPORT_E_CUT;
    payload = r->bytes + r->at + sizeof(h);
    if (checksum(h.n_bytes, payload) != h.crc32c)
        return corrupt(r, "a record's checksum is wrong: the file is damaged");
    if (!all_zero(payload + h.n_bytes, padded - h.n_bytes))
        return corrupt(r, "the zeroes behind a record are none: the file is damaged");
    record.kind = (enum export_kind)h.kind;
    e = take(r, h.kind, payload, h.n_bytes, &record);
    if (e)
        return e;
    r->at += sizeof(h) + padded;
    r->n_records++;
    *ret_record = record;
    return 0;
}

/* --- writing --------------------------------------------------------------------------------- */

static int append(struct export_writer *w, const void *bytes, size_t n)
{
    int r = n ? w->write(w->user, bytes, n) : 0;

    if (r)
        return error_fold(r);
    w->n_bytes += n;
    return 0;
}

int export_begin(struct export_writer *writer, export_write_fn write, void *user)
{
    struct file_header h = { .magic = MAGIC, .version = EXPORT_VERSION };

    *writer = (struct export_writer){ .write = write, .user = user };
    return append(writer, &h, sizeof(h));
}

struct piece {
    const void *bytes;
    uint64_t n;
};

static int put(struct export_writer *w, enum export_kind kind, const struct piece *pieces,
               size_t n_pieces)
{
    static const uint8_t zeroes[8];
    struct record_header h = { .kind = kind };
    int r;

    for (size_t i = 0; i < n_pieces; i++)
        h.n_bytes += pieces[i].n;
    assert(h.n_bytes <= EXPORT_MAX_RECORD);
    if (!w->has_crc32c) {
        w->crc32c = crc32c(0, &h.n_bytes, sizeof(h.n_bytes));
        for (size_t i = 0; i < n_pieces; i++)
            w->crc32c = crc32c(w->crc32c, pieces[i].bytes, pieces[i].n);
    }
    h.crc32c = w->crc32c;
    r = append(w, &h, sizeof(h));
    for (size_t i = 0; i < n_pieces && !r; i++)
        r = append(w, pieces[i].bytes, pieces[i].n);
    r = r ? r : append(w, zeroes, align_up(h.n_bytes, 8) - h.n_bytes);
    w->n_records++;
    return r ? error_fold(r) : 0;
}

static int put_sequence(struct export_writer *w, const struct export_sequence *s)
{
    struct sequence_part part = {
        .dtype = s->dtype,
        .rate = s->rate,
        .position_base = s->position_base,
        .n_tokens = s->n_tokens,
        .n_adapter = s->n_adapter,
        .n_salt = s->n_salt,
    };
    struct piece pieces[] = {
        { &part, sizeof(part) },
        { s->tokens, s->n_tokens * sizeof(uint32_t) },
        { s->adapter, s->n_adapter },
        { s->salt, s->n_salt },
    };

    memcpy(part.profile, s->profile, sizeof(part.profile));
    return put(w, EXPORT_SEQUENCE, pieces, ARRAY_SIZE(pieces));
}

static int put_tile(struct export_writer *w, const struct export_record *record)
{
    struct tile_part part = { record->tile.first_index, record->tile.n_base, record->tile.n_fine };
    struct piece pieces[] = {
        { &part, sizeof(part) },
        { record->tile.base, record->tile.n_base },
        { record->tile.fine, record->tile.n_fine },
    };

    return put(w, EXPORT_TILE, pieces, ARRAY_SIZE(pieces));
}

static int put_tail(struct export_writer *w, const struct export_record *record)
{
    struct tail_part part = { record->tail.first_index, record->tail.n_tokens, 0 };
    struct piece pieces[] = {
        { &part, sizeof(part) },
        { record->tail.rows, record->tail.n_bytes },
    };

    return put(w, EXPORT_TAIL, pieces, ARRAY_SIZE(pieces));
}

int export_put(struct export_writer *writer, const struct export_record *record)
{
    struct piece piece;

    switch (record->kind) {
    case EXPORT_SEQUENCE:
        return put_sequence(writer, &record->sequence);
    case EXPORT_TILE:
        return put_tile(writer, record);
    case EXPORT_TAIL:
        return put_tail(writer, record);
    case EXPORT_PROFILE:
        piece = (struct piece){ record->profile.bytes, record->profile.n_bytes };
        return put(writer, EXPORT_PROFILE, &piece, 1);
    default: /* the end counts for itself */
        piece = (struct piece){ &writer->n_records, sizeof(writer->n_records) };
        return put(writer, EXPORT_END, &piece, 1);
    }
}
