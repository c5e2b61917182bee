/*
 * Attach: a ticket by gRPC, then descriptors for the ticket on the side socket
 *
 * The side socket stays open: its end is how the daemon learns that this client is gone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients/c/client_call.h"
#include "deltapq/v1/kv_cache.pb-c.h"

enum { PROTOCOL = 1 };

/* Not in the client before all of it is there. */
struct attached {
    int side_fd;
    char *side_socket;
    struct dpq_reader *reader;
    void *staging;
    size_t n_staging_bytes;
};

static void attached_deinit(struct attached *a)
{
    dpq_reader_free(a->reader);
    dpq_unmap(a->staging, a->n_staging_bytes);
    if (a->side_fd >= 0)
        close(a->side_fd);
    free(a->side_socket);
}

static int map_gift(const struct side_gift *gift, bool want_staging, struct attached *a,
                    struct dpq_client_error *error)
{
    struct dpq_fault fault = { 0 };
    int r;

    if (gift->n_fds != (want_staging ? 2 : 1))
        return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "SIDE_SOCKET",
                                "the side socket gave %u descriptors", gift->n_fds);
    r = dpq_reader_new(gift->fds[0], &a->reader, &fault);
    if (r > 0)
        return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "ARENA", "%s", fault.message);
    if (!r && want_staging)
        r = dpq_map_staging(gift->fds[1], &a->staging, &a->n_staging_bytes);
    if (r > 0)
        return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "STAGING",
                                "what came as staging is not a sealed memfd");
    return r;
}

static int redeem(struct dpq_client *client, const Deltapq__V1__AttachReply *reply,
                  struct attached *a, struct dpq_client_error *error)
{
    _cleanup_(side_gift_close) struct side_gift gift = SIDE_GIFT_NULL;
    struct side_request request = { .magic = SIDE_MAGIC, .op = SIDE_ATTACH };
    int r;

    if (reply->ticket.len != sizeof(request.ticket) || !reply->client_id)
        return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "REPLY",
                                "the reply to Attach has no ticket or no client id");
    memcpy(request.ticket, reply->ticket.data, sizeof(request.ticket));
    a->side_socket = strdup(reply->side_socket);
    if (!a->side_socket)
        return -ENOMEM;
    r = side_connect(a->side_socket, client->timeout_ms, &a->side_fd, error);
    if (r)
        return r;
    r = side_ask(a->side_fd, &request, &gift, error);
    if (r)
        return r;
    return map_gift(&gift, reply->staging_bytes > 0, a, error);
}

int dpq_client_attach(struct dpq_client *client, uint64_t staging_bytes,
                      struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    _cleanup_(attached_deinit) struct attached a = { .side_fd = -1 };
    Deltapq__V1__AttachRequest request = DELTAPQ__V1__ATTACH_REQUEST__INIT;
    const Deltapq__V1__AttachReply *reply;
    int r;

    if (client->id)
        return client_error_set(ret_error, DPQ_CLIENT_FAILED_PRECONDITION, "ATTACHED",
                                "this client is attached already");
    request.protocol = PROTOCOL;
    request.staging_bytes = staging_bytes;
    request.client_name = client->name;
    r = client_call(client, "/deltapq.v1.KvCache/Attach", &request.base,
                    &deltapq__v1__attach_reply__descriptor, &message, ret_error);
    if (r)
        return r;
    reply = (const Deltapq__V1__AttachReply *)message;
    r = redeem(client, reply, &a, ret_error);
    if (r)
        return r;
    client->id = reply->client_id;
    client->epoch = reply->epoch;
    client->side_fd = a.side_fd;
    client->side_socket = a.side_socket;
    client->reader = a.reader;
    client->staging = a.staging;
    client->n_staging_bytes = a.n_staging_bytes;
    a = (struct attached){ .side_fd = -1 };
    return 0;
}

void *dpq_client_staging(const struct dpq_client *client, uint64_t *ret_n_bytes)
{
    *ret_n_bytes = client->n_staging_bytes;
    return client->staging;
}
