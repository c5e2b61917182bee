/*
 * Which streams keep the fine plane at which rate
 *
 * Quality keeps all, compact none. Balanced keeps those of K; or, where an output metric says what
 * an error costs, those for which the plane buys most, up to a mean number of code bits. References
 * are base planes, so a stream's choice changes nothing for the others, and taking the largest
 * gains first is optimal up to the last stream.
 */

#include <math.h>
#include <stdlib.h>

#include "lib/codec/train.h"

struct offer {
    double gain; /* drop of the error times what it costs, a bit */
    double bits; /* of a number */
    uint32_t stream;
};

static int by_gain(const void *a, const void *b)
{
    const struct offer *x = a, *y = b;

    if (x->gain != y->gain)
        return x->gain < y->gain ? 1 : -1;
    return x->stream < y->stream ? -1 : x->stream > y->stream;
}

static void spend(const struct dpq_train_options *options, uint32_t n_streams, struct offer *offers,
                  struct train_result *results)
{
    double left = (double)options->balanced_bits * n_streams;

    for (uint32_t i = 0; i < n_streams; i++) {
        const struct train_result *r = &results[i];

        offers[i] = (struct offer){ .bits = 4.0 / r->stream.dsub, .stream = i };
        offers[i].gain = (r->mean_error[PLANE_BASE] - r->mean_error[PLANE_FINE]) *
                         (double)r->stream.importance / offers[i].bits;
        left -= offers[i].bits; /* the base plane's */
    }
    qsort(offers, n_streams, sizeof(*offers), by_gain);
    for (uint32_t i = 0; i < n_streams; i++) {
        struct profile_stream *s = &results[offers[i].stream].stream;

        if (left < offers[i].bits - 1e-6)
            break;
        left -= offers[i].bits;
        s->fine_rates |= 1u << DPQ_RATE_BALANCED;
    }
}

void train_rates(const struct dpq_geometry *g, const struct dpq_train_options *options,
                 bool has_metric, struct train_result *results)
{
    uint32_t n = dpq_n_streams(g);
    struct offer *offers = NULL;

    if (options->balanced_bits > 0 && has_metric)
        offers = malloc(n * sizeof(*offers));
    for (uint32_t i = 0; i < n; i++)
        results[i].stream.fine_rates =
            offers ? 1u << DPQ_RATE_QUALITY : profile_default_fine(i / g->n_kv_heads % 2);
    if (offers)
        spend(options, n, offers, results);
    free(offers);
}
