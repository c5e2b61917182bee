/*
 * What watching streams costs the encoder: bench_monitor [--json] [--seconds S]
 *
 * Tiles of the geometry of SmolLM2-135M (30 layers, 3 KV heads, head_dim 64), random rows and
 * profile, seeded, encoded on one core in three ways in turn: as the profile says; with the sums of
 * each stream's energies, which nobody looks at; and with these, the monitors' steps and their
 * bytes in the tile. Shares are of processor time, from the medians of each way; one reference
 * (none, temporal, depth-head) and rate after the other. What the risk thread takes beside it is
 * measured by tests/bench/watch.py.
 */
#include <stdio.h>
#include <time.h>

#include "lib/codec/tile_watch.h"
#include "lib/risk/risk_tile.h"
#include "tests/util/toy_profile.h"

enum { MIN_RUNS = 9, MAX_RUNS = 2000, N_WAYS = 3 };

struct bench {
    struct toy toy;
    struct dpq_codec *codec;
    uint8_t *rows;
    uint32_t rate, n_streams;
    struct risk_monitor *monitors;
    struct risk_calibration calibration;
    struct risk_rules rules;
    uint8_t bytes[RISK_MONITOR_BYTES];
    float seen; /* or sums that nobody looks at might not be made */
};

static double cpu_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(int r, const char *what)
{
    if (!r)
        return;
    fprintf(stderr, "%s: %s\n", what, dpq_outcome_name(r));
    exit(1);
}

static bool look(void *user, uint32_t stream, const struct tile_energies *energies)
{
    struct bench *b = user;

    b->seen += energies->e2[stream % DPQ_TILE_TOKENS];
    return false;
}

static bool step(void *user, uint32_t stream, const struct tile_energies *energies)
{
    struct bench *b = user;
    struct risk_course course;

    risk_tile_step(&b->monitors[stream], &b->rules, &b->calibration, energies->x2, energies->d2,
                   energies->e2, energies->part, b->monitors[stream].zone.zone, &course);
    risk_monitor_pack(&b->monitors[stream], b->bytes);
    (void)!risk_monitor_unpack(b->bytes, &b->monitors[stream]);
    return false;
}

static void encode(struct bench *b, int way)
{
    const struct tile_watch watch = { .user = b,
                                      .measured = way == 1 ? look : step,
                                      .n_verdict_bytes =
                                          way == 1 ? 0 : 8 + b->n_streams * RISK_MONITOR_BYTES };
    uint8_t *base = NULL, *fine = NULL;
    size_t n_base, n_fine;

    must(tile_encode_watched(b->codec, b->rows, DPQ_F16, 4096, 4096, b->rate, way ? &watch : NULL,
                             &base, &n_base, &fine, &n_fine),
         "encode");
    dpq_free(base);
    dpq_free(fine);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* In turn, so that whatever else the machine does meets all of them. */
static void measure(struct bench *b, double seconds, double ret_s[N_WAYS])
{
    static double samples[N_WAYS][MAX_RUNS];
    double end = cpu_s() + seconds;
    int n = 0;

    encode(b, N_WAYS - 1);
    for (; n < MAX_RUNS && (n < MIN_RUNS || cpu_s() < end); n++)
        for (int way = 0; way < N_WAYS; way++) {
            samples[way][n] = cpu_s();
            encode(b, way);
            samples[way][n] = cpu_s() - samples[way][n];
        }
    for (int way = 0; way < N_WAYS; way++) {
        qsort(samples[way], (size_t)n, sizeof(double), ascending);
        ret_s[way] = samples[way][n / 2];
    }
}

static void run(struct bench *b, const char *reference, bool json, double seconds)
{
    static const char *const RATES[] = {
        [DPQ_RATE_QUALITY] = "quality", [DPQ_RATE_COMPACT] = "compact"
    };
    double s[N_WAYS];

    for (b->rate = DPQ_RATE_QUALITY; b->rate <= DPQ_RATE_COMPACT; b->rate += 2) {
        measure(b, seconds, s);
        printf(json ? "{\"bench\":\"monitor\",\"reference\":\"%s\",\"rate\":\"%s\","
                      "\"plain_ms\":%.3f,\"sums_share\":%.4f,\"watched_share\":%.4f}\n"
                    : "%-10s %-8s %7.3f ms a tile; sums %5.2f %%, sums and steps %5.2f %% more\n",
               reference, RATES[b->rate], 1e3 * s[0], (s[1] / s[0] - 1) * (json ? 1 : 100),
               (s[2] / s[0] - 1) * (json ? 1 : 100));
        fflush(stdout);
    }
}

static void bench_reference(uint32_t reference, const char *name, bool json, double seconds)
{
    struct bench b = {
        .toy = { .geometry = toy_geometry(30, 3, 64),
                 .reference = reference,
                 .seed = 1,
                 .dsub = 2 },
        .calibration = { .error = 1,
                         .residual = 10,
                         .energy = 64,
                         .tolerance = 4,
                         .model = INFINITY,
                         .loop_gain = .5 },
        .rules = RISK_RULES,
    };
    size_t n_bytes = dpq_row_bytes(&b.toy.geometry, DPQ_F16) * DPQ_TILE_TOKENS;
    struct rng r = rng_seed(2);

    must(toy_make(&b.toy), "profile");
    must(dpq_codec_new(b.toy.profile, ~0u, &b.codec), "codec");
    b.n_streams = b.toy.geometry.n_layers * 2 * b.toy.geometry.n_kv_heads;
    b.rows = malloc(n_bytes);
    b.monitors = calloc(b.n_streams, sizeof(b.monitors[0]));
    if (!b.rows || !b.monitors)
        exit(1);
    for (size_t i = 0; i < n_bytes; i += 2)
        toy_put(b.rows + i, DPQ_F16, (float)toy_normal(&r));
    for (uint32_t i = 0; i < b.n_streams; i++)
        risk_monitor_init(&b.monitors[i], &b.calibration);
    run(&b, name, json, seconds);
    dpq_codec_free(b.codec);
    free(b.monitors);
    free(b.rows);
    toy_drop(&b.toy);
}

int main(int argc, char **argv)
{
    double seconds = 3;
    bool json = false;

    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--json"))
            json = true;
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            seconds = atof(argv[++i]);
        else
            must(DPQ_E_INVALID, argv[i]);
    bench_reference(REFERENCE_NONE, "none", json, seconds);
    bench_reference(REFERENCE_TEMPORAL, "temporal", json, seconds);
    bench_reference(REFERENCE_DEPTH_HEAD, "depth-head", json, seconds);
    return 0;
}
