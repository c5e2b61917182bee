/* The records of an import: a sequence that nobody knows yet gets its tiles, its tail, its record
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/hub.h"
#include "daemon/session_import.h"
#include "daemon/session_keep.h"
#include "daemon/session_pressure.h"
#include "lib/base/error.h"
#include "lib/codec/tile_judge.h"

/* --- the sequence's record -------------------------------------------------------------------- */

static int take_name(const uint8_t *bytes, uint32_t n, const char *what, char ret_name[256],
                     struct session_error *error)
{
    if (n < 256 && !memchr(bytes, 0, n)) {
        memcpy(ret_name, bytes, n);
        ret_name[n] = '\0';
        return 0;
    }
    session_error_set(error, SESSION_INVALID_ARGUMENT, "TEXT",
                      "the %s of the sequence has %u bytes, or a zero among them: 255 are possible",
                      what, n);
    return 1;
}

static int check_sequence(struct session_import *import, const struct export_sequence *s,
                          struct session_prefix *ret_prefix, struct session_error *error)
{
    if (import->sequence || import->sequence_id) {
        session_error_set(error, SESSION_INVALID_ARGUMENT, "IMPORT_CORRUPT",
                          "another sequence begins: an import has one");
        return 1;
    }
    if (s->n_tokens == 0 || s->n_tokens > SESSION_MAX_EXPORT_TOKENS) {
        session_error_set(error, SESSION_INVALID_ARGUMENT, "LIMIT",
                          "a sequence of %llu tokens: 1 to %d can be imported",
                          (unsigned long long)s->n_tokens, SESSION_MAX_EXPORT_TOKENS);
        return 1;
    }
    memcpy(ret_prefix->profile_id, s->profile, sizeof(ret_prefix->profile_id));
    ret_prefix->rate = s->rate;
    ret_prefix->position_base = s->position_base;
    ret_prefix->n_token_ids = s->n_tokens;
    return prefix_check(ret_prefix, error) ||
           take_name(s->adapter, s->n_adapter, "adapter", ret_prefix->adapter, error) ||
           take_name(s->salt, s->n_salt, "salt", ret_prefix->salt, error);
}

/* its keys, and the tiles that are there */
static int find_tiles(struct session_import *import, const struct session_prefix *prefix,
                      struct sequence *sequence, struct key_maker *maker)
{
    size_t n_tiles = prefix->n_token_ids / DPQ_TILE_TOKENS;
    struct prefix_hit hit = { 0 };
    struct tile **tiles;
    int r;

    r = key_scope(maker, import->tenant->config->name, prefix, sequence->scope);
    if (!r)
        r = prefix_find(import->tenant->store, maker, sequence->scope, sequence->token_ids,
                        prefix->n_token_ids, &hit);
    if (r)
        return error_fold(r);
    sequence->tiles = hit.tiles;
    sequence->n_tiles = hit.n_tiles;
    tiles = realloc(hit.tiles, (n_tiles + 1) * sizeof(tiles[0]));
    if (!tiles)
        return error_origin(-ENOMEM);
    sequence->tiles = tiles;
    sequence->tiles_capacity = n_tiles + 1;
    return 0;
}

int import_sequence(struct session_import *import, const struct export_sequence *s, uint32_t worker,
                    struct session_error *error)
{
    struct session_prefix prefix = { 0 };
    struct sequence *sequence;
    int r;

    if (check_sequence(import, s, &prefix, error))
        return 1;
    sequence = calloc(1, sizeof(*sequence));
    if (!sequence)
        return error_origin(-ENOMEM);
    import->sequence = sequence;
    sequence->tenant = import->tenant;
    sequence->profile = profile_get(import->session, s->profile);
    if (!sequence->profile) {
        session_error_set(error, SESSION_NOT_FOUND, "PROFILE",
                          "the sequence's profile %02x%02x%02x%02x… is not installed",
                          s->profile[0], s->profile[1], s->profile[2], s->profile[3]);
        return 1;
    }
    sequence->token_ids = malloc(s->n_tokens * sizeof(sequence->token_ids[0]));
    if (!sequence->token_ids)
        return error_origin(-ENOMEM);
    memcpy(sequence->token_ids, s->tokens, s->n_tokens * sizeof(sequence->token_ids[0]));
    sequence->token_ids_capacity = s->n_tokens;
    sequence->refs = 1;
    sequence->rate = s->rate;
    sequence->position_base = s->position_base;
    sequence->tail_object.ref.slot = NO_SLOT;
    session_lock(import->session);
    sequence->private_id = sequence->entry.id = sequence_new_id(import->session);
    session_unlock(import->session);
    r = find_tiles(import, &prefix, sequence, session_key_maker(import->session, (int32_t)worker));
    if (r)
        return error_fold(r);
    import->n_tokens = s->n_tokens;
    import->tail_dtype = s->dtype;
    import->n_shared_tokens = sequence->n_tiles * DPQ_TILE_TOKENS;
    export_reader_skip(&import->reader, import->n_shared_tokens);
    return 0;
}

/* --- tiles ------------------------------------------------------------------------------------ */

static int check_tile(struct session_import *import, const struct export_record *record,
                      uint32_t worker, struct session_error *error)
{
    const struct sequence *sequence = import->sequence;
    uint64_t index = record->tile.first_index;
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    struct dpq_codec *codec;
    int r;

    r = session_worker_codec(import->session, worker, sequence->profile, &codec);
    if (!r)
        r = tile_judge(codec, record->tile.base, record->tile.n_base, record->tile.fine,
                       record->tile.n_fine, sequence->position_base + index, index, sequence->rate,
                       &fault);
    if (r <= 0)
        return error_fold(r);
    session_error_set(error, SESSION_INVALID_ARGUMENT,
                      r == DPQ_E_NOT_FINITE ? "NOT_FINITE" : "IMPORT_TILE",
                      "the tile of tokens %llu..%llu: %s", (unsigned long long)index,
                      (unsigned long long)index + DPQ_TILE_TOKENS, fault.message);
    error->layer = fault.layer;
    error->kind = fault.kind;
    error->head = fault.head;
    error->token = (int64_t)index + (fault.token < 0 ? 0 : fault.token);
    return 1;
}

static void tell_tile(struct session_import *import, const struct export_record *record,
                      bool is_shared)
{
    struct event event = { .kind = EVENT_TILE_SHARED,
                           .tenant = import->tenant->index,
                           .id = import->sequence->entry.id,
                           .a = record->tile.first_index };

    if (!is_shared) {
        event.kind = EVENT_TILE_STORED;
        event.b = record->tile.n_base + record->tile.n_fine;
        event.c = import->sequence->n_tiles;
    }
    hub_publish(import->session->hub, &event);
}

int import_tile(struct session_import *import, const struct export_record *record, uint32_t worker,
                struct session_error *error)
{
    struct sequence *sequence = import->sequence;
    uint64_t index = record->tile.first_index;
    struct store_put_args args = sequence_put_args(sequence, index);
    uint64_t now_ns = session_now_ns();
    uint8_t key[KEY_BYTES];
    bool made, droppable = false;
    int r = check_tile(import, record, worker, error);

    args.key = key;
    args.base = record->tile.base;
    args.n_base = record->tile.n_base;
    args.fine = record->tile.fine;
    args.n_fine = record->tile.n_fine;
    if (!r)
        r = dpq_tile_fine(args.base, args.n_base, &made, &droppable);
    args.keeps_fine = !droppable;
    if (!r)
        r = key_tile(session_key_maker(import->session, (int32_t)worker), sequence->scope,
                     args.parent, sequence->token_ids + index, key);
    if (r)
        return r == 1 ? 1 : error_fold(r);
    pressure_keep_low(import->tenant, now_ns);
    r = pressure_put(import->tenant, &args, now_ns, &sequence->tiles[sequence->n_tiles]);
    if (r == STORE_E_FULL) {
        tenant_no_room(import->tenant, args.n_base + args.n_fine, error);
        return 1;
    }
    if (r && r != STORE_E_EXISTS)
        return error_fold(r);
    sequence->n_tiles++;
    import->n_shared_tokens += r == STORE_E_EXISTS ? DPQ_TILE_TOKENS : 0;
    tell_tile(import, record, r == STORE_E_EXISTS);
    return 0;
}

/* --- the tail --------------------------------------------------------------------------------- */

int import_tail(struct session_import *import, const struct export_record *record,
                struct session_error *error)
{
    const struct dpq_geometry *geometry = profile_geometry(import->sequence->profile);
    struct dpq_tensor tensor = tensor_canonical(geometry, import->tail_dtype);
    uint32_t n = record->tail.n_tokens;
    struct dpq_fault fault;
    int r;

    if (record->tail.n_bytes != n * dpq_row_bytes(geometry, import->tail_dtype)) {
        session_error_set(error, SESSION_INVALID_ARGUMENT, "IMPORT_CORRUPT",
                          "the tail's %u rows have %llu bytes: %zu is what the profile says", n,
                          (unsigned long long)record->tail.n_bytes,
                          n * dpq_row_bytes(geometry, import->tail_dtype));
        return 1;
    }
    import->tail_rows = malloc(record->tail.n_bytes);
    if (!import->tail_rows)
        return error_origin(-ENOMEM);
    r = dpq_rows_gather(geometry, &tensor, record->tail.rows, n, import->tail_rows, &fault);
    if (r != DPQ_E_NOT_FINITE) {
        import->n_tail_tokens = n;
        return error_fold(r);
    }
    session_error_set(error, SESSION_INVALID_ARGUMENT, "NOT_FINITE", "the tail: %s", fault.message);
    error->layer = fault.layer;
    error->kind = fault.kind;
    error->head = fault.head;
    error->token = (int64_t)record->tail.first_index + fault.token;
    return 1;
}

/* --- all is there ----------------------------------------------------------------------------- */

static int put_tail(struct session_import *import, uint64_t now_ns)
{
    struct sequence *sequence = import->sequence;
    int r;

    if (!import->n_tail_tokens)
        return 0;
    r = tail_holder_new(sequence, &sequence->tail_mark, sequence->n_tiles * DPQ_TILE_TOKENS,
                        import->tail_dtype, import->tail_rows, import->n_tail_tokens, now_ns,
                        &sequence->tail);
    if (r)
        return r;
    sequence->tail_dtype = import->tail_dtype;
    tail_object(sequence->tail->tail, &sequence->tail_object);
    return 0;
}

static int write_record(struct session_import *import, uint64_t now_ns)
{
    struct sequence *sequence = import->sequence;
    struct record_change change = { .has_ids = true,
                                    .ids = sequence->token_ids,
                                    .n_ids = import->n_tokens,
                                    .has_seal = true,
                                    .n_tiles = sequence->n_tiles,
                                    .generation = sequence->n_tiles };

    return sequence_write(sequence, &change, now_ns);
}

static int add_sequence(struct session_import *import, struct session_error *error)
{
    struct sequence *sequence = import->sequence;
    int r;

    sequence->n_tokens = sequence->n_token_ids = import->n_tokens;
    sequence->generation = sequence->n_tiles;
    sequence->used_ns = session_now_ns();
    session_lock(import->session);
    r = sequence_add(import->session, sequence, error);
    if (!r) {
        import->tenant->tokens_appended += import->n_tokens;
        import->tenant->tokens_shared += import->n_shared_tokens;
    }
    session_unlock(import->session);
    return r;
}

int import_finish(struct session_import *import, struct session_error *error)
{
    struct sequence *sequence = import->sequence;
    struct event event = { .kind = EVENT_SEQUENCE_CREATED,
                           .tenant = import->tenant->index,
                           .id = sequence->entry.id,
                           .a = import->n_tokens };
    uint64_t now_ns = session_now_ns();
    int r;

    r = put_tail(import, now_ns);
    r = r ? r : write_record(import, now_ns);
    if (r == STORE_E_FULL) /* it is 1, as a refusal */
        tenant_no_room(import->tenant, import->n_tokens * sizeof(uint32_t), error);
    r = r ? r : add_sequence(import, error);
    if (r) {
        sequence->record = record_free(sequence->record, now_ns);
        tail_holder_unref(import->session, steal_ptr(sequence->tail));
        return r == 1 ? 1 : error_fold(r);
    }
    import->sequence_id = sequence->entry.id;
    import->sequence = NULL; /* the table's */
    hub_publish(import->session->hub, &event);
    return 0;
}
