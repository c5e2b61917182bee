/*
 * Profiles.Install: a file in one message, or in pieces
 *
 * A file of one piece is judged where it lies, in the request. Otherwise pieces are gathered, in
 * order. Judging and writing a file takes tens of milliseconds: that is a job.
 */
#include "daemon/rpc/rpc_install.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "deltapq/v1/profiles.pb-c.h"

#define MAX_TOTAL_BYTES (UINT64_C(1) << 30)
#define EXPIRY_NS       UINT64_C(60000000000)

enum {
    MAX_UPLOADS = 4,   /* of a tenant */
    UPLOAD_COPIES = 4, /* gathered, and what session_profile_install() makes of it */
    RETRY_MS = 1000,
};

struct rpc_upload {
    struct rpc_upload *next;
    uint64_t id, total_bytes, n_bytes, expires_ns;
    uint32_t tenant;
    bool installing; /* the job has it */
    uint8_t *bytes;  /* total_bytes; the kernel gives pages as they are filled */
};

struct install_state {
    struct job job;
    struct rpc_call *call;
    struct rpc_upload *upload; /* NULL: the request is the file */
};

/* --- the table -------------------------------------------------------------------------------- */

static struct rpc_upload *upload_free(struct rpc_upload *upload)
{
    if (!upload)
        return NULL;
    free(upload->bytes);
    free(upload);
    return NULL;
}

DEFINE_CLEANUP(struct rpc_upload *, upload_free);

void rpc_uploads_init(struct rpc_uploads *uploads)
{
    *uploads = (struct rpc_uploads){ 0 };
    pthread_mutex_init(&uploads->mutex, NULL);
}

void rpc_uploads_deinit(struct rpc_uploads *uploads)
{
    for (struct rpc_upload *u = uploads->first, *next; u; u = next) {
        next = u->next;
        upload_free(u);
    }
    pthread_mutex_destroy(&uploads->mutex);
}

uint64_t rpc_uploads_due_ns(struct rpc_uploads *uploads)
{
    uint64_t due_ns = UINT64_MAX;

    pthread_mutex_lock(&uploads->mutex);
    for (struct rpc_upload *u = uploads->first; u; u = u->next) {
        if (!u->installing && u->expires_ns < due_ns)
            due_ns = u->expires_ns;
    }
    pthread_mutex_unlock(&uploads->mutex);
    return due_ns;
}

void rpc_uploads_expire(struct rpc_uploads *uploads, uint64_t now_ns)
{
    struct rpc_upload **at, *upload;

    pthread_mutex_lock(&uploads->mutex);
    for (at = &uploads->first; (upload = *at);) {
        if (upload->installing || upload->expires_ns > now_ns) {
            at = &upload->next;
            continue;
        }
        *at = upload->next;
        upload_free(upload);
    }
    pthread_mutex_unlock(&uploads->mutex);
}

static void take_out(struct rpc_uploads *uploads, struct rpc_upload *upload)
{
    struct rpc_upload **at;

    pthread_mutex_lock(&uploads->mutex);
    for (at = &uploads->first; *at != upload;)
        at = &(*at)->next;
    *at = upload->next;
    pthread_mutex_unlock(&uploads->mutex);
}

/* Locked. 0; 1 with ret_error. */
static int check_room(const struct rpc_uploads *uploads, uint32_t tenant, uint64_t n_bytes,
                      struct session_error *ret_error)
{
    uint64_t sum = 0;
    uint32_t n = 0;

    for (struct rpc_upload *u = uploads->first; u; u = u->next) {
        if (u->tenant == tenant) {
            sum += u->total_bytes;
            n++;
        }
    }
    if (n < MAX_UPLOADS && n_bytes <= MAX_TOTAL_BYTES - sum)
        return 0;
    session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "UPLOAD",
                      "%u uploads of %llu bytes are under way: %d are possible, of %llu bytes", n,
                      (unsigned long long)sum, MAX_UPLOADS, (unsigned long long)MAX_TOTAL_BYTES);
    ret_error->retry_ms = RETRY_MS;
    return 1;
}

/* --- pieces ----------------------------------------------------------------------------------- */

static int check_piece(const Deltapq__V1__InstallRequest *request, struct session_error *ret_error)
{
    if (request->total_bytes == 0 || request->total_bytes > MAX_TOTAL_BYTES) {
        session_error_set(
            ret_error, SESSION_INVALID_ARGUMENT, "UPLOAD", "total_bytes %llu is not in 1 ... %llu",
            (unsigned long long)request->total_bytes, (unsigned long long)MAX_TOTAL_BYTES);
        return 1;
    }
    if (request->data.len == 0 || request->offset > request->total_bytes ||
        request->data.len > request->total_bytes - request->offset) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "UPLOAD",
                          "data has %zu bytes at offset %llu: they must lie in total_bytes, %llu",
                          request->data.len, (unsigned long long)request->offset,
                          (unsigned long long)request->total_bytes);
        return 1;
    }
    if (!request->upload_id && request->offset) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "UPLOAD",
                          "offset %llu without an upload_id: the first piece has offset 0",
                          (unsigned long long)request->offset);
        return 1;
    }
    return 0;
}

/* Whether there is memory for all of it is asked once, at its first piece. */
static struct rpc_upload *upload_new(struct rpc_call *call, uint64_t total_bytes,
                                     struct session_error *ret_error)
{
    struct rpc_uploads *uploads = &call->server->uploads;
    _cleanup_(upload_freep) struct rpc_upload *upload = calloc(1, sizeof(*upload));
    int r;

    if (session_check_memory(call->server->options.session, UPLOAD_COPIES * total_bytes,
                             "a profile of this size", ret_error))
        return NULL;
    if (upload)
        upload->bytes = malloc(total_bytes);
    if (!upload || !upload->bytes) {
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "MEMORY",
                          "there is no memory for a file of %llu bytes",
                          (unsigned long long)total_bytes);
        ret_error->retry_ms = RETRY_MS;
        return NULL;
    }
    upload->tenant = call->tenant;
    upload->total_bytes = total_bytes;
    upload->expires_ns = session_now_ns() + EXPIRY_NS;
    pthread_mutex_lock(&uploads->mutex);
    r = check_room(uploads, call->tenant, total_bytes, ret_error);
    if (!r) {
        upload->id = ++uploads->last_id;
        upload->next = uploads->first;
        uploads->first = upload;
    }
    pthread_mutex_unlock(&uploads->mutex);
    return r ? NULL : steal_ptr(upload);
}

/* Only the completion-queue thread gathers and expires: what it finds here stays. */
static struct rpc_upload *find(struct rpc_uploads *uploads, uint32_t tenant,
                               const Deltapq__V1__InstallRequest *request,
                               struct session_error *ret_error)
{
    struct rpc_upload *upload;

    pthread_mutex_lock(&uploads->mutex);
    for (upload = uploads->first; upload; upload = upload->next) {
        if (upload->id == request->upload_id && upload->tenant == tenant && !upload->installing)
            break;
    }
    pthread_mutex_unlock(&uploads->mutex);
    if (!upload) {
        session_error_set(ret_error, SESSION_NOT_FOUND, "UPLOAD",
                          "upload_id %llu is unknown, or nothing came for it for %llu s",
                          (unsigned long long)request->upload_id,
                          (unsigned long long)(EXPIRY_NS / 1000000000));
        return NULL;
    }
    if (request->total_bytes != upload->total_bytes || request->offset != upload->n_bytes) {
        session_error_set(
            ret_error, SESSION_OUT_OF_RANGE, "UPLOAD",
            "offset %llu of %llu bytes: the next piece has offset %llu of %llu",
            (unsigned long long)request->offset, (unsigned long long)request->total_bytes,
            (unsigned long long)upload->n_bytes, (unsigned long long)upload->total_bytes);
        return NULL;
    }
    return upload;
}

/* --- the job ---------------------------------------------------------------------------------- */

static void install(struct job *job, uint32_t worker)
{
    struct install_state *state = (struct install_state *)job;
    struct rpc_call *call = state->call;
    const Deltapq__V1__InstallRequest *request = (const void *)call->message;
    struct rpc_upload *upload = state->upload;
    Deltapq__V1__InstallReply reply = DELTAPQ__V1__INSTALL_REPLY__INIT;
    struct session_error error;
    uint8_t profile_id[32];

    (void)worker;
    if (session_profile_install(call->server->options.session,
                                upload ? upload->bytes : request->data.data, request->total_bytes,
                                profile_id, &error)) {
        rpc_call_fail(call, &error);
    } else {
        reply.profile_id = (ProtobufCBinaryData){ .len = sizeof(profile_id), .data = profile_id };
        reply.upload_id = request->upload_id;
        rpc_call_reply(call, &reply.base);
    }
    if (upload) {
        take_out(&call->server->uploads, upload);
        upload_free(upload);
    }
    rpc_call_unref(call);
}

static void begin_install(struct rpc_call *call, struct rpc_upload *upload)
{
    struct install_state *state = rpc_call_state(call, sizeof(*state));
    struct session_error error;

    if (!state)
        return;
    state->job.run = install;
    state->upload = upload;
    state->call = rpc_call_ref(call);
    if (upload)
        upload->installing = true;
    if (!pool_submit(call->server->options.pool, &state->job))
        return;
    if (upload)
        upload->installing = false;
    session_error_set(&error, SESSION_RESOURCE_EXHAUSTED, "QUEUE",
                      "the workers' queue is full: send this piece again");
    error.retry_ms = RETRY_MS;
    rpc_call_fail(call, &error);
    rpc_call_unref(call);
}

/* A piece of several: taken at once, except for the last one, which counts when its job begins. */
static void gather(struct rpc_call *call, struct rpc_upload *upload,
                   const Deltapq__V1__InstallRequest *request)
{
    Deltapq__V1__InstallReply reply = DELTAPQ__V1__INSTALL_REPLY__INIT;

    memcpy(upload->bytes + upload->n_bytes, request->data.data, request->data.len);
    upload->expires_ns = session_now_ns() + EXPIRY_NS;
    if (upload->n_bytes + request->data.len == upload->total_bytes) {
        begin_install(call, upload);
        return;
    }
    upload->n_bytes += request->data.len;
    reply.upload_id = upload->id;
    rpc_call_reply(call, &reply.base);
}

void rpc_install(struct rpc_call *call, const void *message)
{
    const Deltapq__V1__InstallRequest *request = message;
    struct rpc_uploads *uploads = &call->server->uploads;
    struct rpc_upload *upload;
    struct session_error error;

    if (check_piece(request, &error)) {
        rpc_call_fail(call, &error);
        return;
    }
    if (!request->upload_id && request->data.len == request->total_bytes) {
        begin_install(call, NULL);
        return;
    }
    upload = request->upload_id ? find(uploads, call->tenant, request, &error)
                                : upload_new(call, request->total_bytes, &error);
    if (upload)
        gather(call, upload, request);
    else
        rpc_call_fail(call, &error);
}
