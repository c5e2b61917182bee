/*
 * Verdicts on streams, between lib/codec and lib/risk, which do not know each other
 *
 * In Red a stream does without its reference only where that no longer helps: on text of another
 * kind errors are beyond what calibration had, and yet would be larger without predictions.
 *
 * In depth, whatever is predicted from a stream that went wrong chooses token by token, and does
 * without once its own loop says that predictions do not gain, whatever its zone. It is then coded
 * without a reference, and those above go on with it. So a layer that spoils predictions costs the
 * next one its gain, and those above nothing, once its first tile is over; one that is only coarse
 * costs nobody more than that.
 */
#include "daemon/session_verdict.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/risk/risk_audit.h"

enum { VERDICT_VERSION = 1 };

/* D_tol over the held-out error, at least: a stationary stream is at half its tolerance. */
static const double TOLERANCE = 2;

/* Of the mean held-out error of all streams of a kind: a stream below it is healed without a plane
 * more. lib/risk/README.md has what that buys. */
static const double WATER = .5;

_Static_assert((int)TILE_TOKEN_CODED == RISK_TOKEN_CODED && (int)TILE_TOKEN_KEY == RISK_TOKEN_KEY &&
                   (int)TILE_TOKEN_ESCAPED == RISK_TOKEN_ESCAPED &&
                   (int)TILE_TOKEN_SINK == RISK_TOKEN_SINK,
               "one is given to the other");
_Static_assert((int)TILE_VERDICT_REFERENCE == RISK_MODE_REFERENCE &&
                   (int)TILE_VERDICT_BETTER == RISK_MODE_BETTER &&
                   (int)TILE_VERDICT_INTRA == RISK_MODE_INTRA &&
                   (int)TILE_VERDICT_RAW == RISK_MODE_RAW,
               "likewise");

struct verdict_stream {
    struct risk_calibration calibration;
    double water; /* |e|^2 of a token below which a fine plane is not worth its bits */
    bool is_watched;
    uint8_t reference; /* enum risk_reference */
};

struct verdict_book {
    uint32_t n_streams, n_kv_heads;
    struct risk_rules rules;
    struct kern kern;
    struct verdict_stream streams[];
};

/* In a tile's verdict bytes, followed by RISK_MONITOR_BYTES a stream. */
struct verdict_header {
    uint16_t version;
    uint16_t monitor_bytes;
    uint32_t n_streams;
};

/* --- a profile -------------------------------------------------------------------------------- */

/* For K and for V, which are not of one size. Streams that are not watched have no part in it. */
static void set_water(struct verdict_book *book)
{
    for (uint32_t kind = 0; kind < 2; kind++) {
        double sum = 0;
        uint32_t n = 0;

        for (uint32_t i = 0; i < book->n_streams; i++)
            if (i / book->n_kv_heads % 2 == kind && book->streams[i].is_watched) {
                sum += book->streams[i].calibration.error;
                n++;
            }
        for (uint32_t i = 0; i < book->n_streams; i++)
            if (i / book->n_kv_heads % 2 == kind)
                book->streams[i].water = n ? WATER * sum / n : 0;
    }
}

static uint32_t read_rows(struct verdict_book *book, const struct risk_audit_row *rows,
                          uint32_t head_dim)
{
    uint32_t n_watched = 0;

    for (uint32_t i = 0; i < book->n_streams; i++) {
        struct verdict_stream *s = &book->streams[i];

        s->reference = rows[i].reference;
        s->is_watched = risk_audit_calibration(&rows[i], rows[i].reference, head_dim, TOLERANCE,
                                               &s->calibration);
        n_watched += s->is_watched;
    }
    set_water(book);
    return n_watched;
}

int verdict_book_new(const struct dpq_profile *profile, struct verdict_book **ret_book)
{
    const struct dpq_geometry *g = dpq_profile_geometry(profile);
    uint32_t n = g->n_layers * 2 * g->n_kv_heads;
    struct verdict_book *book;
    struct risk_audit_row *rows;
    size_t n_bytes, n_rows;
    const void *bytes = dpq_profile_audit(profile, &n_bytes);

    *ret_book = NULL;
    if (!bytes)
        return 0;
    book = calloc(1, sizeof(*book) + n * sizeof(book->streams[0]));
    rows = calloc(n, sizeof(*rows));
    if (!book || !rows) {
        free(book);
        free(rows);
        return error_origin(-ENOMEM);
    }
    book->n_streams = n;
    book->n_kv_heads = g->n_kv_heads;
    book->rules = RISK_RULES;
    kern_init(&book->kern, kern_cpu_detect());
    if (risk_audit_parse(bytes, n_bytes, n, rows, &n_rows) || n_rows != n ||
        !read_rows(book, rows, g->head_dim))
        book = verdict_book_free(book);
    free(rows);
    *ret_book = book;
    return 0;
}

struct verdict_book *verdict_book_free(struct verdict_book *book)
{
    free(book);
    return NULL;
}

uint32_t verdict_book_n_streams(const struct verdict_book *book)
{
    return book->n_streams;
}

uint32_t verdict_bytes(const struct verdict_book *book)
{
    return (uint32_t)sizeof(struct verdict_header) + book->n_streams * RISK_MONITOR_BYTES;
}

/* --- a tile's bytes --------------------------------------------------------------------------- */

/* The monitors' bytes in a base object, NULL if there are none of this book's. */
static const uint8_t *monitor_bytes(const struct verdict_book *book, const void *base,
                                    size_t n_base)
{
    struct verdict_header header;
    size_t at, n;

    if (!base || tile_find_verdict(base, n_base, &at, &n) || n != verdict_bytes(book))
        return NULL;
    memcpy(&header, (const uint8_t *)base + at, sizeof(header));
    if (header.version != VERDICT_VERSION || header.monitor_bytes != RISK_MONITOR_BYTES ||
        header.n_streams != book->n_streams)
        return NULL;
    return (const uint8_t *)base + at + sizeof(header);
}

/* @bytes: of all streams; NULL: there are none */
static void read_monitor(struct verdict_desk *desk, uint32_t i, const uint8_t *bytes)
{
    const struct verdict_stream *s = &desk->book->streams[i];
    uint8_t copy[RISK_MONITOR_BYTES];

    risk_monitor_init(&desk->monitors[i], &s->calibration);
    if (bytes && s->is_watched) {
        memcpy(copy, bytes + i * sizeof(copy), sizeof(copy));
        (void)!risk_monitor_unpack(copy, &desk->monitors[i]);
    }
    desk->before[i] = desk->monitors[i].zone.zone;
    desk->is_wrong[i] = false;
}

void verdict_zones(const struct verdict_book *book, const void *base, size_t n_base,
                   uint8_t *ret_zones)
{
    const uint8_t *bytes = monitor_bytes(book, base, n_base);
    uint8_t copy[RISK_MONITOR_BYTES];
    struct risk_monitor monitor;

    memset(ret_zones, RISK_GREEN, book->n_streams);
    for (uint32_t i = 0; bytes && i < book->n_streams; i++) {
        memcpy(copy, bytes + i * sizeof(copy), sizeof(copy));
        if (book->streams[i].is_watched && !risk_monitor_unpack(copy, &monitor))
            ret_zones[i] = monitor.zone.zone;
    }
}

/* --- verdicts --------------------------------------------------------------------------------- */

/* Of a row's head, or all its heads: has one gone wrong by itself? */
static bool any_wrong(const struct verdict_desk *desk, uint32_t row, uint32_t head, bool all_heads)
{
    uint32_t n = desk->book->n_kv_heads;

    for (uint32_t k = all_heads ? 0 : head; k < (all_heads ? n : head + 1); k++)
        if (desk->is_wrong[row * n + k])
            return true;
    return false;
}

/* In depth: K and V of the layer below, and for V, K of its own layer. */
static bool has_wrong_reference(const struct verdict_desk *desk, uint32_t i)
{
    uint32_t reference = desk->book->streams[i].reference, n = desk->book->n_kv_heads;
    uint32_t row = i / n, head = i % n, kind = row % 2;
    bool all = reference == RISK_REFERENCE_DEPTH;

    if (reference != RISK_REFERENCE_DEPTH && reference != RISK_REFERENCE_DEPTH_HEAD)
        return false;
    if (kind == DPQ_V && any_wrong(desk, row - 1, head, all))
        return true;
    row -= kind;
    return row >= 2 && (any_wrong(desk, row - 2, head, all) || any_wrong(desk, row - 1, head, all));
}

static uint8_t log2_of(uint32_t n)
{
    return n ? (uint8_t)__builtin_ctz(n) : 0;
}

/* Of a fine plane: planes all cost the same, so they are for the largest errors. */
static bool is_worth_bits(const struct verdict_desk *desk, uint32_t i)
{
    return desk->monitors[i].meter.error >= desk->book->streams[i].water;
}

static struct tile_verdict verdict_of(const struct verdict_stream *s, uint32_t zone, bool gains)
{
    struct risk_action action = risk_zone_action(s->reference, zone, false, gains);

    if (zone == RISK_GREEN)
        return (struct tile_verdict){ 0 };
    return (struct tile_verdict){
        .mode = action.mode == RISK_MODE_INTRA && s->reference == RISK_REFERENCE_NONE
                    ? TILE_VERDICT_REFERENCE
                    : action.mode,
        .keeps_fine = action.fine,
        .group_log2 = log2_of(action.group),
    };
}

/* In the order of streams: what one is predicted from comes before it.
 * @asked: somebody wants a reset. Red wants one, too, but then of what helps no longer. */
static struct tile_verdict decide(struct verdict_desk *desk, uint32_t i, bool asked)
{
    const struct verdict_stream *s = &desk->book->streams[i];
    struct risk_zone *zone = &desk->monitors[i].zone;
    bool is_predicted = s->reference != RISK_REFERENCE_NONE, is_misled, gains;
    struct tile_verdict verdict;

    is_misled = has_wrong_reference(desk, i);
    gains = s->is_watched && risk_meter_gains(&desk->monitors[i].meter, &desk->book->rules);
    desk->is_wrong[i] = zone->zone == RISK_RED && !is_misled;
    verdict = verdict_of(s, is_misled && !gains ? RISK_RED : zone->zone, gains);
    if (verdict.mode <= TILE_VERDICT_BETTER && !is_worth_bits(desk, i))
        verdict.keeps_fine = 0;
    if (is_misled && verdict.mode < TILE_VERDICT_BETTER)
        verdict.mode = TILE_VERDICT_BETTER;
    if (is_predicted && gains && !asked)
        zone->reset = 0;
    if (is_predicted && zone->reset)
        verdict.mode = TILE_VERDICT_INTRA;
    return verdict;
}

/* --- a tile under way ------------------------------------------------------------------------- */

void verdict_desk_deinit(struct verdict_desk *desk)
{
    free(desk->monitors);
    free(desk->verdicts);
    free(desk->before);
    free(desk->is_wrong);
    *desk = (struct verdict_desk){ 0 };
}

static int reserve(struct verdict_desk *desk, uint32_t n)
{
    if (n <= desk->n_capacity)
        return 0;
    verdict_desk_deinit(desk);
    desk->monitors = calloc(n, sizeof(*desk->monitors));
    desk->verdicts = calloc(n, sizeof(*desk->verdicts));
    desk->before = calloc(n, sizeof(*desk->before));
    desk->is_wrong = calloc(n, sizeof(*desk->is_wrong));
    if (!desk->monitors || !desk->verdicts || !desk->before || !desk->is_wrong)
        return error_origin(-ENOMEM);
    desk->n_capacity = n;
    return 0;
}

/* A stream that goes wrong within a tile gets its fine plane there, not only in the next one: what
 * comes first in a sequence is what most tokens see. It changes no base code, hence no zone. */
static bool measured(void *user, uint32_t i, const struct tile_energies *energies)
{
    struct verdict_desk *desk = user;
    const struct verdict_stream *s = &desk->book->streams[i];
    struct risk_course *course = &desk->courses[i];
    bool is_green = true;

    if (!s->is_watched) {
        *course = (struct risk_course){ 0 };
        return false;
    }
    risk_tile_step(&desk->monitors[i], &desk->book->kern, &desk->book->rules, &s->calibration,
                   energies->x2, energies->d2, energies->e2, energies->part, desk->before[i],
                   course);
    for (uint32_t group = 1; group <= RISK_TILE_GROUPS; group++)
        is_green = is_green && course->zone[group] == RISK_GREEN;
    return !is_green && is_worth_bits(desk, i);
}

/* --- trails ----------------------------------------------------------------------------------- */

struct verdict_trail {
    pthread_mutex_t mutex;
    pthread_cond_t longer;
    uint32_t n_streams, n_left; /* of which there are monitors: mutex */
    uint8_t bytes[];
};

int verdict_trail_new(const struct verdict_book *book, struct verdict_trail **ret_trail)
{
    struct verdict_trail *t = calloc(1, sizeof(*t) + book->n_streams * RISK_MONITOR_BYTES);

    if (!t)
        return error_origin(-ENOMEM);
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->longer, NULL);
    t->n_streams = book->n_streams;
    *ret_trail = t;
    return 0;
}

struct verdict_trail *verdict_trail_free(struct verdict_trail *trail)
{
    if (!trail)
        return NULL;
    pthread_cond_destroy(&trail->longer);
    pthread_mutex_destroy(&trail->mutex);
    free(trail);
    return NULL;
}

static void lengthen(struct verdict_trail *t, uint32_t n_left)
{
    pthread_mutex_lock(&t->mutex);
    t->n_left = n_left;
    pthread_cond_broadcast(&t->longer);
    pthread_mutex_unlock(&t->mutex);
}

void verdict_trail_end(struct verdict_trail *trail)
{
    lengthen(trail, trail->n_streams);
}

static void await(struct verdict_trail *t, uint32_t n_left)
{
    pthread_mutex_lock(&t->mutex);
    while (t->n_left < n_left)
        pthread_cond_wait(&t->longer, &t->mutex);
    pthread_mutex_unlock(&t->mutex);
}

/* The bytes that verdict_end() puts into the tile: a monitor is what can be read from them. */
static void pack(const struct verdict_desk *desk, uint32_t i, uint8_t *bytes)
{
    if (desk->book->streams[i].is_watched)
        risk_monitor_pack(&desk->monitors[i], bytes + i * RISK_MONITOR_BYTES);
}

static void before_layer(void *user, uint32_t layer)
{
    struct verdict_desk *desk = user;
    uint32_t n = 2 * desk->book->n_kv_heads, first = layer * n;

    if (desk->own && layer) { /* the layer below has been coded */
        for (uint32_t i = first - n; i < first; i++)
            pack(desk, i, desk->own->bytes);
        lengthen(desk->own, first);
    }
    if (!desk->ahead)
        return;
    await(desk->ahead, first + n);
    for (uint32_t i = first; i < first + n; i++)
        read_monitor(desk, i, desk->ahead->bytes);
    for (uint32_t i = first; i < first + n; i++)
        desk->verdicts[i] = decide(desk, i, /* asked= */ false);
}

/* --- beginning and end of a tile -------------------------------------------------------------- */

static int begin(struct verdict_desk *desk, const struct verdict_book *book,
                 struct risk_course *courses, struct tile_watch *ret_watch)
{
    int r = reserve(desk, book->n_streams);

    if (r)
        return error_fold(r);
    desk->book = book;
    desk->courses = courses;
    desk->ahead = desk->own = NULL;
    *ret_watch = (struct tile_watch){ .verdicts = desk->verdicts,
                                      .user = desk,
                                      .measured = measured,
                                      .n_verdict_bytes = verdict_bytes(book) };
    return 0;
}

int verdict_begin(struct verdict_desk *desk, const struct verdict_book *book, const void *base,
                  size_t n_base, const struct risk_input *inputs, struct risk_course *courses,
                  struct tile_watch *ret_watch)
{
    const uint8_t *bytes = monitor_bytes(book, base, n_base);
    int r = begin(desk, book, courses, ret_watch);

    if (r)
        return error_fold(r);
    for (uint32_t i = 0; i < book->n_streams; i++) {
        read_monitor(desk, i, bytes);
        if (inputs && book->streams[i].is_watched)
            risk_input_apply(&inputs[i], &desk->monitors[i]);
    }
    for (uint32_t i = 0; i < book->n_streams; i++)
        desk->verdicts[i] = decide(desk, i, inputs && inputs[i].resets);
    return 0;
}

int verdict_follow(struct verdict_desk *desk, const struct verdict_book *book,
                   struct verdict_trail *ahead, struct risk_course *courses,
                   struct tile_watch *ret_watch)
{
    int r = begin(desk, book, courses, ret_watch);

    if (r)
        return error_fold(r);
    desk->ahead = ahead;
    ret_watch->before_layer = before_layer;
    return 0;
}

void verdict_leave(struct verdict_desk *desk, struct verdict_trail *own, struct tile_watch *watch)
{
    desk->own = own;
    watch->before_layer = before_layer;
}

void verdict_end(struct verdict_desk *desk, uint8_t *base, size_t n_base)
{
    const struct verdict_book *book = desk->book;
    struct verdict_header header = { VERDICT_VERSION, RISK_MONITOR_BYTES, book->n_streams };
    size_t at = 0, n = 0;

    assert(!tile_find_verdict(base, n_base, &at, &n) && n == verdict_bytes(book));
    memcpy(base + at, &header, sizeof(header));
    for (uint32_t i = 0; i < book->n_streams; i++)
        pack(desk, i, base + at + sizeof(header));
    if (!desk->own)
        return;
    for (uint32_t i = book->n_streams - 2 * book->n_kv_heads; i < book->n_streams; i++)
        pack(desk, i, desk->own->bytes);
    verdict_trail_end(desk->own);
}
