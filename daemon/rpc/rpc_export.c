/*
 * KvCache.Export: one piece at a time, no faster than the client takes them
 *
 *     opened (a job: token ids are copied) -> a piece is made (a job) -> sent -> the next … -> OK
 */
#include "daemon/rpc/rpc_check.h"
#include "daemon/rpc/rpc_message.h"
#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_state.h"
#include "daemon/session_transfer.h"
#include "deltapq/v1/kv_cache.pb-c.h"

enum { DATA = 1 }; /* the field's number in ExportReply */

struct export_state {
    struct session_piece piece; /* first, see rpc_export_done() */
    struct rpc_work open_work;
    struct rpc_call *call;
    struct session_export_open open;
    struct session_export *export;
};

void rpc_export_deinit(void *argument)
{
    struct export_state *state = argument;

    session_export_close(state->export);
}

static void rpc_export_done(struct session_piece *piece)
{
    struct export_state *state = (struct export_state *)piece;
    struct rpc_call *call = state->call;
    Deltapq__V1__ExportReply reply = DELTAPQ__V1__EXPORT_REPLY__INIT;

    reply.total_bytes = piece->total_bytes;
    reply.n_tokens = state->open.ret_n_tokens;
    if (piece->error.code == SESSION_OK)
        rpc_call_send_buffer(
            call, rpc_message_pack_with(&reply.base, DATA, piece->bytes, piece->n_bytes));
    else
        rpc_call_fail(call, &piece->error);
    rpc_call_unref(call);
}

void rpc_export_sent(struct rpc_call *call)
{
    struct export_state *state = call->state;

    rpc_call_ref(call);
    if (!session_export_next(state->export, &state->piece))
        return;
    rpc_call_reply(call, NULL);
    rpc_call_unref(call);
}

static void open(struct rpc_call *call)
{
    struct export_state *state = call->state;

    if (session_export_open(call->server->options.session, &state->open, &state->export))
        rpc_call_fail(call, &state->open.error);
    else
        rpc_export_sent(call);
}

static int fill(struct export_state *state, const Deltapq__V1__ExportRequest *request)
{
    struct session_export_open *op = &state->open;

    op->tenant = state->call->tenant;
    op->sequence_id = request->sequence_id;
    op->n_tokens = request->n_tokens;
    if (request->rest) {
        op->is_rest = true;
        op->sequence_crc32c = request->rest->sequence_crc32c;
        op->first_index = request->rest->first_index;
    }
    return rpc_check_text(request->adapter, "adapter", op->adapter, sizeof(op->adapter),
                          &op->error) ||
           rpc_check_text(request->salt, "salt", op->salt, sizeof(op->salt), &op->error);
}

void rpc_export(struct rpc_call *call, const void *message)
{
    struct export_state *state = rpc_call_state(call, sizeof(*state));

    if (!state)
        return;
    state->call = call;
    state->piece.done = rpc_export_done;
    if (fill(state, message)) {
        rpc_call_fail(call, &state->open.error);
        return;
    }
    rpc_call_work(call, &state->open_work, open);
}
