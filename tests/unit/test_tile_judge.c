/* tile_judge: what may be kept of tiles from elsewhere */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/codec/tile_judge.h"
#include "tests/util/tile_fixture.h"

static int check(const struct toy *toy, const struct tile *t, uint64_t position, uint64_t index,
                 uint32_t rate, struct dpq_fault *ret_fault)
{
    struct dpq_codec *c = NULL;
    int r;

    assert_int_equal(dpq_codec_new(toy->profile, 0, &c), 0);
    r = tile_judge(c, t->base, t->n_base, t->fine, t->n_fine, position, index, rate, ret_fault);
    dpq_codec_free(c);
    return r;
}

static void test_place(void **state)
{
    struct toy toy = { .geometry = toy_geometry(2, 2, 32), .dsub = 2 };
    uint8_t *rows = random_rows(&toy.geometry, DPQ_F16, 1);
    struct dpq_fault f;
    struct tile t;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    t = encode(&toy, rows, DPQ_F16, 128, DPQ_RATE_QUALITY, 0);
    assert_int_equal(check(&toy, &t, 1128, 128, DPQ_RATE_QUALITY, &f), 0);
    assert_int_equal(check(&toy, &t, 1127, 128, DPQ_RATE_QUALITY, &f), DPQ_E_MISMATCH);
    assert_non_null(strstr(f.message, "position 1128"));
    assert_int_equal(check(&toy, &t, 1128, 256, DPQ_RATE_QUALITY, &f), DPQ_E_MISMATCH);
    assert_int_equal(check(&toy, &t, 1128, 128, DPQ_RATE_BALANCED, &f), DPQ_E_MISMATCH);
    assert_non_null(strstr(f.message, "rate"));
    free(t.fine);
    t.fine = NULL; /* as after a drop */
    t.n_fine = 0;
    assert_int_equal(check(&toy, &t, 1128, 128, DPQ_RATE_QUALITY, &f), 0);
    t.n_base--;
    assert_int_equal(check(&toy, &t, 1128, 128, DPQ_RATE_QUALITY, &f), DPQ_E_CORRUPT);
    tile_drop(&t);
    free(rows);
    toy_drop(&toy);
}

/* each type of raw row */
static void test_finite(void **state)
{
    static const uint32_t NAN_BITS = 0x7fc00000, HUGE_SCALE = 0x7e800000, INF_16 = 0x7c007c00;
    struct toy toy = { .geometry = toy_geometry(2, 2, 32), .dsub = 2 };
    struct tile_base_header h;
    struct rng r = rng_seed(3);
    struct dpq_fault f;
    struct craft c = { 0 };
    struct tile t;
    uint32_t seen = 0;

    (void)state;
    assert_int_equal(toy_make(&toy), 0);
    craft_base(&toy, &r, DPQ_F32, &c);
    memcpy(&h, c.base, sizeof(h));
    t = (struct tile){ .base = c.base, .n_base = c.n_base };
    assert_int_equal(check(&toy, &t, h.first_position, h.first_index, h.rate, &f), 0);
    for (size_t at = h.raw_offset; at < h.raw_offset + h.n_raw_bytes;) {
        struct tile_raw raw;
        uint32_t old, row;
        const uint32_t *bad;

        memcpy(&raw, c.base + at, sizeof(raw));
        row = raw_row_bytes(raw.type, 32, DPQ_F32);
        bad = raw.type == RAW_INT8 ? &HUGE_SCALE : raw.type == RAW_F16 ? &INF_16 : &NAN_BITS;
        memcpy(&old, c.base + at + sizeof(raw) + row, 4); /* of the second row */
        memcpy(c.base + at + sizeof(raw) + row, bad, 4);
        assert_int_equal(check(&toy, &t, h.first_position, h.first_index, h.rate, &f),
                         DPQ_E_NOT_FINITE);
        assert_int_equal(f.layer, raw.stream / 4);
        assert_int_equal(f.kind, raw.stream / 2 % 2);
        assert_int_equal(f.head, raw.stream % 2);
        assert_int_equal(f.token, (raw.tokens[0] ? __builtin_ctzll(raw.tokens[0]) : 64) + 31);
        memcpy(c.base + at + sizeof(raw) + row, &old, 4);
        at += craft_raw_bytes(raw.type, 32, DPQ_F32);
        seen |= 1u << raw.type;
    }
    assert_int_equal(seen, 7);
    assert_int_equal(check(&toy, &t, h.first_position, h.first_index, h.rate, &f), 0);
    free(c.base);
    toy_drop(&toy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place),
        cmocka_unit_test(test_finite),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
