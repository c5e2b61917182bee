/*
 * Lookup: the longest stored prefix of a list of token ids
 *
 * Walks the key chain from the start, a look-up a tile, until a key is not stored. Whole tiles
 * only; of raw tails only that of the sequence the caller names counts, since tails have no keys.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session_internal.h"
#include "lib/base/error.h"

int prefix_check(const struct session_prefix *prefix, struct session_error *ret_error)
{
    if (prefix->rate > DPQ_RATE_COMPACT) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "RATE",
                          "rate %u is unknown: 0 to %d are served", prefix->rate, DPQ_RATE_COMPACT);
    } else if (prefix->position_base > MAX_POSITION) {
        session_error_set(
            ret_error, SESSION_INVALID_ARGUMENT, "POSITION", "position_base %llu is more than %llu",
            (unsigned long long)prefix->position_base, (unsigned long long)MAX_POSITION);
    } else if (prefix->n_token_ids > MAX_SEQUENCE_TOKENS) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "TOKEN_IDS",
                          "%llu token ids are more than %d",
                          (unsigned long long)prefix->n_token_ids, MAX_SEQUENCE_TOKENS);
    } else {
        return 0;
    }
    return 1;
}

void prefix_hit_deinit(struct prefix_hit *hit)
{
    uint64_t now_ns = session_now_ns();

    while (hit->n_tiles)
        tile_unref(hit->tiles[--hit->n_tiles], false, now_ns, NULL);
    free(hit->tiles);
    hit->tiles = NULL;
}

int prefix_find(struct store *store, struct key_maker *maker, const uint8_t scope[KEY_BYTES],
                const uint32_t *token_ids, size_t n_token_ids, struct prefix_hit *ret_hit)
{
    struct prefix_hit hit = { 0 };
    uint8_t key[KEY_BYTES] = { 0 };
    size_t capacity = 0;

    for (size_t first = 0; n_token_ids - first >= DPQ_TILE_TOKENS; first += DPQ_TILE_TOKENS) {
        int r = key_tile(maker, scope, key, token_ids + first, key);

        if (!r && hit.n_tiles == capacity) {
            size_t more = capacity ? 2 * capacity : 16;
            struct tile **tiles = realloc(hit.tiles, more * sizeof(*tiles));

            if (tiles) {
                hit.tiles = tiles;
                capacity = more;
            } else {
                r = error_origin(-ENOMEM);
            }
        }
        if (!r)
            r = store_get(store, key, &hit.tiles[hit.n_tiles]);
        if (r == STORE_E_NONE)
            break;
        if (r) {
            prefix_hit_deinit(&hit);
            return error_fold(r);
        }
        hit.n_tiles++;
    }
    *ret_hit = hit;
    return 0;
}

/* --- the request ------------------------------------------------------------------------------ */

struct lookup {
    struct job job;
    struct session *session;
    struct session_lookup *op;
};

static struct dpq_slot_ref no_slot(void)
{
    return (struct dpq_slot_ref){ .slot = NO_SLOT };
}

/* The tail of the caller's sequence: as many tokens of it as have the ids asked for, if what comes
 * before it is what was found. Locked. */
static void match_tail(const struct sequence *sequence, const uint8_t scope[KEY_BYTES],
                       const struct prefix_hit *hit, struct session_lookup *op, uint64_t until_ns)
{
    const struct session_prefix *prefix = &op->prefix;
    uint64_t n = op->n_tile_tokens;

    if (!sequence->tail || sequence->n_tiles != hit->n_tiles ||
        memcmp(sequence->scope, scope, KEY_BYTES))
        return;
    if (hit->n_tiles && memcmp(tile_key(sequence->tiles[hit->n_tiles - 1]),
                               tile_key(hit->tiles[hit->n_tiles - 1]), KEY_BYTES))
        return;
    while (n < sequence->n_token_ids && n < prefix->n_token_ids &&
           sequence->token_ids[n] == prefix->token_ids[n])
        n++;
    if (n == op->n_tile_tokens)
        return;
    op->n_tokens = n;
    if (op->slots) {
        tail_lease(sequence->tail->tail, until_ns);
        op->tail = sequence->tail_object.ref;
    }
}

static int lease_tiles(const struct prefix_hit *hit, struct session_lookup *op, uint64_t until_ns)
{
    if (!op->slots || !hit->n_tiles)
        return 0;
    op->pairs = malloc(hit->n_tiles * sizeof(op->pairs[0]));
    if (!op->pairs)
        return error_origin(-ENOMEM);
    op->n_pairs = hit->n_tiles;
    for (size_t i = 0; i < hit->n_tiles; i++) {
        struct store_object base, fine;

        tile_lease(hit->tiles[i], until_ns);
        tile_objects(hit->tiles[i], &base, &fine);
        op->pairs[i].base = base.ref;
        op->pairs[i].fine = fine.n_bytes ? fine.ref : no_slot();
    }
    return 0;
}

static int find(struct session *session, struct session_lookup *op, struct key_maker *maker)
{
    struct tenant *tenant = &session->tenants[op->tenant];
    uint32_t lease_seconds = session->config->lease_seconds;
    uint64_t until_ns = session_now_ns() + lease_seconds * UINT64_C(1000000000);
    struct sequence *sequence = NULL;
    struct prefix_hit hit = { 0 };
    uint8_t scope[KEY_BYTES];
    int r;

    r = key_scope(maker, tenant->config->name, &op->prefix, scope);
    if (!r)
        r = prefix_find(tenant->store, maker, scope, op->prefix.token_ids, op->prefix.n_token_ids,
                        &hit);
    if (!r)
        r = lease_tiles(&hit, op, until_ns);
    if (!r) {
        op->n_tokens = op->n_tile_tokens = hit.n_tiles * DPQ_TILE_TOKENS;
        op->epoch = store_epoch(tenant->store);
        op->lease_ms = op->slots ? lease_seconds * 1000 : 0;
        session_lock(session);
        if (op->sequence_id)
            sequence = sequence_find(session, op->tenant, op->sequence_id);
        if (sequence)
            match_tail(sequence, scope, &hit, op, until_ns);
        else if (op->sequence_id)
            session_error_no_sequence(&op->error, op->sequence_id);
        tenant->lookup_tokens_asked += op->prefix.n_token_ids;
        tenant->lookup_tokens_hit += op->n_tokens;
        session_unlock(session);
    }
    prefix_hit_deinit(&hit);
    return r;
}

static void lookup(struct session *session, struct session_lookup *op, int32_t worker)
{
    int r = find(session, op, session_key_maker(session, worker));

    if (r)
        session_error_fault(&op->error, r, "Lookup");
    if (op->error.code != SESSION_OK) {
        free(op->pairs);
        op->pairs = NULL;
        op->n_pairs = 0;
    }
    op->done(op);
}

static void lookup_on_worker(struct job *job, uint32_t worker)
{
    struct lookup *l = (struct lookup *)job;

    lookup(l->session, l->op, (int32_t)worker);
    free(l);
}

void session_lookup(struct session *session, struct session_lookup *op)
{
    struct profile_entry *profile;
    struct lookup *l;

    session_error_clear(&op->error);
    op->pairs = NULL;
    op->n_pairs = 0;
    op->tail = no_slot();
    profile = profile_get(session, op->prefix.profile_id);
    profile_put(session, profile);
    if (!profile) { /* without one there are no keys to be found */
        session_error_set(&op->error, SESSION_NOT_FOUND, "PROFILE",
                          "profile_id names no installed profile");
    } else if (prefix_check(&op->prefix, &op->error)) {
        /* said why */
    } else if (op->prefix.n_token_ids <= N_INLINE_IDS) {
        lookup(session, op, -1);
        return;
    } else if (!(l = calloc(1, sizeof(*l)))) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Lookup");
    } else {
        *l = (struct lookup){ { .run = lookup_on_worker }, session, op };
        if (!pool_submit(session->pool, &l->job))
            return;
        session_error_busy(&op->error);
        free(l);
    }
    op->done(op);
}
