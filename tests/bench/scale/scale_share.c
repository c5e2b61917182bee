/*
 * Several clients at once; a read beside the library; a small call
 *
 * Clients of a run do the same: a sequence of some tokens appended, and given up, again and again;
 * or read again and again. Fair is an n-th of what all of them get.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients/c/client.h"
#include "tests/bench/scale/scale.h"

enum { AT_ONCE = 512, TILE = DPQ_TILE_TOKENS, N_CALLS = 5000 };

/* --- several clients -------------------------------------------------------------------------- */

static void count(struct scale_client *c, uint32_t n)
{
    if (!scale_is_told_to_stop(c))
        c->answer->n_tokens += n;
}

static void append_on(struct scale_client *c)
{
    scale_await_start(c);
    while (!scale_is_told_to_stop(c)) {
        uint64_t id = scale_create(c);

        scale_append(c, id, 0, AT_ONCE);
        count(c, AT_ONCE);
        scale_discard(c, id);
    }
}

static void read_on(struct scale_client *c)
{
    uint64_t id = scale_create(c);

    scale_append(c, id, 0, AT_ONCE);
    scale_await_start(c);
    while (!scale_is_told_to_stop(c)) {
        scale_read(c, id, 0, AT_ONCE);
        count(c, AT_ONCE);
    }
    scale_discard(c, id);
}

static void several(struct scale *scale, const char *what, scale_job_fn job)
{
    const struct scale_list *clients = &scale->options.clients;
    double seconds = scale->options.seconds, first = 0;

    for (uint32_t i = 0; i < clients->n; i++) {
        uint32_t n = (uint32_t)clients->at[i];
        uint64_t total = 0, least = UINT64_MAX;

        scale_run(scale, n, AT_ONCE, job, 0, seconds);
        for (uint32_t k = 0; k < n; k++) {
            uint64_t tokens = scale->shared->answers[k].n_tokens;

            total += tokens;
            least = tokens < least ? tokens : least;
        }
        if (i == 0)
            first = (double)total;
        printf(scale->options.json
                   ? "{\"bench\":\"clients\",\"what\":\"%s\",\"clients\":%u,\"tokens_per_s\":%.0f,"
                     "\"of_first\":%.3f,\"least_share\":%.3f,\"cpu_us_per_token\":%.2f}\n"
                   : "%s by %u clients: %8.0f tokens/s, %.2f of the first; the least has %.2f of "
                     "its fair share; %.1f µs of processor time a token\n",
               what, n, (double)total / scale->shared->spent.wall, (double)total / first,
               (double)least * n / (double)total, 1e6 * scale->shared->spent.cpu / (double)total);
    }
}

void scale_clients(struct scale *scale)
{
    several(scale, "Append", append_on);
    several(scale, "Read", read_on);
}

/* --- beside the library ----------------------------------------------------------------------- */

/* The very tiles that the daemon reads, in the arena. */
struct tiles {
    uint32_t n;
    struct dpq_client_found found;
    struct dpq_slot_view *base, *fine;
    struct dpq_codec *codec;
};

static void look(const struct scale_client *c, const struct dpq_slot_ref *ref,
                 struct dpq_slot_view *ret_view)
{
    if (dpq_reader_slot(c->client->reader, ref, /* verify= */ false, ret_view))
        scale_die("a tile is not in the arena any more");
}

static void tiles_find(struct scale_client *c, uint32_t n, struct tiles *ret_tiles)
{
    struct dpq_client_prefix prefix = { .profile_id = c->scale->profile_id,
                                        .token_ids = c->token_ids,
                                        .n_token_ids = n * TILE };
    struct tiles t = { .n = n };

    t.base = calloc(n, sizeof(*t.base));
    t.fine = calloc(n, sizeof(*t.fine));
    if (!t.base || !t.fine || dpq_codec_new(c->scale->profile, ~0u, &t.codec))
        scale_die("no memory");
    if (dpq_client_lookup(c->client, &prefix, 0, /* slots= */ true, &t.found, &c->error) ||
        t.found.n_tiles != n)
        scale_die("Lookup: %zu tiles of %u; %s", t.found.n_tiles, n, c->error.message);
    for (uint32_t i = 0; i < n; i++) {
        look(c, &t.found.tiles[i].base, &t.base[i]);
        if (t.found.tiles[i].has_fine)
            look(c, &t.found.tiles[i].fine, &t.fine[i]);
    }
    *ret_tiles = t;
}

static void tiles_clear(struct tiles *t)
{
    dpq_client_found_deinit(&t->found);
    free(t->base);
    free(t->fine);
    dpq_codec_free(t->codec);
}

/* On the daemon's processor, which is idle now, into the same staging. */
static struct scale_time decode(struct scale_client *c, const struct tiles *t)
{
    struct dpq_range range = { .n_layers = dpq_profile_geometry(c->scale->profile)->n_layers,
                               .n_tokens = TILE };
    struct scale_daemon self = { .pid = getpid() };
    struct scale_time then;

    sched_setaffinity(0, sizeof(c->scale->daemon.cpus), &c->scale->daemon.cpus);
    then = scale_daemon_time(&self);
    for (uint32_t i = 0; i < t->n; i++) {
        struct dpq_tensor tensor = scale_tensor(c->scale, i * TILE);

        if (dpq_tile_decode(t->codec, t->base[i].bytes, t->base[i].n_bytes, t->fine[i].bytes,
                            t->fine[i].n_bytes, &range, &tensor, c->staging, NULL))
            scale_die("a tile could not be decoded");
    }
    then = scale_daemon_since(&self, &then);
    sched_setaffinity(0, sizeof(c->scale->options.client_cpus), &c->scale->options.client_cpus);
    return then;
}

enum { READ_WALL, READ_CPU, DECODE_WALL, DECODE_CPU };

/* By turns, both once before anything is noted. */
static void measure_turns(struct scale_client *c, uint64_t id, const struct tiles *tiles)
{
    const struct scale_daemon *d = &c->scale->daemon;

    for (uint32_t i = 0; i < 2 * c->scale->options.n_rounds + 1; i++) {
        struct scale_time then = scale_daemon_time(d), t;

        scale_read(c, id, 0, tiles->n * TILE);
        t = scale_daemon_since(d, &then);
        scale_point(c, READ_WALL, t.wall);
        scale_point(c, READ_CPU, t.cpu);
        t = decode(c, tiles);
        scale_point(c, DECODE_WALL, t.wall);
        scale_point(c, DECODE_CPU, t.cpu);
    }
}

static void compare(struct scale_client *c)
{
    uint32_t n = (uint32_t)c->argument;
    size_t n_bytes = n * c->scale->row_bytes;
    uint8_t *by_daemon = malloc(n_bytes);
    uint64_t id = scale_create(c);
    struct tiles tiles;

    if (!by_daemon)
        scale_die("no memory");
    scale_append(c, id, 0, n);
    tiles_find(c, n / TILE, &tiles);
    scale_read(c, id, 0, n);
    memcpy(by_daemon, c->staging, n_bytes);
    decode(c, &tiles);
    c->answer->is_same = !memcmp(by_daemon, c->staging, n_bytes);
    measure_turns(c, id, &tiles);
    tiles_clear(&tiles);
    free(by_daemon);
}

static double median_of(const struct scale_answer *a, double x)
{
    double y[SCALE_MAX_POINTS];
    uint32_t n = 0;

    for (uint32_t i = 0; i < a->n_points; i++)
        if (a->x[i] == x)
            y[n++] = a->y[i];
    return scale_median(y, n);
}

void scale_share(struct scale *scale)
{
    const struct scale_list *requests = &scale->options.requests;

    for (uint32_t i = 0; i < requests->n; i++) {
        const struct scale_answer *a = &scale->shared->answers[0];
        double n = requests->at[i], daemon, library;

        scale_run(scale, 1, (uint32_t)n, compare, n, 0);
        daemon = median_of(a, READ_WALL);
        library = median_of(a, DECODE_WALL);
        printf(scale->options.json
                   ? "{\"bench\":\"share\",\"tokens\":%g,\"read_us\":%.1f,\"decode_us\":%.1f,"
                     "\"share\":%.3f,\"cpu_share\":%.3f,\"same_numbers\":%s}\n"
                   : "Read of %g tokens: %.0f µs; the library alone: %.0f µs; share %.3f, of "
                     "processor time %.3f; the same numbers: %s\n",
               n, 1e6 * daemon, 1e6 * library, library / daemon,
               median_of(a, DECODE_CPU) / median_of(a, READ_CPU),
               scale->options.json ? (a->is_same ? "true" : "false") : (a->is_same ? "yes" : "no"));
    }
}

/* --- a small call ----------------------------------------------------------------------------- */

static void call(struct scale_client *c)
{
    struct dpq_client_status status;

    for (int i = -N_CALLS / 10; i < SCALE_MAX_POINTS && i < N_CALLS; i++) {
        double t = scale_now();

        scale_status(c, &status);
        if (i >= 0)
            scale_point(c, 0, 1e6 * (scale_now() - t));
    }
}

void scale_call(struct scale *scale)
{
    struct scale_answer *a = &scale->shared->answers[0];

    scale_run(scale, 1, 0, call, 0, 0);
    printf(scale->options.json
               ? "{\"bench\":\"call\",\"method\":\"GetStatus\",\"p50_us\":%.1f,\"p99_us\":%.1f}\n"
               : "GetStatus: p50 %.1f µs, p99 %.1f µs\n",
           scale_median(a->y, a->n_points), scale_quantile(a->y, a->n_points, .99));
}
