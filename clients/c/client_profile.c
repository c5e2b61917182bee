/*
 * Profiles, as the daemon's sealed files
 *
 * Each is fetched once, on a connection of its own to the side socket, and kept. The list only
 * grows, so what is found in it stays valid without a lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients/c/client.h"

static struct client_profile *profile_close(struct client_profile *p)
{
    if (!p)
        return NULL;
    dpq_profile_free(p->profile);
    dpq_unmap(p->bytes, p->n_bytes);
    free(p);
    return NULL;
}

DEFINE_CLEANUP(struct client_profile *, profile_close);

void client_profiles_free(struct dpq_client *client)
{
    for (struct client_profile *p = client->profiles, *next; p; p = next) {
        next = p->next;
        profile_close(p);
    }
    client->profiles = NULL;
}

static struct client_profile *find(struct dpq_client *client, const uint8_t id[32])
{
    struct client_profile *p;

    pthread_mutex_lock(&client->mutex);
    for (p = client->profiles; p; p = p->next)
        if (!memcmp(p->id, id, sizeof(p->id)))
            break;
    pthread_mutex_unlock(&client->mutex);
    return p;
}

static int ask(struct dpq_client *client, const uint8_t id[32], struct side_gift *ret_gift,
               struct dpq_client_error *error)
{
    struct side_request request = { .magic = SIDE_MAGIC, .op = SIDE_PROFILE };
    int fd, r;

    if (!client->side_socket)
        return client_error_set(error, DPQ_CLIENT_FAILED_PRECONDITION, "ATTACHED",
                                "attach before profiles are fetched");
    memcpy(request.digest, id, sizeof(request.digest));
    r = side_connect(client->side_socket, client->timeout_ms, &fd, error);
    if (r)
        return r;
    r = side_ask(fd, &request, ret_gift, error);
    close(fd);
    return r;
}

static int fetch(struct dpq_client *client, const uint8_t id[32],
                 struct client_profile **ret_profile, struct dpq_client_error *error)
{
    _cleanup_(side_gift_close) struct side_gift gift = SIDE_GIFT_NULL;
    _cleanup_(profile_closep) struct client_profile *p = calloc(1, sizeof(*p));
    struct dpq_fault fault = { 0 };
    int r;

    if (!p)
        return -ENOMEM;
    r = ask(client, id, &gift, error);
    if (r)
        return r;
    r = gift.n_fds == 1 ? dpq_map_profile(gift.fds[0], &p->bytes, &p->n_bytes) : DPQ_E_CORRUPT;
    if (r > 0)
        return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "PROFILE",
                                "what came as a profile is not a sealed memfd");
    if (!r)
        r = dpq_profile_open(p->bytes, p->n_bytes, &p->profile, &fault);
    if (r > 0)
        return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "PROFILE", "%s", fault.message);
    if (r)
        return r;
    if (memcmp(dpq_profile_digest(p->profile), id, sizeof(p->id)))
        return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "PROFILE",
                                "the profile that came is another one");
    memcpy(p->id, id, sizeof(p->id));
    *ret_profile = steal_ptr(p);
    return 0;
}

int dpq_client_profile(struct dpq_client *client, const uint8_t profile_id[32],
                       const struct dpq_profile **ret_profile, struct dpq_client_error *ret_error)
{
    struct client_profile *p = find(client, profile_id);
    int r;

    if (!p) {
        r = fetch(client, profile_id, &p, ret_error);
        if (r)
            return r;
        pthread_mutex_lock(&client->mutex); /* two threads may have fetched it: harmless */
        p->next = client->profiles;
        client->profiles = p;
        pthread_mutex_unlock(&client->mutex);
    }
    *ret_profile = p->profile;
    return 0;
}
