/*
 * Encoding and decoding tiles on one core, the way that users take: rows as engines have them to
 * tiles and back
 *
 *   bench_codec [--json] [--layers N] [--heads N] [--dim N] [--seconds S] [--only encode|decode]
 *               [--reference NAME] [--rate NAME] [--cpu MASK]
 *
 * Tokens a second, GB/s of fp16 rows, the ratio to memcpy of the same rows, and the share of the
 * time that BLAS takes, with the least that is wanted: the linker puts a clock around cblas_sgemm.
 * Without a geometry, those of SmolLM2-135M (30 layers, 3 KV heads, head_dim 64) and Llama-3-8B
 * (32, 8, 128). Profile and rows are random, seeded. Each figure is the median of as many runs as
 * fit in the time, five at least. MASK is of enum kern_cpu, such as 1 for AVX2; without it, each
 * step of the staircase runs with reference none, and the last also with the others.
 * Time is the thread's own, less what asking for it takes. tests/bench/bench_kern.c has the kernels
 * alone.
 *
 * The share says something only if BLAS uses what the CPU has: a line says which kernels it chose.
 * OPENBLAS_CORETYPE in the environment (SkylakeX, Haswell) makes it use others.
 */

#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "lib/kern/kern.h"
#include "tests/util/toy_profile.h"

enum { MIN_RUNS = 5, MAX_RUNS = 1000 };

static const char *const REFERENCES[] = { "none", "temporal", "depth-head", "depth" };

char *openblas_get_corename(void);

struct options {
    bool json;
    uint32_t n_layers, n_kv_heads, head_dim;
    double seconds;                      /* per figure */
    const char *only, *reference, *rate; /* empty: all */
    uint32_t cpu;                        /* 0: every step */
};

struct bench {
    const struct options *options;
    struct toy toy;
    struct dpq_codec *codec;
    const char *isa;
    uint8_t *rows, *out;
    size_t n_bytes; /* of rows: 128 tokens, fp16 */
    uint8_t *base, *fine;
    size_t n_base, n_fine;
    uint32_t rate;
    double memcpy_s;   /* of n_bytes */
    double gemm_share; /* of the run last measured: the median of its runs' */
};

/* Of this thread: others on the machine shall not count. */
static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double gemm_s;
static unsigned n_gemms;

/* What asking for the time takes: the kernel is asked. */
static double clock_cost(void)
{
    double from = now(), to = from;

    for (int i = 0; i < 1000; i++)
        to = now();
    return (to - from) / 1000;
}

void __real_cblas_sgemm(int, int, int, int, int, int, float, const float *, int, const float *, int,
                        float, float *, int);
void __wrap_cblas_sgemm(int, int, int, int, int, int, float, const float *, int, const float *, int,
                        float, float *, int);

void __wrap_cblas_sgemm(int order, int turn_a, int turn_b, int m, int n, int k, float alpha,
                        const float *a, int step_a, const float *b, int step_b, float beta,
                        float *c, int step_c)
{
    double from = now();

    __real_cblas_sgemm(order, turn_a, turn_b, m, n, k, alpha, a, step_a, b, step_b, beta, c,
                       step_c);
    gemm_s += now() - from;
    n_gemms++;
}

static void must(int r, const char *what)
{
    if (!r)
        return;
    fprintf(stderr, "%s: %s\n", what, dpq_outcome_name(r));
    exit(1);
}

static void run_memcpy(struct bench *b)
{
    memcpy(b->out, b->rows, b->n_bytes);
    __asm__ volatile("" : : "r"(b->out) : "memory");
}

static void run_encode(struct bench *b)
{
    dpq_free(b->base);
    dpq_free(b->fine);
    b->base = b->fine = NULL;
    must(dpq_tile_encode(b->codec, b->rows, DPQ_F16, 4096, 4096, b->rate, &b->base, &b->n_base,
                         &b->fine, &b->n_fine),
         "encode");
}

static void decode(struct bench *b, uint32_t n_layers, uint32_t n_tokens)
{
    const struct dpq_geometry *g = &b->toy.geometry;
    int64_t head = g->head_dim * 2;
    struct dpq_tensor tensor = {
        .dtype = DPQ_F16,
        .stride_head = head,
        .stride_kind = head * g->n_kv_heads,
        .stride_layer = head * g->n_kv_heads * 2,
        .stride_token = (int64_t)dpq_row_bytes(g, DPQ_F16),
    };
    struct dpq_range range = { 0, n_layers, 0, n_tokens };

    must(dpq_tile_decode(b->codec, b->base, b->n_base, b->fine, b->n_fine, &range, &tensor, b->out,
                         NULL),
         "decode");
}

static void run_decode(struct bench *b)
{
    decode(b, b->toy.geometry.n_layers, DPQ_TILE_TOKENS);
}

static void run_decode_token(struct bench *b)
{
    decode(b, b->toy.geometry.n_layers, 1);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Median time of one run; sets gemm_share. */
static double median(struct bench *b, void (*run)(struct bench *))
{
    double samples[MAX_RUNS], shares[MAX_RUNS], end, cost = clock_cost();
    int n = 0;

    run(b);
    end = now() + b->options->seconds;
    while (n < MAX_RUNS && (n < MIN_RUNS || now() < end)) {
        gemm_s = n_gemms = 0;
        samples[n] = now();
        run(b);
        samples[n] = now() - samples[n] - 2 * n_gemms * cost;
        shares[n] = (gemm_s - n_gemms * cost) / samples[n];
        n++;
    }
    qsort(samples, (size_t)n, sizeof(samples[0]), ascending);
    qsort(shares, (size_t)n, sizeof(shares[0]), ascending);
    b->gemm_share = shares[n / 2];
    return samples[n / 2];
}

/* The least share of BLAS that is wanted where both planes are coded; 0: nothing is. */
static double wanted(const struct bench *b, const char *what)
{
    bool wide = b->toy.geometry.head_dim >= 128, encode = !strcmp(what, "encode");

    if (b->rate != DPQ_RATE_QUALITY || b->toy.geometry.head_dim < 64)
        return 0;
    switch (b->toy.reference) {
    case REFERENCE_NONE:
        return encode ? (wide ? .60 : .45) : (wide ? .70 : .55);
    case REFERENCE_DEPTH_HEAD:
        return encode ? 0 : .80;
    case REFERENCE_DEPTH:
        return encode ? 0 : .85;
    default:
        return 0;
    }
}

static void say(const struct bench *b, const char *what, const char *rate, double s)
{
    const struct dpq_geometry *g = &b->toy.geometry;
    double tokens = DPQ_TILE_TOKENS / s, gb = 1e-9 * (double)b->n_bytes / s;
    const char *reference = REFERENCES[b->toy.reference];

    if (b->options->json)
        printf("{\"bench\":\"codec\",\"case\":\"%s\",\"isa\":\"%s\",\"reference\":\"%s\","
               "\"rate\":\"%s\",\"layers\":%u,\"kv_heads\":%u,\"head_dim\":%u,\"bytes\":%zu,"
               "\"tokens_per_s\":%.0f,\"gb_per_s\":%.3f,\"of_memcpy\":%.4f,\"gemm_share\":%.3f,"
               "\"wanted\":%.2f,\"blas\":\"%s\"}\n",
               what, b->isa, reference, rate, g->n_layers, g->n_kv_heads, g->head_dim, b->n_bytes,
               tokens, gb, b->memcpy_s / s, b->gemm_share, wanted(b, what),
               openblas_get_corename());
    else
        printf("%-6s %-6s %-10s %-8s %2ux%ux%-3u %9.0f tokens/s %7.3f GB/s %6.3f of memcpy  GEMM "
               "%4.1f %% (%.0f)\n",
               what, b->isa, reference, rate, g->n_layers, g->n_kv_heads, g->head_dim, tokens, gb,
               b->memcpy_s / s, 100 * b->gemm_share, 100 * wanted(b, what));
    fflush(stdout);
}

static bool is_wanted(const char *option, const char *name)
{
    return !*option || !strcmp(option, name);
}

static void bench_isa(struct bench *b, const char *isa, uint32_t cpu_mask)
{
    static const char *const RATES[] = { "quality", "balanced", "compact" };

    b->isa = isa;
    must(dpq_codec_new(b->toy.profile, cpu_mask, &b->codec), "codec");
    for (b->rate = DPQ_RATE_QUALITY; b->rate <= DPQ_RATE_COMPACT; b->rate += 2) {
        if (!is_wanted(b->options->rate, RATES[b->rate]))
            continue;
        run_encode(b);
        if (strcmp(b->options->only, "decode") != 0)
            say(b, "encode", RATES[b->rate], median(b, run_encode));
        if (strcmp(b->options->only, "encode") != 0)
            say(b, "decode", RATES[b->rate], median(b, run_decode));
    }
    b->codec = dpq_codec_free(b->codec);
}

static void bench_one_token(struct bench *b)
{
    double s;

    must(dpq_codec_new(b->toy.profile, ~0u, &b->codec), "codec");
    b->rate = DPQ_RATE_QUALITY;
    run_encode(b);
    s = median(b, run_decode_token);
    if (b->options->json)
        printf("{\"bench\":\"codec\",\"case\":\"one token\",\"isa\":\"best\",\"us\":%.1f}\n",
               1e6 * s);
    else
        printf("one token of a tile, all layers: %.1f us\n", 1e6 * s);
    b->codec = dpq_codec_free(b->codec);
}

static struct options parse(int argc, char **argv)
{
    struct options o = { .seconds = 0.5, .only = "", .reference = "", .rate = "" };

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "0";

        if (!strcmp(argv[i], "--json")) {
            o.json = true;
            continue;
        }
        if (!strcmp(argv[i], "--layers"))
            o.n_layers = (uint32_t)atoi(value);
        else if (!strcmp(argv[i], "--heads"))
            o.n_kv_heads = (uint32_t)atoi(value);
        else if (!strcmp(argv[i], "--dim"))
            o.head_dim = (uint32_t)atoi(value);
        else if (!strcmp(argv[i], "--seconds"))
            o.seconds = atof(value);
        else if (!strcmp(argv[i], "--only"))
            o.only = value;
        else if (!strcmp(argv[i], "--reference"))
            o.reference = value;
        else if (!strcmp(argv[i], "--rate"))
            o.rate = value;
        else if (!strcmp(argv[i], "--cpu"))
            o.cpu = (uint32_t)strtoul(value, NULL, 0);
        else
            must(DPQ_E_INVALID, argv[i]);
        i++;
    }
    return o;
}

static void bench_steps(struct bench *b)
{
    static const char *const NAMES[] = { "c", "avx2", "avx512", "vnni", "fp16" };
    unsigned have = kern_cpu_detect(), cpu = 0;

    if (b->options->cpu) {
        bench_isa(b, "masked", b->options->cpu);
        return;
    }
    for (size_t i = 0; i < sizeof(NAMES) / sizeof(NAMES[0]); i++, cpu = 2 * cpu + 1)
        if ((cpu & have) == cpu)
            bench_isa(b, NAMES[i], cpu);
    bench_one_token(b);
}

/* A profile in which every stream that can have that reference has it. */
static void bench_reference(struct bench *b, uint32_t reference)
{
    b->toy.reference = reference;
    must(toy_make(&b->toy), "profile");
    if (reference != REFERENCE_NONE)
        bench_isa(b, "best", b->options->cpu ? b->options->cpu : ~0u);
    else
        bench_steps(b);
    toy_drop(&b->toy);
}

static void bench_geometry(const struct options *options, uint32_t n_layers, uint32_t n_kv_heads,
                           uint32_t head_dim)
{
    struct bench b = {
        .options = options,
        .toy = { .geometry = toy_geometry(n_layers, n_kv_heads, head_dim), .seed = 1, .dsub = 2 },
        .isa = "libc",
    };
    struct rng r = rng_seed(2);
    struct dpq_fault fault = { 0 };

    if (dpq_geometry_check(&b.toy.geometry, &fault)) {
        fprintf(stderr, "%s\n", fault.message);
        exit(1);
    }
    b.n_bytes = dpq_row_bytes(&b.toy.geometry, DPQ_F16) * DPQ_TILE_TOKENS;
    b.rows = malloc(b.n_bytes);
    b.out = malloc(b.n_bytes);
    if (!b.rows || !b.out)
        exit(1);
    for (size_t i = 0; i < b.n_bytes; i += 2)
        toy_put(b.rows + i, DPQ_F16, (float)toy_normal(&r));
    b.memcpy_s = median(&b, run_memcpy);
    say(&b, "memcpy", "raw", b.memcpy_s);
    for (uint32_t reference = 0; reference < sizeof(REFERENCES) / sizeof(char *); reference++)
        if (is_wanted(options->reference, REFERENCES[reference]))
            bench_reference(&b, reference);
    dpq_free(b.base);
    dpq_free(b.fine);
    free(b.rows);
    free(b.out);
}

int main(int argc, char **argv)
{
    struct options o = parse(argc, argv);

    mallopt(M_MMAP_THRESHOLD, 4 << 20); /* as deltapqd has it */
    mallopt(M_TRIM_THRESHOLD, 8 << 20);
    if (!o.json)
        printf("BLAS has kernels for %s\n", openblas_get_corename());
    if (o.n_layers || o.n_kv_heads || o.head_dim) {
        bench_geometry(&o, o.n_layers ? o.n_layers : 30, o.n_kv_heads ? o.n_kv_heads : 3,
                       o.head_dim ? o.head_dim : 64);
        return 0;
    }
    bench_geometry(&o, 30, 3, 64);
    bench_geometry(&o, 32, 8, 128);
    return 0;
}
