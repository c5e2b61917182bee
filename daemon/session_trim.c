/*
 * Trim: a sequence gives its last tokens up
 *
 *     cut (session_cut.c) -> the new tail -> the record -> the sequence -> what is left over goes
 *
 * The new tail does not count before the record names its version, and the record says in the same
 * commit how many tiles and ids there are: a process that is killed leaves the sequence as it was
 * before, or as it is after. Tiles that are made from here on, in the place of those that have
 * gone, have another id in their keys.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/hub.h"
#include "daemon/session_cut.h"
#include "daemon/session_keep.h"
#include "daemon/session_verbs.h"
#include "lib/base/error.h"

struct trimming {
    struct errand errand;
    struct session_trim *op;
};

/* What the sequence was, and is to go. */
struct leftover {
    struct tail_holder *tail;
    size_t n_tiles, n_token_ids;
};

static int write_record(struct sequence *sequence, const struct cut *cut,
                        const struct record_tail *mark, uint64_t now_ns)
{
    struct record_change change = {
        .has_ids = !sequence->record || sequence->n_recorded_ids > cut->n_token_ids,
        .first_token = cut->n_token_ids,
        .has_tail = true,
        .tail = *mark,
        .has_seal = true,
        .n_tiles = cut->n_tiles,
        .generation = sequence->generation + 1,
        .has_cut = true, /* what is missing behind it is not wanted any more */
    };

    return sequence_write(sequence, &change, now_ns);
}

/* Locked. The places of tiles that have gone stay as they are until let_go(). */
static void publish(struct sequence *sequence, const struct cut *cut,
                    const struct record_tail *mark, struct tail_holder *tail,
                    struct leftover *ret_leftover)
{
    *ret_leftover = (struct leftover){ sequence->tail, sequence->n_tiles, sequence->n_token_ids };
    sequence->tail = tail;
    sequence->tail_mark = *mark;
    sequence->was_trimmed = true;
    sequence->tail_dtype = cut->dtype;
    sequence->tail_object = (struct store_object){ .ref.slot = NO_SLOT };
    if (tail)
        tail_object(tail->tail, &sequence->tail_object);
    sequence->n_tokens = cut->n_tokens;
    sequence->n_token_ids = cut->n_token_ids;
    if (cut->n_tiles < sequence->n_tiles)
        sequence->private_id = session_new_id(sequence->tenant->session);
    sequence->n_tiles = cut->n_tiles;
    while (sequence->n_makers &&
           sequence->makers[sequence->n_makers - 1].first_tile >= cut->n_tiles)
        sequence->n_makers--;
    sequence->n_evicted_end = 0;
    sequence->used_ns = session_now_ns();
    sequence->generation++;
}

/* Return: bytes freed. Tiles that can be looked up stay cached, the last the first to be evicted.
 */
static uint64_t let_go(struct sequence *sequence, const struct leftover *leftover, uint64_t now_ns)
{
    uint64_t freed = tail_holder_unref(sequence->tenant->session, leftover->tail), n;

    for (size_t i = leftover->n_tiles; i-- > sequence->n_tiles;) {
        bool is_private = (i + 1) * DPQ_TILE_TOKENS > leftover->n_token_ids;

        tile_unref(sequence->tiles[i], /* discard= */ is_private, now_ns, &n);
        freed += n;
    }
    return freed;
}

static void commit(struct trimming *trimming, const struct cut *cut)
{
    struct errand *errand = &trimming->errand;
    struct sequence *sequence = errand->sequence;
    struct record_tail mark = { sequence->tail_mark.version + 1, cut->lossy_end };
    struct event event = { .kind = EVENT_SEQUENCE_TRIMMED,
                           .tenant = sequence->tenant->index,
                           .id = sequence->entry.id,
                           .a = cut->n_tokens };
    uint64_t now_ns = session_now_ns();
    struct tail_holder *tail = NULL;
    struct leftover leftover;
    int r;

    r = cut_tail(cut, sequence, &mark, now_ns, &tail);
    if (!r)
        r = write_record(sequence, cut, &mark, now_ns);
    if (r) {
        tail_holder_unref(errand->session, tail);
        cut_fail(errand, r, cut, "Trim");
        return;
    }
    session_lock(errand->session);
    publish(sequence, cut, &mark, tail, &leftover);
    session_unlock(errand->session);
    trimming->op->freed_bytes = let_go(sequence, &leftover, now_ns);
    event.b = sequence->generation;
    hub_publish(errand->session->hub, &event);
}

static void fill_reply(const struct sequence *sequence, struct session_trim *op)
{
    op->n_total_tokens = sequence->n_tokens;
    op->n_tile_tokens = sequence->n_tiles * DPQ_TILE_TOKENS;
    op->n_lossy_tokens = sequence_n_lossy(sequence);
    op->generation = sequence->generation;
}

static void trim(struct errand *errand, uint32_t worker)
{
    struct trimming *trimming = (struct trimming *)errand;
    struct session_trim *op = trimming->op;
    struct sequence *sequence = errand->sequence;
    struct cut cut;

    if (op->n_tokens > sequence->n_tokens) {
        session_error_set(errand->error, SESSION_OUT_OF_RANGE, "TOKEN_RANGE",
                          "n_tokens %llu: the sequence has %llu", (unsigned long long)op->n_tokens,
                          (unsigned long long)sequence->n_tokens);
        return;
    }
    if (op->n_tokens < sequence->n_tokens) {
        if (cut_make(errand, worker, op->n_tokens, &cut))
            return;
        commit(trimming, &cut);
        cut_deinit(&cut);
    }
    fill_reply(sequence, op);
}

static void answer(struct errand *errand)
{
    struct session_trim *op = ((struct trimming *)errand)->op;

    free(errand);
    op->done(op);
}

void session_trim(struct session *session, struct session_trim *op)
{
    struct trimming *trimming = calloc(1, sizeof(*trimming));

    session_error_clear(&op->error);
    op->n_total_tokens = op->n_tile_tokens = op->n_lossy_tokens = 0;
    op->generation = op->freed_bytes = 0;
    if (!trimming) {
        session_error_fault(&op->error, error_origin(-ENOMEM), "Trim");
        op->done(op);
        return;
    }
    trimming->errand = (struct errand){ .error = &op->error, .work = trim, .answer = answer };
    trimming->op = op;
    errand_start(session, op->tenant, op->sequence_id, &trimming->errand);
}
