/*
 * The life of one call
 *
 *     core fills it (on_new) -> method and peer looked up -> {close} and {receive} begin
 *       receive -> handler -> answered: {headers, message, status} in one batch -> close -> freed
 *
 * References are the only rule of life: one for each tag in flight, one for each holder. The close
 * tag comes for every call, good or cancelled, so what must be undone when a call is over hangs on
 * it. A receive or send that comes back with ok = 0 means that the call is dead: nothing is started
 * any more, and the close tag ends it.
 *
 * All tags come back on one thread. Answers come from any: the mutex is around each batch, and held
 * for nothing else. Only the wake is without it: an empty batch touches nothing of the call but its
 * queue, so it may be started under whatever lock the waker holds.
 */
#include "daemon/rpc/rpc_call.h"

#include <assert.h>
#include <errno.h>
#include <grpc/support/alloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/rpc/rpc_error.h"
#include "daemon/rpc/rpc_message.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "lib/base/error.h"

/* --- references ------------------------------------------------------------------------------- */

struct rpc_call *rpc_call_ref(struct rpc_call *call)
{
    __atomic_add_fetch(&call->refs, 1, __ATOMIC_RELAXED);
    return call;
}

static void let_go_request(struct rpc_call *call)
{
    rpc_message_free(call->message);
    call->message = NULL;
    rpc_room_let_go(&call->server->room, &call->request_bytes);
}

static void call_free(struct rpc_call *call)
{
    struct rpc_server *server = call->server;

    if (call->state && call->method->deinit)
        call->method->deinit(call->state);
    free(call->state);
    let_go_request(call);
    rpc_room_let_go(&server->room, &call->reply_bytes);
    if (call->received)
        grpc_byte_buffer_destroy(call->received);
    grpc_metadata_array_destroy(&call->metadata);
    grpc_call_details_destroy(&call->details);
    if (call->core)
        grpc_call_unref(call->core);
    pthread_mutex_destroy(&call->mutex);
    free(call);
    rpc_server_release(server);
}

struct rpc_call *rpc_call_unref(struct rpc_call *call)
{
    if (__atomic_sub_fetch(&call->refs, 1, __ATOMIC_ACQ_REL) == 0)
        call_free(call);
    return NULL;
}

/* --- batches; the mutex held ------------------------------------------------------------------ */

static void start(struct rpc_call *call, const grpc_op *ops, size_t n_ops, struct rpc_tag *tag)
{
    grpc_call_error r;

    rpc_call_ref(call);
    RPC_RELEASE(tag);
    r = grpc_call_start_batch(call->core, ops, n_ops, tag, NULL);
    assert(r == GRPC_CALL_OK); /* else two operations of a kind are in flight: our mistake */
    (void)r;
}

static void receive(struct rpc_call *call)
{
    grpc_op op = { .op = GRPC_OP_RECV_MESSAGE };

    let_go_request(call);
    if (call->method->ends_stalled)
        rpc_stalls_begin(&call->server->stalls, call, /* is_sending= */ false);
    op.data.recv_message.recv_message = &call->received;
    start(call, &op, 1, &call->on_received);
}

static size_t add_headers(struct rpc_call *call, grpc_op *op)
{
    if (call->sent_headers)
        return 0;
    *op = (grpc_op){ .op = GRPC_OP_SEND_INITIAL_METADATA };
    call->sent_headers = true;
    return 1;
}

static size_t add_message(grpc_op *op, grpc_byte_buffer *buffer)
{
    if (!buffer)
        return 0;
    *op = (grpc_op){ .op = GRPC_OP_SEND_MESSAGE };
    op->data.send_message.send_message = buffer;
    return 1;
}

/* What a call ends with. */
struct ending {
    grpc_byte_buffer *buffer; /* the last message; NULL for none */
    grpc_status_code code;
    const char *text;                  /* NULL with OK */
    const struct session_error *error; /* for the details; NULL for none */
};

static void finish(struct rpc_call *call, const struct ending *ending)
{
    grpc_slice text = grpc_empty_slice();
    grpc_metadata details = { .key = grpc_empty_slice(), .value = grpc_empty_slice() };
    grpc_op ops[3] = { 0 }, *status;
    size_t n_ops;

    n_ops = add_headers(call, ops);
    n_ops += add_message(&ops[n_ops], ending->buffer);
    status = &ops[n_ops++];
    *status = (grpc_op){ .op = GRPC_OP_SEND_STATUS_FROM_SERVER };
    status->data.send_status_from_server.status = ending->code;
    if (ending->text) {
        text = grpc_slice_from_copied_string(ending->text);
        status->data.send_status_from_server.status_details = &text;
    }
    if (ending->error) {
        details.key = grpc_slice_from_static_string("grpc-status-details-bin");
        details.value = rpc_error_details(ending->error); /* core makes base64 of it */
        status->data.send_status_from_server.trailing_metadata_count = 1;
        status->data.send_status_from_server.trailing_metadata = &details;
    }
    start(call, ops, n_ops, &call->on_finished);
    grpc_slice_unref(text); /* the batch has references of its own */
    grpc_slice_unref(details.key);
    grpc_slice_unref(details.value);
}

/* Answer, unless that has happened, or nobody waits for it; say whether. Takes the buffer. */
static bool answer(struct rpc_call *call, const struct ending *ending)
{
    bool first;

    pthread_mutex_lock(&call->mutex);
    first = !call->finished;
    call->finished = true;
    if (first)
        finish(call, ending);
    pthread_mutex_unlock(&call->mutex);
    if (ending->buffer)
        grpc_byte_buffer_destroy(ending->buffer);
    return first;
}

static bool answer_error(struct rpc_call *call, const struct session_error *error)
{
    struct session_error clean = *error;

    rpc_error_clean(&clean);
    return answer(call, &(struct ending){ .code = rpc_error_status(clean.code),
                                          .text = clean.message,
                                          .error = &clean });
}

/* --- answers ---------------------------------------------------------------------------------- */

/* Return: 0; 1: there is no room, and the call was answered so. */
static int hold(struct rpc_call *call, const char *what, uint64_t n_bytes, uint64_t *held)
{
    struct rpc_room *room = &call->server->room;
    struct session_error error;

    if (!rpc_room_hold(room, n_bytes, held))
        return 0;
    rpc_error_no_room(&error, what, n_bytes, room->limit_bytes);
    rpc_call_fail(call, &error);
    return 1;
}

/* The same for a buffer, which is gone if there is no room. */
static int hold_buffer(struct rpc_call *call, const char *what, grpc_byte_buffer *buffer,
                       uint64_t *held)
{
    if (!hold(call, what, grpc_byte_buffer_length(buffer), held))
        return 0;
    grpc_byte_buffer_destroy(buffer);
    return 1;
}

void rpc_call_reply(struct rpc_call *call, const ProtobufCMessage *message)
{
    rpc_call_reply_buffer(call, message ? rpc_message_pack(message) : NULL);
}

int rpc_call_hold(struct rpc_call *call, uint64_t n_bytes)
{
    return hold(call, "reply", n_bytes, &call->reply_bytes);
}

void rpc_call_reply_buffer(struct rpc_call *call, grpc_byte_buffer *buffer)
{
    if (buffer && hold_buffer(call, "reply", buffer, &call->reply_bytes))
        return;
    answer(call, &(struct ending){ .buffer = buffer, .code = GRPC_STATUS_OK });
}

void rpc_call_fail(struct rpc_call *call, const struct session_error *error)
{
    if (answer_error(call, error) && call->method->admission == RPC_TENANTS)
        session_count_error(call->server->options.session, call->tenant);
}

void rpc_call_refuse(struct rpc_call *call, enum session_code code, const char *reason,
                     const char *format, ...)
{
    char message[sizeof(((struct session_error *)NULL)->message)];
    struct session_error error;
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    session_error_set(&error, code, reason, "%s", message);
    rpc_call_fail(call, &error);
}

static void work_run(struct job *job, uint32_t worker)
{
    struct rpc_work *work = (struct rpc_work *)job;
    struct rpc_call *call = work->call;

    (void)worker;
    work->run(call);
    rpc_call_unref(call);
}

void rpc_call_work(struct rpc_call *call, struct rpc_work *work, void (*run)(struct rpc_call *call))
{
    struct session_error error;

    *work = (struct rpc_work){ { .run = work_run }, rpc_call_ref(call), run };
    if (!pool_submit(call->server->options.pool, &work->job))
        return;
    session_error_busy(&error);
    rpc_call_fail(call, &error);
    rpc_call_unref(call);
}

void rpc_call_no_memory(struct rpc_call *call)
{
    struct session_error error;

    session_error_set(&error, SESSION_RESOURCE_EXHAUSTED, "MEMORY", "the daemon is out of memory");
    error.retry_ms = 500;
    rpc_call_fail(call, &error);
}

void *rpc_call_state(struct rpc_call *call, size_t n_bytes)
{
    assert(!call->state);
    call->state = calloc(1, n_bytes);
    if (!call->state)
        rpc_call_no_memory(call);
    return call->state;
}

void rpc_call_receive(struct rpc_call *call)
{
    pthread_mutex_lock(&call->mutex);
    if (!call->finished)
        receive(call);
    pthread_mutex_unlock(&call->mutex);
}

void rpc_call_wake(struct rpc_call *call)
{
    if (!__atomic_exchange_n(&call->woken, true, __ATOMIC_ACQ_REL))
        start(call, NULL, 0, &call->on_woken);
}

bool rpc_call_is_dead(const struct rpc_call *call)
{
    return __atomic_load_n(&call->is_dead, __ATOMIC_RELAXED);
}

void rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message)
{
    rpc_call_send_buffer(call, rpc_message_pack(message));
}

void rpc_call_send_buffer(struct rpc_call *call, grpc_byte_buffer *buffer)
{
    grpc_op ops[2];
    size_t n_ops;

    assert(!call->sending);
    if (hold_buffer(call, "reply", buffer, &call->reply_bytes))
        return;
    pthread_mutex_lock(&call->mutex);
    if (!call->finished) {
        call->sending = true;
        if (call->method->ends_stalled)
            rpc_stalls_begin(&call->server->stalls, call, /* is_sending= */ true);
        n_ops = add_headers(call, ops);
        n_ops += add_message(&ops[n_ops], buffer);
        start(call, ops, n_ops, &call->on_sent);
    }
    pthread_mutex_unlock(&call->mutex);
    grpc_byte_buffer_destroy(buffer);
}

/* --- tags; the completion-queue thread, without the mutex ------------------------------------- */

static bool is_finished(struct rpc_call *call)
{
    bool finished;

    pthread_mutex_lock(&call->mutex);
    finished = call->finished;
    pthread_mutex_unlock(&call->mutex);
    return finished;
}

static void no_more_requests(struct rpc_call *call)
{
    if (call->method->half_closed)
        call->method->half_closed(call);
    else if (call->method->kind == RPC_BIDI)
        rpc_call_reply(call, NULL);
    else /* or there was one that core refused as too large: then core's own status has gone out */
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "MESSAGE", "the call has no request");
}

static void on_received(struct rpc_call *call, bool ok)
{
    grpc_byte_buffer *buffer = steal_ptr(call->received);

    if (call->method->ends_stalled)
        rpc_stalls_end(&call->server->stalls, call);
    if (!ok || is_finished(call)) {
        if (buffer)
            grpc_byte_buffer_destroy(buffer);
        return;
    }
    if (!buffer) {
        /* a stream that broke off looks like one that has ended: its requests are not all there */
        if (!grpc_call_failed_before_recv_message(call->core))
            no_more_requests(call);
        return;
    }
    if (hold_buffer(call, "request", buffer, &call->request_bytes))
        return;
    call->message = rpc_message_unpack(call->method->request, buffer);
    grpc_byte_buffer_destroy(buffer);
    if (call->message)
        call->method->handle(call, call->message);
    else
        rpc_call_refuse(call, SESSION_INVALID_ARGUMENT, "MESSAGE",
                        "the request is not a %s message, or takes far more memory than its length",
                        call->method->request->name);
}

static void on_sent(struct rpc_call *call, bool ok)
{
    call->sending = false;
    rpc_room_let_go(&call->server->room, &call->reply_bytes);
    if (call->method->ends_stalled)
        rpc_stalls_end(&call->server->stalls, call);
    if (!ok || is_finished(call))
        return;
    if (call->method->sent)
        call->method->sent(call);
    else if (call->method->kind == RPC_BIDI)
        rpc_call_receive(call); /* only now, so that a client that does not read is not read */
}

static void on_finished(struct rpc_call *call, bool ok)
{
    (void)call;
    (void)ok;
}

static void on_woken(struct rpc_call *call, bool ok)
{
    (void)ok;
    /* before looking for work: what comes from now on wakes again */
    __atomic_store_n(&call->woken, false, __ATOMIC_RELEASE);
    if (call->method->woken && !is_finished(call))
        call->method->woken(call);
}

static void on_closed(struct rpc_call *call, bool ok)
{
    (void)ok;
    if (call->cancelled)
        __atomic_store_n(&call->is_dead, true, __ATOMIC_RELAXED);
    pthread_mutex_lock(&call->mutex);
    call->finished = true; /* no status is owed to a cancelled call */
    pthread_mutex_unlock(&call->mutex);
    if (call->method->over && call->state)
        call->method->over(call);
}

/* Peers of our own accepting are called "fd:N". Nowhere promised: what is not that is nobody. */
static int identify(struct rpc_call *call)
{
    const struct rpc_server_options *options = &call->server->options;
    char *name = grpc_call_get_peer(call->core), *end;
    long fd = -1;

    if (name && !strncmp(name, "fd:", 3) && name[3] >= '0' && name[3] <= '9') {
        fd = strtol(name + 3, &end, 10);
        if (*end || fd > INT32_MAX)
            fd = -1;
    }
    gpr_free(name);
    if (fd < 0 || options->peer(options->user, (int)fd, &call->peer))
        return 1;
    return session_tenant(options->session, &call->peer, &call->tenant);
}

static const struct rpc_method unknown_method = { .path = "?", .admission = RPC_ANYONE };

static void begin(struct rpc_call *call)
{
    if (call->method == &unknown_method) {
        answer(call, &(struct ending){ .code = GRPC_STATUS_UNIMPLEMENTED,
                                       .text = "there is no such method" });
        return;
    }
    if (call->method->admission == RPC_TENANTS && identify(call)) {
        struct session_error error;

        session_error_set(&error, SESSION_PERMISSION_DENIED, "PEER",
                          "the caller's user belongs to no tenant");
        answer_error(call, &error); /* counted for nobody */
        return;
    }
    rpc_call_receive(call);
}

static void on_new(struct rpc_call *call, bool ok)
{
    grpc_op op = { .op = GRPC_OP_RECV_CLOSE_ON_SERVER };

    call->server->n_waiting--;
    if (!ok)
        return; /* the server is going down */
    rpc_server_top_up(call->server);
    call->method = rpc_method_find(call->details.method);
    if (!call->method)
        call->method = &unknown_method;
    op.data.recv_close_on_server.cancelled = &call->cancelled;
    pthread_mutex_lock(&call->mutex);
    start(call, &op, 1, &call->on_closed);
    pthread_mutex_unlock(&call->mutex);
    begin(call);
}

int rpc_call_request(struct rpc_server *server)
{
    struct rpc_call *call = calloc(1, sizeof(*call));
    grpc_call_error r;

    if (!call)
        return error_origin(-ENOMEM);
    call->server = server;
    call->refs = 1; /* the tag's */
    call->on_new = (struct rpc_tag){ on_new, call };
    call->on_received = (struct rpc_tag){ on_received, call };
    call->on_sent = (struct rpc_tag){ on_sent, call };
    call->on_finished = (struct rpc_tag){ on_finished, call };
    call->on_closed = (struct rpc_tag){ on_closed, call };
    call->on_woken = (struct rpc_tag){ on_woken, call };
    pthread_mutex_init(&call->mutex, NULL);
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    __atomic_add_fetch(&server->n_live, 1, __ATOMIC_RELAXED);
    RPC_RELEASE(&call->on_new);
    r = grpc_server_request_call(server->core, &call->core, &call->details, &call->metadata,
                                 server->queue, server->queue, &call->on_new);
    assert(r == GRPC_CALL_OK);
    (void)r;
    return 0;
}
