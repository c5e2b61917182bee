/*
 * Encoding and decoding tiles on one core: tokens a second, GB/s of 16-bit rows, and how that
 * compares with memcpy of the same rows
 *
 *   bench_codec [--json] [--layers N] [--heads N] [--dim N] [--seconds S] [--only encode|decode]
 *
 * The default geometry is SmolLM2-135M's (30 layers, 3 KV heads, head_dim 64). Profile and rows are
 * random, seeded. Each figure is the best of as many runs as fit in the time. The portable kernels
 * run beside those that the CPU has.
 */

#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "tests/util/toy_profile.h"

struct options {
    bool json;
    uint32_t n_layers, n_kv_heads, head_dim;
    double seconds; /* per figure */
    const char *only;
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
    double memcpy_s; /* of n_bytes */
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
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

/* Best time of one run. */
static double best(struct bench *b, void (*run)(struct bench *))
{
    double end = now() + b->options->seconds, shortest = 1e9;

    run(b);
    do {
        double t = now();

        run(b);
        t = now() - t;
        shortest = t < shortest ? t : shortest;
    } while (now() < end);
    return shortest;
}

static void say(const struct bench *b, const char *what, const char *rate, double s)
{
    double tokens = DPQ_TILE_TOKENS / s, gb = 1e-9 * (double)b->n_bytes / s;

    if (b->options->json)
        printf("{\"bench\":\"codec\",\"case\":\"%s\",\"isa\":\"%s\",\"rate\":\"%s\",\"layers\":%u,"
               "\"kv_heads\":%u,\"head_dim\":%u,\"tokens_per_s\":%.0f,\"gb_per_s\":%.3f,"
               "\"of_memcpy\":%.4f}\n",
               what, b->isa, rate, b->toy.geometry.n_layers, b->toy.geometry.n_kv_heads,
               b->toy.geometry.head_dim, tokens, gb, b->memcpy_s / s);
    else
        printf("%-8s %-6s %-10s %9.0f tokens/s %7.3f GB/s %7.3f of memcpy\n", what, b->isa, rate,
               tokens, gb, b->memcpy_s / s);
    fflush(stdout);
}

static void bench_isa(struct bench *b, const char *isa, uint32_t cpu_mask)
{
    static const char *const RATES[] = { "quality", "balanced", "compact" };

    b->isa = isa;
    must(dpq_codec_new(b->toy.profile, cpu_mask, &b->codec), "codec");
    for (b->rate = DPQ_RATE_QUALITY; b->rate <= DPQ_RATE_COMPACT; b->rate += 2) {
        run_encode(b);
        if (strcmp(b->options->only, "decode") != 0)
            say(b, "encode", RATES[b->rate], best(b, run_encode));
        if (strcmp(b->options->only, "encode") != 0)
            say(b, "decode", RATES[b->rate], best(b, run_decode));
    }
    b->codec = dpq_codec_free(b->codec);
}

static void bench_one_token(struct bench *b)
{
    double s;

    must(dpq_codec_new(b->toy.profile, ~0u, &b->codec), "codec");
    b->rate = DPQ_RATE_QUALITY;
    run_encode(b);
    s = best(b, run_decode_token);
    if (b->options->json)
        printf("{\"bench\":\"codec\",\"case\":\"one token\",\"isa\":\"simd\",\"us\":%.1f}\n",
               1e6 * s);
    else
        printf("one token of a tile, all layers: %.1f us\n", 1e6 * s);
    b->codec = dpq_codec_free(b->codec);
}

static struct options parse(int argc, char **argv)
{
    struct options o = {
        .n_layers = 30, .n_kv_heads = 3, .head_dim = 64, .seconds = 0.5, .only = ""
    };

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
        else
            must(DPQ_E_INVALID, argv[i]);
        i++;
    }
    return o;
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    struct bench b = {
        .options = &options,
        .toy = {
            .geometry = toy_geometry(options.n_layers, options.n_kv_heads, options.head_dim),
            .seed = 1,
            .dsub = 2,
        },
    };
    struct rng r = rng_seed(2);
    struct dpq_fault fault = { 0 };

    if (dpq_geometry_check(&b.toy.geometry, &fault)) {
        fprintf(stderr, "%s\n", fault.message);
        return 1;
    }
    must(toy_make(&b.toy), "profile");
    b.n_bytes = dpq_row_bytes(&b.toy.geometry, DPQ_F16) * DPQ_TILE_TOKENS;
    b.rows = malloc(b.n_bytes);
    b.out = malloc(b.n_bytes);
    if (!b.rows || !b.out)
        return 1;
    for (size_t i = 0; i < b.n_bytes; i += 2)
        toy_put(b.rows + i, DPQ_F16, (float)toy_normal(&r));
    b.memcpy_s = best(&b, run_memcpy);
    b.isa = "libc";
    say(&b, "memcpy", "raw", b.memcpy_s);
    bench_isa(&b, "simd", ~0u);
    bench_isa(&b, "c", 0);
    bench_one_token(&b);
    dpq_free(b.base);
    dpq_free(b.fine);
    free(b.rows);
    free(b.out);
    toy_drop(&b.toy);
    return 0;
}
