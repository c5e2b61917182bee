/* What the daemon takes for itself: memory while it encodes, calls of malloc() for each token */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/bench/scale/scale.h"

enum { WARM_UP_TOKENS = 1024, TILE = DPQ_TILE_TOKENS, N_TILES = 10, N_SINGLE = 100 };

/* --- memory ----------------------------------------------------------------------------------- */

/* KiB: the peak beyond what a warm-up left, shared memory (arena, staging) not counted; and all
 * that is not shared, afterwards. */
static void encode_much(struct scale_client *c)
{
    const struct scale_daemon *d = &c->scale->daemon;
    uint32_t n = (uint32_t)c->argument;
    uint64_t id = scale_create(c), peak, shared;

    scale_append(c, id, 0, n < WARM_UP_TOKENS ? n : WARM_UP_TOKENS);
    scale_discard(c, id);
    id = scale_create(c);
    scale_daemon_reset_peak(d);
    peak = scale_daemon_kib(d, "VmHWM");
    shared = scale_daemon_kib(d, "RssShmem");
    scale_append(c, id, 0, n);
    peak = scale_daemon_kib(d, "VmHWM") - peak;
    shared = scale_daemon_kib(d, "RssShmem") - shared;
    scale_point(c, 0, (double)peak - (double)shared);
    scale_point(c, 1, (double)scale_daemon_kib(d, "RssAnon"));
    scale_discard(c, id);
}

void scale_memory(struct scale *scale)
{
    const struct scale_list *tokens = &scale->options.tokens;
    uint32_t n = (uint32_t)tokens->at[tokens->n - 1];
    const struct scale_answer *a = &scale->shared->answers[0];

    scale_run(scale, 1, n, encode_much, n, 0);
    printf(scale->options.json
               ? "{\"bench\":\"memory\",\"tokens\":%u,\"peak_mib\":%.1f,\"anonymous_mib\":%.1f}\n"
               : "encoding %u tokens: %.1f MiB at the peak beyond the warm-up, arena and staging "
                 "excluded; %.1f MiB of its own afterwards\n",
           n, a->y[0] / 1024, a->y[1] / 1024);
}

/* --- allocations ------------------------------------------------------------------------------ */

enum { SINGLE_TOKENS, MANY_TOKENS, ONE_TILE, MANY_TILES, READ_ONE, READ_MANY, N_COUNTS };

static const char *const COUNTS[] = { "100 Appends of 1 token", "Append of 100 tokens",
                                      "Append of 1 tile",       "Append of 10 tiles",
                                      "Read of 1 tile",         "Read of 10 tiles" };

static uint64_t count_of(struct scale_client *c, int what, const uint64_t *n_calls)
{
    uint64_t id = scale_create(c), before;
    uint32_t n = what == ONE_TILE || what == READ_ONE ? TILE : N_TILES * TILE;

    if (what >= READ_ONE)
        scale_append(c, id, 0, n);
    before = __atomic_load_n(n_calls, __ATOMIC_RELAXED);
    for (uint32_t i = 0; what == SINGLE_TOKENS && i < N_SINGLE; i++)
        scale_append(c, id, i, 1);
    if (what == MANY_TOKENS)
        scale_append(c, id, 0, N_SINGLE);
    if (what == ONE_TILE || what == MANY_TILES)
        scale_append(c, id, 0, n);
    if (what >= READ_ONE)
        scale_read(c, id, 0, n);
    before = __atomic_load_n(n_calls, __ATOMIC_RELAXED) - before;
    scale_refill(c, 0, N_TILES * TILE);
    scale_discard(c, id);
    return before;
}

/* The first round is what is made once. */
static void count_all(struct scale_client *c)
{
    char path[96];
    const uint64_t *n_calls;
    int fd;

    snprintf(path, sizeof(path), "%s", c->scale->options.counts_path);
    fd = open(path, O_RDONLY);
    n_calls = mmap(NULL, sizeof(*n_calls), PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || n_calls == MAP_FAILED)
        scale_die("%s: %s", path, strerror(errno));
    for (int what = 0; what < N_COUNTS; what++)
        (void)count_of(c, what, n_calls);
    for (int what = 0; what < N_COUNTS; what++)
        scale_point(c, what, (double)count_of(c, what, n_calls));
}

void scale_allocations(struct scale *scale)
{
    const double *y = scale->shared->answers[0].y;

    scale_run(scale, 1, N_TILES * TILE, count_all, 0, 0);
    for (int what = 0; what < N_COUNTS; what++)
        printf(scale->options.json ? "{\"bench\":\"allocations\",\"what\":\"%s\",\"calls\":%.0f}\n"
                                   : "calls of malloc in the daemon, %s: %.0f\n",
               COUNTS[what], y[what]);
    printf(scale->options.json ? "{\"bench\":\"allocations_per_token\",\"append\":%.4f,"
                                 "\"read\":%.4f}\n"
                               : "by each token more: Append %.4f, Read %.4f\n",
           (y[MANY_TILES] - y[ONE_TILE]) / ((N_TILES - 1) * TILE),
           (y[READ_MANY] - y[READ_ONE]) / ((N_TILES - 1) * TILE));
}
