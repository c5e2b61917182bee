#include "lib/codec/rope.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "lib/base/error.h"

int rope_table_new(const struct dpq_geometry *geometry, size_t n_tokens,
                   struct rope_table *ret_table)
{
    size_t n = n_tokens * (geometry->rotary_dim / 2);
    struct rope_table table = { 0 };

    if (geometry->rope_pairing != DPQ_ROPE_NONE && n) {
        table.cosine = malloc(4 * n * sizeof(float));
        if (!table.cosine)
            return error_origin(-ENOMEM);
        table.sine = table.cosine + n;
        table.inverse_cosine = table.sine + n;
        table.inverse_sine = table.inverse_cosine + n;
    }
    *ret_table = table;
    return 0;
}

void rope_table_free(struct rope_table *table)
{
    free(table->cosine);
    *table = (struct rope_table){ 0 };
}

void rope_table_fill(struct rope_table *table, const struct dpq_geometry *geometry,
                     uint64_t first_position, size_t n_tokens)
{
    size_t n_pairs = geometry->rotary_dim / 2;
    double scaling = (double)geometry->attention_scaling;

    if (!table->cosine)
        return;
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < n_pairs; i++) {
            double angle = (double)(first_position + t) * (double)geometry->inv_freq[i];
            double c = cos(angle), s = sin(angle);
            size_t at = t * n_pairs + i;

            table->cosine[at] = (float)(c * scaling);
            table->sine[at] = (float)(s * scaling);
            table->inverse_cosine[at] = (float)(c / scaling);
            table->inverse_sine[at] = (float)(-s / scaling);
        }
}

struct rope_table rope_table_from(const struct rope_table *table,
                                  const struct dpq_geometry *geometry, size_t first)
{
    size_t skip = first * (geometry->rotary_dim / 2);

    if (!table->cosine)
        return (struct rope_table){ 0 };
    return (struct rope_table){ table->cosine + skip, table->sine + skip,
                                table->inverse_cosine + skip, table->inverse_sine + skip };
}

struct kern_turn rope_turn(const struct rope_table *table, const struct dpq_geometry *geometry,
                           size_t first)
{
    struct rope_table from = rope_table_from(table, geometry, first);

    return (struct kern_turn){
        .interleaved = geometry->rope_pairing == DPQ_ROPE_INTERLEAVED,
        .n_pairs = from.cosine ? geometry->rotary_dim / 2 : 0,
        .cosine = from.cosine,
        .sine = from.sine,
    };
}

struct kern_turn rope_turn_back(const struct rope_table *table, const struct dpq_geometry *geometry)
{
    struct kern_turn turn = rope_turn(table, geometry, 0);

    turn.cosine = table->inverse_cosine;
    turn.sine = table->inverse_sine;
    return turn;
}

void rope_apply(const struct kern *k, const struct dpq_geometry *geometry,
                const struct rope_table *table, float *x, size_t n_tokens)
{
    if (table->cosine)
        k->rope[geometry->rope_pairing](x, n_tokens, geometry->head_dim, table->cosine, table->sine,
                                        geometry->rotary_dim / 2);
}

void rope_undo(const struct kern *k, const struct dpq_geometry *geometry,
               const struct rope_table *table, float *x, size_t n_tokens)
{
    if (table->cosine)
        k->rope[geometry->rope_pairing](x, n_tokens, geometry->head_dim, table->inverse_cosine,
                                        table->inverse_sine, geometry->rotary_dim / 2);
}
