#pragma once

/*
 * A cache of tiles that answers a trace, under a policy
 *
 * A request finds the longest stored part of its chain, from the start; the rest is computed and
 * stored. What the request holds is not evicted meanwhile. A request that does not fit goes without
 * what is left of it. What counts is the cost of what was found.
 *
 * LRU is at its best here: of one request the last tile counts as used first, so that it too evicts
 * children before parents.
 */

#include <stdbool.h>
#include <string.h>

#include "lib/store/evict.h"
#include "tests/util/evict_trace.h"

/* as SmolLM2-135M's: 128 tokens of 11,520 numbers, at 4 bits */
enum { SIM_TILE_BYTES = 753664, SIM_TILE_NUMBERS = 1474560, SIM_TILE_TOKENS = 128 };

enum sim_policy {
    SIM_OURS,
    SIM_LRU,
};

struct sim {
    const struct trace *trace;
    struct evict evict;
    uint64_t n_room, n_stored; /* tiles */
    bool *stored;
    uint32_t *held; /* [n_tiles], by which request last, + 1 */
    uint32_t request;
    uint32_t *older, *newer; /* of LRU: a ring, n_tiles is its start */
};

struct sim_result {
    double asked, avoided, possible; /* cost; possible: with endless room */
    uint64_t n_evicted;
};

static inline enum evict_answer sim_may_go(void *user, uint32_t number)
{
    const struct sim *s = user;

    return s->held[number] == s->request + 1 ? EVICT_NO : EVICT_YES;
}

static inline void sim_unlink(struct sim *s, uint32_t i)
{
    s->newer[s->older[i]] = s->newer[i];
    s->older[s->newer[i]] = s->older[i];
}

static inline void sim_link(struct sim *s, uint32_t i)
{
    uint32_t start = s->trace->n_tiles;

    s->older[i] = s->older[start];
    s->newer[i] = start;
    s->newer[s->older[start]] = i;
    s->older[start] = i;
}

static inline uint32_t sim_victim(struct sim *s, enum sim_policy policy)
{
    uint32_t i = s->newer[s->trace->n_tiles];

    if (policy == SIM_OURS)
        return evict_take(&s->evict, sim_may_go, s);
    return i == s->trace->n_tiles || s->held[i] == s->request + 1 ? EVICT_NONE : i;
}

static inline bool sim_make_room(struct sim *s, enum sim_policy policy, uint64_t *n_evicted)
{
    while (s->n_stored >= s->n_room) {
        uint32_t victim = sim_victim(s, policy);

        if (victim == EVICT_NONE)
            return false;
        assert(s->stored[victim]);
        if (policy == SIM_OURS)
            evict_remove(&s->evict, victim);
        else
            sim_unlink(s, victim);
        s->stored[victim] = false;
        s->n_stored--;
        ++*n_evicted;
    }
    return true;
}

static inline void sim_request(struct sim *s, enum sim_policy policy, uint32_t last, bool *seen,
                               struct sim_result *sum)
{
    const struct trace *t = s->trace;
    uint32_t chain[4096], n = 0;
    bool hit = true, room = true;

    for (uint32_t i = last; i != TRACE_NONE; i = t->parent[i]) {
        assert(n < 4096);
        chain[n++] = i;
    }
    for (uint32_t k = n; k-- > 0;) {
        uint32_t i = chain[k];
        double cost = evict_cost((uint64_t)t->depth[i] * SIM_TILE_TOKENS);

        sum->asked += cost;
        sum->possible += seen[i] ? cost : 0;
        seen[i] = true;
        hit = hit && s->stored[i];
        if (hit)
            sum->avoided += cost;
        else
            room = room && (s->stored[i] || sim_make_room(s, policy, &sum->n_evicted));
        if (!room)
            continue;
        s->held[i] = s->request + 1;
        if (s->stored[i] && policy == SIM_OURS)
            evict_use(&s->evict, i);
        else if (!s->stored[i] && policy == SIM_OURS)
            evict_add(&s->evict, i, t->parent[i] == TRACE_NONE ? EVICT_NONE : t->parent[i],
                      cost * SIM_TILE_NUMBERS, SIM_TILE_BYTES);
        s->n_stored += !s->stored[i];
        if (s->stored[i] && policy == SIM_LRU)
            sim_unlink(s, i);
        else if (policy == SIM_LRU)
            s->older[i] = s->newer[i] = i;
        s->stored[i] = true;
    }
    for (uint32_t k = 0; k < n; k++) {
        if (s->held[chain[k]] != s->request + 1)
            continue;
        if (policy == SIM_OURS)
            evict_offer(&s->evict, chain[k]);
        else
            sim_link(s, chain[k]);
    }
}

/* @n_room: tiles that the cache holds */
static inline struct sim_result sim_run(const struct trace *trace, enum sim_policy policy,
                                        uint64_t n_room)
{
    struct sim s = { .trace = trace, .n_room = n_room };
    struct sim_result sum = { 0 };
    uint32_t n = trace->n_tiles;
    bool *seen = calloc(n, sizeof(*seen));
    int r = evict_init(&s.evict, n, n_room * SIM_TILE_BYTES);

    s.stored = calloc(n, sizeof(*s.stored));
    s.held = calloc(n, sizeof(*s.held));
    s.older = calloc(n + 1, sizeof(*s.older));
    s.newer = calloc(n + 1, sizeof(*s.newer));
    assert(!r && seen && s.stored && s.held && s.older && s.newer);
    s.older[n] = s.newer[n] = n;
    for (; s.request < trace->n_requests; s.request++)
        sim_request(&s, policy, trace->requests[s.request].last, seen, &sum);
    evict_deinit(&s.evict);
    free(seen);
    free(s.stored);
    free(s.held);
    free(s.older);
    free(s.newer);
    return sum;
}
