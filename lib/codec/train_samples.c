/*
 * The samples: which are learned from, and one stream's at a time
 *
 * Left out are the tokens that a codec would store raw as sinks: outliers that no codebook has to
 * serve. Rows are sorted so that what is learned from comes first.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/train.h"

static bool is_sink(const struct dpq_trainer *trainer, const struct train_chunk *chunk, uint32_t t)
{
    return !chunk->first_position && t < trainer->geometry.n_sink;
}

static void assign_rows(struct train_plan *plan)
{
    const struct dpq_trainer *trainer = plan->trainer;
    size_t n_learn = 0, n_seen = 0;
    int32_t *row = plan->row;

    plan->n_rows = trainer->n_tokens;
    for (size_t c = 0; c < trainer->n_chunks; c++)
        for (uint32_t t = 0; t < trainer->chunks[c].n_tokens; t++)
            plan->n_rows -= is_sink(trainer, &trainer->chunks[c], t);
    plan->n_learn = plan->n_rows - plan->n_rows / TRAIN_HOLD_OUT;
    for (size_t c = 0; c < trainer->n_chunks; c++)
        for (uint32_t t = 0; t < trainer->chunks[c].n_tokens; t++, row++) {
            if (is_sink(trainer, &trainer->chunks[c], t))
                *row = TRAIN_NO_ROW;
            else if (++n_seen % TRAIN_HOLD_OUT)
                *row = (int32_t)n_learn++;
            else
                *row = (int32_t)(plan->n_learn + n_seen / TRAIN_HOLD_OUT - 1);
        }
}

static void fill_rope(struct train_plan *plan)
{
    const struct dpq_geometry *g = &plan->trainer->geometry;
    struct rope_table at = plan->rope;

    if (!at.cosine)
        return;
    for (size_t c = 0; c < plan->trainer->n_chunks; c++) {
        const struct train_chunk *chunk = &plan->trainer->chunks[c];
        size_t n = (size_t)chunk->n_tokens * (g->rotary_dim / 2);

        rope_table_fill(&at, g, chunk->first_position, chunk->n_tokens);
        at.cosine += n;
        at.sine += n;
        at.inverse_cosine += n;
        at.inverse_sine += n;
    }
}

int train_plan_init(struct train_plan *plan, const struct dpq_trainer *trainer)
{
    int r;

    *plan = (struct train_plan){ .trainer = trainer };
    kern_init(&plan->kern, kern_cpu_detect());
    plan->row = malloc(trainer->n_tokens * sizeof(*plan->row));
    if (!plan->row)
        return error_origin(-ENOMEM);
    r = rope_table_new(&trainer->geometry, trainer->n_tokens, &plan->rope);
    if (r)
        return error_fold(r);
    assign_rows(plan);
    fill_rope(plan);
    return 0;
}

void train_plan_deinit(struct train_plan *plan)
{
    free(plan->row);
    rope_table_free(&plan->rope);
    *plan = (struct train_plan){ 0 };
}

static void turn_back(const struct train_plan *plan, size_t token, float *x, size_t n)
{
    const struct dpq_geometry *g = &plan->trainer->geometry;
    struct rope_table at = plan->rope;
    size_t skip = token * (g->rotary_dim / 2);

    if (!at.cosine)
        return;
    at.inverse_cosine += skip;
    at.inverse_sine += skip;
    rope_undo(&plan->kern, g, &at, x, n);
}

void train_gather(const struct train_plan *plan, uint32_t stream, float *block, float *ret_x)
{
    const struct dpq_geometry *g = &plan->trainer->geometry;
    bool is_key = stream / g->n_kv_heads % 2 == DPQ_K;
    size_t d = g->head_dim, first = 0;

    for (size_t c = 0; c < plan->trainer->n_chunks; c++) {
        const struct train_chunk *chunk = &plan->trainer->chunks[c];
        size_t stride = dpq_row_bytes(g, chunk->dtype);
        const uint8_t *from = chunk->rows + stream * d * dpq_dtype_bytes(chunk->dtype);

        for (size_t t = 0; t < chunk->n_tokens; t += KERN_TOKENS) {
            size_t n = chunk->n_tokens - t < KERN_TOKENS ? chunk->n_tokens - t : KERN_TOKENS;
            const int32_t *row = plan->row + first + t;

            plan->kern.load[chunk->dtype](from + t * stride, (ptrdiff_t)stride, n, d, block);
            if (is_key)
                turn_back(plan, first + t, block, n);
            for (size_t i = 0; i < n; i++)
                if (row[i] != TRAIN_NO_ROW)
                    memcpy(ret_x + (size_t)row[i] * d, block + i * d, d * sizeof(float));
        }
        first += chunk->n_tokens;
    }
}
