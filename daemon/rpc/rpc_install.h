#pragma once

/*
 * Profile files that arrive in pieces
 *
 *     first piece -> (gathering -> next piece)* -> last piece -> installing -> gone
 *                       `-> nothing for a minute -> gone
 *
 * Each tenant may have 4 under way, and 1 GiB in them.
 */

#include <pthread.h>
#include <stdint.h>

struct rpc_upload;

struct rpc_uploads {
    pthread_mutex_t mutex;
    struct rpc_upload *first;
    uint64_t last_id;
};

void rpc_uploads_init(struct rpc_uploads *uploads);
void rpc_uploads_deinit(struct rpc_uploads *uploads);

/** rpc_uploads_due_ns() - when the next one expires, by session_now_ns(); UINT64_MAX: none is there
 */
uint64_t rpc_uploads_due_ns(struct rpc_uploads *uploads);

/** rpc_uploads_expire() - forget those that nobody went on with */
void rpc_uploads_expire(struct rpc_uploads *uploads, uint64_t now_ns);
