/* A client's life. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "clients/c/client_call.h"

enum { DEFAULT_TIMEOUT_MS = 30000 };

DEFINE_CLEANUP(struct dpq_client *, dpq_client_free);

static int judge(const struct dpq_client_options *options, struct dpq_client_error *error)
{
    size_t n_path = options->socket_path ? strlen(options->socket_path) : 0;

    if (!n_path || n_path >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return client_error_set(error, DPQ_CLIENT_INVALID_ARGUMENT, "SOCKET_PATH",
                                "the socket's path has %zu bytes; 1 to %zu can be used", n_path,
                                sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
    if (options->name && strlen(options->name) > 63)
        return client_error_set(error, DPQ_CLIENT_INVALID_ARGUMENT, "NAME",
                                "the client's name has more than 63 bytes");
    return 0;
}

int dpq_client_new(const struct dpq_client_options *options, struct dpq_client **ret_client,
                   struct dpq_client_error *ret_error)
{
    _cleanup_(dpq_client_freep) struct dpq_client *c = NULL;
    int r;

    r = judge(options, ret_error);
    if (r)
        return r;
    c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    pthread_mutex_init(&c->mutex, NULL);
    c->side_fd = -1;
    c->timeout_ms = options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    snprintf(c->name, sizeof(c->name), "%s", options->name ? options->name : "");
    snprintf(c->socket_path, sizeof(c->socket_path), "%s", options->socket_path);
    c->channel = client_channel_new(options->socket_path, false);
    if (!c->channel)
        return -ENOMEM;
    *ret_client = steal_ptr(c);
    return 0;
}

struct dpq_client *dpq_client_free(struct dpq_client *client)
{
    if (!client)
        return NULL;
    client_profiles_free(client);
    dpq_reader_free(client->reader);
    dpq_unmap(client->staging, client->n_staging_bytes);
    if (client->side_fd >= 0)
        close(client->side_fd);
    client_channel_free(client->channel);
    free(client->side_socket);
    pthread_mutex_destroy(&client->mutex);
    free(client);
    return NULL;
}
