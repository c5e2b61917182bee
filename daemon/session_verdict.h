#pragma once

/*
 * Verdicts: how the next tile of a sequence is coded, from what its last one showed
 *
 * The monitors of a sequence's streams are bytes of its last tile (lib/FORMAT.md, "Verdict"): a
 * tile is coded under the monitors that its predecessor left, and leaves its own. So stored bytes
 * depend on the sequence's numbers alone, not on threads or on how they arrived, and zones survive
 * restarts, forks and prefix hits without being kept anywhere else.
 *
 *     verdict_begin()  monitors from the tile before -> verdicts
 *     the codec        codes, and shows each stream's energies
 *     verdict_end()    monitors to the new tile
 *
 * or, for tiles of one sequence that are made side by side, a layer behind each other:
 *
 *     verdict_follow() monitors as the tile before leaves them, layer by layer, on its trail
 *
 * What is decided is the same.
 *
 * Thread: any; a desk belongs to one at a time.
 */

#include "lib/base/defs.h"
#include "lib/codec/tile_watch.h"
#include "lib/deltapq.h"
#include "lib/risk/risk_tile.h"

/* What a profile's audit says for the monitors: immutable. */
struct verdict_book;

/**
 * verdict_book_new() - *ret_book is NULL when no stream can be watched: there is no audit, or none
 * that can be read. Takes some 100 us a stream. Return: 0, -ENOMEM.
 */
int verdict_book_new(const struct dpq_profile *profile,
                     struct verdict_book **ret_book) _must_check_;
struct verdict_book *verdict_book_free(struct verdict_book *book);
uint32_t verdict_book_n_streams(const struct verdict_book *book);

/** verdict_bytes() - what a tile has room for */
uint32_t verdict_bytes(const struct verdict_book *book);

/* The monitors that a tile under way leaves, stream by stream, for whoever codes the next one. */
struct verdict_trail;

/** verdict_trail_new() - nothing on it yet. Return: 0, -ENOMEM */
int verdict_trail_new(const struct verdict_book *book,
                      struct verdict_trail **ret_trail) _must_check_;

/** verdict_trail_end() - the tile will leave no more: who follows need not wait, for nothing good
 * if it has not been coded. Thread: any */
void verdict_trail_end(struct verdict_trail *trail);

/** verdict_trail_free() - accepts NULL, returns NULL */
struct verdict_trail *verdict_trail_free(struct verdict_trail *trail);

/* Where a tile is being judged: a worker's scratch memory. */
struct verdict_desk {
    const struct verdict_book *book;
    uint32_t n_capacity;
    struct risk_monitor *monitors; /* [n_streams] */
    struct tile_verdict *verdicts;
    uint8_t *before;             /* zones at the end of the tile before */
    bool *is_wrong;              /* in Red, and not for the sake of what it is predicted from */
    struct risk_course *courses; /* the caller's: of the tile under way */
    struct verdict_trail *ahead, *own; /* the caller's: followed, and left; NULL: none */
};

void verdict_desk_deinit(struct verdict_desk *desk);

/**
 * verdict_begin() - what is to be done with the tile after @base
 * @base:    base object of the sequence's last tile; NULL: there is none. Distrusted: a stream
 *           whose bytes make no sense begins anew.
 * @inputs:  [n_streams], or NULL
 * @courses: [n_streams]: filled by the time of verdict_end()
 * @ret_watch: for tile_encode_watched(); lives as long as the desk is not used again
 * Return: 0, -ENOMEM.
 */
int verdict_begin(struct verdict_desk *desk, const struct verdict_book *book, const void *base,
                  size_t n_base, const struct risk_input *inputs, struct risk_course *courses,
                  struct tile_watch *ret_watch) _must_check_;

/**
 * verdict_follow() - the same, from the trail of the tile before
 * The codec waits before each layer until that tile's is there: it must have begun on another
 * thread, or be over.
 */
int verdict_follow(struct verdict_desk *desk, const struct verdict_book *book,
                   struct verdict_trail *ahead, struct risk_course *courses,
                   struct tile_watch *ret_watch) _must_check_;

/** verdict_leave() - after verdict_begin() or verdict_follow(): this tile is followed itself */
void verdict_leave(struct verdict_desk *desk, struct verdict_trail *own, struct tile_watch *watch);

/** verdict_end() - the monitors into the new tile's base object */
void verdict_end(struct verdict_desk *desk, uint8_t *base, size_t n_base);

/** verdict_zones() - zones that a tile leaves, one a stream; Green where it does not say */
void verdict_zones(const struct verdict_book *book, const void *base, size_t n_base,
                   uint8_t *ret_zones);
