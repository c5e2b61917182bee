#pragma once

/*
 * What is done when a tenant's arena is nearly full
 *
 * In this order, each only when the one before did not give enough:
 *
 *     1  fine objects that are cold are dropped: of tiles that are only cached, and of sequences
 *     2  tiles go that are only cached, those first that are worth least (lib/store/evict.h)
 *     3  sequences that are cold lose tokens from their end; only when a request has no room: first
 *        raw tails, which take the most room for a token, then tiles
 *
 * Cold is what nobody asked for in cold_seconds. Of a sequence that is pinned, has a request under
 * way, or was created so that it keeps its fine objects or its tokens, nothing is taken; nor from
 * what is leased or being read. What is left then is RESOURCE_EXHAUSTED.
 */

#include "daemon/session_internal.h"

/**
 * pressure_relieve() - a request found no room for n_bytes: all three steps, until there should be
 * Works in slices, between which others get the session's lock. Thread: a worker; no lock is held.
 * Return: false, nothing could be freed: to try again is no use.
 */
bool pressure_relieve(struct tenant *tenant, uint64_t n_bytes, uint64_t now_ns);

/** pressure_put() - store_put(), and pressure_relieve() while there is no room. Thread: a worker;
 * no lock is held. Return: as store_put() */
int pressure_put(struct tenant *tenant, const struct store_put_args *args, uint64_t now_ns,
                 struct tile **ret_tile) _must_check_;

/** pressure_keep_low() - if more than high_percent of the arena is in use: steps 1 and 2, down to
 *  low_percent. Thread: a worker; no lock is held */
void pressure_keep_low(struct tenant *tenant, uint64_t now_ns);

/** session_tile_dropped() - as session_tile_evicted(), for its fine object */
void session_tile_dropped(void *user, const uint8_t key[32], uint64_t freed_bytes);
