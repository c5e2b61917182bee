/* One random bit of each byte of a stored tile of 64 KiB, flipped in turn: by the daemon's check
 * and by a mapped reader's, each must be found. flip [ROUNDS] */
#include <stdio.h>
#include <stdlib.h>

#include "tests/util/store_tiles.h"

enum { N_BASE = 48 << 10, N_FINE = 16 << 10 };

static bool seen_by_reader(const struct dpq_reader *reader, const struct store_object *object)
{
    struct dpq_slot_view view;

    return dpq_reader_slot(reader, &object->ref, /* verify= */ true, &view) == DPQ_E_CORRUPT;
}

/* Return: how many flips were missed. */
static long flip_each(struct store *s, const struct place *p, const struct store_object *object,
                      const struct dpq_reader *reader, struct rng *rng, long *n_flips)
{
    uint8_t *bytes = place_bytes(s, p);
    long n_missed = 0;

    for (uint32_t i = 0; i < p->n_bytes; i++) {
        uint8_t bit = (uint8_t)(1 << rng_below(rng, 8));

        bytes[i] ^= bit;
        n_missed += place_intact(s, p) || !seen_by_reader(reader, object);
        bytes[i] ^= bit;
        ++*n_flips;
    }
    return n_missed + !place_intact(s, p);
}

int main(int argc, char **argv)
{
    long n_rounds = argc > 1 ? atol(argv[1]) : 1, n_flips = 0, n_missed = 0;
    struct dpq_reader *reader = NULL;
    struct store_object base, fine;
    struct rng rng = rng_seed(9);
    struct counted c = { 0 };
    struct store *s = new_store(MIB, &c);
    struct tile *t;

    if (put(s, 1, N_BASE, N_FINE, &t) || dpq_reader_new(store_ro_fd(s), &reader, NULL))
        return 2;
    tile_objects(t, &base, &fine);
    for (long i = 0; i < n_rounds; i++) {
        n_missed += flip_each(s, &t->base, &base, reader, &rng, &n_flips);
        n_missed += flip_each(s, &t->fine, &fine, reader, &rng, &n_flips);
    }
    printf("%ld flipped bits, %ld missed\n", n_flips, n_missed);
    dpq_reader_free(reader);
    tile_unref(t, false, 0, NULL);
    store_free(s);
    return n_missed != 0;
}
