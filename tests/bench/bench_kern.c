/*
 * Kernels on one core, against memcpy of the fp16 rows that they make or take
 *
 *   bench_kern [--json] [--seconds S] [--cold MIB] [--dim D] [--only TEXT]
 *
 * For every instruction set of the CPU, and portable C. "hot": 512 KiB of rows again and again,
 * samples of at least 2 ms; "cold": MIB of rows (1024 unless told; 0: none), one pass each. Codes
 * come from panels as tiles store them, codebooks from int8 as profiles do: nothing is prepared
 * outside the clock. Each figure is a median; memcpy is measured between the cases, and the ratio
 * is to its median over the run. Random data, seeded.
 *
 * Built by itself (no library but libc and libm):
 *   gcc -O3 -std=gnu11 -ffp-contract=off -D_GNU_SOURCE -I. … see docs/results/kernels.md
 */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/base/rng.h"
#include "lib/kern/kern.h"

enum { T = KERN_TOKENS, HOT_BYTES = 512 << 10, MAX_SAMPLES = 400, MIN_SAMPLES = 5 };

static const struct isa {
    const char *name;
    unsigned cpu;
} ISAS[] = {
    { "c", 0 },
#ifdef __aarch64__
    { "neon", KERN_CPU_NEON },
#else
    { "avx2", KERN_CPU_AVX2 },
    { "avx512", KERN_CPU_AVX2 | KERN_CPU_AVX512 },
    { "vnni", KERN_CPU_AVX2 | KERN_CPU_AVX512 | KERN_CPU_VNNI },
    { "fp16", KERN_CPU_AVX2 | KERN_CPU_AVX512 | KERN_CPU_VNNI | KERN_CPU_FP16 },
#endif
};

struct options {
    bool json;
    double seconds; /* per figure */
    size_t cold_mib, dim;
    const char *only;
};

/* One stream's profile and scratch; panels and rows for n of them. */
struct bench {
    struct options options;
    struct kern kern;
    const char *isa;
    size_t d, n_subspaces, n;
    bool cold;
    uint8_t *base, *fine; /* [n][n_subspaces][64] */
    uint16_t *rows, *out; /* [n][128][d] */
    int8_t *books[4];
    float *scale, *leak, *gain, *inverse, *mean, *cosine, *sine;
    float *x, *y, *z; /* [128][d]: scratch, as a codec's */
    int16_t *q;
    uint8_t *code, *child;
    int32_t gain_code[T];
    float gains[256], inverses[256];
};

/* Of this thread's processor time: others on the machine don't count. */
static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *room(size_t n)
{
    void *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096);

    if (!p) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    memset(p, 0, n);
    return p;
}

static void fill_bytes(struct rng *r, void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)p)[i] = (uint8_t)rng_next(r);
}

static float *floats(struct rng *r, size_t n, double least, double most)
{
    float *p = room(n * sizeof(float));

    for (size_t i = 0; i < n; i++)
        p[i] = (float)(least + (most - least) * rng_unit(r));
    return p;
}

/* --- cases: one panel each --- */

static struct kern_panel panel_of(const struct bench *b, size_t i, bool fine, bool temporal)
{
    struct kern_panel p = {
        .base = b->base + i * b->n_subspaces * KERN_LINE,
        .fine = fine ? b->fine + i * b->n_subspaces * KERN_LINE : NULL,
        .n_subspaces = b->n_subspaces,
        .dsub = 2,
        .gain = b->gain,
        .intra = { b->scale, b->books[0], b->books[1] },
        .delta = { b->scale, b->books[2], b->books[3] },
        .leak = temporal ? b->leak : NULL,
    };

    if (temporal) /* a key every 32 tokens */
        p.predicted = (struct kern_mask){ { 0xfffffffefffffffe, 0xfffffffefffffffe } };
    return p;
}

static void half(struct bench *b, size_t i, bool fine, bool temporal)
{
    struct kern_panel p = panel_of(b, i, fine, temporal);

    b->kern.decode_half(&p, b->out + i * T * b->d, (ptrdiff_t)(2 * b->d), b->cold);
}

static void half_base(struct bench *b, size_t i)
{
    half(b, i, false, false);
}

static void half_fine(struct bench *b, size_t i)
{
    half(b, i, true, false);
}

static void half_temporal(struct bench *b, size_t i)
{
    half(b, i, false, true);
}

static void half_temporal_fine(struct bench *b, size_t i)
{
    half(b, i, true, true);
}

static void rows_base(struct bench *b, size_t i)
{
    struct kern_panel p = panel_of(b, i, false, false);

    b->kern.decode_rows(&p, b->y, NULL);
}

static void rows_fine(struct bench *b, size_t i)
{
    struct kern_panel p = panel_of(b, i, true, false);

    b->kern.decode_rows(&p, NULL, b->y);
}

static void rows_temporal_fine(struct bench *b, size_t i)
{
    struct kern_panel p = panel_of(b, i, true, true);

    b->kern.decode_rows(&p, b->z, b->y);
}

/* The same by kernels of single subspaces, dim-major. */
static void panels_fine(struct bench *b, size_t i)
{
    struct kern_panel p = panel_of(b, i, true, false);

    for (size_t m = 0; m < b->n_subspaces; m++) {
        b->kern.unpack(p.base + m * KERN_LINE, b->code);
        b->kern.unpack(p.fine + m * KERN_LINE, b->child);
        for (size_t t = 0; t < T; t++)
            b->child[t] = (uint8_t)(b->child[t] | b->code[t] << 4);
        b->kern.decode(b->child, 2, b->books[1] + m * 512, 256, b->scale[m], b->gain,
                       b->y + m * 2 * T);
    }
}

static void take(struct bench *b, size_t i)
{
    struct kern_turn turn = { .n_pairs = b->d / 2, .cosine = b->cosine, .sine = b->sine };

    b->kern.take[1](b->rows + i * T * b->d, (ptrdiff_t)(2 * b->d), T, b->d, &turn, b->mean, b->x);
}

static void give(struct bench *b, size_t i)
{
    struct kern_turn turn = { .n_pairs = b->d / 2, .cosine = b->cosine, .sine = b->sine };

    b->kern.give[1](b->x, T, b->d, &turn, b->out + i * T * b->d, (ptrdiff_t)(2 * b->d));
}

/* From y in scratch to packed panels: gains, integers, search, packing. */
static void encode(struct bench *b, size_t i, bool fine)
{
    float square[T];

    b->kern.gains(b->y, b->d, square, b->gain_code);
    for (size_t m = 0; m < b->n_subspaces; m++) {
        size_t line = (i * b->n_subspaces + m) * KERN_LINE;

        b->kern.quantize(b->y + m * 2 * T, 2, b->inverse, 16 / b->scale[m], b->q);
        b->kern.search(b->q, 2, b->books[0] + m * 32, b->code);
        b->kern.pack(b->code, b->base + line);
        if (!fine)
            continue;
        b->kern.search_child(b->q, 2, b->books[1] + m * 512, b->code, b->child);
        b->kern.pack(b->child, b->fine + line);
    }
}

static void encode_base(struct bench *b, size_t i)
{
    encode(b, i, false);
}

static void encode_fine(struct bench *b, size_t i)
{
    encode(b, i, true);
}

static void encode_temporal(struct bench *b, size_t i)
{
    struct kern_panel p = panel_of(b, i, false, true);
    struct kern_loop l = {
        .n_subspaces = b->n_subspaces,
        .dsub = 2,
        .intra = p.intra,
        .delta = p.delta,
        .may_predict = p.predicted,
        .leak = b->leak,
        .gain = b->gains,
        .inverse_gain = b->inverses,
    };
    struct kern_mask predicted;

    b->kern.search_loop(&l, b->y, &predicted, b->gain_code, b->code, b->q, b->z);
    for (size_t m = 0; m < b->n_subspaces; m++)
        b->kern.pack(b->code + m * T, b->base + (i * b->n_subspaces + m) * KERN_LINE);
}

static void squares(struct bench *b, size_t i)
{
    (void)i;
    b->kern.squares(b->x, b->y, T, b->d, b->z);
}

static void copy(struct bench *b, size_t i)
{
    (void)i;
    memcpy(b->out, b->rows, b->n * T * b->d * 2);
}

static const struct bench_case {
    const char *name;
    void (*run)(struct bench *, size_t);
    bool cold; /* worth a figure from and to memory */
} CASES[] = {
    { "decode fp16, base", half_base, true },
    { "decode fp16, two planes", half_fine, true },
    { "decode fp16, temporal base", half_temporal, true },
    { "decode fp16, temporal two planes", half_temporal_fine, true },
    { "decode fp32 scratch, base", rows_base, false },
    { "decode fp32 scratch, two planes", rows_fine, false },
    { "decode fp32 scratch, temporal two planes", rows_temporal_fine, false },
    { "decode fp32 dim-major, two planes", panels_fine, false },
    { "take fp16: load, un-rope, less mean", take, false },
    { "give fp16: rope, store", give, false },
    { "encode base", encode_base, false },
    { "encode two planes", encode_fine, false },
    { "encode temporal base", encode_temporal, false },
    { "squared distances", squares, false },
};

/* --- timing --- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double one_pass(struct bench *b, void (*run)(struct bench *, size_t))
{
    double from = now();

    for (size_t i = 0; i < (run == copy ? 1 : b->n); i++)
        run(b, i);
    kern_fence();
    __asm__ volatile("" : : "r"(b->out) : "memory");
    return now() - from;
}

/* Of a pass over all rows, in seconds; the ratio is to memcpy. */
struct figures {
    double median, shortest, of_memcpy, memcpy_s;
};

static double middle(double *samples, int n)
{
    qsort(samples, (size_t)n, sizeof(samples[0]), ascending);
    return samples[n / 2];
}

static double sample(struct bench *b, void (*run)(struct bench *, size_t), int repeat)
{
    double sum = 0;

    for (int i = 0; i < repeat; i++)
        sum += one_pass(b, run);
    return sum / repeat;
}

static int repeats(double once)
{
    return once < 2e-3 ? (int)(2e-3 / once) + 1 : 1;
}

static struct figures measure(struct bench *b, void (*run)(struct bench *, size_t))
{
    double ours[MAX_SAMPLES], theirs[MAX_SAMPLES], ratio[MAX_SAMPLES], end;
    int n = 0, repeat = repeats(one_pass(b, run)), repeat_copy = repeats(one_pass(b, copy));
    struct figures f;

    end = now() + b->options.seconds;
    while (n < MAX_SAMPLES && (n < MIN_SAMPLES || now() < end)) {
        theirs[n] = sample(b, copy, repeat_copy);
        ours[n] = sample(b, run, repeat);
        ratio[n] = theirs[n] / ours[n];
        n++;
    }
    f.median = middle(ours, n);
    f.shortest = ours[0];
    f.memcpy_s = middle(theirs, n);
    f.of_memcpy = middle(ratio, n);
    return f;
}

static void say(const struct bench *b, const char *name, struct figures f)
{
    size_t n_bytes = b->n * T * b->d * 2;
    double gb = 1e-9 * (double)n_bytes / f.median, vectors = (double)(b->n * T) / f.median;
    const char *where = b->cold ? "cold" : "hot";
    /* head vectors of a token: SmolLM2-135M 30 * 2 * 3, Llama-3-8B 32 * 2 * 8 */
    double tokens = vectors / (b->d == 64 ? 180 : 512);

    if (b->options.json)
        printf("{\"bench\":\"kern\",\"case\":\"%s\",\"isa\":\"%s\",\"dim\":%zu,\"where\":\"%s\","
               "\"bytes\":%zu,\"gb_per_s\":%.3f,\"best_gb_per_s\":%.3f,\"vectors_per_s\":%.0f,"
               "\"tokens_per_s\":%.0f,\"memcpy_gb_per_s\":%.3f,\"of_memcpy\":%.4f}\n",
               name, b->isa, b->d, where, n_bytes, gb, 1e-9 * (double)n_bytes / f.shortest, vectors,
               tokens, 1e-9 * (double)n_bytes / f.memcpy_s, f.of_memcpy);
    else
        printf("%-40s %-6s %3zu %-4s %6.2f GB/s (best %6.2f) %7.2f Mvec/s %8.0f tokens/s  memcpy "
               "%5.1f  ratio %5.3f\n",
               name, b->isa, b->d, where, gb, 1e-9 * (double)n_bytes / f.shortest, 1e-6 * vectors,
               tokens, 1e-9 * (double)n_bytes / f.memcpy_s, f.of_memcpy);
    fflush(stdout);
}

static void run_cases(struct bench *b)
{
    for (size_t c = 0; c < sizeof(CASES) / sizeof(CASES[0]); c++)
        if ((CASES[c].cold || !b->cold) && strstr(CASES[c].name, b->options.only))
            say(b, CASES[c].name, measure(b, CASES[c].run));
}

static void set_rows(struct bench *b, struct rng *r, size_t n_bytes, bool cold)
{
    free(b->base);
    free(b->fine);
    free(b->rows);
    free(b->out);
    b->cold = cold;
    b->n = n_bytes / (T * b->d * 2);
    b->base = room(b->n * b->n_subspaces * KERN_LINE);
    b->fine = room(b->n * b->n_subspaces * KERN_LINE);
    b->rows = room(n_bytes);
    b->out = room(n_bytes);
    fill_bytes(r, b->base, b->n * b->n_subspaces * KERN_LINE);
    fill_bytes(r, b->fine, b->n * b->n_subspaces * KERN_LINE);
    for (size_t i = 0; i < n_bytes / 2; i++)
        b->rows[i] = (uint16_t)(0x3800 + (rng_next(r) & 0x83ff)); /* 0.5 … 1, both signs */
}

static void set_stream(struct bench *b, struct rng *r)
{
    size_t d = b->d, m = d / 2;

    b->n_subspaces = m;
    for (int i = 0; i < 4; i++) {
        b->books[i] = room(m * (i % 2 ? 512 : 32));
        fill_bytes(r, b->books[i], m * (i % 2 ? 512 : 32));
    }
    b->scale = floats(r, m, 0.02, 0.03);
    b->leak = floats(r, m, 0.5, 0.98);
    b->gain = floats(r, T, 0.5, 2);
    b->inverse = floats(r, T, 0.5, 2);
    b->mean = floats(r, d, -1, 1);
    b->cosine = floats(r, T * d / 2, -0.7, 0.7);
    b->sine = floats(r, T * d / 2, -0.7, 0.7);
    b->x = floats(r, T * d, -3, 3);
    b->y = floats(r, T * d, -3, 3);
    b->z = floats(r, T * d, -3, 3);
    b->q = room(2 * T * d);
    b->code = room(T * m);
    b->child = room(T * m);
    for (int i = 1; i < 256; i++) { /* near enough to the codec's */
        b->gains[i] = __builtin_exp2f((float)(i - 161) / 8);
        b->inverses[i] = 1 / b->gains[i];
    }
}

static void clear(struct bench *b)
{
    void *all[] = { b->base,     b->fine,  b->rows, b->out,  b->books[0], b->books[1], b->books[2],
                    b->books[3], b->scale, b->leak, b->gain, b->inverse,  b->mean,     b->cosine,
                    b->sine,     b->x,     b->y,    b->z,    b->q,        b->code,     b->child };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        free(all[i]);
}

static void bench_dim(const struct options *o, size_t d)
{
    struct rng r = rng_seed(1);
    struct bench b = { .options = *o, .d = d, .isa = "libc" };

    set_stream(&b, &r);
    for (int cold = 0; cold < (o->cold_mib ? 2 : 1); cold++) {
        set_rows(&b, &r, cold ? o->cold_mib << 20 : HOT_BYTES, cold);
        b.isa = "libc";
        say(&b, "memcpy of fp16 rows", measure(&b, copy));
        for (size_t i = cold ? 1 : 0; i < sizeof(ISAS) / sizeof(ISAS[0]); i++) {
            if ((ISAS[i].cpu & kern_cpu_detect()) != ISAS[i].cpu)
                break;
            kern_init(&b.kern, ISAS[i].cpu);
            b.isa = ISAS[i].name;
            run_cases(&b);
        }
    }
    clear(&b);
}

int main(int argc, char **argv)
{
    struct options o = { .seconds = 0.1, .cold_mib = 1024, .only = "" };

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "0";

        if (!strcmp(argv[i], "--json")) {
            o.json = true;
            continue;
        }
        if (!strcmp(argv[i], "--seconds"))
            o.seconds = atof(value);
        else if (!strcmp(argv[i], "--cold"))
            o.cold_mib = (size_t)atoi(value);
        else if (!strcmp(argv[i], "--dim"))
            o.dim = (size_t)atoi(value);
        else if (!strcmp(argv[i], "--only"))
            o.only = value;
        else {
            fprintf(stderr, "unknown: %s\n", argv[i]);
            return 1;
        }
        i++;
    }
    for (size_t d = 64; d <= 128; d *= 2)
        if (!o.dim || o.dim == d)
            bench_dim(&o, d);
    return 0;
}
