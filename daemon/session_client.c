/*
 * Clients: from Attach to the end of their side-socket connection
 *
 *     TICKET --redeem--> REDEEMING --> LIVE --gone--> GONE, until the last job lets go
 *        `--- nobody came in time ---------------------^
 *
 * Staging is counted against the tenant's limits from Attach on and made when the ticket is shown.
 * It stays mapped as long as a job may touch it, whatever its client does meanwhile.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/hub.h"
#include "daemon/log.h"
#include "daemon/session_keep.h"
#include "lib/base/error.h"

struct client *client_find(struct session *session, uint32_t tenant, uint64_t client_id)
{
    struct client *client = (struct client *)id_table_find(&session->clients, client_id);

    return client && client->tenant->index == tenant ? client : NULL;
}

struct client *client_unref(struct client *client)
{
    assert(client->refs > 0);
    if (--client->refs > 0)
        return NULL;
    client->tenant->staging_reserved -= client->staging_bytes;
    return client;
}

struct client *client_free(struct client *client)
{
    if (!client)
        return NULL;
    map_close(&client->staging);
    free(client);
    return NULL;
}

/* --- attach ----------------------------------------------------------------------------------- */

static int attach_check(const struct tenant *tenant, struct session_attach *op)
{
    const struct config_tenant *config = tenant->config;
    uint64_t total = tenant->staging_total_bytes, reserved = tenant->staging_reserved;
    uint64_t left = total > reserved ? total - reserved : 0; /* a reload may have lowered it */

    if (op->protocol != PROTOCOL) {
        session_error_set(&op->error, SESSION_FAILED_PRECONDITION, "PROTOCOL",
                          "protocol %u is not served: this daemon speaks protocol %d", op->protocol,
                          PROTOCOL);
    } else if (op->staging_bytes > tenant->staging_bytes) {
        session_error_set(&op->error, SESSION_RESOURCE_EXHAUSTED, "STAGING",
                          "staging_bytes %llu is more than tenant %s allows a client: %llu",
                          (unsigned long long)op->staging_bytes, config->name,
                          (unsigned long long)tenant->staging_bytes);
    } else if (op->ret_staging_bytes > left || tenant->n_clients >= MAX_CLIENTS) {
        session_error_set(&op->error, SESSION_RESOURCE_EXHAUSTED, "STAGING",
                          "staging_bytes %llu: tenant %s has %llu left of %llu, with %llu clients",
                          (unsigned long long)op->staging_bytes, config->name,
                          (unsigned long long)left, (unsigned long long)total,
                          (unsigned long long)tenant->n_clients);
        op->error.retry_ms = 5 * RETRY_MS;
    } else {
        return 0;
    }
    return 1;
}

static void attach_locked(struct session *session, struct session_attach *op, struct client *client)
{
    struct tenant *tenant = client->tenant;

    client->entry.id = session_new_id(session);
    client->refs = 1;
    client->staging_bytes = op->ret_staging_bytes;
    tenant->staging_reserved += client->staging_bytes;
    tenant->n_clients++;
    id_table_add(&session->clients, &client->entry);

    op->client_id = client->entry.id;
    memcpy(op->ticket, client->ticket, sizeof(op->ticket));
    op->side_socket = session->side_socket;
    op->epoch = store_epoch(tenant->store);
    op->tenant_name = tenant->config->name;
    op->max_inline_bytes = SESSION_MAX_INLINE_BYTES;
}

void session_attach(struct session *session, struct session_attach *op)
{
    struct tenant *tenant = &session->tenants[op->tenant];
    struct client *client = calloc(1, sizeof(*client));
    struct store_stats stats;
    int r;

    session_error_clear(&op->error);
    if (!client) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Attach");
        return;
    }
    *client = (struct client){
        .tenant = tenant,
        .peer = op->peer,
        .staging = MAP_NULL,
        .ticket_until_ns =
            session_now_ns() + session->config->ticket_seconds * UINT64_C(1000000000),
    };
    snprintf(client->name, sizeof(client->name), "%s", op->client_name);
    r = hash_random(client->ticket, sizeof(client->ticket));
    if (r) {
        session_error_fault(&op->error, error_fold(r), "Attach");
        free(client);
        return;
    }
    store_get_stats(tenant->store, &stats);
    op->arena_bytes = stats.arena_bytes;

    session_lock(session);
    op->ret_staging_bytes =
        op->staging_bytes <= tenant->staging_bytes ? align_up(op->staging_bytes, 4096) : 0;
    r = attach_check(tenant, op);
    if (!r)
        attach_locked(session, op, client);
    session_unlock(session);
    if (r) {
        free(client);
        return;
    }

    struct event event = { .kind = EVENT_CLIENT_ATTACHED, .tenant = op->tenant };

    event.id = op->client_id;
    snprintf(event.text, sizeof(event.text), "%s", op->client_name);
    hub_publish(session->hub, &event);
    log_debug("client %016llx attached: uid %u, pid %d, tenant %s, %llu bytes of staging",
              (unsigned long long)op->client_id, (unsigned)op->peer.uid, (int)op->peer.pid,
              op->tenant_name, (unsigned long long)op->ret_staging_bytes);
}

/* --- the ticket is shown ---------------------------------------------------------------------- */

/* in time that does not depend on how much of it is right */
static bool same_ticket(const uint8_t *a, const uint8_t *b)
{
    uint8_t differs = 0;

    for (int i = 0; i < 16; i++)
        differs |= a[i] ^ b[i];
    return differs == 0;
}

static struct client *find_ticket(struct session *session, const uint8_t ticket[16])
{
    struct id_entry *entry = NULL;

    while ((entry = id_table_next(&session->clients, entry))) {
        struct client *client = (struct client *)entry;

        if (client->state == CLIENT_TICKET && same_ticket(client->ticket, ticket))
            return client;
    }
    return NULL;
}

static int redeem_begin(struct session *session, const uint8_t ticket[16],
                        const struct session_peer *peer, struct client **ret_client,
                        struct session_error *ret_error)
{
    struct client *client = find_ticket(session, ticket);

    if (!client || client->ticket_until_ns <= session_now_ns()) {
        session_error_set(ret_error, SESSION_NOT_FOUND, "TICKET",
                          "this ticket was not given out, was shown before, or is older than %u s",
                          session->config->ticket_seconds);
        return 1;
    }
    if (client->peer.uid != peer->uid) {
        session_error_set(ret_error, SESSION_PERMISSION_DENIED, "TICKET",
                          "this ticket was given to another uid than %u", (unsigned)peer->uid);
        return 1;
    }
    client->state = CLIENT_REDEEMING;
    client->refs++;
    *ret_client = client;
    return 0;
}

int session_redeem(struct session *session, const uint8_t ticket[16],
                   const struct session_peer *peer, struct session_fds *ret_fds,
                   struct session_error *ret_error)
{
    struct map staging = MAP_NULL;
    struct store_stats stats;
    struct client *client, *dead;
    int r;

    session_lock(session);
    r = redeem_begin(session, ticket, peer, &client, ret_error);
    session_unlock(session);
    if (r)
        return 1;

    if (client->staging_bytes)
        r = map_create("deltapq-staging", client->staging_bytes, &staging);
    if (r == MAP_E_MEMORY) {
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "STAGING",
                          "no memory for %llu bytes of staging",
                          (unsigned long long)client->staging_bytes);
        ret_error->retry_ms = 5 * RETRY_MS;
    } else if (r) {
        session_error_fault(ret_error, error_fold(r), "staging");
    }
    session_lock(session);
    if (!r) {
        client->staging = staging;
        client->state = CLIENT_LIVE;
    } else {
        client->state = CLIENT_TICKET; /* may be tried again until it expires */
    }
    dead = client_unref(client);
    session_unlock(session);
    assert(!dead); /* the table's reference goes with session_client_gone(), after this */
    if (r)
        return 1;

    store_get_stats(client->tenant->store, &stats);
    *ret_fds = (struct session_fds){
        .client_id = client->entry.id,
        .staging_fd = client->staging.fd,
        .staging_bytes = client->staging.n_bytes,
        .arena_fd = store_ro_fd(client->tenant->store),
        .arena_bytes = stats.arena_bytes,
    };
    return 0;
}

/* --- the end ---------------------------------------------------------------------------------- */

void session_client_gone(struct session *session, uint64_t client_id)
{
    struct event event = { .kind = EVENT_CLIENT_GONE, .id = client_id };
    struct client *client;

    session_lock(session);
    client = (struct client *)id_table_find(&session->clients, client_id);
    if (!client) {
        session_unlock(session);
        return;
    }
    id_table_remove(&session->clients, &client->entry);
    client->state = CLIENT_GONE;
    client->tenant->n_clients--;
    event.tenant = client->tenant->index;
    event.a = client->staging_bytes;
    client = client_unref(client);
    session_unlock(session);
    client_free(client);

    event.b = sequence_owner_gone(session, client_id);
    hub_publish(session->hub, &event);
    log_debug("client %016llx gone, with %llu unused sequences", (unsigned long long)client_id,
              (unsigned long long)event.b);
}

/* a client whose ticket nobody showed; 0: none */
static uint64_t find_expired(struct session *session, uint64_t now_ns)
{
    struct id_entry *entry = NULL;

    while ((entry = id_table_next(&session->clients, entry))) {
        const struct client *client = (const struct client *)entry;

        if (client->state == CLIENT_TICKET && client->ticket_until_ns <= now_ns)
            return entry->id;
    }
    return 0;
}

void session_tick(struct session *session, uint64_t now_ns)
{
    for (;;) {
        uint64_t client_id;

        session_lock(session);
        client_id = find_expired(session, now_ns);
        session_unlock(session);
        if (!client_id)
            break;
        session_client_gone(session, client_id);
    }
    sequence_pins_tick(session, now_ns);
    calibration_tick(session, now_ns);
    scrub_tick(session);
    if (!session->healthy_ns || now_ns < session->healthy_ns)
        return;
    session->healthy_ns = 0;
    for (uint32_t i = 0; i < session->n_tenants; i++)
        store_healthy(session->tenants[i].store);
}

/* --- numbers of a request --------------------------------------------------------------------- */

static int acquire_staging(struct session *session, uint32_t tenant, uint64_t client_id,
                           struct numbers *ret_numbers, struct session_error *ret_error)
{
    struct client *client;
    int r = 1;

    session_lock(session);
    client = client_find(session, tenant, client_id);
    if (!client) {
        session_error_set(ret_error, SESSION_NOT_FOUND, "CLIENT", "client_id %llu is not attached",
                          (unsigned long long)client_id);
    } else if (client->state != CLIENT_LIVE || !client->staging.bytes) {
        session_error_set(ret_error, SESSION_FAILED_PRECONDITION, "CLIENT",
                          "client_id %llu has no staging segment: %s",
                          (unsigned long long)client_id,
                          client->staging_bytes ? "its ticket was not shown on the side socket"
                                                : "it asked for none");
    } else {
        client->refs++;
        *ret_numbers = (struct numbers){ client, client->staging.bytes, client->staging.n_bytes };
        r = 0;
    }
    session_unlock(session);
    return r;
}

int numbers_acquire(struct session *session, uint32_t tenant, const struct session_numbers *from,
                    const struct dpq_geometry *geometry, uint32_t n_layers, uint32_t n_tokens,
                    struct numbers *ret_numbers, struct session_error *ret_error)
{
    struct numbers numbers = { NULL, from->inline_bytes, from->n_inline_bytes };
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };

    if (from->client_id && acquire_staging(session, tenant, from->client_id, &numbers, ret_error))
        return 1;
    if (dpq_tensor_check(&from->tensor, geometry, n_layers, n_tokens, numbers.n_bytes, &fault)) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "TENSOR",
                          "tensor: %s (the %s has %llu bytes)", fault.message,
                          numbers.client ? "staging segment" : "inline data",
                          (unsigned long long)numbers.n_bytes);
        numbers_release(session, &numbers);
        return 1;
    }
    *ret_numbers = numbers;
    return 0;
}

void numbers_release(struct session *session, struct numbers *numbers)
{
    struct client *client = numbers->client;

    *numbers = (struct numbers){ 0 };
    if (!client)
        return;
    session_lock(session);
    client = client_unref(client);
    session_unlock(session);
    client_free(client);
}

struct dpq_tensor tensor_from_token(const struct dpq_tensor *tensor, uint64_t n)
{
    struct dpq_tensor t = *tensor;

    /* of an element that was judged to lie inside: right modulo 2^64, whatever the signs */
    t.offset += (uint64_t)t.stride_token * n;
    return t;
}

struct dpq_tensor tensor_canonical(const struct dpq_geometry *g, uint32_t dtype)
{
    int64_t token = (int64_t)dpq_row_bytes(g, dtype), layer = token / g->n_layers;

    return (struct dpq_tensor){ .dtype = dtype,
                                .stride_layer = layer,
                                .stride_kind = layer / 2,
                                .stride_head = layer / 2 / g->n_kv_heads,
                                .stride_token = token };
}
