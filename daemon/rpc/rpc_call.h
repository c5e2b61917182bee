#pragma once

/*
 * One call, as its handler sees it
 *
 *     new -> peer known? -> request(s) -> handler … done -> answered -> over
 *                                   `-> cancelled by the client -----^
 *
 * Handlers run on the one completion-queue thread and must not take longer than some 50 us. What
 * takes longer is a job: rpc_call_ref() before, then on any thread rpc_call_reply() or
 * rpc_call_fail(), rpc_call_unref(). The first answer wins; to a cancelled call none is sent, and
 * answering it is no mistake. Memory that a job works on belongs to the call: its state and its
 * request live until the last reference is gone.
 */

#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>
#include <pthread.h>
#include <stdbool.h>

#include "daemon/rpc/rpc_stall.h"
#include "daemon/session.h"
#include "daemon/work.h"
#include "lib/base/defs.h"

struct rpc_call;
struct rpc_server;

enum rpc_kind {
    RPC_UNARY,
    RPC_SERVER_STREAM,
    RPC_CLIENT_STREAM, /* the handler asks for the next request by rpc_call_receive() */
    RPC_BIDI,          /* the next request is received when the answer to the last has been taken */
};

enum rpc_admission {
    RPC_TENANTS, /* peers that belong to a tenant; others get PERMISSION_DENIED */
    RPC_ANYONE,  /* whoever was let in by the acceptor */
};

struct rpc_method {
    const char *path;
    enum rpc_kind kind;
    enum rpc_admission admission;
    const ProtobufCMessageDescriptor *request;
    bool ends_stalled; /* see rpc_stall.h; RPC_TENANTS only */
    /* A request has come: call->message. Ends in a reply or a failure, now or later. */
    void (*handle)(struct rpc_call *call, const void *message);
    void (*half_closed)(struct rpc_call *call); /* no more requests; default: status OK */
    void (*sent)(struct rpc_call *call);        /* what was sent has been taken */
    void (*woken)(struct rpc_call *call);       /* after rpc_call_wake(); wakes coalesce */
    /* Only with a state: */
    void (*over)(struct rpc_call *call); /* once, however it ended; jobs may still run */
    void (*deinit)(void *state);         /* with the last reference; any thread */
};

/* What comes back from the completion queue. Each call has one of each use. */
struct rpc_tag {
    void (*fn)(struct rpc_call *call, bool ok);
    struct rpc_call *call;
};

struct rpc_call {
    struct rpc_server *server;
    const struct rpc_method *method;
    uint32_t tenant; /* RPC_TENANTS only, as peer is */
    struct session_peer peer;
    void *state;               /* the handler's own: rpc_call_state() */
    ProtobufCMessage *message; /* the latest request; until the next is waited for, or the end */
    bool sending;              /* a message is on its way out: for the completion-queue thread */
    /* rpc_call.c's: */
    grpc_call *core;
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_byte_buffer *received;
    struct rpc_tag on_new, on_received, on_sent, on_finished, on_closed, on_woken;
    uint32_t refs; /* atomic: tags in flight and holders; at 0 the call is freed */
    bool woken;    /* atomic: the wake tag is in the queue */
    bool is_dead;  /* atomic: cancelled */
    int cancelled; /* core's, written before the close tag comes */
    struct rpc_stall stall;
    uint64_t request_bytes, reply_bytes; /* rpc_room.h */
    /* the mutex guards what follows, and grpc_call_start_batch(), which is not safe per call */
    pthread_mutex_t mutex;
    bool sent_headers, finished;
};

/* --- for handlers, jobs and wakers ------------------------------------------------------------ */

struct rpc_call *rpc_call_ref(struct rpc_call *call);
struct rpc_call *rpc_call_unref(struct rpc_call *call); /* returns NULL */

/** rpc_call_state() - make call->state: zeroed, freed with the call. NULL: the call was answered so
 */
void *rpc_call_state(struct rpc_call *call, size_t n_bytes);

/* What a worker does for a call: part of its state. */
struct rpc_work {
    struct job job; /* first: rpc_call.c */
    struct rpc_call *call;
    void (*run)(struct rpc_call *call);
};

/** rpc_call_work() - @run answers on a worker, or the call is refused: the queue is full */
void rpc_call_work(struct rpc_call *call, struct rpc_work *work,
                   void (*run)(struct rpc_call *call));

/** rpc_call_reply() - answer with a message and OK; @message: NULL for none */
void rpc_call_reply(struct rpc_call *call, const ProtobufCMessage *message);

/** rpc_call_reply_buffer() - the same with a message that is packed already; takes buffer */
void rpc_call_reply_buffer(struct rpc_call *call, grpc_byte_buffer *buffer);

/** rpc_call_fail() - answer with an error, its details, and count it */
void rpc_call_fail(struct rpc_call *call, const struct session_error *error);

/** rpc_call_refuse() - rpc_call_fail() with code, reason and message */
void rpc_call_refuse(struct rpc_call *call, enum session_code code, const char *reason,
                     const char *format, ...) _printf_(4, 5);

/** rpc_call_no_memory() - rpc_call_fail() for a malloc that failed */
void rpc_call_no_memory(struct rpc_call *call);

/** rpc_call_hold() - have room for a reply of @n_bytes before it is made.
 *  Return: 0; 1: there is none, and the call was answered so */
int rpc_call_hold(struct rpc_call *call, uint64_t n_bytes) _must_check_;

/** rpc_call_receive() - RPC_CLIENT_STREAM: done with the last request, ready for the next one */
void rpc_call_receive(struct rpc_call *call);

/** rpc_call_wake() - have method->woken called on the completion-queue thread. Any thread, any lock
 *  but a call's; the caller knows that the call is alive. */
void rpc_call_wake(struct rpc_call *call);

/** rpc_call_is_dead() - nobody waits for the answer any more: long jobs may stop */
bool rpc_call_is_dead(const struct rpc_call *call);

/* --- streams; the completion-queue thread, or the one job that is under way for the call -------
 */

/** rpc_call_send() - one message of a stream; not while call->sending */
void rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message);

/** rpc_call_send_buffer() - the same with a message that is packed already; takes buffer */
void rpc_call_send_buffer(struct rpc_call *call, grpc_byte_buffer *buffer);

/* --- for rpc_server.c ------------------------------------------------------------------------- */

/** rpc_call_request() - have core fill a new call when one comes in. 0, -ENOMEM */
int rpc_call_request(struct rpc_server *server) _must_check_;
