/* An append's rows: copied from where the client has them, judged, and as wide as what they join */

#include <errno.h>
#include <stdlib.h>

#include "daemon/session_append.h"
#include "lib/base/error.h"

/* Copy n rows of the request, from its first-th, and judge the copy. 0; 1 refused; a fault. */
static int gather(struct append *append, uint32_t first, uint32_t n, uint8_t *rows,
                  struct session_error *ret_error)
{
    const struct session_append *op = append->op;
    struct dpq_tensor tensor = tensor_from_token(&op->from.tensor, first);
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    int64_t token;
    int r;

    r = dpq_rows_gather(profile_geometry(append->sequence->profile), &tensor, append->from.bytes, n,
                        rows, &fault);
    if (r != DPQ_E_NOT_FINITE)
        return error_fold(r);
    token = fault.token + (int64_t)first;
    session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "NOT_FINITE",
                      "%s of layer %d, head %d has a NaN or Inf at token %lld of the request, "
                      "which is token %lld of the sequence",
                      fault.kind == DPQ_V ? "V" : "K", fault.layer, fault.head, (long long)token,
                      (long long)(token + (int64_t)op->first_token));
    ret_error->layer = fault.layer;
    ret_error->kind = fault.kind;
    ret_error->head = fault.head;
    ret_error->token = token;
    return 1;
}

int append_gather(struct append *append, uint32_t first, uint32_t n, uint32_t dtype, uint8_t *rows,
                  struct session_error *ret_error)
{
    const struct dpq_geometry *g = profile_geometry(append->sequence->profile);
    struct dpq_tensor to = tensor_canonical(g, dtype);
    struct dpq_range range = { .n_layers = g->n_layers, .n_tokens = n };
    uint8_t *narrow;
    int r;

    if (dtype == append->op->from.tensor.dtype)
        return gather(append, first, n, rows, ret_error);
    narrow = malloc(n * append->row_bytes);
    if (!narrow)
        return error_origin(-ENOMEM);
    r = gather(append, first, n, narrow, ret_error);
    if (!r)
        dpq_rows_scatter(g, narrow, append->op->from.tensor.dtype, &range, &to, rows);
    free(narrow);
    return r;
}
