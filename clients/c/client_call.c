/*
 * One unary call: a single batch of six operations on a completion queue of its own
 *
 * A queue for each call lets any number of threads call at the same time; making one costs little
 * beside the call. All six operations complete together, also on an error or past the deadline.
 */
#include "clients/c/client_call.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>

enum { MAX_MESSAGE_BYTES = (4 << 20) + 4096 };

/* What a call holds; the batch fills the second half. */
struct unary {
    grpc_call *call;
    grpc_completion_queue *queue;
    grpc_byte_buffer *request;

    grpc_byte_buffer *reply;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice details;
};

struct grpc_channel *client_channel_new(const char *path, bool for_events)
{
    grpc_arg args[] = {
        { .type = GRPC_ARG_INTEGER,
          .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
          .value.integer = MAX_MESSAGE_BYTES },
        { .type = GRPC_ARG_INTEGER, /* each client has a connection of its own */
          .key = (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL,
          .value.integer = 1 },
        { .type = GRPC_ARG_INTEGER, /* a daemon that restarts is back within a second */
          .key = (char *)GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS,
          .value.integer = 100 },
        { .type = GRPC_ARG_INTEGER,
          .key = (char *)GRPC_ARG_MAX_RECONNECT_BACKOFF_MS,
          .value.integer = 1000 },
        { .type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_HTTP2_BDP_PROBE, .value.integer = 0 },
        { .type = GRPC_ARG_INTEGER,
          .key = (char *)GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES,
          .value.integer = 16384 },
    };
    enum { FOR_EVENTS = 2 }; /* at the end */
    grpc_channel_args list = { .num_args = ARRAY_SIZE(args) - (for_events ? 0 : FOR_EVENTS),
                               .args = args };
    grpc_channel_credentials *credentials;
    grpc_channel *channel;
    char target[128];

    snprintf(target, sizeof(target), "unix:%s", path);
    grpc_init();
    credentials = grpc_insecure_credentials_create();
    channel = grpc_channel_create(target, credentials, &list);
    grpc_channel_credentials_release(credentials);
    if (!channel)
        grpc_shutdown();
    return channel;
}

void client_channel_free(struct grpc_channel *channel)
{
    if (!channel)
        return;
    grpc_channel_destroy(channel);
    grpc_shutdown();
}

/* --- parts ------------------------------------------------------------------------------------ */

grpc_byte_buffer *client_pack(const ProtobufCMessage *message)
{
    grpc_slice bytes = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
    grpc_byte_buffer *buffer;

    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(bytes));
    buffer = grpc_raw_byte_buffer_create(&bytes, 1);
    grpc_slice_unref(bytes);
    return buffer;
}

int client_unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *type,
                  ProtobufCMessage **ret_message, struct dpq_client_error *error)
{
    grpc_byte_buffer_reader reader;
    ProtobufCMessage *message = NULL;
    grpc_slice bytes;

    if (buffer && grpc_byte_buffer_reader_init(&reader, buffer)) {
        bytes = grpc_byte_buffer_reader_readall(&reader);
        message = protobuf_c_message_unpack(type, NULL, GRPC_SLICE_LENGTH(bytes),
                                            GRPC_SLICE_START_PTR(bytes));
        grpc_slice_unref(bytes);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    if (!message)
        return client_error_set(error, DPQ_CLIENT_DATA_LOSS, "REPLY",
                                "the reply is not a %s that can be read", type->short_name);
    *ret_message = message;
    return 0;
}

int client_refused(grpc_status_code status, grpc_slice details, const grpc_metadata_array *trailing,
                   struct dpq_client_error *error)
{
    int code = (int)status > 0 && (int)status <= DPQ_CLIENT_UNAUTHENTICATED ? (int)status
                                                                            : DPQ_CLIENT_UNKNOWN;
    char reason[32] = "";

    for (size_t i = 0; i < trailing->count; i++) {
        const grpc_metadata *m = &trailing->metadata[i];

        if (!grpc_slice_str_cmp(m->key, "grpc-status-details-bin"))
            client_error_reason(GRPC_SLICE_START_PTR(m->value), GRPC_SLICE_LENGTH(m->value),
                                reason);
    }
    return client_error_set(error, code, reason, "%.*s", (int)GRPC_SLICE_LENGTH(details),
                            (const char *)GRPC_SLICE_START_PTR(details));
}

/* --- one call --------------------------------------------------------------------------------- */

static void unary_deinit(struct unary *u)
{
    if (u->reply)
        grpc_byte_buffer_destroy(u->reply);
    grpc_byte_buffer_destroy(u->request);
    grpc_slice_unref(u->details);
    grpc_metadata_array_destroy(&u->initial);
    grpc_metadata_array_destroy(&u->trailing);
    grpc_call_unref(u->call);
    grpc_completion_queue_destroy(u->queue);
}

static void unary_init(struct unary *u, struct dpq_client *client, const char *method,
                       const ProtobufCMessage *request)
{
    gpr_timespec deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                         gpr_time_from_millis(client->timeout_ms, GPR_TIMESPAN));
    grpc_slice path = grpc_slice_from_copied_string(method);

    *u = (struct unary){ .request = client_pack(request), .details = grpc_empty_slice() };
    grpc_metadata_array_init(&u->initial);
    grpc_metadata_array_init(&u->trailing);
    u->queue = grpc_completion_queue_create_for_pluck(NULL);
    u->call = grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, u->queue,
                                       path, NULL, deadline, NULL);
    grpc_slice_unref(path);
}

static bool unary_run(struct unary *u)
{
    grpc_op ops[] = {
        { .op = GRPC_OP_SEND_INITIAL_METADATA },
        { .op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = u->request },
        { .op = GRPC_OP_SEND_CLOSE_FROM_CLIENT },
        { .op = GRPC_OP_RECV_INITIAL_METADATA,
          .data.recv_initial_metadata.recv_initial_metadata = &u->initial },
        { .op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &u->reply },
        { .op = GRPC_OP_RECV_STATUS_ON_CLIENT,
          .data.recv_status_on_client = { .trailing_metadata = &u->trailing,
                                          .status = &u->status,
                                          .status_details = &u->details } },
    };

    if (grpc_call_start_batch(u->call, ops, ARRAY_SIZE(ops), u, NULL) != GRPC_CALL_OK)
        return false;
    grpc_completion_queue_pluck(u->queue, u, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    return true;
}

int client_call(struct dpq_client *client, const char *method, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *reply_type, ProtobufCMessage **ret_reply,
                struct dpq_client_error *error)
{
    struct unary u;
    int r;

    unary_init(&u, client, method, request);
    if (!unary_run(&u))
        r = client_error_set(error, DPQ_CLIENT_INTERNAL, "", "the call could not be started");
    else if (u.status != GRPC_STATUS_OK)
        r = client_refused(u.status, u.details, &u.trailing, error);
    else
        r = client_unpack(u.reply, reply_type, ret_reply, error);
    unary_deinit(&u);
    return r;
}

ProtobufCMessage *client_message_free(ProtobufCMessage *message)
{
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
    return NULL;
}
