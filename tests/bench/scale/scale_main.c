/*
 * How cost grows with length, with what is stored, and with clients
 *
 *   bench_scale --daemon PATH --profile FILE [--json] [--only NAMES] [--daemon-cpus LIST]
 *               [--client-cpus LIST] [--workers N] [--tokens LIST] [--gib LIST] [--clients LIST]
 *               [--requests LIST] [--rounds N] [--seconds S] [--counter PATH]
 *
 * NAMES are some of length, clients, call, share, memory, allocations; all of them otherwise.
 * FILE is a profile, such as that of the quickstart (.cache/quickstart/state/state/profiles): rows
 * are drawn to look like what it has learned from (scale_rows.c). Daemon and clients are pinned
 * apart, by default to the first processor and to the others; share, memory and allocations run
 * with one worker on the first of the daemon's. PATH of --counter is libcount_alloc.so. Every
 * daemon has a folder of its own under /tmp, and is gone afterwards. BLAS chooses its kernels
 * as always: OPENBLAS_CORETYPE in the environment is for the daemon, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/scale/scale.h"

void scale_die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("bench_scale: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    _exit(1);
}

double scale_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* --- options ---------------------------------------------------------------------------------- */

static const struct option LONG[] = {
    { "daemon", required_argument, NULL, 'd' },
    { "profile", required_argument, NULL, 'p' },
    { "only", required_argument, NULL, 'o' },
    { "daemon-cpus", required_argument, NULL, 'D' },
    { "client-cpus", required_argument, NULL, 'C' },
    { "workers", required_argument, NULL, 'w' },
    { "tokens", required_argument, NULL, 't' },
    { "gib", required_argument, NULL, 'g' },
    { "clients", required_argument, NULL, 'c' },
    { "requests", required_argument, NULL, 'r' },
    { "rounds", required_argument, NULL, 'n' },
    { "seconds", required_argument, NULL, 's' },
    { "counter", required_argument, NULL, 'a' },
    { "json", no_argument, NULL, 'j' },
    { NULL, 0, NULL, 0 },
};

/* Ascending, in what a list is of. */
static bool is_within(const struct scale_list *list, double least, double most, double step)
{
    for (uint32_t i = 0; i < list->n; i++) {
        double x = list->at[i];

        if (x < least || x > most || (i && x <= list->at[i - 1]) ||
            (step > 0 && x / step != (double)(uint32_t)(x / step)))
            return false;
    }
    return true;
}

static bool set(struct scale_options *o, int option, const char *value)
{
    switch (option) {
    case 'd':
        return (o->daemon_path = value) != NULL;
    case 'p':
        return (o->profile_path = value) != NULL;
    case 'o':
        return (o->only = value) != NULL;
    case 'a':
        return (o->counter_path = value) != NULL;
    case 'j':
        return (o->json = true);
    case 'D':
        return scale_parse_cpus(value, &o->daemon_cpus);
    case 'C':
        return scale_parse_cpus(value, &o->client_cpus);
    case 'w':
        return (o->n_workers = (uint32_t)strtoul(value, NULL, 10)) <= 256;
    case 't':
        return scale_parse_list(value, &o->tokens) &&
               is_within(&o->tokens, 128, 1 << 20, DPQ_TILE_TOKENS);
    case 'r':
        return scale_parse_list(value, &o->requests) &&
               is_within(&o->requests, 128, 1 << 20, DPQ_TILE_TOKENS);
    case 'g':
        return scale_parse_list(value, &o->gib) && is_within(&o->gib, 0, 4096, 0);
    case 'c':
        return scale_parse_list(value, &o->clients) &&
               is_within(&o->clients, 1, SCALE_MAX_CLIENTS, 1);
    case 'n':
        return (o->n_rounds = (uint32_t)strtoul(value, NULL, 10)) - 1 < 50;
    case 's':
        return (o->seconds = strtod(value, NULL)) > 0;
    default:
        return false;
    }
}

/* Of the processors that this process may use: the first, and the others where there are any. */
static void default_cpus(struct scale_options *o)
{
    cpu_set_t all;
    int first = 0;

    sched_getaffinity(0, sizeof(all), &all);
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&o->daemon_cpus);
    CPU_SET(first, &o->daemon_cpus);
    o->client_cpus = all;
    if (CPU_COUNT(&all) > 1)
        CPU_CLR(first, &o->client_cpus);
}

static void parse(int argc, char **argv, struct scale_options *ret_options)
{
    struct scale_options o = { .n_rounds = 5, .seconds = 5 };
    int option;

    default_cpus(&o);
    scale_parse_list("128,256,512,1024,2048,4096,8192,16384,32768", &o.tokens);
    scale_parse_list("0,2,8", &o.gib);
    scale_parse_list("1,2,4,8", &o.clients);
    scale_parse_list("512,2048,8192", &o.requests);
    while ((option = getopt_long(argc, argv, "", LONG, NULL)) != -1)
        if (!set(&o, option, optarg))
            scale_die("a bad option or value: the top of tests/bench/scale/scale_main.c says what "
                      "there is");
    if (optind < argc || !o.daemon_path || !o.profile_path)
        scale_die("--daemon PATH and --profile FILE must be given, and nothing but options");
    *ret_options = o;
}

static bool wants(const struct scale *scale, const char *name)
{
    return !scale->options.only || strstr(scale->options.only, name);
}

/* --- what there is before --------------------------------------------------------------------- */

static void open_profile(struct scale *scale)
{
    const char *path = scale->options.profile_path;
    FILE *file = fopen(path, "rb");
    struct dpq_fault fault = { .message = "it can't be read" };
    uint8_t *bytes = NULL;
    long n = -1;

    if (file && !fseek(file, 0, SEEK_END))
        n = ftell(file);
    if (n > 0)
        bytes = malloc((size_t)n);
    if (bytes)
        rewind(file);
    if (!bytes || fread(bytes, 1, (size_t)n, file) != (size_t)n ||
        dpq_profile_open(bytes, (size_t)n, &scale->profile, &fault))
        scale_die("%s: %s", path, fault.message);
    fclose(file);
    scale->profile_bytes = bytes;
    scale->n_profile_bytes = (size_t)n;
    memcpy(scale->profile_id, dpq_profile_digest(scale->profile), sizeof(scale->profile_id));
    scale->row_bytes = dpq_row_bytes(dpq_profile_geometry(scale->profile), DPQ_F16);
}

static void draw(struct scale *scale)
{
    const struct scale_list *tokens = &scale->options.tokens, *requests = &scale->options.requests;
    double n = 2048;

    n = n < tokens->at[tokens->n - 1] ? tokens->at[tokens->n - 1] : n;
    n = n < requests->at[requests->n - 1] ? requests->at[requests->n - 1] : n;
    scale->n_tokens = (uint32_t)n + DPQ_TILE_TOKENS;
    scale->rows = scale_rows_draw(scale->profile, scale->n_tokens);
    scale->shared = mmap(NULL, sizeof(*scale->shared), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (scale->shared == MAP_FAILED)
        scale_die("no memory");
}

/* --- daemons ---------------------------------------------------------------------------------- */

/* Arena for what is kept, and for the longest sequence besides: no more than its rows. */
static struct scale_daemon_args daemon_args(const struct scale *scale, double gib)
{
    const struct scale_options *o = &scale->options;
    uint64_t rows = scale->n_tokens * scale->row_bytes;
    uint64_t clients = (uint64_t)o->clients.at[o->clients.n - 1] * 512 * scale->row_bytes;

    return (struct scale_daemon_args){
        .path = o->daemon_path,
        .cpus = o->daemon_cpus,
        .n_workers = o->n_workers,
        .arena_bytes = (uint64_t)(gib * 1.1 * 0x1p30) + rows + clients + (64 << 20),
        .staging_bytes = rows,
        .staging_total_bytes = 2 * rows + 8 * 2048 * scale->row_bytes + clients,
    };
}

/* One worker, on the first of the daemon's processors. */
static struct scale_daemon_args single_args(const struct scale *scale)
{
    struct scale_daemon_args args = daemon_args(scale, 0);
    int first = 0;

    while (!CPU_ISSET(first, &scale->options.daemon_cpus))
        first++;
    CPU_ZERO(&args.cpus);
    CPU_SET(first, &args.cpus);
    args.n_workers = 1;
    return args;
}

static void with_daemon(struct scale *scale, const struct scale_daemon_args *args,
                        const char *const *names, void (*const *measures)(struct scale *scale),
                        uint32_t n)
{
    bool any = false;

    for (uint32_t i = 0; i < n; i++)
        any |= wants(scale, names[i]);
    if (!any)
        return;
    scale_daemon_start(args, &scale->daemon);
    scale_install(scale);
    for (uint32_t i = 0; i < n; i++)
        if (wants(scale, names[i]))
            measures[i](scale);
    scale_daemon_stop(&scale->daemon);
}

static void count(struct scale *scale, struct scale_daemon_args *args)
{
    static const char *const NAME[] = { "allocations" };
    static void (*const MEASURE[])(struct scale * scale) = { scale_allocations };
    char path[] = "/tmp/bench_scale.XXXXXX";
    int fd;

    if (!scale->options.counter_path || !wants(scale, NAME[0]))
        return;
    fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, sizeof(uint64_t)))
        scale_die("%s: %s", path, strerror(errno));
    close(fd);
    args->preload = scale->options.counter_path;
    args->counts_path = scale->options.counts_path = path;
    with_daemon(scale, args, NAME, MEASURE, 1);
    unlink(path);
}

int main(int argc, char **argv)
{
    static const char *const MANY[] = { "call", "clients", "length" };
    static void (*const MEASURE_MANY[])(struct scale *) = { scale_call, scale_clients,
                                                            scale_length };
    static const char *const FEW[] = { "share", "memory" };
    static void (*const MEASURE_FEW[])(struct scale *) = { scale_share, scale_memory };
    struct scale scale = { 0 };
    struct scale_daemon_args args;

    parse(argc, argv, &scale.options);
    open_profile(&scale);
    draw(&scale);
    args = daemon_args(&scale, scale.options.gib.at[scale.options.gib.n - 1]);
    with_daemon(&scale, &args, MANY, MEASURE_MANY, ARRAY_SIZE(MANY));
    args = single_args(&scale);
    for (uint32_t i = 0; i < ARRAY_SIZE(FEW); i++) /* each a daemon that has done nothing yet */
        with_daemon(&scale, &args, FEW + i, MEASURE_FEW + i, 1);
    count(&scale, &args);
    return 0;
}
