/*
 * Risk, as clients see it: what they report, resets that they ask for, the map of zones
 *
 * What is said about a sequence waits in it until its next tile is encoded, which is the first that
 * can heed it; the tile's header then has it. An append that fails gives it back.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session_append.h"
#include "daemon/session_risk.h"
#include "lib/base/error.h"

static size_t inputs_bytes(const struct sequence *sequence)
{
    return verdict_book_n_streams(sequence_book(sequence)) * sizeof(struct risk_input);
}

/* --- between sequence and append -------------------------------------------------------------- */

struct risk_input *sequence_take_inputs(struct session *session, struct sequence *sequence)
{
    struct risk_input *inputs;

    session_lock(session);
    inputs = steal_ptr(sequence->inputs);
    if (inputs)
        session->input_bytes -= inputs_bytes(sequence);
    session_unlock(session);
    return inputs;
}

void sequence_return_inputs(struct session *session, struct sequence *sequence,
                            struct risk_input *inputs)
{
    session_lock(session);
    if (!sequence->inputs && !sequence->released) {
        sequence->inputs = steal_ptr(inputs);
        session->input_bytes += inputs_bytes(sequence);
    }
    session_unlock(session);
    free(inputs);
}

void sequence_drop_inputs(struct session *session, struct sequence *sequence)
{
    if (sequence->inputs)
        session->input_bytes -= inputs_bytes(sequence);
    free(sequence->inputs);
    sequence->inputs = NULL;
}

struct monitor_tile sequence_monitor_tile(const struct sequence *sequence, uint64_t first_token)
{
    const struct dpq_geometry *g = profile_geometry(sequence->profile);
    struct monitor_tile tile = {
        .sequence_id = sequence->entry.id,
        .first_token = first_token,
        .tenant = sequence->tenant->index,
        .n_streams = verdict_book_n_streams(sequence_book(sequence)),
        .n_kv_heads = g->n_kv_heads,
    };

    memcpy(&tile.profile, dpq_profile_digest(sequence->profile->profile), sizeof(tile.profile));
    return tile;
}

void sequence_adopt_zones(struct session *session, const struct sequence *sequence)
{
    const struct verdict_book *book = sequence_book(sequence);
    struct monitor_tile tile;
    struct store_object base, fine;
    uint8_t *zones;

    if (!book || !sequence->n_tiles)
        return;
    zones = malloc(verdict_book_n_streams(book));
    if (!zones)
        return; /* in the map with its next tile */
    tile_objects(sequence->tiles[sequence->n_tiles - 1], &base, &fine);
    verdict_zones(book, base.bytes, base.n_bytes, zones);
    tile = sequence_monitor_tile(sequence, (sequence->n_tiles - 1) * DPQ_TILE_TOKENS);
    monitor_adopt(session->monitor, &tile, zones);
    free(zones);
}

/* The base object before the i-th of the append; none, or one that is damaged: NULL. */
static const void *object_before(const struct append *append, uint32_t i, size_t *ret_n_bytes)
{
    const struct sequence *sequence = append->sequence;
    struct store_object base, fine;
    struct tile *tile = NULL;

    if (i)
        tile = append->parts[i - 1].tile;
    else if (sequence->n_tiles)
        tile = sequence->tiles[sequence->n_tiles - 1];
    if (!tile || tile_check(tile))
        return NULL;
    tile_objects(tile, &base, &fine);
    *ret_n_bytes = base.n_bytes;
    return base.bytes;
}

int append_plan_trails(struct append *append)
{
    const struct verdict_book *book = sequence_book(append->sequence);
    int r = 0;

    while (append->first_made < append->n_parts && append->parts[append->first_made].shared)
        append->first_made++;
    for (uint32_t i = 0; book && !r && i + 1 < append->n_parts; i++)
        if (!append->parts[i].shared && !append->parts[i + 1].shared)
            r = verdict_trail_new(book, &append->parts[i].trail);
    return r ? error_fold(r) : 0;
}

int append_begin_verdict(struct append *append, uint32_t i, struct verdict_desk *desk,
                         struct tile_watch *ret_watch)
{
    const struct verdict_book *book = sequence_book(append->sequence);
    struct verdict_trail *ahead = i ? append->parts[i - 1].trail : NULL;
    bool is_first = i == append->first_made;
    struct part *part = &append->parts[i];
    size_t n_before = 0;
    const void *before;
    int r;

    if (!book)
        return 0;
    part->courses = calloc(verdict_book_n_streams(book), sizeof(part->courses[0]));
    if (!part->courses)
        return error_origin(-ENOMEM);
    if (is_first)
        append->inputs_used = true;
    if (ahead) {
        r = verdict_follow(desk, book, ahead, part->courses, ret_watch);
    } else {
        before = object_before(append, i, &n_before);
        r = verdict_begin(desk, book, before, n_before, is_first ? append->inputs : NULL,
                          part->courses, ret_watch);
    }
    if (!r && part->trail)
        verdict_leave(desk, part->trail, ret_watch);
    return r ? error_fold(r) : 0;
}

/* --- reports and resets ----------------------------------------------------------------------- */

static bool is_meant(const struct session_where *where, uint32_t layer, uint32_t kind,
                     uint32_t head)
{
    return (where->layer < 0 || (uint32_t)where->layer == layer) &&
           (where->kind < 0 || (uint32_t)where->kind == kind) &&
           (where->head < 0 || (uint32_t)where->head == head);
}

static int check_where(const struct dpq_geometry *g, const struct session_where *where,
                       struct session_error *ret_error)
{
    if (where->layer < (int32_t)g->n_layers && where->kind < 2 &&
        where->head < (int32_t)g->n_kv_heads)
        return 0;
    session_error_set(ret_error, SESSION_OUT_OF_RANGE, "STREAM",
                      "layer %d, kind %d, head %d: the profile has %u layers, 2 kinds, %u KV heads",
                      where->layer, where->kind, where->head, g->n_layers, g->n_kv_heads);
    return 1;
}

/* The sequence's inputs, made if need be. Locked. */
static struct risk_input *reserve(struct session *session, struct sequence *sequence,
                                  struct session_error *ret_error)
{
    size_t n_bytes = inputs_bytes(sequence);

    if (sequence->inputs)
        return sequence->inputs;
    if (session->input_bytes + n_bytes > session->config->monitor_bytes / 4) {
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "MONITOR_BYTES",
                          "reports and resets that wait for their sequence's next tile take a "
                          "quarter of monitor_bytes already");
        ret_error->retry_ms = 5 * RETRY_MS;
        return NULL;
    }
    sequence->inputs = malloc(n_bytes);
    if (!sequence->inputs) {
        session_error_fault(ret_error, error_origin(-ENOMEM), "Report");
        return NULL;
    }
    for (uint32_t i = 0; i < n_bytes / sizeof(struct risk_input); i++)
        sequence->inputs[i] = RISK_NO_INPUT;
    session->input_bytes += n_bytes;
    return sequence->inputs;
}

/* @ratio: of a report; < 0: a reset. Locked. */
static void note_inputs(struct session *session, const struct session_where *where, double ratio,
                        uint64_t *ret_first_token, struct session_error *ret_error)
{
    struct sequence *sequence = sequence_find(session, where->tenant, where->sequence_id);
    const struct dpq_geometry *g;
    struct risk_input *inputs;

    if (!sequence) {
        session_error_no_sequence(ret_error, where->sequence_id);
        return;
    }
    g = profile_geometry(sequence->profile);
    if (check_where(g, where, ret_error))
        return;
    if (!sequence_book(sequence)) {
        session_error_set(ret_error, SESSION_FAILED_PRECONDITION, "NOT_WATCHED",
                          sequence->profile->book
                              ? "streams of this tenant are not watched: monitor = false"
                              : "the sequence's profile has no audit: its streams are not watched");
        return;
    }
    inputs = reserve(session, sequence, ret_error);
    if (!inputs)
        return;
    for (uint32_t layer = 0; layer < g->n_layers; layer++)
        for (uint32_t kind = 0; kind < 2; kind++)
            for (uint32_t head = 0; head < g->n_kv_heads; head++, inputs++) {
                if (!is_meant(where, layer, kind, head))
                    continue;
                if (ratio >= 0)
                    risk_input_report(inputs, ratio);
                else
                    inputs->resets = true;
            }
    *ret_first_token = sequence->n_tiles * DPQ_TILE_TOKENS;
}

void session_report(struct session *session, struct session_report *op)
{
    session_error_clear(&op->error);
    op->first_token = 0;
    if (!(op->ratio >= 0) || op->ratio > SESSION_MAX_RATIO) {
        session_error_set(&op->error, SESSION_INVALID_ARGUMENT, "RATIO",
                          "error_ratio %g is not in 0 ... %g", op->ratio, SESSION_MAX_RATIO);
        return;
    }
    session_lock(session);
    note_inputs(session, &op->where, op->ratio, &op->first_token, &op->error);
    session_unlock(session);
}

void session_reset(struct session *session, struct session_reset *op)
{
    session_error_clear(&op->error);
    op->first_token = 0;
    session_lock(session);
    note_inputs(session, &op->where, -1, &op->first_token, &op->error);
    session_unlock(session);
}

/* --- the map ---------------------------------------------------------------------------------- */

const char *session_zone_name(uint32_t zone)
{
    static const char *const NAMES[RISK_N_ZONES] = { "green", "yellow", "red" };

    return zone < RISK_N_ZONES ? NAMES[zone] : "unknown";
}

void session_risk(struct session *session, struct session_risk *op)
{
    uint64_t profile = 0;
    struct monitor_heat heat;
    int r;

    session_error_clear(&op->error);
    op->cells = NULL;
    op->n_cells = 0;
    if (op->has_profile)
        memcpy(&profile, op->profile_id, sizeof(profile));
    if (op->is_fresh)
        monitor_flush(session->monitor);
    monitor_get_counts(session->monitor, op->tenant, &op->counts);
    r = monitor_heat(session->monitor, op->tenant, profile, op->sequence_id, &heat);
    if (r) {
        session_error_fault(&op->error, error_fold(r), "GetRisk");
        return;
    }
    op->cells = heat.cells;
    op->n_cells = heat.n_streams;
    op->n_kv_heads = heat.n_kv_heads;
    op->n_sequences = heat.n_sequences;
}
