/*
 * Rows as bytes
 *
 * The parser goes over everything twice: once to judge, once to fill in rows, so that nothing is
 * handed out of a section that is refused. Each number is judged by itself (not NaN, in range) and
 * an entry that was not measured must be all zero: whatever is accepted can be printed and compared
 * without further checks.
 */

#include <assert.h>
#include <math.h>
#include <string.h>

#include "lib/risk/risk_audit.h"

enum { HEADER_BYTES = 24, ROW_HEAD_BYTES = 8, ENTRY_BYTES = 76, N_FLOATS = 17 };
enum { ROW_BYTES = ROW_HEAD_BYTES + RISK_N_REFERENCES * ENTRY_BYTES };

static const char MAGIC[8] = { 'D', 'P', 'Q', 'A', 'U', 'D', 'I', 'T' };

/* the order of the floats in an entry, and which may be negative */
static const struct {
    size_t offset;
    bool is_signed;
} FLOATS[N_FLOATS] = {
    { offsetof(struct risk_audit_entry, residual_ratio), false },
    { offsetof(struct risk_audit_entry, domination), false },
    { offsetof(struct risk_audit_entry, predicted_bits), true },
    { offsetof(struct risk_audit_entry, ln_eta), true },
    { offsetof(struct risk_audit_entry, eta_u), false },
    { offsetof(struct risk_audit_entry, loop_gain), false },
    { offsetof(struct risk_audit_entry, kappa_plus), false },
    { offsetof(struct risk_audit_entry, kappa_l_plus), false },
    { offsetof(struct risk_audit_entry, margin), true },
    { offsetof(struct risk_audit_entry, error_base), false },
    { offsetof(struct risk_audit_entry, error_fine), false },
    { offsetof(struct risk_audit_entry, measured_bits), true },
    { offsetof(struct risk_audit_entry, energy), false },
    { offsetof(struct risk_audit_entry, moment_ratio), false },
    { offsetof(struct risk_audit_entry, moment_low), false },
    { offsetof(struct risk_audit_entry, moment_high), false },
    { offsetof(struct risk_audit_entry, error_high), false },
};

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)v);
    put16(p + 2, (uint16_t)(v >> 16));
}

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t place(uint16_t layer, uint16_t kind, uint16_t head)
{
    return (uint64_t)layer << 32 | (uint64_t)kind << 16 | head;
}

size_t risk_audit_bytes(size_t n_rows)
{
    return HEADER_BYTES + n_rows * ROW_BYTES;
}

static void write_entry(const struct risk_audit_entry *entry, uint8_t *p)
{
    p[0] = entry->flags;
    p[1] = entry->tier;
    put16(p + 2, 0);
    put32(p + 4, entry->n_tokens);
    for (size_t i = 0; i < N_FLOATS; i++) {
        uint32_t bits;

        memcpy(&bits, (const char *)entry + FLOATS[i].offset, sizeof(bits));
        put32(p + 8 + 4 * i, bits);
    }
}

void risk_audit_write(const struct risk_audit_row *rows, size_t n_rows, uint8_t *ret_bytes)
{
    uint8_t *p = ret_bytes + HEADER_BYTES;

    assert(n_rows <= RISK_AUDIT_MAX_ROWS);
    memcpy(ret_bytes, MAGIC, sizeof(MAGIC));
    put32(ret_bytes + 8, RISK_AUDIT_VERSION);
    put32(ret_bytes + 12, ROW_BYTES);
    put32(ret_bytes + 16, (uint32_t)n_rows);
    put32(ret_bytes + 20, 0);
    for (size_t i = 0; i < n_rows; i++) {
        put16(p, rows[i].layer);
        put16(p + 2, rows[i].kind);
        put16(p + 4, rows[i].head);
        p[6] = rows[i].reference;
        p[7] = rows[i].reason;
        p += ROW_HEAD_BYTES;
        for (int j = 0; j < RISK_N_REFERENCES; j++, p += ENTRY_BYTES)
            write_entry(&rows[i].entry[j], p);
    }
}

static struct risk_audit_entry read_entry(const uint8_t *p)
{
    struct risk_audit_entry entry = { .flags = p[0], .tier = p[1], .n_tokens = get32(p + 4) };

    for (size_t i = 0; i < N_FLOATS; i++) {
        uint32_t bits = get32(p + 8 + 4 * i);

        memcpy((char *)&entry + FLOATS[i].offset, &bits, sizeof(bits));
    }
    return entry;
}

static bool is_entry(const uint8_t *p)
{
    static const uint8_t NOT_MEASURED[ENTRY_BYTES];
    struct risk_audit_entry entry = read_entry(p);

    if (!entry.flags)
        return !memcmp(p, NOT_MEASURED, ENTRY_BYTES);
    if (entry.flags & ~RISK_AUDIT_ALL || entry.tier >= RISK_N_SHAPE_TIERS || get16(p + 2))
        return false;
    for (size_t i = 0; i < N_FLOATS; i++) {
        float v;

        memcpy(&v, (const char *)&entry + FLOATS[i].offset, sizeof(v));
        if (isnan(v) || (!FLOATS[i].is_signed && v < 0))
            return false;
    }
    return true;
}

static bool is_row(const uint8_t *p)
{
    if (get16(p + 2) > 1 || p[6] >= RISK_N_REFERENCES || p[7] >= RISK_N_REASONS)
        return false;
    for (int j = 0; j < RISK_N_REFERENCES; j++)
        if (!is_entry(p + ROW_HEAD_BYTES + j * ENTRY_BYTES))
            return false;
    return true;
}

/* all but the number of rows that the caller has room for */
static int judge(const uint8_t *p, size_t n_bytes)
{
    uint64_t n_rows, before = 0;

    if (n_bytes < HEADER_BYTES || memcmp(p, MAGIC, sizeof(MAGIC)))
        return RISK_AUDIT_E_CORRUPT;
    if (get32(p + 8) != RISK_AUDIT_VERSION)
        return RISK_AUDIT_E_VERSION;
    n_rows = get32(p + 16);
    if (get32(p + 12) != ROW_BYTES || n_rows > RISK_AUDIT_MAX_ROWS || get32(p + 20) ||
        n_bytes != risk_audit_bytes(n_rows))
        return RISK_AUDIT_E_CORRUPT;
    for (uint64_t i = 0; i < n_rows; i++) {
        const uint8_t *row = p + HEADER_BYTES + i * ROW_BYTES;
        uint64_t at = place(get16(row), get16(row + 2), get16(row + 4));

        if (!is_row(row) || (i && at <= before))
            return RISK_AUDIT_E_CORRUPT;
        before = at;
    }
    return 0;
}

int risk_audit_parse(const void *bytes, size_t n_bytes, size_t max_rows,
                     struct risk_audit_row *ret_rows, size_t *ret_n_rows)
{
    const uint8_t *p = bytes;
    size_t n_rows;
    int r = judge(p, n_bytes);

    if (r)
        return r;
    n_rows = get32(p + 16);
    if (n_rows > max_rows)
        return RISK_AUDIT_E_SPACE;
    p += HEADER_BYTES;
    for (size_t i = 0; i < n_rows; i++) {
        ret_rows[i] = (struct risk_audit_row){ .layer = get16(p),
                                               .kind = get16(p + 2),
                                               .head = get16(p + 4),
                                               .reference = p[6],
                                               .reason = p[7] };
        p += ROW_HEAD_BYTES;
        for (int j = 0; j < RISK_N_REFERENCES; j++, p += ENTRY_BYTES)
            ret_rows[i].entry[j] = read_entry(p);
    }
    *ret_n_rows = n_rows;
    return 0;
}
