/*
 * The samples: where they are kept, and which token is which row
 *
 * A chunk is kept layer by layer, so that a stage reads what it needs in one piece; in memory, or
 * in a file that the caller gave, of which never more than one layer of a chunk is in memory. Rows
 * are tokens in the order of addition, 128 a tile; every sixteenth tile is held out and its rows
 * come last. Sinks have rows of zeroes: outliers that a codec stores raw and no codebook has to
 * serve.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/error.h"
#include "lib/codec/train.h"

size_t train_chunk_bytes(const struct dpq_geometry *g, const struct train_chunk *chunk)
{
    return dpq_row_bytes(g, chunk->dtype) / g->n_layers * chunk->n_tokens;
}

static int write_all(int fd, const uint8_t *bytes, size_t n, uint64_t offset)
{
    while (n) {
        ssize_t done = pwrite(fd, bytes, n, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return error_origin(-errno);
        bytes += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return 0;
}

static int read_all(int fd, uint8_t *bytes, size_t n, uint64_t offset)
{
    while (n) {
        ssize_t done = pread(fd, bytes, n, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return error_origin(done < 0 ? -errno : -EIO);
        bytes += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return 0;
}

int train_chunk_keep(struct dpq_trainer *trainer, struct train_chunk *chunk,
                     const uint8_t *canonical_rows)
{
    const struct dpq_geometry *g = &trainer->geometry;
    size_t row = dpq_row_bytes(g, chunk->dtype), part = row / g->n_layers;
    size_t n_bytes = row * chunk->n_tokens;
    uint8_t *rows = malloc(n_bytes), *to = rows;
    int r;

    if (!rows)
        return error_origin(-ENOMEM);
    for (uint32_t layer = 0; layer < g->n_layers; layer++)
        for (uint32_t t = 0; t < chunk->n_tokens; t++)
            to = mempcpy(to, canonical_rows + t * row + layer * part, part);
    if (trainer->options.spill_fd <= 0) {
        chunk->rows = rows;
        return 0;
    }
    chunk->offset = trainer->n_bytes;
    r = write_all(trainer->options.spill_fd, rows, n_bytes, chunk->offset);
    free(rows);
    return r ? error_fold(r) : 0;
}

/* Token number i has this row. */
static size_t row_of(const struct train_plan *plan, size_t token)
{
    size_t tile = token / KERN_TOKENS, held = tile / TRAIN_HOLD_OUT, slot = tile - held;

    if (plan->n_tiles < TRAIN_HOLD_OUT)
        slot = tile; /* only the last is held out */
    else if (tile % TRAIN_HOLD_OUT == TRAIN_HOLD_OUT - 1)
        slot = plan->n_learn_tiles + held;
    return slot * KERN_TOKENS + token % KERN_TOKENS;
}

static bool is_sink(const struct dpq_trainer *trainer, const struct train_chunk *chunk, uint32_t t)
{
    return !chunk->first_position && t < trainer->geometry.n_sink;
}

static void assign_rows(struct train_plan *plan)
{
    const struct dpq_trainer *trainer = plan->trainer;
    size_t token = 0;

    for (size_t c = 0; c < trainer->n_chunks; c++)
        for (uint32_t t = 0; t < trainer->chunks[c].n_tokens; t++, token++) {
            size_t row = row_of(plan, token);

            plan->valid[row] = !is_sink(trainer, &trainer->chunks[c], t);
            plan->n_valid[row >= plan->n_learn] += plan->valid[row];
        }
}

static void fill_rope(struct train_plan *plan)
{
    const struct dpq_geometry *g = &plan->trainer->geometry;
    size_t first = 0;

    for (size_t c = 0; c < plan->trainer->n_chunks; c++) {
        const struct train_chunk *chunk = &plan->trainer->chunks[c];
        struct rope_table at = rope_table_from(&plan->rope, g, first);

        rope_table_fill(&at, g, chunk->first_position, chunk->n_tokens);
        first += chunk->n_tokens;
    }
}

int train_plan_init(struct train_plan *plan, const struct dpq_trainer *trainer)
{
    int r;

    *plan = (struct train_plan){ .trainer = trainer };
    plan->n_tiles = (trainer->n_tokens + KERN_TOKENS - 1) / KERN_TOKENS;
    plan->n_learn_tiles = plan->n_tiles < TRAIN_HOLD_OUT
                              ? plan->n_tiles - 1
                              : plan->n_tiles - plan->n_tiles / TRAIN_HOLD_OUT;
    plan->n_learn = plan->n_learn_tiles * KERN_TOKENS;
    plan->n_rows = plan->n_tiles * KERN_TOKENS;
    plan->valid = calloc(plan->n_rows, 1);
    if (!plan->valid)
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
    free(plan->valid);
    rope_table_free(&plan->rope);
    *plan = (struct train_plan){ 0 };
}

static size_t first_token(const struct train_plan *plan, size_t chunk)
{
    size_t n = 0;

    for (size_t c = 0; c < chunk; c++)
        n += plan->trainer->chunks[c].n_tokens;
    return n;
}

int train_gather(const struct train_plan *plan, const struct kern *kern, size_t chunk,
                 uint32_t layer, uint32_t kind, void *scratch, float *block, float *ret_x)
{
    const struct dpq_geometry *g = &plan->trainer->geometry;
    const struct train_chunk *c = &plan->trainer->chunks[chunk];
    size_t d = g->head_dim, first = first_token(plan, chunk), n_bytes = train_chunk_bytes(g, c);
    size_t head_bytes = d * dpq_dtype_bytes(c->dtype), stride = 2 * g->n_kv_heads * head_bytes;
    const uint8_t *rows = c->rows ? c->rows + layer * n_bytes : scratch;
    int r;

    if (!c->rows) {
        r = read_all(plan->trainer->options.spill_fd, scratch, n_bytes,
                     c->offset + layer * n_bytes);
        if (r)
            return error_fold(r);
    }
    for (uint32_t head = 0; head < g->n_kv_heads; head++)
        for (size_t t = 0; t < c->n_tokens; t += KERN_TOKENS) {
            size_t n = c->n_tokens - t < KERN_TOKENS ? c->n_tokens - t : KERN_TOKENS;
            const uint8_t *from = rows + (kind * g->n_kv_heads + head) * head_bytes + t * stride;

            struct rope_table rope = rope_table_from(&plan->rope, g, first + t);

            kern->load[c->dtype](from, (ptrdiff_t)stride, n, d, block);
            if (kind == DPQ_K)
                rope_undo(kern, g, &rope, block, n);
            for (size_t i = 0; i < n; i++) {
                size_t row = row_of(plan, first + t + i);

                if (plan->valid[row])
                    memcpy(ret_x + (head * plan->n_rows + row) * d, block + i * d,
                           d * sizeof(float));
            }
        }
    return 0;
}
