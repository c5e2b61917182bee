/*
 * What watching streams costs the encoder: bench_monitor [--json] [--seconds S]
 *
 * Tiles of two geometries, random rows and profile, seeded, encoded on one core in three ways in
 * turn: as the profile says; with the sums of each stream's energies, which nobody looks at; and
 * with these, the monitors' steps and their bytes in the tile. Streams are calibrated for just
 * these tiles: all are Green, as on text like calibration's. Shares are of processor time, the
 * medians of what each round of three says; one reference (none, temporal, depth-head) and rate
 * after the other. What the risk thread takes beside it is measured by tests/bench/watch.py.
 */
#include <malloc.h>
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
    struct risk_calibration *calibrations;
    struct risk_rules rules;
    struct kern kern;
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

/* What calibration would have said of a stream that is as in this tile. */
static bool calibrate(void *user, uint32_t stream, const struct tile_energies *energies)
{
    struct bench *b = user;
    struct risk_calibration *c = &b->calibrations[stream];
    double x2 = 0, d2 = 0, e2 = 0, d = 0, n = 0;

    for (uint32_t t = 0; t < DPQ_TILE_TOKENS; t++)
        if (energies->part[t] == TILE_TOKEN_CODED) {
            n++;
            x2 += (double)energies->x2[t];
            d2 += (double)energies->d2[t];
            e2 += (double)energies->e2[t];
            d += sqrt((double)energies->d2[t]);
        }
    *c = (struct risk_calibration){ .error = e2 / n,
                                    .residual = d2 / n,
                                    .energy = x2 / n,
                                    .tolerance = 2 * e2 / n,
                                    .model = INFINITY,
                                    .loop_gain = b->toy.reference == REFERENCE_NONE ? 0 : .1 };
    risk_drift_init(&c->drift, d / n / sqrt(d2 / n), b->toy.geometry.head_dim, .2);
    risk_monitor_init(&b->monitors[stream], c);
    return false;
}

static bool step(void *user, uint32_t stream, const struct tile_energies *energies)
{
    struct bench *b = user;
    struct risk_course course;

    risk_tile_step(&b->monitors[stream], &b->kern, &b->rules, &b->calibrations[stream],
                   energies->x2, energies->d2, energies->e2, energies->part,
                   b->monitors[stream].zone.zone, &course);
    risk_monitor_pack(&b->monitors[stream], b->bytes);
    (void)!risk_monitor_unpack(b->bytes, &b->monitors[stream]);
    return false;
}

/* @measured: NULL: nobody watches */
static void encode(struct bench *b,
                   bool (*measured)(void *, uint32_t, const struct tile_energies *))
{
    const struct tile_watch watch = { .user = b,
                                      .measured = measured,
                                      .n_verdict_bytes = measured == step
                                                             ? 8 + b->n_streams * RISK_MONITOR_BYTES
                                                             : 0 };
    uint8_t *base = NULL, *fine = NULL;
    size_t n_base, n_fine;

    must(tile_encode_watched(b->codec, b->rows, DPQ_F16, 4096, 4096, b->rate,
                             measured ? &watch : NULL, &base, &n_base, &fine, &n_fine),
         "encode");
    dpq_free(base);
    dpq_free(fine);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* In turn, so that whatever else the machine does meets all of them, and each round by itself. */
static void measure(struct bench *b, double seconds, double *ret_s, double ret_share[N_WAYS])
{
    static bool (*const WAYS[N_WAYS])(void *, uint32_t,
                                      const struct tile_energies *) = { NULL, look, step };
    static double samples[N_WAYS][MAX_RUNS];
    double end = cpu_s() + seconds;
    int n = 0;

    encode(b, calibrate);
    for (; n < MAX_RUNS && (n < MIN_RUNS || cpu_s() < end); n++) {
        for (int way = 0; way < N_WAYS; way++) {
            samples[way][n] = cpu_s();
            encode(b, WAYS[way]);
            samples[way][n] = cpu_s() - samples[way][n];
        }
        for (int way = 1; way < N_WAYS; way++)
            samples[way][n] = samples[way][n] / samples[0][n] - 1;
    }
    for (int way = 0; way < N_WAYS; way++) {
        qsort(samples[way], (size_t)n, sizeof(double), ascending);
        ret_share[way] = samples[way][n / 2];
    }
    *ret_s = samples[0][n / 2];
}

/* Whatever is not Green has been measured for what it is not. */
static uint32_t n_not_green(const struct bench *b)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < b->n_streams; i++)
        n += b->monitors[i].zone.zone != RISK_GREEN;
    return n;
}

static void run(struct bench *b, const char *geometry, const char *reference, bool json,
                double seconds)
{
    static const char *const RATES[] = {
        [DPQ_RATE_QUALITY] = "quality", [DPQ_RATE_COMPACT] = "compact"
    };
    double s, share[N_WAYS];

    for (b->rate = DPQ_RATE_QUALITY; b->rate <= DPQ_RATE_COMPACT; b->rate += 2) {
        measure(b, seconds, &s, share);
        printf(json ? "{\"bench\":\"monitor\",\"geometry\":\"%s\",\"reference\":\"%s\","
                      "\"rate\":\"%s\",\"plain_ms\":%.3f,\"sums_share\":%.4f,"
                      "\"watched_share\":%.4f,\"not_green\":%u}\n"
                    : "%-8s %-10s %-8s %7.3f ms a tile; sums %5.2f %%, sums and steps %5.2f %% "
                      "more; %u streams not Green\n",
               geometry, reference, RATES[b->rate], 1e3 * s, share[1] * (json ? 1 : 100),
               share[2] * (json ? 1 : 100), n_not_green(b));
        fflush(stdout);
    }
}

static void bench_reference(const char *name, struct dpq_geometry geometry, uint32_t reference,
                            const char *reference_name, bool json, double seconds)
{
    struct bench b = {
        .toy = { .geometry = geometry, .reference = reference, .seed = 1, .dsub = 2 },
        .rules = RISK_RULES,
    };
    size_t n_bytes = dpq_row_bytes(&b.toy.geometry, DPQ_F16) * DPQ_TILE_TOKENS;
    struct rng r = rng_seed(2);

    kern_init(&b.kern, kern_cpu_detect());
    must(toy_make(&b.toy), "profile");
    must(dpq_codec_new(b.toy.profile, ~0u, &b.codec), "codec");
    b.n_streams = b.toy.geometry.n_layers * 2 * b.toy.geometry.n_kv_heads;
    b.rows = malloc(n_bytes);
    b.monitors = calloc(b.n_streams, sizeof(b.monitors[0]));
    b.calibrations = calloc(b.n_streams, sizeof(b.calibrations[0]));
    if (!b.rows || !b.monitors || !b.calibrations)
        exit(1);
    for (size_t i = 0; i < n_bytes; i += 2)
        toy_put(b.rows + i, DPQ_F16, (float)toy_normal(&r));
    run(&b, name, reference_name, json, seconds);
    dpq_codec_free(b.codec);
    free(b.calibrations);
    free(b.monitors);
    free(b.rows);
    toy_drop(&b.toy);
}

static void bench_geometry(const char *name, struct dpq_geometry geometry, bool json,
                           double seconds)
{
    bench_reference(name, geometry, REFERENCE_NONE, "none", json, seconds);
    bench_reference(name, geometry, REFERENCE_TEMPORAL, "temporal", json, seconds);
    bench_reference(name, geometry, REFERENCE_DEPTH_HEAD, "depth-head", json, seconds);
}

int main(int argc, char **argv)
{
    double seconds = 3;
    bool json = false;

    mallopt(M_MMAP_THRESHOLD, 4 << 20); /* as the daemon has it */
    mallopt(M_TRIM_THRESHOLD, 8 << 20);
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--json"))
            json = true;
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            seconds = atof(argv[++i]);
        else
            must(DPQ_E_INVALID, argv[i]);
    bench_geometry("smollm2", toy_geometry(30, 3, 64), json, seconds);
    bench_geometry("llama3", toy_geometry(32, 8, 128), json, seconds);
    return 0;
}
