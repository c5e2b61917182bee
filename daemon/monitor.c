/*
 * The risk thread
 *
 * Tickets make one order of all rings: the thread takes the record with the lowest one that it
 * sees. If tile 4 was put into one ring before tile 5 into another, it is seen as soon as tile 5
 * is; hence the second look before a record is taken.
 *
 * A sequence that is gone is forgotten when everything with a lower ticket than its own has been
 * taken out: it would come back with it. Whoever holds the mutex may take records out.
 */
#include "daemon/monitor.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/monitor_ring.h"
#include "daemon/monitor_table.h"
#include "lib/base/error.h"

enum { RECORDS_AT_ONCE = 16 };

#define MIN_BYTES (UINT64_C(1) << 20)

struct tenant_counts {
    uint64_t yellow_entries, red_entries, resets, all_clears;
};

struct gone {
    struct gone *next;
    uint64_t sequence_id, ticket;
};

struct monitor {
    struct monitor_options options;
    struct monitor_ring *rings; /* [n_workers] */
    uint64_t next_ticket;       /* atomic */
    sem_t wake;
    bool is_asleep, is_stopping; /* atomic */
    uint64_t cpu_ns;             /* atomic */
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t gone_mutex; /* of gone: held for a moment only */
    struct gone *gone;

    pthread_mutex_t mutex; /* of what follows, and the consumers' side of the rings */
    struct monitor_table table;
    struct tenant_counts *tenants; /* [n_tenants] */
    uint8_t *scratch;              /* one record */
    struct event *said;            /* [HUB_BATCH]: of a tile, not yet published */
    uint32_t n_said;
};

/* --- events; locked --------------------------------------------------------------------------- */

static struct event event_of(const struct monitor_tile *tile, enum event_kind kind, uint32_t stream)
{
    return (struct event){ .kind = kind,
                           .tenant = tile->tenant,
                           .id = tile->sequence_id,
                           .a = tile->first_token,
                           .time_unix_ms = tile->time_unix_ms,
                           .risk = { .layer = stream / (2 * tile->n_kv_heads),
                                     .kind = (uint8_t)(stream / tile->n_kv_heads % 2),
                                     .head = stream % tile->n_kv_heads } };
}

static void publish(struct monitor *monitor)
{
    hub_publish_all(monitor->options.hub, monitor->said, monitor->n_said);
    monitor->n_said = 0;
}

/* A tile's go out together: one by one, the first would be sent while the others still come, and
 * these would have to wait for the next message. Of very many, as many as a message holds. */
static void say(struct monitor *monitor, const struct event *event)
{
    monitor->said[monitor->n_said++] = *event;
    if (monitor->n_said == HUB_BATCH)
        publish(monitor);
}

/* @group: after which the zone is another one; 0: before the tile */
static void tell_change(struct monitor *monitor, const struct monitor_tile *tile, uint32_t stream,
                        const struct risk_course *c, uint32_t group)
{
    struct event event = event_of(tile, EVENT_ZONE_CHANGED, stream);
    struct tenant_counts *counts = &monitor->tenants[tile->tenant];

    event.risk.from = group ? c->zone[group - 1] : c->before;
    event.risk.to = c->zone[group];
    event.risk.cause = group ? c->cause : RISK_CAUSE_REPORT;
    event.risk.mu = event.risk.to > event.risk.from ? c->peak : c->mu;
    if (group)
        event.a += (group - 1) * RISK_TILE_GROUP;
    counts->yellow_entries += event.risk.to == RISK_YELLOW && event.risk.from == RISK_GREEN;
    counts->red_entries += event.risk.to == RISK_RED;
    say(monitor, &event);
}

static void tell_resets(struct monitor *monitor, const struct monitor_tile *tile,
                        const struct risk_course *courses)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < tile->n_streams; i++)
        n += courses[i].was_reset;
    monitor->tenants[tile->tenant].resets += n;
    for (uint32_t i = 0; i < tile->n_streams; i++) {
        struct event event = event_of(tile, EVENT_STREAM_RESET, i);

        if (!courses[i].was_reset)
            continue;
        event.risk.cause = courses[i].cause;
        event.b = n == tile->n_streams; /* all: told once */
        say(monitor, &event);
        if (event.b)
            break;
    }
}

static void tell(struct monitor *monitor, const struct monitor_tile *tile,
                 const struct risk_course *courses)
{
    struct event cleared = { .kind = EVENT_ALL_CLEARED,
                             .tenant = tile->tenant,
                             .id = tile->sequence_id,
                             .a = tile->first_token + RISK_TILE_TOKENS,
                             .time_unix_ms = tile->time_unix_ms };
    bool was_clear = true, is_clear = true;

    tell_resets(monitor, tile, courses);
    for (uint32_t group = 0; group <= RISK_TILE_GROUPS; group++)
        for (uint32_t i = 0; i < tile->n_streams; i++)
            if (courses[i].zone[group] != (group ? courses[i].zone[group - 1] : courses[i].before))
                tell_change(monitor, tile, i, &courses[i], group);
    for (uint32_t i = 0; i < tile->n_streams; i++) {
        was_clear = was_clear && courses[i].before == RISK_GREEN;
        is_clear = is_clear && courses[i].zone[RISK_TILE_GROUPS] == RISK_GREEN;
    }
    if (!was_clear && is_clear) {
        monitor->tenants[tile->tenant].all_clears++;
        say(monitor, &cleared);
    }
    publish(monitor);
}

/* --- taking out; locked ----------------------------------------------------------------------- */

static struct monitor_ring *oldest(struct monitor *monitor)
{
    struct monitor_ring *found = NULL, *before;
    uint64_t ticket = UINT64_MAX;

    do {
        before = found;
        for (uint32_t i = 0; i < monitor->options.n_workers; i++) {
            uint64_t t = monitor_ring_ticket(&monitor->rings[i]);

            if (t < ticket) {
                ticket = t;
                found = &monitor->rings[i];
            }
        }
    } while (found != before);
    return found;
}

static bool take_one(struct monitor *monitor)
{
    struct monitor_ring *ring = oldest(monitor);
    const struct risk_course *courses;
    struct monitor_tile tile;

    if (!ring)
        return false;
    monitor_ring_take(ring, monitor->scratch);
    memcpy(&tile, monitor->scratch, sizeof(tile));
    courses = (const struct risk_course *)(const void *)(monitor->scratch + sizeof(tile));
    tell(monitor, &tile, courses);
    monitor_table_set(&monitor->table, &tile, courses);
    return true;
}

/* Those of the gone of whom nothing is in the rings any more. */
static void forget_gone(struct monitor *monitor)
{
    struct gone *due = NULL, **at;
    struct monitor_ring *ring;
    uint64_t ticket;

    pthread_mutex_lock(&monitor->gone_mutex);
    ring = monitor->gone ? oldest(monitor) : NULL; /* not before: what precedes a gone is seen */
    ticket = ring ? monitor_ring_ticket(ring) : UINT64_MAX;
    for (at = &monitor->gone; *at;) {
        struct gone *gone = *at;

        if (gone->ticket > ticket) {
            at = &gone->next;
            continue;
        }
        *at = gone->next;
        gone->next = due;
        due = gone;
    }
    pthread_mutex_unlock(&monitor->gone_mutex);
    while (due) {
        struct gone *gone = due;

        due = gone->next;
        monitor_table_remove(&monitor->table, gone->sequence_id);
        free(gone);
    }
}

static void take_all(struct monitor *monitor)
{
    while (take_one(monitor))
        ;
    forget_gone(monitor);
}

/* --- the thread ------------------------------------------------------------------------------- */

static void note_cpu_time(struct monitor *monitor)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    __atomic_store_n(&monitor->cpu_ns, (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec,
                     __ATOMIC_RELAXED);
}

static bool take_some(struct monitor *monitor)
{
    bool more = true;

    if (monitor->options.before_drain)
        monitor->options.before_drain(monitor->options.user);
    pthread_mutex_lock(&monitor->mutex);
    for (int i = 0; more && i < RECORDS_AT_ONCE; i++)
        more = take_one(monitor);
    forget_gone(monitor);
    pthread_mutex_unlock(&monitor->mutex);
    return more;
}

static bool is_empty(struct monitor *monitor)
{
    bool empty;

    pthread_mutex_lock(&monitor->mutex);
    empty = !oldest(monitor);
    pthread_mutex_unlock(&monitor->mutex);
    pthread_mutex_lock(&monitor->gone_mutex);
    empty = empty && !monitor->gone;
    pthread_mutex_unlock(&monitor->gone_mutex);
    return empty;
}

static void *run(void *user)
{
    struct monitor *monitor = user;

    pthread_setname_np(pthread_self(), "risk");
    while (!__atomic_load_n(&monitor->is_stopping, __ATOMIC_ACQUIRE)) {
        while (take_some(monitor))
            ;
        note_cpu_time(monitor);
        /* All change this word by exchanges, so each sees what came before the one before: either
         * wake() sees this one and posts, or what it was called for is seen below. */
        (void)__atomic_exchange_n(&monitor->is_asleep, true, __ATOMIC_SEQ_CST);
        if (is_empty(monitor) && !__atomic_load_n(&monitor->is_stopping, __ATOMIC_ACQUIRE))
            sem_wait(&monitor->wake); /* interrupted: looks once more */
        (void)__atomic_exchange_n(&monitor->is_asleep, false, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void wake(struct monitor *monitor)
{
    if (__atomic_exchange_n(&monitor->is_asleep, false, __ATOMIC_SEQ_CST))
        sem_post(&monitor->wake);
}

/* --- the interface ---------------------------------------------------------------------------- */

static int monitor_init(struct monitor *monitor)
{
    const struct monitor_options *options = &monitor->options;
    uint64_t n_bytes = options->max_bytes < MIN_BYTES ? MIN_BYTES : options->max_bytes;
    uint64_t n_ring = n_bytes / 2 / options->n_workers;
    int r;

    r = monitor_table_init(&monitor->table, options->n_tenants, n_bytes / 2);
    monitor->rings = calloc(options->n_workers, sizeof(monitor->rings[0]));
    monitor->tenants = calloc(options->n_tenants + 1, sizeof(monitor->tenants[0]));
    if (!r && (!monitor->rings || !monitor->tenants))
        r = error_origin(-ENOMEM);
    for (uint32_t i = 0; !r && i < options->n_workers; i++)
        r = monitor_ring_init(&monitor->rings[i], n_ring);
    if (r)
        return error_fold(r);
    monitor->scratch = malloc(monitor->rings[0].n_bytes);
    monitor->said = calloc(HUB_BATCH, sizeof(monitor->said[0]));
    if (!monitor->scratch || !monitor->said)
        return error_origin(-ENOMEM);
    r = pthread_create(&monitor->thread, NULL, run, monitor);
    monitor->has_thread = !r;
    return r ? error_origin(-r) : 0;
}

int monitor_new(const struct monitor_options *options, struct monitor **ret_monitor)
{
    struct monitor *monitor = calloc(1, sizeof(*monitor));
    int r;

    if (!monitor)
        return error_origin(-ENOMEM);
    monitor->options = *options;
    pthread_mutex_init(&monitor->mutex, NULL);
    pthread_mutex_init(&monitor->gone_mutex, NULL);
    sem_init(&monitor->wake, 0, 0);
    r = monitor_init(monitor);
    if (r) {
        monitor_free(monitor);
        return error_fold(r);
    }
    *ret_monitor = monitor;
    return 0;
}

struct monitor *monitor_free(struct monitor *monitor)
{
    if (!monitor)
        return NULL;
    if (monitor->has_thread) {
        __atomic_store_n(&monitor->is_stopping, true, __ATOMIC_RELEASE);
        sem_post(&monitor->wake);
        pthread_join(monitor->thread, NULL);
        take_all(monitor); /* hence nobody is gone and not forgotten */
    }
    for (uint32_t i = 0; monitor->rings && i < monitor->options.n_workers; i++)
        monitor_ring_deinit(&monitor->rings[i]);
    monitor_table_deinit(&monitor->table);
    free(monitor->scratch);
    free(monitor->said);
    free(monitor->tenants);
    free(monitor->rings);
    sem_destroy(&monitor->wake);
    pthread_mutex_destroy(&monitor->gone_mutex);
    pthread_mutex_destroy(&monitor->mutex);
    free(monitor);
    return NULL;
}

void monitor_push(struct monitor *monitor, uint32_t worker, const struct monitor_tile *tile,
                  const struct risk_course *courses)
{
    uint64_t ticket = __atomic_fetch_add(&monitor->next_ticket, 1, __ATOMIC_RELAXED);
    struct monitor_tile stamped = *tile;

    stamped.time_unix_ms = hub_now_ms(monitor->options.hub);
    if (monitor_ring_put(&monitor->rings[worker], ticket, &stamped, sizeof(stamped), courses,
                         tile->n_streams * sizeof(courses[0])))
        wake(monitor);
}

void monitor_adopt(struct monitor *monitor, const struct monitor_tile *tile, const uint8_t *zones)
{
    struct risk_course *courses = calloc(tile->n_streams, sizeof(*courses));

    if (!courses)
        return; /* not in the map until its next tile */
    for (uint32_t i = 0; i < tile->n_streams; i++)
        courses[i].zone[RISK_TILE_GROUPS] = zones[i];
    pthread_mutex_lock(&monitor->mutex);
    monitor_table_set(&monitor->table, tile, courses);
    pthread_mutex_unlock(&monitor->mutex);
    free(courses);
}

void monitor_forget(struct monitor *monitor, uint64_t sequence_id)
{
    struct gone *gone = malloc(sizeof(*gone));

    if (!gone)
        return; /* stays in the map */
    gone->sequence_id = sequence_id;
    gone->ticket = __atomic_load_n(&monitor->next_ticket, __ATOMIC_RELAXED);
    pthread_mutex_lock(&monitor->gone_mutex);
    gone->next = monitor->gone;
    monitor->gone = gone;
    pthread_mutex_unlock(&monitor->gone_mutex);
    wake(monitor);
}

void monitor_flush(struct monitor *monitor)
{
    pthread_mutex_lock(&monitor->mutex);
    take_all(monitor);
    pthread_mutex_unlock(&monitor->mutex);
}

static void add_tenant(const struct monitor *monitor, uint32_t tenant, struct monitor_counts *to)
{
    const struct tenant_counts *from = &monitor->tenants[tenant];

    for (int zone = 0; zone < RISK_N_ZONES; zone++)
        to->n_streams[zone] += monitor->table.n_streams[tenant][zone];
    to->yellow_entries += from->yellow_entries;
    to->red_entries += from->red_entries;
    to->resets += from->resets;
    to->all_clears += from->all_clears;
}

void monitor_get_counts(struct monitor *monitor, uint32_t tenant, struct monitor_counts *ret_counts)
{
    struct monitor_counts counts = { .cpu_ns =
                                         __atomic_load_n(&monitor->cpu_ns, __ATOMIC_RELAXED) };

    for (uint32_t i = 0; i < monitor->options.n_workers; i++)
        counts.tiles_dropped += __atomic_load_n(&monitor->rings[i].n_dropped, __ATOMIC_RELAXED);
    pthread_mutex_lock(&monitor->mutex);
    for (uint32_t i = 0; i < monitor->options.n_tenants; i++)
        if (tenant == i || tenant == UINT32_MAX)
            add_tenant(monitor, i, &counts);
    counts.n_sequences = monitor->table.n_entries;
    counts.sequences_untracked = monitor->table.n_refused;
    pthread_mutex_unlock(&monitor->mutex);
    *ret_counts = counts;
}

int monitor_heat(struct monitor *monitor, uint32_t tenant, uint64_t profile, uint64_t sequence_id,
                 struct monitor_heat *ret_heat)
{
    int r;

    pthread_mutex_lock(&monitor->mutex);
    r = monitor_table_heat(&monitor->table, tenant, profile, sequence_id, ret_heat);
    pthread_mutex_unlock(&monitor->mutex);
    return error_fold(r);
}
