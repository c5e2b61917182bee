/* store_recover: what a later process finds: all that was committed, and nothing of what was not */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/crc32c.h"
#include "tests/util/store_tiles.h"

enum { ROW = 96, GRACE = 1000 };

static const struct store_options OPTIONS = { .tenant = "t", .grace_until_ns = GRACE };

/* A name's tile, whole. */
static bool has(struct store *s, uint8_t name, size_t n_base, size_t n_fine)
{
    struct store_object base, fine;
    struct tile *t;
    uint8_t key[32];
    bool good;

    make_key(key, name);
    if (store_get(s, key, &t))
        return false;
    tile_objects(t, &base, &fine);
    good = !tile_check(t) && base.n_bytes == n_base && fine.n_bytes == n_fine &&
           are_bytes(base.bytes, n_base, name) &&
           (!n_fine || are_bytes(fine.bytes, n_fine, ~(uint64_t)name));
    tile_unref(t, false, 0, NULL);
    return good;
}

static void test_tiles(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(2 * MIB, &c);
    uint64_t epoch = store_epoch(s), used;
    struct store_object old, fine, now;
    struct tile *t, *u;
    uint8_t key[32];

    (void)state;
    assert_int_equal(put(s, 1, OBJECT, 5000, &t), 0);
    assert_int_equal(put(s, 2, 4096, 0, &t), 0); /* references are not what counts */
    assert_int_equal(put(s, 3, 100, 100, &t), 0);
    assert_int_equal(tile_drop_fine(t, 0, NULL), 0);
    assert_int_equal(put(s, 4, 100, 100, &u), 0);
    tile_unref(u, true, 0, NULL);
    tile_objects(t, &old, &fine);
    used = stats(s).used_bytes;

    s = reopen(s, 0, &c, &found);
    assert_int_equal(found.n_tiles, 3);
    assert_true(found.clean);
    assert_int_equal(found.unready, 1); /* the run before never said that it was ready */
    assert_int_equal(found.n_half_written + found.n_orphans + found.n_damaged + found.n_buried, 0);
    assert_int_equal(store_epoch(s), epoch + 1);
    assert_true(has(s, 1, OBJECT, 5000) && has(s, 2, 4096, 0) && has(s, 3, 100, 0));
    make_key(key, 4);
    assert_int_equal(store_get(s, key, &t), STORE_E_NONE);
    make_key(key, 3);
    assert_int_equal(store_get(s, key, &t), 0);
    tile_objects(t, &now, &fine);
    assert_true(now.ref.slot == old.ref.slot && now.ref.generation == old.ref.generation);
    assert_int_equal(stats(s).tile_numbers, 3000);
    assert_int_equal(stats(s).used_bytes, used);
    tile_unref(t, false, 0, NULL);

    for (uint64_t i = 0; i < s->arena.header.n_slots; i++) /* generations go on */
        assert_true(s->arena.generations[i] == s->arena.lines[i].word >> 2);
    assert_int_equal(put(s, 5, 100, 100, &t), 0);
    tile_unref(t, false, 0, NULL);
    assert_true(has(s, 5, 100, 100));
    assert_true(drains(s));
    store_free(s);
}

static void test_half_written(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct arena_line line;
    struct tile *t;

    (void)state;
    assert_int_equal(put(s, 1, 100, 100, &t), 0);
    arena_begin(&s->arena, 40);          /* a put that was cut short */
    line = s->arena.lines[t->fine.slot]; /* one between its two commits */
    line.key[0] ^= 1;
    line.first_page = 50;
    arena_begin(&s->arena, 41);
    arena_commit(&s->arena, 41, &line);
    s = reopen(s, 0, &c, &found);
    assert_int_equal(found.n_half_written, 1);
    assert_int_equal(found.n_orphans, 1);
    assert_int_equal(found.n_damaged, 0);
    assert_true(s->arena.lines[40].word == slot_word(2, SLOT_FREE));
    assert_true(s->arena.lines[41].word == slot_word(2, SLOT_FREE));
    assert_true(has(s, 1, 100, 100));
    assert_true(drains(s));
    store_free(s);
}

/* Tails: the longer of two lines; they grow on where they were, in the order of generations. */
static void test_tails(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    uint8_t rows[128 * ROW];
    struct dpq_slot_ref before;
    struct arena_line line;
    struct store_object o;
    struct tail *tail;

    (void)state;
    fill_bytes(rows, sizeof(rows), 1);
    assert_int_equal(tail_new(s, 9, ZERO, DPQ_BF16, ROW, 256, 1256, 0, &tail), 0);
    assert_int_equal(tail_grow(tail, rows, 5), 0);
    tail_object(tail, &o);
    line = s->arena.lines[o.ref.slot];
    assert_int_equal(tail_grow(tail, rows + 5 * ROW, 3), 0);
    tail_object(tail, &o);
    before = o.ref;
    arena_begin(&s->arena, 30); /* as if the shorter line had not been freed yet */
    arena_commit(&s->arena, 30, &line);
    assert_int_equal(tail_new(s, 10, ZERO, DPQ_BF16, ROW, 0, 0, 0, &tail), 0); /* never grown */

    s = reopen(s, 0, &c, &found);
    assert_int_equal(found.n_tails, 1);
    assert_int_equal(found.n_orphans, 1);
    tail = tail_next(s, NULL);
    assert_non_null(tail);
    assert_null(tail_next(s, tail));
    assert_int_equal(tail_sequence_id(tail), 9);
    assert_int_equal(tail_first_index(tail), 256);
    assert_int_equal(tail_n_tokens(tail), 8);
    assert_int_equal(tail_dtype(tail), DPQ_BF16);
    tail_object(tail, &o);
    assert_true(o.ref.slot == before.slot && o.ref.generation == before.generation);
    assert_memory_equal(o.bytes, rows, 8 * ROW);
    assert_int_equal(stats(s).tail_bytes, 8 * ROW);
    assert_int_equal(stats(s).used_bytes, 3 * 4096);
    for (uint32_t i = 8; i < 128; i++)
        assert_int_equal(tail_grow(tail, rows + i * ROW, 1), 0);

    s = reopen(s, 0, &c, &found);
    tail = tail_next(s, NULL);
    assert_int_equal(tail_check(tail), 0);
    tail_object(tail, &o);
    assert_memory_equal(o.bytes, rows, sizeof(rows));
    tail_free(tail, 0, NULL);
    assert_true(drains(s));
    store_free(s);
}

/* A tail that does not match its checksum neither grows nor passes. */
static void test_corrupt_tail(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    uint8_t rows[8 * ROW];
    struct store_object o;
    struct tail *tail;

    (void)state;
    fill_bytes(rows, sizeof(rows), 1);
    assert_int_equal(tail_new(s, 9, ZERO, DPQ_BF16, ROW, 0, 0, 0, &tail), 0);
    assert_int_equal(tail_grow(tail, rows, 5), 0);
    tail_object(tail, &o);
    *(uint8_t *)o.bytes ^= 1;
    s = reopen(s, 0, &c, &found);
    tail = tail_next(s, NULL);
    assert_int_equal(tail_check(tail), STORE_E_CORRUPT);
    assert_int_equal(tail_grow(tail, rows + 5 * ROW, 1), STORE_E_CORRUPT);
    assert_int_equal(tail_n_tokens(tail), 5);
    tail_free(tail, 0, NULL);
    assert_true(drains(s));
    store_free(s);
}

static void test_records(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    uint8_t bytes[9000];
    struct record *record, *longer;
    uint64_t n, room;
    const uint8_t *got;
    struct arena_line line;

    (void)state;
    fill_bytes(bytes, sizeof(bytes), 1);
    assert_int_equal(record_new(s, 5, bytes, 100, 4000, NULL, 0, &record), 0);
    assert_int_equal(record_grow(record, bytes + 100, 3900), 0);
    assert_int_equal(record_grow(record, bytes, 97), STORE_E_FULL); /* whole pages */
    line = s->arena.lines[((struct strip *)record)->slots[((struct strip *)record)->at]];
    assert_int_equal(record_new(s, 5, bytes, 5000, 9000, record, 0, &longer), 0);
    assert_int_equal(record_new(s, 6, bytes, 1, 1, NULL, 0, &record), 0);
    arena_begin(&s->arena, 30); /* as if the older version had not been freed yet */
    line.first_page = 100;
    arena_commit(&s->arena, 30, &line);

    s = reopen(s, 0, &c, &found);
    assert_int_equal(found.n_records, 2);
    assert_int_equal(found.n_orphans, 1);
    record = record_next(s, NULL);
    if (record_sequence_id(record) == 6)
        record = record_next(s, record);
    assert_int_equal(record_sequence_id(record), 5);
    assert_int_equal(record_grow(record, bytes + 5000, 1000), 0);
    assert_int_equal(record_bytes(record, &got, &n, &room), 0);
    assert_int_equal(n, 6000);
    assert_int_equal(room, 12288);
    assert_memory_equal(got, bytes, 6000);
    while ((record = record_next(s, NULL)))
        record_free(record, 0);
    assert_true(drains(s));
    store_free(s);
}

/* A fine object could be read by a lease of before as well as a base. Nobody's sequence is known to
 * the policy then: who offers its tiles in order loses the last first. */
static void test_grace_of_fine_and_order(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct store_change change;
    struct tile *t[3], *extra;
    uint8_t key[32];

    (void)state;
    for (uint8_t i = 0; i < 3; i++)
        assert_int_equal(put(s, i, OBJECT, OBJECT, &t[i]), 0);
    tile_lease(t[0], GRACE);
    s = reopen(s, GRACE, &c, &found);
    assert_int_equal(put_at(s, 9, 700000, 0, GRACE - 1, &extra), STORE_E_FULL);
    assert_int_equal(stats(s).n_fine_dropped, 0);
    for (uint8_t i = 0; i < 3; i++) {
        make_key(key, i);
        assert_int_equal(store_get(s, key, &t[i]), 0);
    }
    for (uint8_t i = 3; i-- > 0;) {
        store_offer(s, t, i + 1u, false, true);
        assert_int_equal(store_relieve(s, stats(s).used_bytes - 1, GRACE, &change, 1), 1);
        store_withdraw(s, t, i + 1u);
        assert_ptr_equal(change.tile, t[i]);
        tile_unref(t[i], false, GRACE, NULL);
    }
    store_free(s);
}

/* What grows has its second slot from the start, also when later ones take all that are left. */
static void test_growing_needs_no_slot(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    uint8_t bytes[2 * ROW];
    struct record *record;
    struct tail *tail;
    struct tile *t;

    (void)state;
    fill_bytes(bytes, sizeof(bytes), 1);
    assert_int_equal(record_new(s, 5, bytes, 100, 4000, NULL, 0, &record), 0);
    assert_int_equal(tail_new(s, 5, ZERO, DPQ_BF16, ROW, 0, 0, 0, &tail), 0);
    assert_int_equal(tail_grow(tail, bytes, 1), 0);
    s = reopen(s, 0, &c, &found);
    for (uint8_t i = 0; !put(s, i, 100, 0, &t);) /* all referred to */
        i++;
    assert_int_equal(s->n_free_slots, 0);
    assert_int_equal(record_grow(record_next(s, NULL), bytes, 100), 0);
    assert_int_equal(tail_grow(tail_next(s, NULL), bytes + ROW, 1), 0);
    store_free(s);
}

/* What a client may still read by a lease of the process before is not written over. */
static void test_grace(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    enum { LEASE = 600 };
    struct store_object buried, o, fine;
    struct tile *t;

    (void)state;
    assert_int_equal(put(s, 1, 300000, 0, &t), 0);
    tile_objects(t, &buried, &fine);
    tile_lease(t, LEASE);
    tile_unref(t, true, 10, NULL);
    assert_int_equal(put(s, 2, 300000, 0, &t), 0);
    tile_objects(t, &o, &fine);
    s = reopen(s, GRACE, &c, &found);
    assert_int_equal(found.n_buried, 1);
    assert_int_equal(found.n_tiles, 1);
    assert_int_equal(put_at(s, 3, 300000, 0, LEASE - 1, &t), 0); /* there is room beside both */
    tile_unref(t, false, 0, NULL);
    assert_int_equal(put_at(s, 4, 300000, 0, LEASE - 1, &t), STORE_E_FULL);
    assert_int_equal(c.n, 0);
    assert_int_equal(put_at(s, 4, 300000, 0, LEASE, &t), 0); /* where tile 1 was */
    assert_int_equal(c.n, 0);
    tile_unref(t, false, 0, NULL);
    assert_int_equal(put_at(s, 5, 300000, 0, LEASE, &t), 0);
    assert_int_equal(c.n, 1);
    tile_unref(t, false, 0, NULL);
    s = reopen(s, 2 * GRACE, &c,
               &found); /* of leases that were given, not of those that could be */
    assert_true(s->grace_until_ns == LEASE);
    assert_true(drains_at(s, LEASE));
    store_free(s);
}

/* --- refusals --------------------------------------------------------------------------------- */

static int attach(int fd, const struct store_options *options)
{
    struct store_recovery found;
    struct map map = MAP_NULL;
    struct store *s = NULL;
    int r = map_adopt(dup(fd), &map);

    if (r)
        return r;
    r = store_attach(&map, options, &found, &s);
    assert_true(r ? map.fd >= 0 && !s : map.fd < 0 && s);
    map_close(&map);
    store_free(s);
    return r;
}

static void seal(uint8_t *bytes, int copy, const struct arena_header *h)
{
    struct arena_header sealed = *h;

    sealed.crc32c = crc32c(0, &sealed, offsetof(struct arena_header, crc32c));
    memcpy(bytes + copy * ARENA_HEADER_STEP, &sealed, sizeof(sealed));
}

/* Each check by its name, in their order, and nothing of a refused arena is touched. */
static void test_refusals(void **state)
{
    static const int EXPECTED[] = { STORE_E_HEADER, STORE_E_SCHEMA, STORE_E_GEOMETRY,
                                    STORE_E_FORMAT, STORE_E_FORMAT, STORE_E_TENANT,
                                    STORE_E_SECRET, STORE_E_FAULTS, STORE_E_UNREADY };
    uint8_t *before = malloc(MIB);
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct tile *t;

    (void)state;
    assert_non_null(before);
    assert_int_equal(put(s, 1, 100, 100, &t), 0);
    for (int from = ARRAY_SIZE(EXPECTED) - 1; from >= 0; from--) { /* ever more is wrong */
        struct arena_header h = s->arena.header;

        for (int i = ARRAY_SIZE(EXPECTED) - 1; i >= from; i--) {
            switch (i) {
            case 0:
                h.magic ^= 1;
                break;
            case 1:
                h.schema_major++;
                break;
            case 2:
                h.n_slots = UINT32_MAX;
                break;
            case 3:
                h.tile_format++;
                break;
            case 4:
                h.key_scheme++;
                break;
            case 5:
                h.tenant_hash[31] ^= 1;
                break;
            case 6:
                h.secret_id[0] ^= 1;
                break;
            case 7:
                h.faults = 3;
                break;
            case 8:
                h.unready = 10;
                break;
            }
        }
        seal(s->map.bytes, 0, &h);
        seal(s->map.bytes, 1, &h);
        memcpy(before, s->map.bytes, MIB);
        assert_int_equal(attach(store_fd(s), &OPTIONS), EXPECTED[from]);
        assert_memory_equal(before, s->map.bytes, MIB);
        assert_string_not_equal(store_outcome_name(EXPECTED[from]), "UNKNOWN");
    }
    memset(s->map.bytes, 0, 4096);
    assert_int_equal(attach(store_fd(s), &OPTIONS), STORE_E_HEADER);
    memset(s->map.bytes, 0xff, 4096);
    assert_int_equal(attach(store_fd(s), &OPTIONS), STORE_E_HEADER);
    store_free(s);
    free(before);
}

static void test_strangers(void **state)
{
    int memfd = memfd_create("t", MFD_ALLOW_SEALING), null = open("/dev/null", O_RDWR);
    struct map map = MAP_NULL;

    (void)state;
    assert_int_equal(map_adopt(null, &map), MAP_E_KIND);
    assert_int_equal(fchmod(memfd, 0600), 0);
    assert_int_equal(ftruncate(memfd, MIB), 0);
    assert_int_equal(map_adopt(memfd, &map), MAP_E_KIND); /* not sealed */
    assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    assert_int_equal(fchmod(memfd, 0660), 0);
    assert_int_equal(map_adopt(memfd, &map), MAP_E_KIND); /* somebody else could write */
    assert_int_equal(fchmod(memfd, 0600), 0);
    assert_int_equal(map_adopt(memfd, &map), 0);
    assert_int_equal(map.n_bytes, MIB);
    map_close(&map);
    close(null);
}

/* Faults count, kills do not; three and it is left alone, until a good run forgives them. */
static void test_quarantine(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);

    (void)state;
    for (int i = 0; i < 30; i++) { /* runs that were killed when they were ready */
        store_ready(s);
        s = reopen(s, 0, &c, &found);
        assert_int_equal(found.faults, 0);
        assert_int_equal(found.unready, 0);
    }
    for (unsigned i = 1; i <= 2; i++) {
        store_ready(s);
        *store_fault_word(s) = 1;
        s = reopen(s, 0, &c, &found);
        assert_int_equal(found.faults, i);
    }
    store_healthy(s);
    for (unsigned i = 1; i <= 2; i++) {
        store_ready(s);
        *store_fault_word(s) = 1;
        s = reopen(s, 0, &c, &found);
        assert_int_equal(found.faults, i);
    }
    *store_fault_word(s) = 1;
    assert_int_equal(attach(store_fd(s), &OPTIONS), STORE_E_FAULTS);
    *store_fault_word(s) = 0;
    store_healthy(s);
    store_ready(s);
    for (unsigned i = 0; i < 9; i++) { /* killed before they were ready */
        s = reopen(s, 0, &c, &found);
        assert_int_equal(found.unready, i);
    }
    assert_int_equal(attach(store_fd(s), &OPTIONS), 0);
    assert_int_equal(attach(store_fd(s), &OPTIONS), STORE_E_UNREADY);
    store_free(s);
}

/* --- damage ----------------------------------------------------------------------------------- */

/* Every bit of a line and of both headers, each in turn: never a wrong byte, never an end. */
static void test_flipped_bits(void **state)
{
    enum { LINE_BITS = 8 * ARENA_LINE_BYTES, HEADER_BITS = 8 * sizeof(struct arena_header) };
    uint8_t *good = malloc(MIB), *bytes;
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct map map = MAP_NULL;
    struct tile *t;
    size_t line_at;
    int fd;

    (void)state;
    assert_non_null(good);
    assert_int_equal(put(s, 1, 200, 100, &t), 0);
    assert_int_equal(put(s, 2, 200, 100, &t), 0);
    line_at = s->arena.header.slots_offset + t->base.slot * ARENA_LINE_BYTES;
    store_ready(s);
    fd = dup(store_fd(s));
    bytes = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(bytes != MAP_FAILED);
    store_free(s);
    memcpy(good, bytes, MIB);
    for (size_t bit = 0; bit < LINE_BITS + 2 * HEADER_BITS; bit++) {
        size_t at = bit < LINE_BITS ? line_at + bit / 8
                    : bit < LINE_BITS + HEADER_BITS
                        ? (bit - LINE_BITS) / 8
                        : ARENA_HEADER_STEP + (bit - LINE_BITS - HEADER_BITS) / 8;

        memcpy(bytes, good, MIB);
        bytes[at] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(map_adopt(dup(fd), &map), 0);
        assert_int_equal(store_attach(&map, &OPTIONS, &found, &s), 0);
        assert_true(has(s, 1, 200, 100));
        assert_true(has(s, 2, 200, 100) == (bit >= LINE_BITS)); /* a miss, or whole */
        store_free(s);
    }
    munmap(bytes, MIB);
    close(fd);
    free(good);
}

/* Lines with right checksums that want the same pages: neither is believed. */
static void test_disputes(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct arena_line line;
    struct tile *t;

    (void)state;
    assert_int_equal(put(s, 1, 3 * 4096, 0, &t), 0);
    assert_int_equal(put(s, 2, 4096, 0, &t), 0);
    line = s->arena.lines[t->base.slot];
    line.first_page = 2; /* the last of tile 1's */
    line.key[5] ^= 1;
    arena_begin(&s->arena, 20);
    arena_commit(&s->arena, 20, &line);
    line.first_page = (uint32_t)arena_n_pages(&s->arena) - 1; /* the end is not past the end */
    line.key[5] ^= 2;
    arena_begin(&s->arena, 21);
    arena_commit(&s->arena, 21, &line);
    line.key[5] ^= 4;
    line.first_page++;
    arena_begin(&s->arena, 22);
    arena_commit(&s->arena, 22, &line);
    s = reopen(s, 0, &c, &found);
    assert_int_equal(found.n_damaged, 3);
    assert_int_equal(found.n_tiles, 2);
    assert_false(has(s, 1, 3 * 4096, 0));
    assert_true(has(s, 2, 4096, 0));
    assert_true(drains(s));
    store_free(s);
}

/* A slot whose generation is at its end is not used any more. */
static void test_retired(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);

    (void)state;
    s->arena.generations[5] = ARENA_MAX_GENERATION - 1;
    arena_begin(&s->arena, 5);
    s = reopen(s, 0, &c, &found);
    assert_int_equal(found.n_half_written, 1);
    assert_int_equal(found.n_retired, 1);
    assert_int_equal(s->n_free_slots, 63);
    store_free(s);
}

/* Of the tiles of earlier runs those far from a beginning are evicted first. */
static void test_order(void **state)
{
    struct store_recovery found;
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct tile *t;

    (void)state;
    for (uint8_t i = 0; i < 10; i++)
        assert_int_equal(put(s, (uint8_t)(i * 3 % 10), OBJECT, 0, &t), 0);
    s = reopen(s, 0, &c, &found);
    for (uint8_t i = 10; i-- > 1;) {
        assert_int_equal(put(s, (uint8_t)(100 + i), OBJECT, 0, &t), 0);
        assert_int_equal(c.last, i);
    }
    store_free(s);
}

/* --- the scrubber ----------------------------------------------------------------------------- */

static void test_scrub(void **state)
{
    struct store_recovery found;
    struct store_scrubbed sum;
    struct counted c = { 0 };
    struct store *s = new_store(4 * MIB, &c);
    struct tile *t[20];
    struct tail *tail;
    uint8_t key[32], row[ROW] = { 1 };
    uint64_t n_bytes = 0;
    uint32_t n = 0, n_calls = 0;

    (void)state;
    for (uint8_t i = 0; i < 20; i++)
        assert_int_equal(put(s, i, OBJECT, 5000, &t[i]), 0);
    assert_int_equal(tail_new(s, 1, ZERO, DPQ_BF16, ROW, 0, 0, 0, &tail), 0);
    assert_int_equal(tail_grow(tail, row, 1), 0);
    s = reopen(s, 0, &c, &found);
    make_key(key, 3);
    assert_int_equal(store_get(s, key, &t[3]), 0);
    place_bytes(s, &t[3]->fine)[4999] ^= 0x80;
    make_key(key, 4);
    place_bytes(s, &index_find(&s->index, key)->base)[0] ^= 1;
    do {
        store_scrub(s, 2 * OBJECT, 0, &sum);
        assert_in_range(sum.n_bytes, 1, 3 * (OBJECT + 5000));
        n_bytes += sum.n_bytes;
        n += sum.n_corrupt;
        n_calls++;
    } while (!sum.wrapped);
    assert_int_equal(n, 2);
    assert_int_equal(n_bytes, 20 * (OBJECT + 5000) + ROW);
    assert_true(n_calls >= 10);
    assert_int_equal(stats(s).n_corrupt, 2);
    assert_int_equal(stats(s).n_tiles, 19); /* 4 is gone, 3 when it is let go */
    for (uint8_t i = 0; i < 20; i++)
        assert_true(has(s, i, OBJECT, 5000) == (i != 3 && i != 4));
    tile_unref(t[3], false, 0, NULL);
    assert_int_equal(stats(s).n_tiles, 18);
    for (int i = 0; i < 18; i++) { /* the next round finds nothing, and keeps nothing */
        store_scrub(s, OBJECT, 0, &sum);
        assert_int_equal(sum.n_corrupt, 0);
    }
    tail_free(tail_next(s, NULL), 0, NULL);
    assert_true(drains(s));
    store_free(s);
}

/* --- a file on a tmpfs -------------------------------------------------------------------------
 */

static void test_file(void **state)
{
    char dir[] = "/dev/shm/deltapq-test.XXXXXX";
    struct store_options options = OPTIONS;
    struct dpq_reader *reader = NULL;
    struct store_recovery found;
    struct map map = MAP_NULL, second = MAP_NULL;
    struct store *s = NULL;
    struct tile *t;
    int fd, disk;

    (void)state;
    options.grace_until_ns = 0;
    if (!mkdtemp(dir)) {
        print_message("no /dev/shm here\n");
        return;
    }
    fd = open(dir, O_DIRECTORY | O_RDONLY);
    disk = open("/proc", O_DIRECTORY | O_RDONLY);
    assert_int_equal(map_create_file(disk, MIB, &map), MAP_E_KIND); /* not a tmpfs */
    assert_int_equal(map_open_file(fd, "a", &map), MAP_E_NONE);
    assert_int_equal(map_create_file(fd, UINT64_C(1) << 55, &map), MAP_E_MEMORY);
    assert_int_equal(map_create_file(fd, MIB, &map), 0);
    assert_int_equal(store_create(&map, &options, &s), 0);
    assert_int_equal(map_open_file(fd, "a", &second), MAP_E_NONE); /* has no name yet */
    assert_int_equal(map_publish_file(&s->map, fd, "a"), 0);
    assert_true(map_publish_file(&s->map, fd, "a") < 0);
    assert_int_equal(map_open_file(fd, "a", &second), MAP_E_TAKEN);
    assert_int_equal(put(s, 1, OBJECT, 100, &t), 0);
    assert_int_equal(dpq_reader_new(store_ro_fd(s), &reader, NULL), 0);
    store_free(s);
    dpq_reader_free(reader);

    assert_int_equal(map_open_file(fd, "a", &map), 0);
    assert_int_equal(store_attach(&map, &options, &found, &s), 0);
    assert_true(has(s, 1, OBJECT, 100));
    store_free(s);
    assert_int_equal(fchmodat(fd, "a", 0640, 0), 0);
    assert_int_equal(map_open_file(fd, "a", &map), MAP_E_KIND);
    assert_int_equal(symlinkat("a", fd, "b"), 0);
    assert_int_equal(map_open_file(fd, "b", &map), MAP_E_KIND);
    unlinkat(fd, "a", 0);
    unlinkat(fd, "b", 0);
    rmdir(dir);
    close(fd);
    close(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_half_written),
        cmocka_unit_test(test_tails),
        cmocka_unit_test(test_corrupt_tail),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_grace),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_quarantine),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_disputes),
        cmocka_unit_test(test_retired),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_scrub),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_growing_needs_no_slot),
        cmocka_unit_test(test_grace_of_fine_and_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
