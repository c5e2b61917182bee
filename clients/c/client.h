#pragma once

/* What the files of libdeltapq-client share. No gRPC here: client_call.h has that. */

#include <pthread.h>

#include "clients/c/deltapq-client.h"
#include "lib/base/defs.h"
#include "lib/base/side_wire.h"

struct grpc_channel;

/* A profile that was fetched; never removed before the client ends. */
struct client_profile {
    struct client_profile *next;
    uint8_t id[DPQ_DIGEST_BYTES];
    const void *bytes; /* the sealed file, mapped */
    size_t n_bytes;
    struct dpq_profile *profile;
};

struct dpq_client {
    struct grpc_channel *channel;
    char socket_path[108]; /* as long as in sockaddr_un */
    uint32_t timeout_ms;
    char name[64];

    /* set by attach, constant from then on */
    uint64_t id;       /* 0: not attached */
    int side_fd;       /* while it is open the daemon keeps what it gave; -1: none */
    char *side_socket; /* its path */
    uint64_t epoch;
    void *staging;
    size_t n_staging_bytes;
    struct dpq_reader *reader;

    pthread_mutex_t mutex; /* protects what follows */
    struct client_profile *profiles;
};

/* --- client_error.c --------------------------------------------------------------------------- */

/** client_error_set() - fill error (may be NULL). Return: code, to be returned at once */
int client_error_set(struct dpq_client_error *error, int code, const char *reason,
                     const char *format, ...) _printf_(4, 5);

/**
 * client_error_reason() - the reason in a google.rpc.Status, as in grpc-status-details-bin
 * @ret_reason: "" when there is no ErrorInfo, or when the bytes are not what they should be
 */
void client_error_reason(const uint8_t *bytes, size_t n_bytes, char ret_reason[32]);

/* --- client_side.c ---------------------------------------------------------------------------- */

enum { SIDE_MAX_FDS = 2 };

/* What a reply gave; descriptors are the receiver's. */
struct side_gift {
    int fds[SIDE_MAX_FDS]; /* -1: none */
    uint64_t sizes[SIDE_MAX_FDS];
    uint32_t n_fds;
};
#define SIDE_GIFT_NULL \
    { \
        .fds = { -1, -1 } \
    }
void side_gift_close(struct side_gift *gift);

/** side_connect() - to a daemon's side socket. Return: 0, UNAVAILABLE, INVALID_ARGUMENT */
int side_connect(const char *path, uint32_t timeout_ms, int *ret_fd,
                 struct dpq_client_error *error) _must_check_;

/**
 * side_ask() - one request, one reply
 * Return: 0; NOT_FOUND, PERMISSION_DENIED, … when refused; UNAVAILABLE; DATA_LOSS.
 */
int side_ask(int fd, const struct side_request *request, struct side_gift *ret_gift,
             struct dpq_client_error *error) _must_check_;

/* --- client_profile.c ------------------------------------------------------------------------- */

void client_profiles_free(struct dpq_client *client);
