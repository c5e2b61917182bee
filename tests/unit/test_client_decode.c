/* client_decode: a range over tiles and tail, straight from an arena, against the codec alone */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "clients/c/client.h"
#include "lib/base/half.h"
#include "lib/store/store.h"
#include "tests/util/toy_profile.h"

enum { N_TILES = 2, N_TAIL = 21, N_TOKENS = N_TILES * 128 + N_TAIL };

struct fixture {
    struct toy toy;
    struct store *store;
    struct tile *tiles[N_TILES];
    struct tail *tail;
    uint8_t *rows;     /* as put in, fp16 */
    uint8_t *expected; /* as a whole decode gives */
    uint64_t row_bytes;
    struct dpq_client client;
    struct client_profile profile;
    struct dpq_client_tile found_tiles[N_TILES];
    struct dpq_client_found found;
};

static struct dpq_tensor canonical(const struct fixture *f, uint32_t n_layers)
{
    int64_t head = (int64_t)f->toy.geometry.head_dim * 2;
    int64_t kind = head * f->toy.geometry.n_kv_heads;

    return (struct dpq_tensor){ .dtype = DPQ_F16,
                                .stride_layer = 2 * kind,
                                .stride_kind = kind,
                                .stride_head = head,
                                .stride_token = 2 * kind * n_layers };
}

static void put_tile(struct fixture *f, struct dpq_codec *codec, uint32_t i)
{
    struct dpq_range all = { .n_layers = f->toy.geometry.n_layers, .n_tokens = 128 };
    struct dpq_tensor tensor = canonical(f, f->toy.geometry.n_layers);
    uint8_t key[32] = { (uint8_t)i }, zero[32] = { 0 };
    uint8_t *base = NULL, *fine = NULL;
    size_t n_base = 0, n_fine = 0;
    struct store_object base_object, fine_object;
    struct store_put_args args;

    assert_int_equal(dpq_tile_encode(codec, f->rows + i * 128 * f->row_bytes, DPQ_F16,
                                     100 + i * 128, i * 128, DPQ_RATE_QUALITY, &base, &n_base,
                                     &fine, &n_fine),
                     0);
    assert_non_null(fine);
    assert_int_equal(dpq_tile_decode(codec, base, n_base, fine, n_fine, &all, &tensor,
                                     f->expected + i * 128 * f->row_bytes, NULL),
                     0);
    args = (struct store_put_args){ .key = key,
                                    .parent = zero,
                                    .profile = f->profile.id,
                                    .first_index = i * 128,
                                    .base = base,
                                    .n_base = n_base,
                                    .fine = fine,
                                    .n_fine = n_fine };
    assert_int_equal(store_put(f->store, &args, 0, &f->tiles[i]), 0);
    tile_objects(f->tiles[i], &base_object, &fine_object);
    f->found_tiles[i] = (struct dpq_client_tile){ base_object.ref, fine_object.ref, true };
    dpq_free(base);
    dpq_free(fine);
}

static void put_tail(struct fixture *f)
{
    uint64_t at = N_TILES * 128 * f->row_bytes;
    struct store_object object;

    assert_int_equal(tail_new(f->store, 1, f->profile.id, DPQ_F16, f->row_bytes, N_TILES * 128,
                              100 + N_TILES * 128, 0, &f->tail),
                     0);
    assert_int_equal(tail_grow(f->tail, f->rows + at, N_TAIL), 0);
    memcpy(f->expected + at, f->rows + at, N_TAIL * f->row_bytes);
    tail_object(f->tail, &object);
    f->found.tail = object.ref;
    f->found.has_tail = true;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct rng rng = rng_seed(5);
    struct dpq_codec *codec;

    assert_non_null(f);
    f->toy = (struct toy){ .geometry = toy_geometry(3, 2, 64), .dsub = 2, .seed = 3 };
    assert_int_equal(toy_make(&f->toy), 0);
    f->row_bytes = dpq_row_bytes(&f->toy.geometry, DPQ_F16);
    f->rows = malloc(N_TOKENS * f->row_bytes);
    f->expected = malloc(N_TOKENS * f->row_bytes);
    assert_true(f->rows && f->expected);
    for (uint64_t i = 0; i < N_TOKENS * f->row_bytes / 2; i++)
        ((uint16_t *)f->rows)[i] = f16_from_f32((float)toy_normal(&rng));
    assert_int_equal(store_new(8 << 20, "t", NULL, NULL, &f->store), 0);
    assert_int_equal(dpq_reader_new(store_ro_fd(f->store), &f->client.reader, NULL), 0);
    pthread_mutex_init(&f->client.mutex, NULL);
    f->client.epoch = f->found.epoch = store_epoch(f->store);
    memcpy(f->profile.id, dpq_profile_digest(f->toy.profile), sizeof(f->profile.id));
    f->profile.profile = f->toy.profile;
    f->client.profiles = &f->profile;
    assert_int_equal(dpq_codec_new(f->toy.profile, ~0u, &codec), 0);
    for (uint32_t i = 0; i < N_TILES; i++)
        put_tile(f, codec, i);
    dpq_codec_free(codec);
    put_tail(f);
    f->found.tiles = f->found_tiles;
    f->found.n_tiles = N_TILES;
    f->found.n_tile_tokens = N_TILES * 128;
    f->found.n_tokens = N_TOKENS;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < N_TILES; i++)
        tile_unref(f->tiles[i], false, 0, NULL);
    tail_free(f->tail, 0, NULL);
    dpq_reader_free(f->client.reader);
    store_free(f->store);
    pthread_mutex_destroy(&f->client.mutex);
    toy_drop(&f->toy);
    free(f->expected);
    free(f->rows);
    free(f);
    return 0;
}

static struct dpq_client_decode_args arguments(const struct fixture *f, uint64_t first, uint64_t n,
                                               uint32_t layer, uint32_t n_layers, void *memory)
{
    return (struct dpq_client_decode_args){
        .profile_id = f->profile.id,
        .found = &f->found,
        .first_token = first,
        .n_tokens = n,
        .first_layer = layer,
        .n_layers = n_layers,
        .tensor = canonical(f, n_layers),
        .memory = memory,
        .n_bytes = n * f->row_bytes / f->toy.geometry.n_layers * n_layers,
    };
}

static void test_ranges(void **state)
{
    struct fixture *f = *state;
    uint64_t layer_bytes = f->row_bytes / f->toy.geometry.n_layers;
    struct rng rng = rng_seed(9);
    uint8_t *out = malloc(N_TOKENS * f->row_bytes);
    struct dpq_client_error error;

    assert_non_null(out);
    for (int i = 0; i < 60; i++) {
        uint64_t first = i ? rng_below(&rng, N_TOKENS + 1) : 0;
        uint64_t n = i ? rng_below(&rng, N_TOKENS + 1 - first) : N_TOKENS;
        uint32_t layer = i ? (uint32_t)rng_below(&rng, 3) : 0;
        uint32_t n_layers = i ? 1 + (uint32_t)rng_below(&rng, 3 - layer) : 3;
        struct dpq_client_decode_args args = arguments(f, first, n, layer, n_layers, out);

        assert_int_equal(dpq_client_decode(&f->client, &args, &error), 0);
        for (uint64_t t = 0; t < n; t++)
            assert_memory_equal(out + t * n_layers * layer_bytes,
                                f->expected + (first + t) * f->row_bytes + layer * layer_bytes,
                                n_layers * layer_bytes);
    }
    free(out);
}

/* Tokens backwards: strides may be negative. */
static void test_backwards(void **state)
{
    struct fixture *f = *state;
    uint8_t *out = malloc(N_TOKENS * f->row_bytes);
    struct dpq_client_decode_args args = arguments(f, 0, N_TOKENS, 0, 3, out);

    assert_non_null(out);
    args.tensor.offset = (N_TOKENS - 1) * f->row_bytes;
    args.tensor.stride_token = -args.tensor.stride_token;
    assert_int_equal(dpq_client_decode(&f->client, &args, NULL), 0);
    for (uint64_t t = 0; t < N_TOKENS; t++)
        assert_memory_equal(out + (N_TOKENS - 1 - t) * f->row_bytes, f->expected + t * f->row_bytes,
                            f->row_bytes);
    free(out);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t *out = malloc(N_TOKENS * f->row_bytes);
    struct dpq_client_decode_args args = arguments(f, 0, N_TOKENS, 0, 3, out);
    struct dpq_reader *reader = f->client.reader;
    struct dpq_client_error error;

    args.n_tokens++;
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_OUT_OF_RANGE);
    args.first_token = UINT64_MAX;
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_OUT_OF_RANGE);
    args = arguments(f, 0, N_TOKENS, 1, 3, out);
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_OUT_OF_RANGE);
    args = arguments(f, 0, N_TOKENS, 0, 3, out);
    args.n_bytes--;
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_INVALID_ARGUMENT);
    assert_string_equal(error.reason, "TENSOR");
    args.n_bytes++;

    f->found.n_tiles--;
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_INVALID_ARGUMENT);
    f->found.n_tiles++;
    f->found.has_tail = false;
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_INVALID_ARGUMENT);
    f->found.has_tail = true;
    f->client.reader = NULL;
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_FAILED_PRECONDITION);
    f->client.reader = reader;
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), 0);
    free(out);
}

/* Another epoch, tiles in the wrong order, a longer tail, a tile that is gone, damaged bytes. */
static void test_changed(void **state)
{
    struct fixture *f = *state;
    uint8_t *out = malloc((N_TOKENS + 3) * f->row_bytes);
    struct dpq_client_decode_args args = arguments(f, 0, N_TOKENS, 0, 3, out);
    struct dpq_client_tile first = f->found_tiles[0];
    struct store_object base, fine;
    struct dpq_client_error error;

    f->found.epoch++;
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_ABORTED);
    f->found.epoch--;
    f->found_tiles[0] = f->found_tiles[1];
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_DATA_LOSS);
    f->found_tiles[0] = first;

    tile_objects(f->tiles[1], &base, &fine);
    ((uint8_t *)(uintptr_t)fine.bytes)[fine.n_bytes / 2] ^= 16;
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_DATA_LOSS);
    args.base_only = true; /* does not look at it */
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), 0);
    args.base_only = false;
    ((uint8_t *)(uintptr_t)fine.bytes)[fine.n_bytes / 2] ^= 16;

    f->found.n_tokens += 3; /* than the tail has */
    args = arguments(f, 0, N_TOKENS + 3, 0, 3, out);
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_DATA_LOSS);
    f->found.n_tokens -= 3;
    args = arguments(f, 0, N_TOKENS, 0, 3, out);
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), 0);

    assert_int_equal(tail_grow(f->tail, f->rows, 1), 0);
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_ABORTED);
    assert_string_equal(error.reason, "GONE");
    args = arguments(f, 0, N_TILES * 128, 0, 3, out); /* the tiles are still there */
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), 0);
    f->tiles[0] = tile_unref(f->tiles[0], true, 0, NULL);
    assert_int_equal(dpq_client_decode(&f->client, &args, &error), DPQ_CLIENT_ABORTED);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ranges, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backwards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changed, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
