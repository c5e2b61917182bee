/*
 * The session: who may do what, and the objects of it all
 *
 *     session -- tenants (from the configuration, fixed) -- one store each
 *             -- clients    by id: attach ... gone          session_client.c
 *             -- sequences  by id: create ... release       session_sequence.c, _append, _read
 *             -- profiles   by digest: install ... remove   session_profile.c, _profile_remove
 *
 * One mutex guards the tables, reference counts and numbers; it is held for look-ups and updates,
 * never while rows are copied, coded or hashed. What a job works on is kept alive by references
 * taken under the mutex; everything else about a job is the job's own.
 */
#include "daemon/session.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/hub.h"
#include "daemon/log.h"
#include "daemon/session_keep.h"
#include "daemon/status.h"
#include "lib/base/error.h"
#include "lib/kern/kern.h"

enum { HEALTHY_SECONDS = 30 };

void session_lock(struct session *session)
{
    pthread_mutex_lock(&session->mutex);
}

void session_unlock(struct session *session)
{
    pthread_mutex_unlock(&session->mutex);
}

uint64_t session_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A counter seen through a bijection: no id comes twice, none is 0, and ids of one run are nowhere
 * near each other or those of another run (the counter starts at random). */
uint64_t session_new_id(struct session *session)
{
    uint64_t id;

    do
        id = session->next_id++ * 0x9e3779b97f4a7c15;
    while (id == 0);
    return id;
}

/* --- errors ----------------------------------------------------------------------------------- */

void session_error_clear(struct session_error *error)
{
    *error = (struct session_error){ .layer = -1, .kind = -1, .head = -1, .token = -1 };
}

void session_error_set(struct session_error *error, enum session_code code, const char *reason,
                       const char *format, ...)
{
    va_list args;

    session_error_clear(error);
    error->code = code;
    snprintf(error->reason, sizeof(error->reason), "%s", reason);
    va_start(args, format);
    vsnprintf(error->message, sizeof(error->message), format, args);
    va_end(args);
}

void session_error_busy(struct session_error *error)
{
    session_error_set(error, SESSION_RESOURCE_EXHAUSTED, "QUEUE",
                      "the workers' queue is full: come again");
    error->retry_ms = RETRY_MS;
}

void session_error_no_sequence(struct session_error *error, uint64_t sequence_id)
{
    session_error_set(error, SESSION_NOT_FOUND, "SEQUENCE", "sequence_id %llu is unknown",
                      (unsigned long long)sequence_id);
}

void session_error_fault(struct session_error *error, int r, const char *what)
{
    if (r == -ENOMEM) {
        session_error_set(error, SESSION_RESOURCE_EXHAUSTED, "MEMORY",
                          "%s: the daemon is out of memory", what);
        error->retry_ms = 5 * RETRY_MS;
        log_warning("%s: out of memory", what);
        return;
    }
    session_error_set(error, SESSION_INTERNAL, "FAULT", "%s: internal fault, see the daemon's log",
                      what);
    log_error("%s: fault %d (%s)", what, r, r < 0 ? strerror(-r) : "an outcome nobody expected");
}

void session_count_error(struct session *session, uint32_t tenant)
{
    if (tenant >= session->n_tenants)
        return;
    session_lock(session);
    session->tenants[tenant].errors++;
    session_unlock(session);
}

/* --- instruction sets ------------------------------------------------------------------------- */

static const struct {
    const char *name;
    unsigned flag;
} CPUS[] = {
    { "avx2", KERN_CPU_AVX2 },
};

/* The configuration's word for what the kernels may use. */
static uint32_t cpu_from_name(const char *name)
{
    unsigned have = kern_cpu_detect();

    if (!strcmp(name, "c"))
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(CPUS); i++) {
        if (strcmp(name, CPUS[i].name))
            continue;
        if (!(have & CPUS[i].flag))
            log_warning("cpu = %s: this machine has no such kernels, using portable C", name);
        return have & CPUS[i].flag;
    }
    if (strcmp(name, "auto"))
        log_warning("cpu = %s is unknown, using what the machine has", name);
    return have;
}

static void describe_cpu(uint32_t mask, char *ret_text, size_t n)
{
    size_t at = (size_t)snprintf(ret_text, n, "c");

    for (size_t i = 0; i < ARRAY_SIZE(CPUS) && at < n; i++) {
        if (mask & CPUS[i].flag)
            at += (size_t)snprintf(ret_text + at, n - at, " %s", CPUS[i].name);
    }
}

/* --- workers' scratch ------------------------------------------------------------------------- */

/* Where a new one goes: in the place of one whose profile has gone, or of the one made first. */
static uint32_t choose_slot(struct worker *worker)
{
    for (uint32_t i = 0; i < N_WORKER_CODECS; i++)
        if (worker->codec_of[i] && worker->codec_of[i]->gone)
            return i;
    return worker->next_codec++ % N_WORKER_CODECS;
}

static void drop_codec(struct session *session, struct worker *worker, uint32_t slot)
{
    if (!worker->codecs[slot])
        return;
    dpq_codec_free(worker->codecs[slot]);
    worker->codecs[slot] = NULL;
    session_lock(session);
    worker->codec_of[slot]->n_codecs--;
    session_unlock(session);
    worker->codec_of[slot] = profile_put(session, worker->codec_of[slot]);
}

int session_worker_codec(struct session *session, uint32_t worker, struct profile_entry *profile,
                         struct dpq_codec **ret_codec)
{
    struct worker *w = &session->workers[worker];
    struct dpq_codec *codec;
    uint32_t slot;
    int r;

    for (uint32_t i = 0; i < N_WORKER_CODECS; i++) {
        if (w->codecs[i] && w->codec_of[i] == profile) {
            *ret_codec = w->codecs[i];
            return 0;
        }
    }
    r = dpq_codec_new(profile->profile, session->cpu_mask, &codec);
    if (r)
        return error_fold(r);
    session_lock(session);
    slot = choose_slot(w);
    session_unlock(session);
    drop_codec(session, w, slot);
    session_lock(session);
    w->codec_of[slot] = profile_ref(profile);
    profile->n_codecs++;
    session_unlock(session);
    w->codecs[slot] = codec;
    *ret_codec = codec;
    return 0;
}

int session_worker_rows(struct session *session, uint32_t worker, size_t n_bytes,
                        uint8_t **ret_rows)
{
    struct worker *w = &session->workers[worker];

    if (w->n_rows_bytes < n_bytes) {
        uint8_t *rows = aligned_alloc(64, align_up(n_bytes, 64));

        if (!rows)
            return error_origin(-ENOMEM);
        free(w->rows);
        w->rows = rows;
        w->n_rows_bytes = n_bytes;
    }
    *ret_rows = w->rows;
    return 0;
}

static void worker_deinit(struct session *session, struct worker *worker)
{
    for (uint32_t i = 0; i < N_WORKER_CODECS; i++)
        drop_codec(session, worker, i);
    verdict_desk_deinit(&worker->desk);
    free(worker->rows);
}

/* --- beginning and end ------------------------------------------------------------------------ */

/* store's mutex is held: the hub only copies the event */
void session_tile_evicted(void *user, const uint8_t key[32], uint64_t freed_bytes)
{
    struct tenant *tenant = user;
    struct event event = { .kind = EVENT_TILE_EVICTED, .tenant = tenant->index, .a = freed_bytes };

    memcpy(event.digest, key, sizeof(event.digest));
    hub_publish(tenant->session->hub, &event);
}

static int make_tenants(struct session *session)
{
    const struct config *config = session->config;

    session->tenants = calloc(config->n_tenants + 1, sizeof(session->tenants[0]));
    if (!session->tenants)
        return error_origin(-ENOMEM);
    for (uint32_t i = 0; i < config->n_tenants; i++) {
        struct tenant *t = &session->tenants[i];
        int r;

        t->config = &config->tenants[i];
        t->index = i;
        t->session = session;
        r = arena_open(t);
        if (r)
            return r == 1 ? 1 : error_fold(r);
        session->n_tenants++;
        r = restore_sequences(t);
        if (r)
            return error_fold(r);
    }
    return 0;
}

static int make_workers(struct session *session)
{
    uint8_t secret[32];
    int r;

    session->n_workers = pool_n_workers(session->pool);
    session->workers = calloc(session->n_workers, sizeof(session->workers[0]));
    session->makers = calloc(session->n_workers + 1, sizeof(session->makers[0]));
    if (!session->workers || !session->makers)
        return error_origin(-ENOMEM);
    r = secret_load(session->config->state_dir, secret);
    if (!r)
        r = secret_name(secret, session->secret_id);
    for (uint32_t i = 0; !r && i <= session->n_workers; i++) {
        r = key_maker_init(&session->makers[i], secret);
        if (!r)
            session->n_makers++;
    }
    explicit_bzero(secret, sizeof(secret));
    return r == 1 ? 1 : error_fold(r);
}

static int session_init(struct session *session)
{
    const struct monitor_options options = {
        .hub = session->hub,
        .n_workers = pool_n_workers(session->pool),
        .n_tenants = session->config->n_tenants,
        .max_bytes = session->config->monitor_bytes,
    };
    int r;

    r = monitor_new(&options, &session->monitor);
    if (r)
        return error_fold(r);
    r = id_table_init(&session->clients);
    if (!r)
        r = id_table_init(&session->sequences);
    if (!r)
        r = hash_random(&session->next_id, sizeof(session->next_id));
    if (r)
        return error_fold(r);
    r = make_workers(session);
    if (!r)
        r = profile_load_all(session);
    if (!r)
        r = make_tenants(session);
    if (!r)
        session_reload(session, session->config);
    return r;
}

int session_new(const struct config *config, struct hub *hub, struct pool *pool,
                struct session **ret_session)
{
    return session_new_kept(config, hub, pool, NULL, ret_session);
}

int session_new_kept(const struct config *config, struct hub *hub, struct pool *pool,
                     const struct session_keeper *keeper, struct session **ret_session)
{
    struct session *session = calloc(1, sizeof(*session));
    int r;

    if (!session)
        return error_origin(-ENOMEM);
    session->config = config;
    session->hub = hub;
    session->pool = pool;
    session->keeper = keeper;
    session->started_ns = session_now_ns();
    session->message_bytes = config_message_bytes(config);
    session->next_pin_ns = UINT64_MAX;
    session->cpu_mask = cpu_from_name(config->cpu);
    snprintf(session->side_socket, sizeof(session->side_socket), "%s/fd.sock", config->runtime_dir);
    pthread_mutex_init(&session->mutex, NULL);
    pthread_mutex_init(&session->profiles_mutex, NULL);
    r = session_init(session);
    if (r) {
        session_free(session);
        return r == 1 ? 1 : error_fold(r);
    }
    *ret_session = session;
    return 0;
}

void session_ready(struct session *session)
{
    for (uint32_t i = 0; i < session->n_tenants; i++)
        store_ready(session->tenants[i].store);
    session->healthy_ns = session_now_ns() + HEALTHY_SECONDS * UINT64_C(1000000000);
}

struct session *session_free(struct session *session)
{
    struct id_entry *entry;

    if (!session)
        return NULL;
    calibration_drop_all(session);
    sequence_forget_all(session);
    session->monitor = monitor_free(session->monitor);
    while (session->clients.n && (entry = id_table_next(&session->clients, NULL))) {
        struct client *client = (struct client *)entry;

        id_table_remove(&session->clients, entry);
        assert(client->refs == 1); /* no request is outstanding */
        client_free(client_unref(client));
    }
    for (uint32_t i = 0; i < session->n_workers && session->workers; i++)
        worker_deinit(session, &session->workers[i]);
    for (uint32_t i = 0; i < session->n_makers; i++)
        key_maker_deinit(&session->makers[i]);
    for (uint32_t i = 0; i < session->n_tenants; i++)
        arena_close(&session->tenants[i]);
    scrub_free(session->scrub);
    for (size_t i = 0; i < session->n_profiles; i++)
        profile_put(session, session->profiles[i]);
    free(session->profiles);
    free(session->tenants);
    free(session->makers);
    free(session->workers);
    id_table_deinit(&session->clients);
    id_table_deinit(&session->sequences);
    pthread_mutex_destroy(&session->profiles_mutex);
    pthread_mutex_destroy(&session->mutex);
    free(session);
    return NULL;
}

int session_tenant(struct session *session, const struct session_peer *peer, uint32_t *ret_tenant)
{
    for (uint32_t i = 0; i < session->n_tenants; i++) {
        const struct config_tenant *t = session->tenants[i].config;

        for (uint32_t k = 0; k < t->n_uids; k++) {
            if (t->uids[k] == peer->uid) {
                *ret_tenant = i;
                return 0;
            }
        }
    }
    return 1;
}

/* --- status ----------------------------------------------------------------------------------- */

static void add_tenant(struct status *status, const struct tenant *tenant)
{
    struct store_stats stats;

    store_get_stats(tenant->store, &stats);
    status->arena_bytes += stats.arena_bytes;
    status->arena_used_bytes += stats.used_bytes;
    status->arena_huge_bytes += tenant->arena_huge_bytes;
    status->n_tiles += stats.n_tiles;
    status->tile_stored_bytes += stats.tile_bytes;
    status->tile_numbers += stats.tile_numbers;
    status->tail_bytes += stats.tail_bytes;
    status->tiles_evicted += stats.n_evicted;
    status->fine_dropped += stats.n_fine_dropped;
    status->tokens_evicted += tenant->tokens_evicted;
    status->objects_corrupt += stats.n_corrupt;
    status->scrubbed_bytes += stats.n_scrubbed_bytes;
    status->n_sequences += tenant->n_sequences;
    status->n_clients += tenant->n_clients;
    status->staging_bytes += tenant->staging_reserved;
    status->tokens_appended += tenant->tokens_appended;
    status->tokens_read += tenant->tokens_read;
    status->tokens_shared += tenant->tokens_shared;
    status->lookup_tokens_asked += tenant->lookup_tokens_asked;
    status->lookup_tokens_hit += tenant->lookup_tokens_hit;
    status->errors += tenant->errors;
}

static void add_monitor(struct status *status, struct monitor *monitor, uint32_t tenant)
{
    struct monitor_counts counts;

    monitor_get_counts(monitor, tenant, &counts);
    status->streams_green = counts.n_streams[RISK_GREEN];
    status->streams_yellow = counts.n_streams[RISK_YELLOW];
    status->streams_red = counts.n_streams[RISK_RED];
    status->yellow_entries = counts.yellow_entries;
    status->red_entries = counts.red_entries;
    status->resets = counts.resets;
    status->all_clears = counts.all_clears;
    status->monitor_tiles_dropped = counts.tiles_dropped;
    status->monitor_untracked = counts.sequences_untracked;
    status->monitor_cpu_ns = counts.cpu_ns;
}

static void add_hub(struct status *status, struct hub *hub, uint32_t tenant)
{
    struct hub_counts counts;

    hub_get_counts(hub, tenant, &counts);
    status->subscribers = counts.n_subscribers;
    status->subscriber_lag_events = counts.lag_events;
    status->subscriber_lag_ms = counts.lag_ms;
    status->events_published = counts.n_published;
    status->events_lost = counts.n_lost;
}

void session_status(struct session *session, uint32_t tenant, struct status *ret_status)
{
    struct status status = { .daemon_version = dpq_version(), .tenant = "" };

    status.incarnation = hub_incarnation(session->hub);
    status.uptime_seconds = (double)(session_now_ns() - session->started_ns) / 1e9;
    status.n_workers = session->n_workers;
    pool_counts(session->pool, &status.jobs_queued, &status.jobs_running);
    describe_cpu(session->cpu_mask, status.kernels, sizeof(status.kernels));
    add_monitor(&status, session->monitor, tenant);
    add_hub(&status, session->hub, tenant);
    if (tenant < session->n_tenants) {
        status.tenant = session->tenants[tenant].config->name;
        status.epoch = store_epoch(session->tenants[tenant].store);
    }
    session_lock(session);
    status.n_profiles = session->n_profiles;
    status.n_tenants = session->n_tenants;
    for (uint32_t i = 0; i < session->n_tenants; i++) {
        if (tenant == i || tenant == UINT32_MAX)
            add_tenant(&status, &session->tenants[i]);
    }
    session_unlock(session);
    *ret_status = status;
}
