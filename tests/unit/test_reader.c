/* reader: a mapping that is not believed, and slots that change while they are read */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/crc32c.h"
#include "tests/util/store_tiles.h"

struct fixture {
    struct counted counted;
    struct store *store;
    struct dpq_reader *reader;
    struct tile *tile;
    struct store_object base, fine;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->store = new_store(MIB, &f->counted);
    assert_int_equal(put(f->store, 1, OBJECT, 5000, &f->tile), 0);
    tile_objects(f->tile, &f->base, &f->fine);
    assert_int_equal(dpq_reader_new(store_ro_fd(f->store), &f->reader, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    dpq_reader_free(f->reader);
    tile_unref(f->tile, false, 0, NULL);
    store_free(f->store);
    free(f);
    return 0;
}

static void test_slot(void **state)
{
    struct fixture *f = *state;
    struct dpq_slot_view view;

    assert_int_equal(dpq_reader_slot(f->reader, &f->base.ref, true, &view), 0);
    assert_int_equal(view.kind, DPQ_SLOT_BASE);
    assert_int_equal(view.n_tokens, 128);
    assert_int_equal(view.first_index, 128);
    assert_int_equal(view.n_bytes, OBJECT);
    assert_true(are_bytes(view.bytes, view.n_bytes, 1));
    assert_int_equal(dpq_reader_slot(f->reader, &f->fine.ref, true, &view), 0);
    assert_int_equal(view.kind, DPQ_SLOT_FINE);
    assert_true(are_bytes(view.bytes, view.n_bytes, ~(uint64_t)1));
    assert_int_equal(dpq_reader_check(f->reader, &f->base.ref), 0);
    f->tile = tile_unref(f->tile, true, 0, NULL);
    assert_int_equal(dpq_reader_check(f->reader, &f->base.ref), DPQ_E_GONE);
    assert_int_equal(dpq_reader_slot(f->reader, &f->fine.ref, true, &view), DPQ_E_GONE);
}

/* References that no daemon gave. */
static void test_wrong_reference(void **state)
{
    struct fixture *f = *state;
    struct dpq_slot_ref good = f->base.ref;
    const struct dpq_slot_ref bad[] = {
        { good.slot, good.generation + 1 },
        { good.slot, good.generation - 1 },
        { good.slot, good.generation | UINT64_C(1)
                                           << 62 }, /* the bits that the word has no room for */
        { good.slot, UINT64_MAX },
        { f->store->arena.header.n_slots, 0 },
        { f->store->arena.header.n_slots + 5, good.generation },
        { UINT64_MAX, good.generation },
        { UINT64_MAX / ARENA_LINE_BYTES + 1, 0 },
        { good.slot + 7, 0 }, /* a free one */
    };
    struct dpq_slot_view view;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(dpq_reader_slot(f->reader, &bad[i], true, &view), DPQ_E_GONE);
        assert_int_equal(dpq_reader_check(f->reader, &bad[i]), DPQ_E_GONE);
    }
}

/* Any bit of a line, but for the word, makes it CORRUPT; any bit of the word makes it GONE. */
static void test_line_bits(void **state)
{
    struct fixture *f = *state;
    uint8_t *line = (uint8_t *)&f->store->arena.lines[f->base.ref.slot];
    struct dpq_slot_view view;

    for (size_t bit = 0; bit < 8 * ARENA_LINE_BYTES; bit++) {
        line[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(dpq_reader_slot(f->reader, &f->base.ref, false, &view),
                         bit < 64 ? DPQ_E_GONE : DPQ_E_CORRUPT);
        line[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(dpq_reader_slot(f->reader, &f->base.ref, false, &view), 0);
}

/* A line whose checksum was made to fit still can't point outside. */
static void test_line_bounds(void **state)
{
    struct fixture *f = *state;
    struct arena_line *line = &f->store->arena.lines[f->base.ref.slot], good = *line;
    struct dpq_slot_view view;

    for (int i = 0; i < 8; i++) {
        uint64_t n_pages = arena_n_pages(&f->store->arena);

        memcpy((uint8_t *)line + 8, (uint8_t *)&good + 8, sizeof(good) - 8);
        switch (i) {
        case 0:
            line->n_bytes = UINT32_MAX;
            break;
        case 1:
            line->n_bytes = MIB;
            break;
        case 2:
            line->first_page = UINT32_MAX;
            break;
        case 3:
            line->first_page = (uint32_t)n_pages;
            break;
        case 4:
            line->kind = 0;
            break;
        case 5:
            line->kind = 4;
            break;
        case 6:
            line->n_tokens = 129;
            break;
        case 7:
            line->dtype = 3;
            break;
        }
        line->line_checksum = line_checksum(line);
        assert_int_equal(dpq_reader_slot(f->reader, &f->base.ref, true, &view), DPQ_E_CORRUPT);
    }
    memcpy((uint8_t *)line + 8, (uint8_t *)&good + 8, sizeof(good) - 8);
    assert_int_equal(dpq_reader_slot(f->reader, &f->base.ref, true, &view), 0);
}

/* A COMMITTED word above a line of an earlier generation is refused. */
static void test_older_line(void **state)
{
    struct fixture *f = *state;
    struct dpq_slot_ref later = { f->base.ref.slot, f->base.ref.generation + 2 };
    struct dpq_slot_view view;

    atomic_store(&f->store->arena.lines[later.slot].word,
                 slot_word(later.generation, SLOT_COMMITTED));
    assert_int_equal(dpq_reader_slot(f->reader, &later, false, &view), DPQ_E_CORRUPT);
}

static void test_payload(void **state)
{
    struct fixture *f = *state;
    uint8_t *bytes = place_bytes(f->store, &f->tile->base);
    struct dpq_slot_view view;

    for (size_t at = 0; at < OBJECT; at += 9973) {
        bytes[at] ^= 1;
        assert_int_equal(dpq_reader_slot(f->reader, &f->base.ref, false, &view), 0);
        assert_int_equal(dpq_reader_slot(f->reader, &f->base.ref, true, &view), DPQ_E_CORRUPT);
        bytes[at] ^= 1;
    }
    assert_int_equal(dpq_reader_slot(f->reader, &f->base.ref, true, &view), 0);
}

/* --- headers ---------------------------------------------------------------------------------- */

static void seal(struct arena_header *h)
{
    h->crc32c = crc32c(0, h, offsetof(struct arena_header, crc32c));
}

static int open_again(struct fixture *f, struct dpq_fault *fault)
{
    struct dpq_reader *reader = NULL;
    int r = dpq_reader_new(store_ro_fd(f->store), &reader, fault);

    dpq_reader_free(reader);
    return r;
}

/* One damaged copy does no harm when the other stands; the one with the higher seq counts. */
static void test_two_headers(void **state)
{
    struct fixture *f = *state;
    struct arena_header *one = (struct arena_header *)f->store->map.bytes;
    struct arena_header *two = (struct arena_header *)(f->store->map.bytes + ARENA_HEADER_STEP);
    struct dpq_fault fault = { 0 };

    assert_int_equal(open_again(f, &fault), 0);
    *two = *one;
    two->seq++;
    two->schema_major++;
    seal(two);
    assert_int_equal(open_again(f, &fault), DPQ_E_VERSION);
    assert_true(strlen(fault.message) > 0);
    two->epoch ^= 1; /* torn */
    assert_int_equal(open_again(f, &fault), 0);
    for (size_t bit = 0; bit < 8 * sizeof(*one); bit++) {
        ((uint8_t *)one)[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(open_again(f, &fault), DPQ_E_CORRUPT);
        ((uint8_t *)one)[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(open_again(f, &fault), 0);
}

/* A header with a right CRC that does not describe this memfd. */
static void test_false_header(void **state)
{
    struct fixture *f = *state;
    struct arena_header *h = (struct arena_header *)f->store->map.bytes, good = *h;
    struct dpq_fault fault = { 0 };

    for (int i = 0; i < 9; i++) {
        *h = good;
        switch (i) {
        case 0:
            h->n_bytes *= 2;
            break;
        case 1:
            h->n_slots = UINT64_MAX;
            break;
        case 2:
            h->n_slots = UINT64_MAX / ARENA_LINE_BYTES + 2;
            break;
        case 3:
            h->extents_offset = UINT64_MAX;
            break;
        case 4:
            h->extents_offset += 8;
            break;
        case 5:
            h->extents_offset = ARENA_PAGE;
            break;
        case 6:
            h->slots_offset = 0;
            break;
        case 7:
            h->line_bytes = 64;
            break;
        case 8:
            h->page_bytes = 0;
            break;
        }
        seal(h);
        assert_int_equal(open_again(f, &fault), DPQ_E_CORRUPT);
    }
}

static void test_strangers(void **state)
{
    int fd = open("/dev/null", O_RDONLY), memfd = memfd_create("t", MFD_ALLOW_SEALING);
    struct dpq_reader *reader = NULL;
    struct dpq_fault fault = { 0 };

    (void)state;
    assert_int_equal(dpq_reader_new(fd, &reader, &fault), DPQ_E_CORRUPT);
    assert_int_equal(ftruncate(memfd, 1 << 20), 0);
    assert_int_equal(dpq_reader_new(memfd, &reader, &fault), DPQ_E_CORRUPT); /* not sealed */
    assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    assert_int_equal(dpq_reader_new(memfd, &reader, &fault), DPQ_E_CORRUPT); /* all zero */
    assert_null(reader);
    assert_null(dpq_reader_free(NULL));
    close(memfd);
    close(fd);
}

/* Each new arena has an epoch of its own. */
static void test_epoch(void **state)
{
    struct fixture *f = *state;
    struct counted c = { 0 };
    struct store *other = new_store(MIB, &c);

    assert_true(store_epoch(f->store) != store_epoch(other));
    assert_true(store_epoch(other) != 0);
    store_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_slot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_reference, setup, teardown),
        cmocka_unit_test_setup_teardown(test_line_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_line_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_older_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_payload, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_false_header, setup, teardown),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test_setup_teardown(test_epoch, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
