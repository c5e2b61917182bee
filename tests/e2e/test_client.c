/*
 * The C client against a daemon: test_client SOCKET PROFILE_FILE
 *
 * Installs the profile, appends random fp16 numbers in uneven pieces through staging, and reads
 * them back by each way there is: staging, inline bytes, and decoding locally from the arena. All
 * must give the same bytes. Prints TAP; needs a daemon that admits this uid.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/c/deltapq-client.h"
#include "lib/base/half.h"
#include "lib/base/rng.h"

enum {
    N_TOKENS = 3 * 128 + 37,
    N_CHECKS = 29,
    MAX_INLINE_BYTES = 1 << 20,
    FIRST_LAYER_OF_PART = 1, /* if there is one */
};

static int n_done, n_failed;
static struct dpq_client_error error;

static bool ok(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool ok(bool good, const char *format, ...)
{
    va_list args;

    n_failed += !good;
    printf("%sok %d - ", good ? "" : "not ", ++n_done);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    if (!good && error.code)
        printf("# %d %s: %s\n", error.code, error.reason, error.message);
    error = (struct dpq_client_error){ 0 };
    fflush(stdout);
    return good;
}

static void bail_out(const char *why)
{
    printf("Bail out! %s (%d %s: %s)\n", why, error.code, error.reason, error.message);
    exit(1);
}

static uint8_t *read_file(const char *path, size_t *ret_n)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes;
    long n;

    if (!file || fseek(file, 0, SEEK_END) || (n = ftell(file)) <= 0)
        bail_out("the profile file can't be read");
    rewind(file);
    bytes = malloc((size_t)n);
    if (!bytes || fread(bytes, 1, (size_t)n, file) != (size_t)n)
        bail_out("the profile file can't be read");
    fclose(file);
    *ret_n = (size_t)n;
    return bytes;
}

struct run {
    struct dpq_client *client;
    uint8_t profile_id[32];
    const struct dpq_geometry *geometry;
    uint64_t row_bytes, n_bytes; /* of a token, of all tokens */
    uint8_t *staging;            /* input at 0, output behind it */
    uint64_t n_staging_bytes;
    uint8_t *input;
    uint32_t token_ids[N_TOKENS];
    uint64_t sequence_id;
};

/* Canonical rows, [token][layer][kind][head][dim], of n_layers, beginning at offset. */
static struct dpq_tensor rows_at(const struct run *run, uint64_t offset, uint32_t n_layers)
{
    int64_t head = (int64_t)run->geometry->head_dim * 2;
    int64_t kind = head * run->geometry->n_kv_heads;

    return (struct dpq_tensor){
        .dtype = DPQ_F16,
        .offset = offset,
        .stride_layer = 2 * kind,
        .stride_kind = kind,
        .stride_head = head,
        .stride_token = 2 * kind * n_layers,
    };
}

static struct dpq_client_prefix prefix_of(const struct run *run)
{
    return (struct dpq_client_prefix){
        .profile_id = run->profile_id,
        .rate = DPQ_RATE_QUALITY,
        .salt = "test_client",
        .token_ids = run->token_ids,
        .n_token_ids = N_TOKENS,
    };
}

/* A salt of its own would do, but a daemon may be used twice: the ids differ by the time given. */
static void make_input(struct run *run, uint64_t seed)
{
    struct rng rng = rng_seed(seed);
    uint16_t *numbers = malloc(run->n_bytes);

    if (!numbers)
        bail_out("out of memory");
    for (uint64_t i = 0; i < run->n_bytes / 2; i++) {
        double sum = 0;

        for (int k = 0; k < 4; k++)
            sum += rng_unit(&rng) - .5;
        numbers[i] = f16_from_f32((float)(2 * sum));
    }
    for (int i = 0; i < N_TOKENS; i++)
        run->token_ids[i] = (uint32_t)rng_below(&rng, 50000);
    run->input = (uint8_t *)numbers;
}

static void start(struct run *run, const char *socket_path, const char *profile_path)
{
    struct dpq_client_options options = { .socket_path = socket_path, .name = "test_client" };
    const struct dpq_profile *profile;
    uint8_t *file;
    size_t n_file;

    if (dpq_client_new(&options, &run->client, &error))
        bail_out("no client");
    file = read_file(profile_path, &n_file);
    if (!ok(!dpq_client_install_profile(run->client, file, n_file, run->profile_id, &error),
            "Install takes a profile"))
        bail_out("without a profile nothing can be tested");
    ok(!dpq_client_install_profile(run->client, file, n_file, run->profile_id, &error),
       "Install takes it a second time");
    file[n_file / 2] ^= 1;
    ok(dpq_client_install_profile(run->client, file, n_file, run->profile_id, &error) ==
               DPQ_CLIENT_INVALID_ARGUMENT &&
           !strcmp(error.reason, "PROFILE_CORRUPT"),
       "a flipped bit makes it INVALID_ARGUMENT, PROFILE_CORRUPT");
    free(file);

    ok(dpq_client_profile(run->client, run->profile_id, &profile, &error) ==
           DPQ_CLIENT_FAILED_PRECONDITION,
       "profiles are fetched by attached clients only");
    if (!ok(!dpq_client_attach(run->client, 256 << 20, &error), "Attach, with staging"))
        bail_out("not attached");
    if (dpq_client_profile(run->client, run->profile_id, &profile, &error))
        bail_out("the profile can't be fetched");
    run->geometry = dpq_profile_geometry(profile);
    run->row_bytes = dpq_row_bytes(run->geometry, DPQ_F16);
    run->n_bytes = run->row_bytes * N_TOKENS;
    run->staging = dpq_client_staging(run->client, &run->n_staging_bytes);
    if (!ok(run->staging && run->n_staging_bytes >= 2 * run->n_bytes, "staging is mapped"))
        bail_out("the profile's model is too large for this test");
}

static void append_all(struct run *run)
{
    static const uint32_t PIECES[] = { 100, 1, 200, 120 };
    struct dpq_client_prefix prefix = prefix_of(run);
    struct dpq_client_appended appended = { 0 };
    uint64_t at = 0, n_adopted = 1;

    prefix.n_token_ids = 0;
    if (!ok(!dpq_client_create_sequence(run->client, &prefix, &run->sequence_id, &n_adopted,
                                        &error) &&
                !n_adopted,
            "CreateSequence"))
        bail_out("no sequence");
    memcpy(run->staging, run->input, run->n_bytes);
    for (size_t i = 0; i < sizeof(PIECES) / sizeof(PIECES[0]); i++) {
        struct dpq_client_append_args args = {
            .sequence_id = run->sequence_id,
            .first_token = at,
            .n_tokens = PIECES[i],
            .token_ids = run->token_ids + at,
            .tensor = rows_at(run, at * run->row_bytes, run->geometry->n_layers),
        };

        if (dpq_client_append(run->client, &args, &appended, &error))
            break;
        at += PIECES[i];
    }
    if (!ok(at == N_TOKENS && appended.n_tokens == N_TOKENS && appended.n_tile_tokens == 3 * 128,
            "Append from staging, in uneven pieces"))
        bail_out("nothing to read");
}

/* The whole, into staging: what the other ways are compared with. */
static uint8_t *read_staging(struct run *run)
{
    struct dpq_client_read_args args = {
        .sequence_id = run->sequence_id,
        .n_tokens = N_TOKENS,
        .tensor = rows_at(run, run->n_bytes, run->geometry->n_layers),
    };
    struct dpq_client_was_read was_read = { 0 };
    uint8_t *output = run->staging + run->n_bytes;
    uint64_t tiles = 3 * 128 * run->row_bytes;

    memset(output, 0xee, run->n_bytes);
    if (!ok(!dpq_client_read(run->client, &args, &was_read, &error) &&
                was_read.n_coded_tokens == 3 * 128 && !was_read.n_dropped_tokens,
            "Read into staging"))
        bail_out("nothing to compare with");
    ok(!memcmp(output + tiles, run->input + tiles, run->n_bytes - tiles),
       "the raw tail comes back bit for bit");
    ok(memcmp(output, run->input, tiles) != 0, "tiles come back coded");
    return output;
}

static void read_inline(const struct run *run, const uint8_t *expected)
{
    uint32_t step = (uint32_t)(MAX_INLINE_BYTES / run->row_bytes);
    uint8_t *bytes = malloc(MAX_INLINE_BYTES);
    bool same = bytes && step;

    for (uint32_t at = 0; at < N_TOKENS && same; at += step) {
        uint32_t n = N_TOKENS - at < step ? N_TOKENS - at : step;
        struct dpq_client_read_args args = {
            .sequence_id = run->sequence_id,
            .first_token = at,
            .n_tokens = n,
            .tensor = rows_at(run, 0, run->geometry->n_layers),
            .inline_bytes = bytes,
            .n_inline_bytes = MAX_INLINE_BYTES,
        };

        same = !dpq_client_read(run->client, &args, NULL, &error) &&
               !memcmp(bytes, expected + at * run->row_bytes, n * run->row_bytes);
    }
    ok(same, "Read inline gives the same bytes");
    free(bytes);
}

/* Tokens from `first` on, one layer only, against the same part of the whole. */
static bool decode_part(const struct run *run, const struct dpq_client_found *found, uint64_t first,
                        uint32_t layer, const uint8_t *expected)
{
    uint64_t layer_bytes = run->row_bytes / run->geometry->n_layers;
    uint64_t n = N_TOKENS - first;
    uint8_t *bytes = malloc(n * layer_bytes);
    struct dpq_client_decode_args args = {
        .profile_id = run->profile_id,
        .found = found,
        .first_token = first,
        .n_tokens = n,
        .first_layer = layer,
        .n_layers = 1,
        .tensor = rows_at(run, 0, 1),
        .memory = bytes,
        .n_bytes = n * layer_bytes,
    };
    bool same = bytes && !dpq_client_decode(run->client, &args, &error);

    for (uint64_t t = 0; t < n && same; t++)
        same = !memcmp(bytes + t * layer_bytes,
                       expected + (first + t) * run->row_bytes + layer * layer_bytes, layer_bytes);
    free(bytes);
    return same;
}

static void decode_local(const struct run *run, const uint8_t *expected)
{
    struct dpq_client_prefix prefix = prefix_of(run);
    struct dpq_client_found found = { 0 };
    uint8_t *bytes = malloc(run->n_bytes);
    struct dpq_client_decode_args args = {
        .profile_id = run->profile_id,
        .found = &found,
        .n_tokens = N_TOKENS,
        .tensor = rows_at(run, 0, run->geometry->n_layers),
        .memory = bytes,
        .n_bytes = run->n_bytes,
    };

    if (!ok(bytes &&
                !dpq_client_lookup(run->client, &prefix, run->sequence_id, true, &found, &error) &&
                found.n_tokens == N_TOKENS && found.n_tiles == 3 && found.has_tail,
            "Lookup finds three tiles and the tail"))
        bail_out("nothing to decode");
    ok(!dpq_client_decode(run->client, &args, &error) && !memcmp(bytes, expected, run->n_bytes),
       "decoding locally gives the same bytes");
    ok(decode_part(run, &found, 77, run->geometry->n_layers > FIRST_LAYER_OF_PART, expected),
       "so does decoding a part");
    args.n_tokens++;
    ok(dpq_client_decode(run->client, &args, &error) == DPQ_CLIENT_OUT_OF_RANGE,
       "a token more than was found is OUT_OF_RANGE");
    args.n_tokens--;

    ok(!dpq_client_release(run->client, run->sequence_id, true, NULL, &error),
       "Release, with discard");
    ok(dpq_client_decode(run->client, &args, &error) == DPQ_CLIENT_ABORTED &&
           !strcmp(error.reason, "GONE"),
       "decoding what was discarded is ABORTED, GONE");
    dpq_client_found_deinit(&found);
    free(bytes);
}

static void branch(struct run *run)
{
    struct dpq_client_prefix prefix = prefix_of(run);
    struct dpq_client_trimmed trimmed = { 0 };
    struct dpq_client_append_args rows = {
        .n_tokens = 10,
        .token_ids = run->token_ids,
        .tensor = rows_at(run, 0, run->geometry->n_layers),
        .inline_bytes = run->input,
        .n_inline_bytes = 10 * run->row_bytes,
    };
    uint64_t id, fork_id, n_tokens = 0, left_ms = 0;
    bool was_pinned = false;

    if (dpq_client_create_sequence(run->client, &prefix, &id, NULL, &error))
        bail_out("no sequence");
    rows.sequence_id = id;
    if (dpq_client_append(run->client, &rows, NULL, &error))
        bail_out("no tokens");
    ok(!dpq_client_fork(run->client, id, 7, 0, &fork_id, &n_tokens, &error) && n_tokens == 7 &&
           fork_id != id,
       "Fork has as many tokens as were asked for");
    ok(!dpq_client_trim(run->client, id, 4, &trimmed, &error) && trimmed.n_tokens == 4 &&
           !trimmed.n_tile_tokens && !trimmed.n_lossy_tokens,
       "Trim leaves as many");
    ok(!dpq_client_delete(run->client, fork_id, NULL, &error), "Delete of the fork");
    ok(!dpq_client_pin(run->client, id, 60000, &left_ms, &error) && left_ms == 60000,
       "Pin says how long");
    ok(!dpq_client_unpin(run->client, id, &was_pinned, &error) && was_pinned,
       "Unpin says that there was one");
    ok(!dpq_client_delete(run->client, id, NULL, &error) &&
           dpq_client_delete(run->client, id, NULL, &error) == DPQ_CLIENT_NOT_FOUND,
       "Delete, once");
}

static void end(struct run *run)
{
    struct dpq_client_prefix prefix = prefix_of(run);
    struct dpq_client_found found = { 0 };
    struct dpq_client_status status;

    ok(!dpq_client_lookup(run->client, &prefix, 0, false, &found, &error) && !found.n_tokens,
       "what was discarded is not found");
    ok(dpq_client_release(run->client, run->sequence_id, false, NULL, &error) ==
               DPQ_CLIENT_NOT_FOUND &&
           !strcmp(error.reason, "SEQUENCE"),
       "a second Release is NOT_FOUND, SEQUENCE");
    ok(!dpq_client_get_status(run->client, &status, &error) && status.n_clients >= 1 &&
           status.arena_bytes && *status.daemon_version,
       "GetStatus counts this client");
    ok(dpq_client_remove_profile(run->client, (const uint8_t[32]){ 1 }, &error) ==
           DPQ_CLIENT_NOT_FOUND,
       "Remove of an unknown profile is NOT_FOUND");
    ok(!dpq_client_remove_profile(run->client, run->profile_id, &error),
       "Remove takes a profile that is not in use");
    dpq_client_found_deinit(&found);
    dpq_client_free(run->client);
    free(run->input);
}

int main(int argc, char **argv)
{
    struct run run = { 0 };
    uint8_t *output;

    if (argc != 3) {
        fprintf(stderr, "Usage: test_client SOCKET PROFILE_FILE\n");
        return 2;
    }
    printf("1..%d\n", N_CHECKS);
    start(&run, argv[1], argv[2]);
    make_input(&run, 1);
    append_all(&run);
    output = read_staging(&run);
    read_inline(&run, output);
    decode_local(&run, output);
    branch(&run);
    end(&run);
    if (n_done != N_CHECKS)
        printf("# %d checks were planned, %d done\n", N_CHECKS, n_done);
    return n_failed || n_done != N_CHECKS;
}
