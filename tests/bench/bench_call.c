/*
 * How long a small control call takes: bench_call [--json] [--lookup] [--count N] SOCKET
 *
 * One call at a time from the C client over the unix socket, GetStatus or Lookup of 256 token ids
 * that are not stored. A tenth of the calls come before, uncounted.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clients/c/deltapq-client.h"

enum { N_TOKEN_IDS = 256, MAX_COUNT = 10000000 };

struct bench {
    const char *socket_path;
    bool json, lookup;
    long count;
    struct dpq_client *client;
    uint32_t token_ids[N_TOKEN_IDS];
};

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int call(struct bench *bench, struct dpq_client_error *error)
{
    static const uint8_t PROFILE_ID[32];
    struct dpq_client_prefix prefix = { .profile_id = PROFILE_ID,
                                        .token_ids = bench->token_ids,
                                        .n_token_ids = N_TOKEN_IDS };
    struct dpq_client_found found = { 0 };
    struct dpq_client_status status;
    int r;

    if (!bench->lookup)
        return dpq_client_get_status(bench->client, &status, error);
    r = dpq_client_lookup(bench->client, &prefix, 0, false, &found, error);
    dpq_client_found_deinit(&found);
    return r == DPQ_CLIENT_NOT_FOUND ? 0 : r; /* no such profile: as much work for a call */
}

static bool parse(int argc, char **argv, struct bench *bench)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            bench->json = true;
        else if (!strcmp(argv[i], "--lookup"))
            bench->lookup = true;
        else if (!strcmp(argv[i], "--count") && i + 1 < argc)
            bench->count = strtol(argv[++i], NULL, 10);
        else if (*argv[i] != '-' && !bench->socket_path)
            bench->socket_path = argv[i];
        else
            return false;
    }
    return bench->socket_path && bench->count > 0 && bench->count <= MAX_COUNT;
}

static void print(const struct bench *bench, double *us, double seconds)
{
    const char *name = bench->lookup ? "Lookup" : "GetStatus";
    double p50, p99;

    qsort(us, (size_t)bench->count, sizeof(*us), ascending);
    p50 = us[bench->count / 2];
    p99 = us[(size_t)((double)bench->count * .99)];
    if (bench->json)
        printf("{\"bench\":\"call\",\"method\":\"%s\",\"count\":%ld,\"p50_us\":%.1f,"
               "\"p99_us\":%.1f,\"calls_per_second\":%.0f}\n",
               name, bench->count, p50, p99, (double)bench->count / seconds);
    else
        printf("%-10s %8ld calls   p50 %6.1f us   p99 %6.1f us   %7.0f calls/s\n", name,
               bench->count, p50, p99, (double)bench->count / seconds);
}

int main(int argc, char **argv)
{
    struct bench bench = { .count = 20000 };
    struct dpq_client_options options = { .name = "bench_call" };
    struct dpq_client_error error = { 0 };
    double *us, begin = 0;
    long warm_up;
    int r;

    if (!parse(argc, argv, &bench)) {
        fprintf(stderr, "Usage: bench_call [--json] [--lookup] [--count N] SOCKET\n");
        return 2;
    }
    options.socket_path = bench.socket_path;
    us = malloc((size_t)bench.count * sizeof(*us));
    r = us ? dpq_client_new(&options, &bench.client, &error) : -1;
    warm_up = bench.count / 10 + 1;
    for (long i = -warm_up; i < bench.count && !r; i++) {
        double t = now_us();

        if (!i)
            begin = t;
        r = call(&bench, &error);
        if (i >= 0)
            us[i] = now_us() - t;
    }
    if (r)
        fprintf(stderr, "bench_call: %d %s: %s\n", error.code, error.reason, error.message);
    else
        print(&bench, us, (now_us() - begin) / 1e6);
    dpq_client_free(bench.client);
    free(us);
    return r != 0;
}
