/* Lookup: how much is stored, and in which slots. */
#include <errno.h>
#include <stdlib.h>

#include "clients/c/client_call.h"
#include "deltapq/v1/kv_cache.pb-c.h"

static struct dpq_slot_ref slot_ref(const Deltapq__V1__SlotRef *slot)
{
    return (struct dpq_slot_ref){ .slot = slot->slot, .generation = slot->generation };
}

static int take_tiles(const Deltapq__V1__LookupReply *reply, struct dpq_client_found *found,
                      struct dpq_client_error *error)
{
    if (!reply->n_tiles)
        return 0;
    found->tiles = calloc(reply->n_tiles, sizeof(*found->tiles));
    if (!found->tiles)
        return -ENOMEM;
    found->n_tiles = reply->n_tiles;
    for (size_t i = 0; i < reply->n_tiles; i++) {
        const Deltapq__V1__TileRef *tile = reply->tiles[i];

        if (!tile->base_slot)
            return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "REPLY",
                                    "the reply to Lookup has a tile without a base slot");
        found->tiles[i].base = slot_ref(tile->base_slot);
        found->tiles[i].has_fine = tile->fine_slot;
        if (tile->fine_slot)
            found->tiles[i].fine = slot_ref(tile->fine_slot);
    }
    return 0;
}

int dpq_client_lookup(struct dpq_client *client, const struct dpq_client_prefix *prefix,
                      uint64_t sequence_id, bool slots, struct dpq_client_found *ret_found,
                      struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    _cleanup_(dpq_client_found_deinit) struct dpq_client_found found = { 0 };
    Deltapq__V1__LookupRequest request = DELTAPQ__V1__LOOKUP_REQUEST__INIT;
    const Deltapq__V1__LookupReply *reply;
    int r;

    request.profile_id = client_data(prefix->profile_id, DPQ_DIGEST_BYTES);
    request.rate = (Deltapq__V1__Rate)prefix->rate;
    request.adapter = client_text(prefix->adapter);
    request.salt = client_text(prefix->salt);
    request.position_base = prefix->position_base;
    request.n_token_ids = prefix->n_token_ids;
    request.token_ids = (uint32_t *)(uintptr_t)prefix->token_ids;
    request.sequence_id = sequence_id;
    request.slots = slots;
    r = client_call(client, "/deltapq.v1.KvCache/Lookup", &request.base,
                    &deltapq__v1__lookup_reply__descriptor, &message, ret_error);
    if (r)
        return r;
    reply = (const Deltapq__V1__LookupReply *)message;
    r = take_tiles(reply, &found, ret_error);
    if (r)
        return r;
    found.n_tokens = reply->n_tokens;
    found.n_tile_tokens = reply->n_tile_tokens;
    found.epoch = reply->epoch;
    found.lease_ms = reply->lease_ms;
    found.has_tail = reply->tail;
    if (reply->tail)
        found.tail = slot_ref(reply->tail);
    *ret_found = found;
    found = (struct dpq_client_found){ 0 };
    return 0;
}

void dpq_client_found_deinit(struct dpq_client_found *found)
{
    free(found->tiles);
    *found = (struct dpq_client_found){ 0 };
}
