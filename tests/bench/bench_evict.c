/*
 * The policy for eviction, on the traces of tests/util/evict_trace.h, beside LRU
 *
 *     bench_evict [--seed N]
 *
 * A line a cell: what part of the cost of computing tiles was avoided, of what could have been with
 * endless room. The same numbers on every machine with the same libm. docs/results/eviction.md is
 * made of it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/util/evict_sim.h"

static const char *const NAMES[] = { "chat", "documents", "scan" };
static const uint32_t SIZES[] = { 20000, 3000, 20000 };

static bool measure(enum trace_kind kind, uint64_t seed)
{
    static const uint32_t percents[] = { 10, 25, 50 };
    bool good = true;
    struct trace t;

    trace_init(&t, kind, SIZES[kind], seed);
    printf("%s, seed %llu: %u requests, %u different tiles\n", NAMES[kind],
           (unsigned long long)seed, t.n_requests, t.n_tiles);
    for (size_t i = 0; i < ARRAY_SIZE(percents); i++) {
        uint64_t n_room = (uint64_t)t.n_tiles * percents[i] / 100;
        struct sim_result ours = sim_run(&t, SIM_OURS, n_room);
        struct sim_result lru = sim_run(&t, SIM_LRU, n_room);
        double least = kind == TRACE_CHAT ? 1.1 : 1;

        printf("  %2u %%   LRU %5.1f %%   ours %5.1f %%   ours / LRU %.3f\n", percents[i],
               100 * lru.avoided / lru.possible, 100 * ours.avoided / ours.possible,
               ours.avoided / lru.avoided);
        good = good && ours.avoided >= least * lru.avoided;
    }
    trace_deinit(&t);
    return good;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1;
    bool good = true;

    if (argc == 3 && !strcmp(argv[1], "--seed"))
        seed = strtoull(argv[2], NULL, 10);
    for (int kind = 0; kind < 3; kind++)
        good = measure((enum trace_kind)kind, seed) && good;
    if (!good)
        fprintf(stderr, "bench_evict: less than LRU, or of chats less than a tenth more\n");
    return !good;
}
