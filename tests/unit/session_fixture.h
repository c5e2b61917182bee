#pragma once

/* A session with one tenant on a small model, and calls that wait for their answers. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/hub.h"
#include "daemon/session_internal.h"
#include "daemon/status.h"
#include "lib/base/rng.h"

enum {
    UID = 4711,
    N_LAYERS = 2,
    N_HEADS = 2,
    HEAD_DIM = 32,
    ROW_NUMBERS = N_LAYERS * 2 * N_HEADS * HEAD_DIM,
    ROW_BYTES = ROW_NUMBERS * 4,
    N_INPUT = 1100, /* tokens of test input */
    STAGING_BYTES = 1 << 20,
};

struct fixture {
    char dir[64];
    struct config config;
    struct hub *hub;
    struct pool *pool;
    struct session *session;
    uint8_t profile_id[32];
    float *input; /* N_INPUT canonical rows */
    uint32_t ids[N_INPUT];
};

static inline uint64_t fixture_clock_ms(void)
{
    return 0;
}

static inline struct dpq_geometry fixture_geometry(void)
{
    return (struct dpq_geometry){ .n_layers = N_LAYERS,
                                  .n_kv_heads = N_HEADS,
                                  .n_q_heads = N_HEADS,
                                  .head_dim = HEAD_DIM,
                                  .attention_scaling = 1,
                                  .n_sink = 4 };
}

static inline struct dpq_tensor fixture_rows(uint32_t dtype)
{
    int64_t n = dtype == DPQ_F32 ? 4 : 2;

    return (struct dpq_tensor){ .dtype = dtype,
                                .stride_layer = 2 * N_HEADS * HEAD_DIM * n,
                                .stride_kind = N_HEADS * HEAD_DIM * n,
                                .stride_head = HEAD_DIM * n,
                                .stride_token = ROW_NUMBERS * n };
}

static inline void fixture_open(struct fixture *f)
{
    assert_int_equal(hub_new(2, 4096, 1, fixture_clock_ms, &f->hub), 0);
    assert_int_equal(pool_new(3, 1000, &f->pool), 0);
    assert_int_equal(session_new(&f->config, f->hub, f->pool, &f->session), 0);
}

static inline void fixture_close(struct fixture *f)
{
    f->pool = pool_free(f->pool);
    f->session = session_free(f->session);
    hub_close(f->hub);
    f->hub = hub_free(f->hub);
}

static inline float *fixture_input(void)
{
    size_t n_bytes = (size_t)N_INPUT * ROW_BYTES;
    struct rng rng = rng_seed(5);
    float *input = malloc(n_bytes);

    assert_non_null(input);
    for (size_t i = 0; i < n_bytes / 4; i++)
        input[i] = (float)(rng_unit(&rng) + rng_unit(&rng) - 1) * (float)(1 + i % HEAD_DIM);
    return input;
}

static inline uint8_t *fixture_load(const char *path, size_t *ret_n)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc(1 << 20);

    assert_non_null(file);
    assert_non_null(bytes);
    *ret_n = fread(bytes, 1, 1 << 20, file);
    assert_true(*ret_n && feof(file));
    fclose(file);
    return bytes;
}

/* A profile of the test's own input. Trained when the tests are built, because that takes minutes
 * under valgrind; where nobody says where it is, here, and once. */
static inline void fixture_train(const struct fixture *f, const uint8_t **ret_bytes, size_t *ret_n)
{
    const char *path = getenv("DELTAPQ_FIXTURE_PROFILE");
    static uint8_t *bytes;
    static size_t n_bytes;

    if (!bytes && path) {
        bytes = fixture_load(path, &n_bytes);
    } else if (!bytes) {
        struct dpq_geometry geometry = fixture_geometry();
        struct dpq_train_options options = { .model_name = "test", .max_bytes = 64 << 20 };
        struct dpq_tensor tensor = fixture_rows(DPQ_F32);
        struct dpq_fault fault;
        struct dpq_trainer *trainer;

        options.n_iterations = 2;
        options.n_threads = 1;
        assert_int_equal(dpq_trainer_new(&geometry, &options, &trainer, &fault), 0);
        assert_int_equal(dpq_trainer_add(trainer, &tensor, f->input, (uint64_t)N_INPUT * ROW_BYTES,
                                         0, N_INPUT, &fault),
                         0);
        assert_int_equal(dpq_trainer_run(trainer, NULL, NULL, &bytes, &n_bytes, &fault), 0);
        dpq_trainer_free(trainer);
    }
    *ret_bytes = bytes;
    *ret_n = n_bytes;
}

static inline int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct session_error error;
    const uint8_t *bytes;
    size_t n_bytes;

    assert_non_null(f);
    f->input = fixture_input();
    for (uint32_t i = 0; i < N_INPUT; i++)
        f->ids[i] = 100000 + i;
    snprintf(f->dir, sizeof(f->dir), "/tmp/test_session.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->config.runtime_dir, sizeof(f->config.runtime_dir), "%s", f->dir);
    snprintf(f->config.state_dir, sizeof(f->config.state_dir), "%s/state", f->dir);
    snprintf(f->config.cpu, sizeof(f->config.cpu), "auto");
    snprintf(f->config.huge_pages, sizeof(f->config.huge_pages), "off");
    f->config.lease_seconds = 10;
    f->config.high_percent = 95;
    f->config.low_percent = 90;
    f->config.cold_seconds = 3600; /* nothing is, however slowly a test runs */
    f->config.ticket_seconds = 10;
    f->config.calibration_max_bytes = 8 << 20;
    f->config.calibration_park_seconds = 600;
    f->config.monitor_bytes = 4 << 20;
    f->config.n_tenants = 2;
    for (int i = 0; i < 2; i++) {
        struct config_tenant *t = &f->config.tenants[i];

        snprintf(t->name, sizeof(t->name), i ? "other" : "test");
        t->uids[0] = UID + (uid_t)i;
        t->n_uids = 1;
        t->monitor = true;
        t->arena_bytes = 8 << 20;
        t->staging_bytes = STAGING_BYTES;
        t->staging_total_bytes = 2 * STAGING_BYTES + 4096;
    }
    fixture_open(f);
    fixture_train(f, &bytes, &n_bytes);
    assert_int_equal(session_profile_install(f->session, bytes, n_bytes, f->profile_id, &error), 0);
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];

    fixture_close(f);
    snprintf(command, sizeof(command), "rm -r %s", f->dir);
    assert_int_equal(system(command), 0);
    free(f->input);
    free(f);
    return 0;
}

/* --- calls that wait -------------------------------------------------------------------------- */

/* done() of every request: the flag lies behind the request */
#define WAITING(verb) \
    struct waiting_##verb { \
        struct session_##verb op; \
        bool done; /* atomic */ \
    }; \
    static inline void verb##_done(struct session_##verb *op) \
    { \
        __atomic_store_n(&((struct waiting_##verb *)op)->done, true, __ATOMIC_RELEASE); \
    } \
    static inline void verb##_wait(struct waiting_##verb *w) \
    { \
        while (!__atomic_load_n(&w->done, __ATOMIC_ACQUIRE)) \
            usleep(50); \
    } \
    static inline void verb##_start(struct fixture *f, struct waiting_##verb *w) \
    { \
        w->op.done = verb##_done; \
        w->done = false; \
        session_##verb(f->session, &w->op); \
    } \
    struct dpq_swallow_semicolon

WAITING(create);
WAITING(append);
WAITING(read);
WAITING(lookup);
WAITING(release);

static inline struct session_prefix fixture_prefix(const struct fixture *f, const uint32_t *ids,
                                                   size_t n_ids)
{
    struct session_prefix prefix = { .rate = DPQ_RATE_QUALITY,
                                     .token_ids = ids,
                                     .n_token_ids = n_ids };

    memcpy(prefix.profile_id, f->profile_id, 32);
    return prefix;
}

static inline uint64_t create(struct fixture *f, const uint32_t *ids, size_t n_ids,
                              uint64_t client_id)
{
    struct waiting_create w = { 0 };

    w.op.prefix = fixture_prefix(f, ids, n_ids);
    w.op.client_id = client_id;
    create_start(f, &w);
    create_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
    assert_int_not_equal(w.op.sequence_id, 0);
    return w.op.sequence_id;
}

/* rows first … first + n of the input, inline */
static inline struct session_append append_op(struct fixture *f, uint64_t sequence_id,
                                              uint32_t first, uint32_t n, bool with_ids)
{
    struct session_append op = { .sequence_id = sequence_id, .first_token = first, .n_tokens = n };

    op.token_ids = with_ids ? f->ids + first : NULL;
    op.n_token_ids = with_ids ? n : 0;
    op.from.tensor = fixture_rows(DPQ_F32);
    op.from.inline_bytes = f->input + (size_t)first * ROW_NUMBERS;
    op.from.n_inline_bytes = (uint64_t)n * ROW_BYTES;
    return op;
}

static inline struct session_append append_run(struct fixture *f, struct session_append op)
{
    struct waiting_append w = { .op = op };

    append_start(f, &w);
    append_wait(&w);
    return w.op;
}

static inline struct session_append append(struct fixture *f, uint64_t sequence_id, uint32_t first,
                                           uint32_t n, bool with_ids)
{
    struct session_append op = append_run(f, append_op(f, sequence_id, first, n, with_ids));

    if (op.error.code)
        print_message("%s: %s\n", op.error.reason, op.error.message);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(op.n_total_tokens, first + n);
    return op;
}

/* into canonical f32 rows */
static inline struct session_read read_run(struct fixture *f, uint64_t sequence_id, uint64_t first,
                                           uint64_t n, float *rows)
{
    struct waiting_read w = { 0 };

    w.op.sequence_id = sequence_id;
    w.op.first_token = first;
    w.op.n_tokens = n;
    w.op.to.tensor = fixture_rows(DPQ_F32);
    w.op.to.inline_bytes = rows;
    w.op.to.n_inline_bytes = n * ROW_BYTES;
    read_start(f, &w);
    read_wait(&w);
    return w.op;
}

static inline struct session_release release_run(struct fixture *f, uint64_t sequence_id,
                                                 bool discard)
{
    struct waiting_release w = { 0 };

    w.op.sequence_id = sequence_id;
    w.op.discard = discard ? DISCARD_TILES : DISCARD_NOTHING;
    release_start(f, &w);
    release_wait(&w);
    return w.op;
}

static inline struct session_lookup lookup_run(struct fixture *f, const uint32_t *ids, size_t n_ids,
                                               uint64_t sequence_id, bool slots)
{
    struct waiting_lookup w = { 0 };

    w.op.prefix = fixture_prefix(f, ids, n_ids);
    w.op.sequence_id = sequence_id;
    w.op.slots = slots;
    lookup_start(f, &w);
    lookup_wait(&w);
    return w.op;
}

static inline struct status status_of(struct fixture *f)
{
    struct status status;

    session_status(f->session, 0, &status);
    return status;
}

static inline struct session_peer peer_of(uid_t uid)
{
    return (struct session_peer){ .uid = uid, .gid = uid, .pid = 1 };
}

/* attach and redeem; the staging is mapped here as well (nothing when 0 bytes were asked for) */
static inline uint64_t attach(struct fixture *f, uint64_t staging_bytes, uint8_t **ret_staging)
{
    struct session_attach op = { .peer = peer_of(UID), .protocol = 1 };
    struct session_error error;
    struct session_fds fds;
    void *bytes;
    size_t n_bytes;

    op.staging_bytes = staging_bytes;
    snprintf(op.client_name, sizeof(op.client_name), "tester");
    session_attach(f->session, &op);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(session_redeem(f->session, op.ticket, &op.peer, &fds, &error), 0);
    assert_int_equal(fds.client_id, op.client_id);
    assert_int_equal(fds.staging_bytes, op.ret_staging_bytes);
    if (staging_bytes) {
        assert_int_equal(dpq_map_staging(fds.staging_fd, &bytes, &n_bytes), 0);
        assert_int_equal(n_bytes, fds.staging_bytes);
        *ret_staging = bytes;
    }
    return op.client_id;
}

/* the objects of a sequence's n-th tile, as stored */
static inline void stored(struct fixture *f, uint64_t sequence_id, size_t n,
                          struct store_object *ret_base, struct store_object *ret_fine)
{
    struct sequence *sequence;

    session_lock(f->session);
    sequence = sequence_find(f->session, 0, sequence_id);
    assert_non_null(sequence);
    assert_true(n < sequence->n_tiles);
    tile_objects(sequence->tiles[n], ret_base, ret_fine);
    session_unlock(f->session);
}

/* the same bytes, in places of their own */
static inline void assert_same_tiles(struct fixture *f, uint64_t a, uint64_t b, size_t n_tiles)
{
    for (size_t i = 0; i < n_tiles; i++) {
        struct store_object base[2], fine[2];

        stored(f, a, i, &base[0], &fine[0]);
        stored(f, b, i, &base[1], &fine[1]);
        assert_int_equal(base[0].n_bytes, base[1].n_bytes);
        assert_memory_equal(base[0].bytes, base[1].bytes, base[0].n_bytes);
        assert_int_equal(fine[0].n_bytes, fine[1].n_bytes);
        assert_memory_equal(fine[0].bytes, fine[1].bytes, fine[0].n_bytes);
        assert_ptr_not_equal(base[0].bytes, base[1].bytes);
    }
}

/* nothing has been stored or lost between the two */
static inline void assert_same_status(const struct status *a, const struct status *b)
{
    assert_int_equal(a->n_tiles, b->n_tiles);
    assert_int_equal(a->arena_used_bytes, b->arena_used_bytes);
    assert_int_equal(a->tail_bytes, b->tail_bytes);
    assert_int_equal(a->tokens_appended, b->tokens_appended);
    assert_int_equal(a->n_sequences, b->n_sequences);
    assert_int_equal(a->staging_bytes, b->staging_bytes);
}

#define FIXTURE_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
