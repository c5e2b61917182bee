/*
 * What a token costs by how many there are
 *
 * For each length n, in each round: one Append of n tokens to an empty sequence, one Read of all of
 * them, then one Append of a tile behind them and one Read of it. If nothing depends on n but the
 * work itself, the time a token takes does not, and the line through the logarithms is level. A
 * call's own cost, spread over few tokens, makes it fall.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/bench/scale/scale.h"

enum { FILL_TOKENS = 2048, TILE = DPQ_TILE_TOKENS, N_FILLERS = 4 };

enum { ALL_APPEND, ALL_READ, TILE_APPEND, TILE_READ, N_COSTS };

static const char *const COSTS[] = { "Append of n", "Read of n", "Append of a tile at n",
                                     "Read of a tile at n" };
static const char *const CLOCKS[] = { "wall", "cpu" }; /* cpu: the daemon's */

/* Sequences that are kept, until so many bytes of the arena are in use. */
static void fill(struct scale_client *c)
{
    struct dpq_client_status status;

    for (scale_status(c, &status); (double)status.arena_used_bytes < c->argument;
         scale_status(c, &status))
        scale_append(c, scale_create(c), 0, FILL_TOKENS);
}

static double key_of(double n, int cost, int clock)
{
    return (n * N_COSTS + cost) * 2 + clock;
}

/* µs a token; x says of what, and of how many */
static void note(struct scale_client *c, int cost, uint32_t n, uint32_t n_tokens,
                 const struct scale_time *then)
{
    struct scale_time t = scale_daemon_since(&c->scale->daemon, then);

    scale_point(c, key_of(n, cost, 0), 1e6 * t.wall / n_tokens);
    scale_point(c, key_of(n, cost, 1), 1e6 * t.cpu / n_tokens);
}

static void measure_one(struct scale_client *c, uint32_t n)
{
    const struct scale_daemon *d = &c->scale->daemon;
    uint64_t id = scale_create(c);
    struct scale_time then = scale_daemon_time(d);

    scale_append(c, id, 0, n);
    note(c, ALL_APPEND, n, n, &then);
    then = scale_daemon_time(d);
    scale_append(c, id, n, TILE);
    note(c, TILE_APPEND, n, TILE, &then);
    then = scale_daemon_time(d);
    scale_read(c, id, 0, n);
    note(c, ALL_READ, n, n, &then);
    then = scale_daemon_time(d);
    scale_read(c, id, n, TILE);
    note(c, TILE_READ, n, TILE, &then);
    scale_refill(c, 0, n + TILE);
    scale_discard(c, id);
}

static void measure(struct scale_client *c)
{
    const struct scale_list *tokens = &c->scale->options.tokens;

    /* what is made once: pages of staging and arena, too */
    measure_one(c, (uint32_t)tokens->at[tokens->n - 1]);
    c->answer->n_points = 0;
    for (uint32_t round = 0; round < c->scale->options.n_rounds; round++)
        for (uint32_t i = 0; i < tokens->n; i++)
            measure_one(c, (uint32_t)tokens->at[i]);
}

/* --- the report ------------------------------------------------------------------------------- */

static uint32_t pick(const struct scale_answer *a, double key, double *ret_y)
{
    uint32_t m = 0;

    for (uint32_t i = 0; i < a->n_points; i++)
        if (a->x[i] == key)
            ret_y[m++] = a->y[i];
    return m;
}

static void print_slope(const struct scale *scale, int cost, int clock, double gib)
{
    static double x[SCALE_MAX_POINTS], y[SCALE_MAX_POINTS];
    const struct scale_list *tokens = &scale->options.tokens;
    struct scale_slope fit;
    uint32_t n = 0;

    for (uint32_t i = 0; i < tokens->n; i++) {
        double key = key_of(tokens->at[i], cost, clock);

        for (uint32_t m = pick(&scale->shared->answers[0], key, y + n); m; m--)
            x[n++] = tokens->at[i];
    }
    fit = scale_fit(x, y, n);
    if (!isfinite(fit.slope))
        return;
    if (scale->options.json)
        printf("{\"bench\":\"slope\",\"what\":\"%s\",\"clock\":\"%s\",\"gib\":%g,\"slope\":%.4f,"
               "\"half\":%.4f}\n",
               COSTS[cost], CLOCKS[clock], gib, fit.slope, fit.half);
    else
        printf("  slope %+.3f ± %.3f", fit.slope, fit.half);
}

static void print_cost(const struct scale *scale, int cost, int clock, double gib)
{
    const struct scale_list *tokens = &scale->options.tokens;
    double y[SCALE_MAX_POINTS];

    if (!scale->options.json)
        printf("%-22s %-4s %3g GiB ", COSTS[cost], CLOCKS[clock], gib);
    for (uint32_t i = 0; i < tokens->n; i++) {
        double key = key_of(tokens->at[i], cost, clock);
        uint32_t n = pick(&scale->shared->answers[0], key, y);
        double us = scale_median(y, n);

        if (scale->options.json)
            printf("{\"bench\":\"length\",\"what\":\"%s\",\"clock\":\"%s\",\"gib\":%g,"
                   "\"tokens\":%g,\"us_per_token\":%.3f,\"fastest\":%.3f,\"slowest\":%.3f}\n",
                   COSTS[cost], CLOCKS[clock], gib, tokens->at[i], us, y[0], y[n - 1]);
        else
            printf(" %8.2f", us);
    }
    print_slope(scale, cost, clock, gib);
    if (!scale->options.json)
        printf("\n");
}

void scale_length(struct scale *scale)
{
    const struct scale_list *tokens = &scale->options.tokens, *gib = &scale->options.gib;

    if (!scale->options.json) {
        printf("µs a token, by length n:            ");
        for (uint32_t i = 0; i < tokens->n; i++)
            printf(" %8g", tokens->at[i]);
        printf("\n");
    }
    for (uint32_t i = 0; i < gib->n; i++) {
        if (gib->at[i] > 0)
            scale_run(scale, N_FILLERS, FILL_TOKENS, fill, gib->at[i] * 0x1p30, 0);
        scale_run(scale, 1, (uint32_t)tokens->at[tokens->n - 1] + TILE, measure, 0, 0);
        for (int k = 0; k < 2 * N_COSTS; k++)
            print_cost(scale, k % N_COSTS, k / N_COSTS, gib->at[i]);
    }
}
