/*
 * The codebook of a closed loop (theory 2.2)
 *
 * A temporal stream's residuals depend on its own codebook: it learns again from those of the
 * running loop, and what is best on held-out tokens is kept, for naive retraining can diverge.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/profile_file.h"
#include "lib/codec/train.h"

enum { ROUNDS = 2 }; /* R3: at most 3 */

struct saved_tree {
    float *scale;
    int8_t *base, *fine;
};

static void copy_tree(const struct profile_tree *from, const struct profile_sizes *n,
                      struct saved_tree *to)
{
    memcpy(to->scale, from->scale, n->scale);
    memcpy(to->base, from->base, n->base);
    memcpy(to->fine, from->fine, n->fine);
}

/* Held-out error of the base plane, whatever the tree. */
static double loop_error(const struct train_stream *stream, struct train_worker *w)
{
    struct train_sums sums;

    train_held_out(stream, w, false, NULL, NULL, &sums);
    return sums.error[TREE_DELTA][PLANE_BASE] + sums.error[TREE_INTRA][PLANE_BASE];
}

static void retrain(struct train_stream *stream, struct train_worker *w, struct saved_tree *best,
                    const struct profile_sizes *n)
{
    const struct profile_tree *tree = &stream->stream.tree[TREE_DELTA];
    struct profile_tree back = { best->scale, best->base, best->fine };
    struct saved_tree to = { (float *)tree->scale, (int8_t *)tree->base, (int8_t *)tree->fine };
    uint32_t n_subspaces = stream->run->geometry->head_dim / stream->dsub;
    double least = loop_error(stream, w);

    copy_tree(tree, n, best);
    for (int round = 0; round < ROUNDS; round++) {
        double error;

        train_close_loop(stream, w);
        for (uint32_t m = 0; m < n_subspaces; m++)
            train_tree(stream, w, TREE_DELTA, m, true);
        error = loop_error(stream, w);
        if (error < least) {
            least = error;
            copy_tree(tree, n, best);
        }
    }
    copy_tree(&back, n, &to);
}

int train_retrain(struct train_stream *stream, struct train_worker *worker)
{
    struct profile_sizes n = profile_sizes(stream->run->geometry->head_dim, stream->dsub, 0);
    struct saved_tree best;

    best.scale = malloc(n.scale + n.base + n.fine);
    if (!best.scale)
        return error_origin(-ENOMEM);
    best.base = (int8_t *)best.scale + n.scale;
    best.fine = best.base + n.base;
    retrain(stream, worker, &best, &n);
    free(best.scale);
    return 0;
}
