#include <stdlib.h>

#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/kv_cache.pb-c.h"

struct lookup_state {
    struct session_lookup op;
    struct rpc_call *call;
};

/* One tile of a reply, with what it points to. */
struct tile {
    Deltapq__V1__TileRef ref;
    Deltapq__V1__SlotRef base, fine;
};

void rpc_lookup_deinit(void *argument)
{
    struct lookup_state *state = argument;

    free(state->op.pairs);
}

static bool fill_slot(Deltapq__V1__SlotRef *slot, const struct dpq_slot_ref *from)
{
    *slot = (Deltapq__V1__SlotRef)DELTAPQ__V1__SLOT_REF__INIT;
    slot->slot = from->slot;
    slot->generation = from->generation;
    return from->slot != UINT64_MAX;
}

static void fill_tile(struct tile *tile, const struct session_slot_pair *pair)
{
    tile->ref = (Deltapq__V1__TileRef)DELTAPQ__V1__TILE_REF__INIT;
    tile->ref.base_slot = fill_slot(&tile->base, &pair->base) ? &tile->base : NULL;
    tile->ref.fine_slot = fill_slot(&tile->fine, &pair->fine) ? &tile->fine : NULL;
}

static void reply(struct rpc_call *call, const struct session_lookup *op)
{
    Deltapq__V1__LookupReply reply = DELTAPQ__V1__LOOKUP_REPLY__INIT;
    size_t n = op->pairs ? op->n_pairs : 0;
    Deltapq__V1__TileRef **refs = calloc(n + 1, sizeof(*refs));
    struct tile *tiles = calloc(n + 1, sizeof(*tiles));
    Deltapq__V1__SlotRef tail;

    if (refs && tiles) {
        for (size_t i = 0; i < n; i++) {
            fill_tile(&tiles[i], &op->pairs[i]);
            refs[i] = &tiles[i].ref;
        }
        reply.n_tokens = op->n_tokens;
        reply.n_tile_tokens = op->n_tile_tokens;
        reply.epoch = op->epoch;
        reply.lease_ms = op->lease_ms;
        reply.n_tiles = n;
        reply.tiles = refs;
        reply.tail = fill_slot(&tail, &op->tail) ? &tail : NULL;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_no_memory(call);
    }
    free(refs);
    free(tiles);
}

static void rpc_lookup_done(struct session_lookup *op)
{
    struct rpc_call *call = ((struct lookup_state *)op)->call;

    if (op->error.code == SESSION_OK)
        reply(call, op);
    else
        rpc_call_fail(call, &op->error);
    rpc_call_unref(call);
}

void rpc_lookup(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__LookupRequest *request = message;
    struct lookup_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return;
    state->op.tenant = call->tenant;
    state->op.sequence_id = request->sequence_id;
    state->op.slots = request->slots;
    state->op.done = rpc_lookup_done;
    state->op.tail.slot = UINT64_MAX;
    if (rpc_check_prefix(&request->profile_id, request->rate, request->adapter, request->salt,
                         request->position_base, request->token_ids, request->n_token_ids,
                         &state->op.prefix, &state->op.error)) {
        rpc_call_fail(call, &state->op.error);
        return;
    }
    state->call = rpc_call_ref(call);
    session_lookup(call->server->options.session, &state->op);
}
