/*
 * Which streams keep the fine plane at which rate
 *
 * A stream's own option comes first. Quality keeps all, compact none. Balanced keeps those of K;
 * or, where an output metric says what an error costs, those for which the plane buys most, up to a
 * mean number of code bits. References are base planes, so a stream's choice changes nothing for
 * the others, and taking the largest gains first is optimal up to the last stream.
 */

#include <math.h>
#include <stdlib.h>

#include "lib/codec/train.h"

enum { EVERY_RATE = 1 << DPQ_RATE_QUALITY | 1 << DPQ_RATE_BALANCED | 1 << DPQ_RATE_COMPACT };

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

static void spend(const struct dpq_trainer *trainer, uint32_t n_streams, struct offer *offers,
                  struct train_result *results)
{
    double left = (double)trainer->options.balanced_bits * n_streams;
    uint32_t n = 0;

    for (uint32_t i = 0; i < n_streams; i++) {
        const struct train_result *r = &results[i];
        uint32_t planes = train_stream_options(trainer, i).planes;
        double bits = 4.0 / r->stream.dsub;

        left -= bits * (planes ? planes : 1);
        if (planes)
            continue;
        offers[n++] = (struct offer){
            .gain = (r->mean_error[PLANE_BASE] - r->mean_error[PLANE_FINE]) *
                    (double)r->stream.importance / bits,
            .bits = bits,
            .stream = i,
        };
    }
    qsort(offers, n, sizeof(*offers), by_gain);
    for (uint32_t i = 0; i < n && left >= offers[i].bits - 1e-6; i++) {
        left -= offers[i].bits;
        results[offers[i].stream].stream.fine_rates |= 1u << DPQ_RATE_BALANCED;
    }
}

void train_rates(const struct dpq_trainer *trainer, struct train_result *results)
{
    uint32_t n = dpq_n_streams(&trainer->geometry);
    struct offer *offers = NULL;

    if (trainer->options.balanced_bits > 0 && trainer->metric)
        offers = malloc(n * sizeof(*offers));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t planes = train_stream_options(trainer, i).planes;

        if (planes)
            results[i].stream.fine_rates = planes > 1 ? EVERY_RATE : 0;
        else if (offers)
            results[i].stream.fine_rates = 1u << DPQ_RATE_QUALITY;
        else
            results[i].stream.fine_rates =
                profile_default_fine(i / trainer->geometry.n_kv_heads % 2);
    }
    if (offers)
        spend(trainer, n, offers, results);
    free(offers);
}
