/*
 * The scrubber: a little of the arena at a time, again and again
 *
 * Tiles by their slots, then tails and records. What is being read is kept by a mark: a tile is
 * passed over by evictions, and who wants to free it, or a strip, waits. To be read by the scrubber
 * does not make a tile younger.
 */
#include "lib/store/store_internal.h"

enum { MAX_SLOTS = 65536 };

/* The next tile from where it stopped; NULL: none within reach. */
static struct tile *next_tile(struct store *s, uint32_t *slots_left)
{
    for (; s->scrub_slot < s->arena.header.n_slots && *slots_left; --*slots_left) {
        struct tile *t = &s->entries[s->scrub_slot++].tile;

        if (t->role == ENTRY_TILE && !(t->flags & TILE_CONDEMNED))
            return t;
    }
    return NULL;
}

static void scrub_tile(struct store *s, struct tile *t, uint64_t now_ns, struct store_scrubbed *sum)
{
    struct place base = t->base, fine = t->fine;
    bool good;

    t->n_readers++;
    store_unlock(s);
    good = place_intact(s, &base) && place_intact(s, &fine);
    store_lock(s);
    t->n_readers--;
    pthread_cond_broadcast(&s->scrubbed);
    sum->n_bytes += (uint64_t)base.n_bytes + (fine.slot == SLOT_NIL ? 0 : fine.n_bytes);
    sum->n_objects++;
    if (good) {
        t->flags &= (uint8_t)~TILE_UNCHECKED;
        return;
    }
    sum->n_corrupt++;
    tile_condemn(t);
    if (!t->n_refs)
        relief_evict_corrupt(t, now_ns);
}

/* Unlocked: it is marked before. */
static void scrub_strip(struct strip *strip, struct store_scrubbed *sum)
{
    uint64_t n_bytes;

    sum->n_corrupt += strip_verify(strip, &n_bytes) != 0;
    sum->n_bytes += n_bytes;
    sum->n_objects++;
}

void store_scrub(struct store *store, uint64_t max_bytes, uint64_t now_ns,
                 struct store_scrubbed *ret_scrubbed)
{
    struct store_scrubbed sum = { 0 };
    uint32_t slots_left = MAX_SLOTS;
    struct tile *t;

    store_lock(store);
    while (sum.n_bytes < max_bytes && slots_left && (t = next_tile(store, &slots_left)))
        scrub_tile(store, t, now_ns, &sum);
    if (store->scrub_slot >= store->arena.header.n_slots) {
        if (!store->in_strips)
            store->scrub_strip = store->strips;
        store->in_strips = true;
        while (sum.n_bytes < max_bytes && slots_left-- && store->scrub_strip) {
            struct strip *strip = store->scrub_strip;

            store->scrub_strip = strip->next;
            strip->n_readers++;
            store_unlock(store);
            scrub_strip(strip, &sum);
            store_lock(store);
            strip->n_readers--;
            pthread_cond_broadcast(&store->scrubbed);
        }
        if (!store->scrub_strip) {
            store->in_strips = false;
            store->scrub_slot = 0;
            sum.wrapped = true;
        }
    }
    store->stats.n_scrubbed_bytes += sum.n_bytes;
    store_unlock(store);
    *ret_scrubbed = sum;
}
