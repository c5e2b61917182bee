/*
 * The store by itself: how soon an arena is served again, what its index costs, how it ages
 *
 *     bench_store [--json] [--mib N] [--entries N]
 *
 * restart   N MiB full of tiles as SmolLM2-135M makes them; attached again and again, as after a
 * kill index     N tiles of one page (stubs): private bytes an entry, put and get, attach turnover
 * tiles of three models at 95 % of the arena, ten times all of it replaced, at random
 *
 * Times: best and median of REPEATS. The machine and what else it does are to be said with them.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/rng.h"
#include "lib/store/store_internal.h"

enum {
    REPEATS = 7,
    TILE_BYTES = 376832
}; /* one plane of 128 tokens of 11,520 numbers at 2 bits, and gains */

static const uint8_t NOTHING[32];
static uint8_t *payload; /* what all tiles hold */
enum { PAYLOAD_BYTES = 4 << 20 };

static bool json;
static double least_cpu_ms; /* of an attach: on a busy machine it says more than the time */

static double now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "bench_store: %s\n", what);
    exit(1);
}

static void say(const char *name, double value, const char *unit)
{
    if (json)
        printf("{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"}\n", name, value, unit);
    else
        printf("%-44s %12.4g %s\n", name, value, unit);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void say_times(const char *name, double *ms, size_t n)
{
    char text[96];

    qsort(ms, n, sizeof(*ms), ascending);
    snprintf(text, sizeof(text), "%s, best", name);
    say(text, ms[0], "ms");
    snprintf(text, sizeof(text), "%s, median", name);
    say(text, ms[n / 2], "ms");
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15;
    return (x ^ x >> 29) * 0xbf58476d1ce4e5b9;
}

static void key_of(uint64_t name, uint8_t key[32])
{
    uint64_t parts[4] = { mix(name), mix(~name), name, 0 };

    memcpy(key, parts, 32);
}

static int put(struct store *s, uint64_t name, uint64_t n_base, uint64_t n_fine,
               struct tile **ret_tile)
{
    uint8_t key[32];
    struct store_put_args args = {
        .key = key,
        .parent = NOTHING,
        .profile = NOTHING,
        .first_index = name % 256 * 128,
        .n_numbers = 1,
        .base = payload + name % 64 * 64,
        .n_base = n_base,
        .fine = n_fine ? payload + name % 64 * 64 : NULL,
        .n_fine = n_fine,
    };

    key_of(name, key);
    return store_put(s, &args, 0, ret_tile);
}

static struct store *create(uint64_t n_bytes, uint64_t n_slots)
{
    const struct store_options options = { .tenant = "bench", .n_slots = n_slots };
    struct map map = MAP_NULL;
    struct store *s = NULL;

    must(!map_create("bench", n_bytes, &map), "no memory for the arena");
    must(!store_create(&map, &options, &s), "no arena");
    return s;
}

static double cpu_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Attached as a process after a kill does it; the store is the new one. */
static double attach(struct store **s, struct store_recovery *ret_found)
{
    const struct store_options options = { .tenant = "bench" };
    struct map map = MAP_NULL;
    int fd = dup(store_fd(*s));
    double from, from_cpu, ms;

    store_ready(*s);
    store_free(*s);
    *s = NULL;
    from = now_ms();
    from_cpu = cpu_ms();
    must(!map_adopt(fd, &map) && !store_attach(&map, &options, ret_found, s), "no attach");
    ms = now_ms() - from;
    least_cpu_ms = fmin(least_cpu_ms, cpu_ms() - from_cpu);
    return ms;
}

/* --- restart ---------------------------------------------------------------------------------- */

static uint64_t private_bytes(const struct store *s)
{
    uint64_t n_used = s->arena.header.n_slots - s->n_free_slots;

    return n_used * sizeof(union slot_entry) +
           s->arena.header.n_slots * (sizeof(*s->free_slots) + sizeof(*s->arena.generations)) +
           (s->index.mask + 1) * sizeof(*s->index.cells) +
           s->evict.n_known * sizeof(*s->evict.nodes) + s->evict.n_queued * sizeof(*s->evict.heap) +
           s->extents.n_leaves * (sizeof(*s->extents.used) + 2 * sizeof(*s->extents.runs));
}

static void restart(uint64_t mib)
{
    struct store *s = create(mib << 20, 0);
    struct store_scrubbed sum;
    struct store_recovery found;
    struct tile *t;
    double ms[REPEATS], from;
    uint64_t n = 0, n_bytes = 0;

    while (s->extents.n_pages - s->extents.n_used > 2 * pages_of(TILE_BYTES)) {
        must(!put(s, n++, TILE_BYTES, TILE_BYTES, &t), "full");
        tile_unref(t, false, 0, NULL);
    }
    least_cpu_ms = INFINITY;
    for (int i = 0; i < REPEATS; i++)
        ms[i] = attach(&s, &found);
    must(found.n_tiles == n && !found.n_damaged, "tiles are missing");
    say("restart: attach, CPU", least_cpu_ms, "ms");
    say("restart: arena", (double)mib, "MiB");
    say("restart: tiles", (double)n, "");
    say_times("restart: attach", ms, REPEATS);
    from = now_ms();
    do {
        store_scrub(s, 64 << 20, 0, &sum);
        n_bytes += sum.n_bytes;
        must(!sum.n_corrupt, "corrupt");
    } while (!sum.wrapped);
    say("restart: verified", (double)n_bytes / 1e6 / (now_ms() - from), "GB/s");
    say("overhead: slot table and private memory",
        100. *
            (double)(s->arena.header.n_slots * ARENA_LINE_BYTES + ARENA_PAGE + private_bytes(s)) /
            (double)(mib << 20),
        "%");
    store_free(s);
}

/* --- index ------------------------------------------------------------------------------------ */

static uint64_t anonymous_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    unsigned long long kib = 0;
    char line[128];

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "RssAnon: %llu", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib << 10;
}

static double median_ns(struct store *s, uint64_t n, bool puts, double *ns)
{
    struct rng rng = rng_seed(2);

    for (uint64_t i = 0; i < n; i++) {
        uint64_t name = puts ? i : rng_below(&rng, n);
        struct tile *t = NULL;
        uint8_t key[32];
        double from;

        key_of(name, key);
        from = now_ms();
        if (puts)
            must(!put(s, name, 64, 0, &t), "full");
        else
            must(!store_get(s, key, &t), "not found");
        ns[i] = (now_ms() - from) * 1e6;
        tile_unref(t, false, 0, NULL);
    }
    qsort(ns, n, sizeof(*ns), ascending);
    return ns[n / 2];
}

static void measure_index(uint64_t n)
{
    uint64_t n_slots = n + n / 16 + 64;
    double *ns = malloc(n * sizeof(*ns)), ms[REPEATS], put_ns;
    uint64_t before;
    struct store_recovery found;
    struct store *s;

    must(ns != NULL, "no memory");
    memset(ns, 1, n * sizeof(*ns)); /* is not to be counted below */
    s = create(n_slots * (ARENA_LINE_BYTES + 4096) + (1 << 20), n_slots);
    memset(arena_extent(&s->arena, 0), 1,
           (size_t)s->extents.n_pages * ARENA_PAGE); /* touched once */
    before = anonymous_bytes();
    put_ns = median_ns(s, n, true, ns);
    say("index: entries", (double)n, "");
    say("index: private bytes an entry, counted", (double)private_bytes(s) / (double)n, "B");
    say("index: private bytes an entry, resident more",
        (double)(anonymous_bytes() - before) / (double)n, "B");
    say("index: put of a stub, p50", put_ns, "ns");
    say("index: get of a reference, p50", median_ns(s, n, false, ns), "ns");
    least_cpu_ms = INFINITY;
    for (int i = 0; i < REPEATS; i++)
        ms[i] = attach(&s, &found);
    must(found.n_tiles == n, "entries are missing");
    say("index: attach, CPU", least_cpu_ms, "ms");
    say_times("index: attach", ms, REPEATS);
    store_free(s);
    free(ns);
}

/* --- turnover --------------------------------------------------------------------------------- */

struct aged {
    struct tile *tile;
    uint64_t n_bytes;
};

static void age(uint64_t mib)
{
    /* a plane of a tile of three models: 135M, 1.5B and 8B, at 2 bits and gains; the last ones are
     * cut */
    static const uint64_t planes[] = { 376832, 966656, 2195456 };
    enum { MAX_TILES = 1 << 16 };
    struct aged *live = calloc(MAX_TILES, sizeof(*live));
    struct store *s = create(mib << 20, 0);
    uint64_t room = (uint64_t)s->extents.n_pages * ARENA_PAGE, n_live = 0, n_put = 0, n_full = 0;
    uint64_t live_bytes = 0, turned = 0;
    struct rng rng = rng_seed(8);
    double worst = 0;

    must(live != NULL, "no memory");
    while (turned < 10 * room) {
        uint64_t plane = planes[rng_below(&rng, ARRAY_SIZE(planes))] - rng_below(&rng, 8192);
        uint64_t n_bytes = 2 * plane;
        struct tile *t;

        while (live_bytes + n_bytes > room / 100 * 95) {
            uint64_t k = rng_below(&rng, n_live);

            tile_unref(live[k].tile, true, 0, NULL);
            live_bytes -= live[k].n_bytes;
            live[k] = live[--n_live];
        }
        turned += n_bytes;
        if (put(s, n_put++, plane, plane, &t)) { /* there is room, but not in one piece */
            n_full++;
            continue;
        }
        live[n_live++] = (struct aged){ t, n_bytes };
        live_bytes += n_bytes;
        if (turned > room) {
            double used = (double)s->extents.n_used * ARENA_PAGE;

            worst = 1 - (double)live_bytes / used > worst ? 1 - (double)live_bytes / used : worst;
        }
    }
    say("turnover: puts", (double)n_put, "");
    say("turnover: of these without a place in one piece", 100. * (double)n_full / (double)n_put,
        "%");
    say("turnover: 1 - live/allocated, worst", 100 * worst, "%");
    say("turnover: 1 - live/arena at the end", 100 * (1 - (double)live_bytes / (double)room), "%");
    store_free(s);
    free(live);
}

int main(int argc, char **argv)
{
    uint64_t mib = 256, n_entries = 65536;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = true;
        else if (!strcmp(argv[i], "--mib") && i + 1 < argc)
            mib = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--entries") && i + 1 < argc)
            n_entries = strtoull(argv[++i], NULL, 10);
        else
            must(false, "usage: bench_store [--json] [--mib N] [--entries N]");
    }
    must(mib >= 64 && n_entries >= 1000, "--mib 64 at least, --entries 1000");
    payload = malloc(PAYLOAD_BYTES);
    must(payload != NULL, "no memory");
    for (size_t i = 0; i < PAYLOAD_BYTES; i++)
        payload[i] = (uint8_t)(mix(i) >> 24);
    restart(mib);
    measure_index(n_entries);
    age(mib);
    free(payload);
    return 0;
}
