#include "daemon/session_cut.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"

static int corrupt(struct errand *errand, uint64_t first_token)
{
    session_error_set(errand->error, SESSION_DATA_LOSS, "CORRUPT",
                      "what is stored of the tokens from %llu on does not match its checksum",
                      (unsigned long long)first_token);
    errand->error->token = (int64_t)first_token;
    return 1;
}

static int decode(struct errand *errand, uint32_t worker, const struct tile *tile, struct cut *cut)
{
    struct profile_entry *profile = errand->sequence->profile;
    const struct dpq_geometry *g = profile_geometry(profile);
    struct dpq_tensor tensor = tensor_canonical(g, cut->dtype);
    struct dpq_range range = { .n_layers = g->n_layers, .n_tokens = cut->n_rows };
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    struct store_object base, fine;
    struct dpq_codec *codec;
    int r = session_worker_codec(errand->session, worker, profile, &codec);

    if (r)
        return error_fold(r);
    tile_objects(tile, &base, &fine);
    return dpq_tile_decode(codec, base.bytes, base.n_bytes, fine.n_bytes ? fine.bytes : NULL,
                           fine.n_bytes, &range, &tensor, cut->rows, &fault);
}

/* The tile that is cut through: as a read would give it. 0; 1 refused; a fault */
static int take_tile_head(struct errand *errand, uint32_t worker, struct cut *cut)
{
    struct tile *tile = errand->sequence->tiles[cut->n_tiles];
    int r;

    tile_hold(tile); /* what is decoded keeps its fine object */
    r = tile_verify(tile) ? DPQ_E_CORRUPT : decode(errand, worker, tile, cut);
    tile_let_go(tile);
    return r > 0 ? corrupt(errand, cut->n_tiles * (uint64_t)DPQ_TILE_TOKENS) : error_fold(r);
}

static int take_tail_head(struct errand *errand, struct cut *cut, size_t n_bytes)
{
    const struct sequence *sequence = errand->sequence;

    if (tail_check(sequence->tail->tail))
        return corrupt(errand, cut->n_tiles * (uint64_t)DPQ_TILE_TOKENS);
    memcpy(cut->rows, sequence->tail_object.bytes, n_bytes);
    return 0;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* where, and of what */
static void measure(const struct sequence *sequence, uint64_t n_tokens, struct cut *ret_cut)
{
    bool in_tail = n_tokens >= sequence->n_tiles * (uint64_t)DPQ_TILE_TOKENS;
    struct cut cut = { .n_tokens = n_tokens, .n_token_ids = sequence->n_token_ids };
    uint64_t first;

    cut.n_tiles = in_tail ? sequence->n_tiles : n_tokens / DPQ_TILE_TOKENS;
    first = cut.n_tiles * (uint64_t)DPQ_TILE_TOKENS;
    cut.n_rows = (uint32_t)(n_tokens - first);
    cut.dtype = in_tail ? sequence->tail_dtype : DPQ_F32;
    if (cut.n_rows)
        cut.lossy_end = in_tail ? min_u64(first + sequence_n_lossy(sequence), n_tokens) : n_tokens;
    cut.n_token_ids = min_u64(cut.n_token_ids, cut.lossy_end > first ? first : n_tokens);
    *ret_cut = cut;
}

int cut_make(struct errand *errand, uint32_t worker, uint64_t n_tokens, struct cut *ret_cut)
{
    const struct sequence *sequence = errand->sequence;
    struct cut cut;
    size_t n_bytes;
    int r = 0;

    measure(sequence, n_tokens, &cut);
    n_bytes = cut.n_rows * dpq_row_bytes(profile_geometry(sequence->profile), cut.dtype);
    if (cut.n_rows) {
        cut.rows = malloc(n_bytes);
        if (!cut.rows)
            r = error_origin(-ENOMEM);
        else if (cut.n_tiles < sequence->n_tiles)
            r = take_tile_head(errand, worker, &cut);
        else
            r = take_tail_head(errand, &cut, n_bytes);
    }
    if (!r) {
        *ret_cut = cut;
        return 0;
    }
    if (r < 0)
        session_error_fault(errand->error, r, "cut");
    cut_deinit(&cut);
    return 1;
}

void cut_deinit(struct cut *cut)
{
    free(cut->rows);
    cut->rows = NULL;
}

uint64_t cut_lossy_tokens(const struct cut *cut)
{
    uint64_t first = cut->n_tiles * (uint64_t)DPQ_TILE_TOKENS;

    return cut->lossy_end > first ? cut->lossy_end - first : 0;
}

int cut_tail(const struct cut *cut, const struct sequence *sequence, const struct record_tail *mark,
             uint64_t now_ns, struct tail_holder **ret_holder)
{
    if (!cut->n_rows) {
        *ret_holder = NULL;
        return 0;
    }
    return tail_holder_new(sequence, mark, cut->n_tiles * (uint64_t)DPQ_TILE_TOKENS, cut->dtype,
                           cut->rows, cut->n_rows, now_ns, ret_holder);
}

void cut_fail(struct errand *errand, int r, const struct cut *cut, const char *what)
{
    const struct sequence *sequence = errand->sequence;
    uint64_t n_bytes = cut->n_token_ids * sizeof(uint32_t);

    if (cut->n_rows)
        n_bytes += DPQ_TILE_TOKENS * dpq_row_bytes(profile_geometry(sequence->profile), cut->dtype);
    errand_fail(errand, r, n_bytes, what);
}
