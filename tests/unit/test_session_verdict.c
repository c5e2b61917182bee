/* session_verdict: zones follow from a sequence's own numbers, and decide how its tiles are coded
 */
#include <math.h>

#include "daemon/session_risk.h"
#include "lib/risk/risk_audit.h"
#include "tests/unit/session_fixture.h"

enum {
    N_TOKENS = 2048,
    N_LEARN = 1536,
    N_STREAMS = N_LAYERS * 2 * N_HEADS,
    GOES_WRONG = 512, /* in the input of bad streams */
    WELL_AGAIN = 896,
    N_RUNS = 20,
    MAX_EVENTS = 512,
    ONE_IS_QUIET = 5, /* slot of a profile, beside those that are numbered by reference */
    N_SLOTS,
};

static float normal(struct rng *rng)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += rng_unit(rng);
    return (float)sum;
}

/* Tokens that follow each other; in layer 1 they also follow layer 0. */
static float *make_input(uint64_t seed)
{
    float *x = malloc((size_t)N_TOKENS * ROW_BYTES);
    struct rng rng = rng_seed(seed);
    size_t half = ROW_NUMBERS / 2;

    assert_non_null(x);
    for (size_t t = 0; t < N_TOKENS; t++)
        for (size_t i = 0; i < ROW_NUMBERS; i++) {
            float *at = x + t * ROW_NUMBERS + i, fresh = normal(&rng);

            if (i < half)
                *at = t ? .9f * at[-ROW_NUMBERS] + .43f * fresh : fresh;
            else
                *at = .95f * at[-(ptrdiff_t)half] + .3f * fresh;
        }
    return x;
}

/* One stream as no calibration has seen it, for some time: every second token with another sign. */
static void go_wrong(float *x, uint32_t stream)
{
    for (size_t t = GOES_WRONG; t < WELL_AGAIN; t++)
        for (size_t i = 0; i < HEAD_DIM; i++)
            x[t * ROW_NUMBERS + stream * HEAD_DIM + i] *= t % 2 ? -3 : 3;
}

static void scale(float *x, uint32_t stream, size_t first, size_t end, float by)
{
    for (size_t t = first; t < end; t++)
        for (size_t i = 0; i < HEAD_DIM; i++)
            x[t * ROW_NUMBERS + stream * HEAD_DIM + i] *= by;
}

/* a profile with an audit, all streams of that reference where they can have it; one that was
 * learned before is taken again */
static void install_learned(struct fixture *f, uint32_t slot, uint32_t reference, const float *x,
                            uint8_t ret_id[32])
{
    static uint8_t *kept[N_SLOTS];
    static size_t n_kept[N_SLOTS];
    struct session_error error;

    if (!kept[slot]) {
        struct dpq_geometry geometry = fixture_geometry();
        struct dpq_train_options options = {
            .model_name = "watched", .max_bytes = 64 << 20, .n_iterations = 2, .n_threads = 1
        };
        struct dpq_tensor tensor = fixture_rows(DPQ_F32);
        struct dpq_audit_hooks hooks;
        struct dpq_trainer *trainer;
        struct dpq_fault fault;
        struct audit *audit;

        options.reference = reference;
        assert_int_equal(audit_new(&geometry, false, &audit), 0);
        hooks = audit_hooks(audit);
        assert_int_equal(dpq_trainer_new(&geometry, &options, &trainer, &fault), 0);
        dpq_trainer_audit(trainer, &hooks);
        assert_int_equal(
            dpq_trainer_add(trainer, &tensor, x, (uint64_t)N_LEARN * ROW_BYTES, 0, N_LEARN, &fault),
            0);
        assert_int_equal(dpq_trainer_run(trainer, NULL, NULL, &kept[slot], &n_kept[slot], &fault),
                         0);
        dpq_trainer_free(trainer);
        audit_free(audit);
    }
    assert_int_equal(session_profile_install(f->session, kept[slot], n_kept[slot], ret_id, &error),
                     0);
}

static void install(struct fixture *f, uint32_t reference, const float *x, uint8_t ret_id[32])
{
    install_learned(f, reference, reference, x, ret_id);
}

static uint64_t create_with(struct fixture *f, const uint8_t id[32], const uint32_t *ids,
                            size_t n_ids)
{
    struct waiting_create w = { 0 };

    w.op.prefix = fixture_prefix(f, ids, n_ids);
    w.op.prefix.rate = DPQ_RATE_COMPACT;
    memcpy(w.op.prefix.profile_id, id, 32);
    create_start(f, &w);
    create_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
    return w.op.sequence_id;
}

static void append_rows(struct fixture *f, uint64_t sequence_id, const float *x, uint32_t first,
                        uint32_t n, const uint32_t *ids)
{
    struct session_append op = { .sequence_id = sequence_id, .first_token = first, .n_tokens = n };

    op.from.tensor = fixture_rows(DPQ_F32);
    op.from.inline_bytes = (void *)(x + (size_t)first * ROW_NUMBERS);
    op.from.n_inline_bytes = (uint64_t)n * ROW_BYTES;
    if (ids) {
        op.token_ids = ids + first;
        op.n_token_ids = n;
    }
    op = append_run(f, op);
    assert_int_equal(op.error.code, SESSION_OK);
}

static void nothing(void *user)
{
    (void)user;
}

static void doze(void *user)
{
    struct rng *rng = user;

    if (rng_unit(rng) < .5)
        usleep((useconds_t)(2000 * rng_unit(rng)));
}

/* The session's monitor, one whose thread comes late. */
static void delay_monitor(struct fixture *f, struct rng *rng)
{
    struct monitor_options options = { .hub = f->hub,
                                       .n_workers = 3,
                                       .n_tenants = 2,
                                       .max_bytes = 4 << 20,
                                       .before_drain = doze,
                                       .user = rng };

    f->session->monitor = monitor_free(f->session->monitor);
    assert_int_equal(monitor_new(&options, &f->session->monitor), 0);
}

struct history {
    struct event events[MAX_EVENTS];
    uint32_t n, n_red;
};

/* what the monitor has told since the subscription */
static void take_events(struct fixture *f, struct hub_subscriber *subscriber, struct history *h)
{
    struct event event;
    uint64_t lost;

    memset(h, 0, sizeof(*h));
    monitor_flush(f->session->monitor);
    while (!hub_next(subscriber, &event, &lost)) {
        if (event.kind < EVENT_ZONE_CHANGED)
            continue;
        assert_true(h->n < MAX_EVENTS);
        event.seq = event.id = event.time_unix_ms = 0;
        h->n_red += event.kind == EVENT_ZONE_CHANGED && event.risk.to == RISK_RED;
        h->events[h->n++] = event;
    }
}

struct result {
    uint8_t *bytes;
    size_t n_bytes;
    struct history history;
};

static void add_bytes(struct result *result, const struct store_object *object)
{
    result->bytes = realloc(result->bytes, result->n_bytes + object->n_bytes + 1);
    assert_non_null(result->bytes);
    if (object->n_bytes)
        memcpy(result->bytes + result->n_bytes, object->bytes, object->n_bytes);
    result->n_bytes += object->n_bytes;
}

/* Append all of x in pieces, keep what is stored and told, release. */
static void run(struct fixture *f, const uint8_t id[32], const float *x, struct rng *rng,
                struct result *ret)
{
    uint64_t sequence_id = create_with(f, id, NULL, 0);
    struct hub_subscriber *subscriber;
    struct store_object base, fine;

    assert_int_equal(hub_subscribe(f->hub,
                                   &(struct hub_request){
                                       .after_seq = HUB_FROM_NOW, .queue = 4096, .wake = nothing },
                                   &subscriber),
                     0);
    for (uint32_t first = 0, n; first < N_TOKENS; first += n) {
        n = rng ? 1 + (uint32_t)(rng_unit(rng) * rng_unit(rng) * 700) : N_TOKENS;
        n = n < N_TOKENS - first ? n : N_TOKENS - first;
        append_rows(f, sequence_id, x, first, n, NULL);
    }
    *ret = (struct result){ 0 };
    for (size_t i = 0; i < N_TOKENS / 128; i++) {
        stored(f, sequence_id, i, &base, &fine);
        add_bytes(ret, &base);
        add_bytes(ret, &fine);
    }
    take_events(f, subscriber, &ret->history);
    hub_unsubscribe(subscriber);
    release_run(f, sequence_id, true);
}

/* 20 runs, cut into appends at random, with a monitor that dozes: the same bytes, the same events.
 */
static void test_determinism(void **state)
{
    struct fixture *f = *state;
    float *good = make_input(1), *x = make_input(2);
    struct result first, again;
    struct rng rng = rng_seed(9), drowsy = rng_seed(10); /* the monitor thread's own */
    uint8_t id[32];

    go_wrong(x, 0);
    go_wrong(x, 5);
    for (uint32_t reference = DPQ_REFERENCE_NONE; reference <= DPQ_REFERENCE_DEPTH; reference++) {
        install(f, reference, good, id);
        run(f, id, x, NULL, &first);
        assert_true(first.history.n_red > 0);
        delay_monitor(f, &drowsy);
        for (int i = 0; i < N_RUNS / (reference == DPQ_REFERENCE_TEMPORAL ? 1 : 4); i++) {
            run(f, id, x, &rng, &again);
            assert_int_equal(first.n_bytes, again.n_bytes);
            assert_memory_equal(first.bytes, again.bytes, first.n_bytes);
            assert_int_equal(first.history.n, again.history.n);
            assert_memory_equal(first.history.events, again.history.events,
                                first.history.n * sizeof(first.history.events[0]));
            free(again.bytes);
        }
        free(first.bytes);
    }
    free(good);
    free(x);
}

/* Tiles are made side by side: one that is refused holds up none of those behind it, and the same
 * append without the fault makes what it would have made at first. */
static void test_refused_half_way(void **state)
{
    struct fixture *f = *state;
    float *good = make_input(1), *x = make_input(2), was = x[700 * ROW_NUMBERS];
    struct session_append op;
    uint8_t id[32];
    uint64_t a, b;

    install(f, DPQ_REFERENCE_DEPTH, good, id);
    a = create_with(f, id, NULL, 0);
    b = create_with(f, id, NULL, 0);
    for (int i = 0; i < N_RUNS; i++) {
        x[700 * ROW_NUMBERS] = NAN;
        op = (struct session_append){ .sequence_id = a, .n_tokens = N_TOKENS };
        op.from.tensor = fixture_rows(DPQ_F32);
        op.from.inline_bytes = x;
        op.from.n_inline_bytes = (uint64_t)N_TOKENS * ROW_BYTES;
        op = append_run(f, op);
        assert_string_equal(op.error.reason, "NOT_FINITE");
        assert_int_equal(op.error.token, 700);
    }
    x[700 * ROW_NUMBERS] = was;
    append_rows(f, a, x, 0, N_TOKENS, NULL);
    for (uint32_t t = 0; t < N_TOKENS; t += DPQ_TILE_TOKENS)
        append_rows(f, b, x, t, DPQ_TILE_TOKENS, NULL);
    assert_same_tiles(f, a, b, N_TOKENS / DPQ_TILE_TOKENS);
    free(good);
    free(x);
}

/* what is known of an installed profile; it stays */
static const struct verdict_book *book_of(struct fixture *f, const uint8_t id[32])
{
    const struct verdict_book *book = NULL;

    session_lock(f->session);
    for (size_t i = 0; i < f->session->n_profiles; i++)
        if (!memcmp(dpq_profile_digest(f->session->profiles[i]->profile), id, DPQ_DIGEST_BYTES))
            book = f->session->profiles[i]->book;
    session_unlock(f->session);
    assert_non_null(book);
    return book;
}

/* zones that a sequence's tile leaves */
static void zones_after(struct fixture *f, uint64_t sequence_id, size_t tile, const uint8_t id[32],
                        uint8_t zones[N_STREAMS])
{
    struct store_object base, fine;

    stored(f, sequence_id, tile, &base, &fine);
    verdict_zones(book_of(f, id), base.bytes, base.n_bytes, zones);
}

/* What calibration has seen is never Red (Yellow it may be: a thousand tokens do not show all that
 * shapes do); a stream that goes wrong is, within two groups and alone, and leaves it when it is
 * well. */
static void test_zones(void **state)
{
    struct fixture *f = *state;
    float *good = make_input(1), *x = make_input(2);
    uint8_t id[32], zones[N_STREAMS];
    uint64_t sequence_id;
    struct result result;

    for (uint32_t reference = DPQ_REFERENCE_NONE; reference <= DPQ_REFERENCE_DEPTH; reference++) {
        install(f, reference, good, id);
        run(f, id, x, NULL, &result);
        assert_int_equal(result.history.n_red, 0);
        free(result.bytes);
    }
    go_wrong(x, 1);
    install(f, DPQ_REFERENCE_TEMPORAL, good, id);
    sequence_id = create_with(f, id, NULL, 0);
    append_rows(f, sequence_id, x, 0, N_TOKENS, NULL);
    zones_after(f, sequence_id, GOES_WRONG / 128, id, zones);
    for (uint32_t i = 0; i < N_STREAMS; i++)
        assert_int_equal(zones[i] == RISK_RED, i == 1);
    zones_after(f, sequence_id, N_TOKENS / 128 - 1, id, zones);
    for (uint32_t i = 0; i < N_STREAMS; i++)
        assert_int_not_equal(zones[i], RISK_RED);
    free(good);
    free(x);
}

static const struct dpq_profile *profile_of(struct fixture *f, const uint8_t id[32])
{
    for (size_t i = 0; i < f->session->n_profiles; i++)
        if (!memcmp(dpq_profile_digest(f->session->profiles[i]->profile), id, DPQ_DIGEST_BYTES))
            return f->session->profiles[i]->profile;
    fail();
    return NULL;
}

/* Not watched: what is stored is what the codec makes of it by itself, and nothing is told. */
static void test_monitor_off(void **state)
{
    struct fixture *f = *state;
    float *good = make_input(1), *x = make_input(2);
    struct result watched, plain;
    struct session_report report = { .where = { .layer = -1, .kind = -1, .head = -1 }, .ratio = 2 };
    struct dpq_codec *codec;
    uint8_t id[32];
    size_t at = 0;

    go_wrong(x, 0);
    install(f, DPQ_REFERENCE_TEMPORAL, good, id);
    run(f, id, x, NULL, &watched);
    f->config.tenants[0].monitor = false;
    run(f, id, x, NULL, &plain);
    assert_true(watched.history.n > 0 && plain.history.n == 0);
    assert_true(watched.n_bytes > plain.n_bytes);
    assert_int_equal(dpq_codec_new(profile_of(f, id), ~0u, &codec), 0);
    for (uint32_t i = 0; i < N_TOKENS / 128; i++) {
        uint8_t *base, *fine;
        size_t n_base, n_fine;

        assert_int_equal(dpq_tile_encode(codec, x + (size_t)i * 128 * ROW_NUMBERS, DPQ_F32, i * 128,
                                         i * 128, DPQ_RATE_COMPACT, &base, &n_base, &fine, &n_fine),
                         0);
        assert_true(at + n_base + n_fine <= plain.n_bytes);
        assert_memory_equal(plain.bytes + at, base, n_base);
        if (n_fine)
            assert_memory_equal(plain.bytes + at + n_base, fine, n_fine);
        at += n_base + n_fine;
        dpq_free(base);
        dpq_free(fine);
    }
    assert_int_equal(at, plain.n_bytes);
    report.where.sequence_id = create_with(f, id, NULL, 0);
    session_report(f->session, &report);
    assert_string_equal(report.error.reason, "NOT_WATCHED");
    release_run(f, report.where.sequence_id, true);
    f->config.tenants[0].monitor = true;
    dpq_codec_free(codec);
    free(watched.bytes);
    free(plain.bytes);
    free(good);
    free(x);
}

/* Of a tile's directory entry: {reference, has a fine plane, group} of a stream. */
static struct tile_verdict coded_as(struct fixture *f, uint64_t sequence_id, size_t tile,
                                    uint32_t stream)
{
    struct store_object base, fine;
    uint32_t at;
    const uint8_t *entry;

    stored(f, sequence_id, tile, &base, &fine);
    memcpy(&at, (const uint8_t *)base.bytes + 68, sizeof(at)); /* directory_offset: FORMAT.md */
    entry = (const uint8_t *)base.bytes + at + stream * 8;
    return (struct tile_verdict){ .mode = entry[4],
                                  .keeps_fine = entry[6] >> 1 & 1,
                                  .group_log2 = entry[7] };
}

/* A stream of layer 0 in Red: it, and what its errors mislead, is coded without a reference; what
 * is predicted from it and gains all the same (K of layer 1 follows K of layer 0) keeps its own;
 * the rest is as ever, and nothing else is Red. */
static void test_bad_layer(void **state)
{
    struct fixture *f = *state;
    float *good = make_input(1), *x = make_input(2);
    uint8_t id[32], zones[N_STREAMS];
    const uint32_t bad = N_HEADS; /* V of layer 0, head 0; predicted from K of layer 0 */
    uint64_t sequence_id;
    size_t tile = GOES_WRONG / 128 + 1;

    go_wrong(x, bad);
    install(f, DPQ_REFERENCE_DEPTH_HEAD, good, id);
    sequence_id = create_with(f, id, NULL, 0);
    append_rows(f, sequence_id, x, 0, N_TOKENS, NULL);
    zones_after(f, sequence_id, tile - 1, id, zones);
    assert_int_equal(zones[bad], RISK_RED);
    for (uint32_t i = 0; i < N_STREAMS; i++) {
        uint32_t layer = i / (2 * N_HEADS), head = i % N_HEADS;
        struct tile_verdict was = coded_as(f, sequence_id, tile - 1, i);
        struct tile_verdict now = coded_as(f, sequence_id, tile, i);
        bool is_misled = layer == 1 && head == 0 && i % (2 * N_HEADS) >= N_HEADS;
        bool does_without = i == bad || is_misled;

        assert_int_equal(now.mode, does_without ? 0 : was.mode);
        if (does_without)
            assert_true(now.keeps_fine && was.keeps_fine);
    }
    for (uint32_t i = 2 * N_HEADS + 1; i < N_STREAMS; i += 2) /* layer 1, head 1 */
        assert_int_not_equal(zones[i], RISK_RED);
    free(good);
    free(x);
}

/* Twice as loud: beyond its tolerance, and as well predicted as ever. In Red it keeps its
 * reference, between more keys, and no reset is told. */
static void test_red_that_gains(void **state)
{
    struct fixture *f = *state;
    float *good = make_input(1), *x = make_input(2);
    uint8_t id[32], zones[N_STREAMS];
    const uint32_t loud = 1;
    size_t tile = GOES_WRONG / 128 + 1;
    struct result result;
    uint64_t sequence_id;

    scale(x, loud, GOES_WRONG, WELL_AGAIN, 2);
    install(f, DPQ_REFERENCE_TEMPORAL, good, id);
    sequence_id = create_with(f, id, NULL, 0);
    append_rows(f, sequence_id, x, 0, N_TOKENS, NULL);
    zones_after(f, sequence_id, tile - 1, id, zones);
    for (uint32_t i = 0; i < N_STREAMS; i++)
        assert_int_equal(zones[i] == RISK_RED, i == loud);
    assert_int_equal(coded_as(f, sequence_id, tile, loud).mode, RISK_REFERENCE_TEMPORAL);
    assert_int_equal(coded_as(f, sequence_id, tile - 1, loud).keeps_fine, 1);
    assert_int_equal(coded_as(f, sequence_id, tile, loud).keeps_fine, 1);
    assert_int_equal(coded_as(f, sequence_id, tile, loud).group_log2, 3);
    release_run(f, sequence_id, true);
    run(f, id, x, NULL, &result);
    assert_true(result.history.n_red > 0);
    for (uint32_t i = 0; i < result.history.n; i++)
        assert_int_not_equal(result.history.events[i].kind, EVENT_STREAM_RESET);
    free(result.bytes);
    free(good);
    free(x);
}

/* The same of a stream whose errors are a hundredth of the others' even so: Red, with more keys,
 * and no bits for a plane. */
static void test_plane_that_buys_little(void **state)
{
    struct fixture *f = *state;
    float *good = make_input(1), *x = make_input(2);
    uint8_t id[32], zones[N_STREAMS];
    const uint32_t quiet = 1;
    size_t tile = GOES_WRONG / 128 + 1;
    uint64_t sequence_id;

    scale(good, quiet, 0, N_TOKENS, .02f);
    scale(x, quiet, 0, N_TOKENS, .02f);
    scale(x, quiet, GOES_WRONG, WELL_AGAIN, 2);
    install_learned(f, ONE_IS_QUIET, DPQ_REFERENCE_TEMPORAL, good, id);
    sequence_id = create_with(f, id, NULL, 0);
    append_rows(f, sequence_id, x, 0, N_TOKENS, NULL);
    zones_after(f, sequence_id, tile - 1, id, zones);
    assert_int_equal(zones[quiet], RISK_RED);
    for (size_t i = tile - 1; i <= tile; i++)
        assert_int_equal(coded_as(f, sequence_id, i, quiet).keeps_fine, 0);
    assert_int_equal(coded_as(f, sequence_id, tile, quiet).group_log2, 3);
    free(good);
    free(x);
}

static const struct sequence *find(struct fixture *f, uint64_t sequence_id)
{
    const struct sequence *sequence;

    session_lock(f->session);
    sequence = sequence_find(f->session, 0, sequence_id);
    session_unlock(f->session);
    assert_non_null(sequence);
    return sequence;
}

/* Another sequence that begins with the same tiles goes on in the same zones. */
static void test_prefix(void **state)
{
    struct fixture *f = *state;
    float *good = make_input(1), *x = make_input(2);
    uint32_t ids[N_TOKENS];
    struct store_object base[2], fine[2];
    uint8_t id[32], zones[N_STREAMS];
    uint64_t a, b;

    for (uint32_t i = 0; i < N_TOKENS; i++)
        ids[i] = i;
    go_wrong(x, 1);
    install(f, DPQ_REFERENCE_TEMPORAL, good, id);
    a = create_with(f, id, NULL, 0);
    append_rows(f, a, x, 0, 768, ids);
    b = create_with(f, id, ids, 640);
    assert_int_equal(find(f, b)->n_tokens, 640);
    zones_after(f, b, 4, id, zones);
    assert_int_equal(zones[1], RISK_RED);
    ids[700] = 9; /* another tile, of the same numbers */
    append_rows(f, b, x, 640, 128, ids);
    stored(f, a, 5, &base[0], &fine[0]);
    stored(f, b, 5, &base[1], &fine[1]);
    assert_true(base[0].bytes != base[1].bytes && base[0].n_bytes == base[1].n_bytes);
    assert_memory_equal(base[0].bytes, base[1].bytes, base[0].n_bytes);
    free(good);
    free(x);
}

/* The daemon ends and begins again: no arena outlives it here, but the tile's bytes are all that
 * there is of zones, so a desk that has only them decides the same. */
static void test_bytes_are_all(void **state)
{
    struct fixture *f = *state;
    float *good = make_input(1), *x = make_input(2);
    struct verdict_desk desk = { 0 };
    struct risk_course courses[N_STREAMS];
    struct store_object base, fine;
    struct tile_watch watch;
    const struct verdict_book *book;
    uint8_t id[32], *copy;
    uint64_t a;

    go_wrong(x, 1);
    install(f, DPQ_REFERENCE_TEMPORAL, good, id);
    book = book_of(f, id);
    a = create_with(f, id, NULL, 0);
    append_rows(f, a, x, 0, 640, NULL);
    stored(f, a, 4, &base, &fine);
    assert_int_equal(verdict_begin(&desk, book, base.bytes, base.n_bytes, NULL, courses, &watch),
                     0);
    assert_int_equal(watch.verdicts[1].mode, TILE_VERDICT_INTRA);
    assert_int_equal(watch.verdicts[1].keeps_fine, 1);
    assert_true(watch.verdicts[0].mode < TILE_VERDICT_INTRA);
    /* whatever else is there: from the beginning */
    copy = malloc(base.n_bytes);
    for (size_t damage = 0; damage < 3; damage++) {
        size_t at, n;

        memcpy(copy, base.bytes, base.n_bytes);
        assert_int_equal(tile_find_verdict(copy, base.n_bytes, &at, &n), 0);
        if (damage == 0)
            memset(copy + at + 8, 0xff, n - 8);
        if (damage == 1)
            copy[at] = 77;
        if (damage == 2)
            copy[0] = 0;
        assert_int_equal(verdict_begin(&desk, book, copy, base.n_bytes, NULL, courses, &watch), 0);
        for (uint32_t i = 0; i < N_STREAMS; i++)
            assert_int_equal(watch.verdicts[i].mode, TILE_VERDICT_REFERENCE);
    }
    verdict_desk_deinit(&desk);
    free(copy);
    free(good);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_zones),
        FIXTURE_TEST(test_monitor_off),
        FIXTURE_TEST(test_determinism),
        FIXTURE_TEST(test_refused_half_way),
        FIXTURE_TEST(test_bad_layer),
        FIXTURE_TEST(test_prefix),
        FIXTURE_TEST(test_bytes_are_all),
        FIXTURE_TEST(test_red_that_gains),
        FIXTURE_TEST(test_plane_that_buys_little),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
