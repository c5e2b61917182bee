/*
 * Rows that look like a model's, for any number of tokens
 *
 *     x = mean + what is predicted from the layer below + F y,   K turned to its position
 *
 * as a decoder has it, but y is drawn: independent normal numbers, each as wide as the stream's
 * codewords are in that coordinate. What a profile does not have is how large y is; so a pilot tile
 * is coded, and each stream scaled until the base plane's error is what calibration saw on held-out
 * tokens. Tokens are independent of each other, and tails are those of a normal distribution.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/base/rng.h"
#include "lib/codec/loop.h"
#include "lib/codec/tile_watch.h"
#include "tests/bench/scale/scale.h"

enum { N_POOL = 1 << 20, N_PILOTS = 3 };

struct drawing {
    const struct dpq_profile *profile;
    struct dpq_codec *codec;
    float *pool;  /* [N_POOL] standard normal */
    float *width; /* [n_streams][head_dim] */
    struct rng rng;
    double *error; /* [n_streams]: the pilot's mean |e|^2 of the base plane */
};

static void fill_pool(struct drawing *d)
{
    for (size_t i = 0; i < N_POOL; i += 2) {
        double r = sqrt(-2 * log(1 - rng_unit(&d->rng))), a = 2 * M_PI * rng_unit(&d->rng);

        d->pool[i] = (float)(r * cos(a));
        d->pool[i + 1] = (float)(r * sin(a));
    }
}

static const struct profile_tree *tree_of(const struct profile_stream *s)
{
    return &s->tree[s->reference >= REFERENCE_DEPTH_HEAD ? TREE_DELTA : TREE_INTRA];
}

/* Of the stream's codewords, coordinate by coordinate, their mean square over all being 1. */
static void set_width(const struct dpq_profile *p, const struct profile_stream *s, float *ret_width)
{
    const struct profile_tree *tree = tree_of(s);
    uint32_t d = p->geometry.head_dim, n_words = KERN_WORDS * KERN_WORDS;
    double all = 0;

    for (uint32_t i = 0; i < d; i++) {
        const int8_t *word = tree->fine + (size_t)(i / s->dsub) * n_words * s->dsub + i % s->dsub;
        double sum = 0;

        for (uint32_t w = 0; w < n_words; w++)
            sum += (double)word[w * s->dsub] * (double)word[w * s->dsub];
        ret_width[i] = (float)(sqrt(sum / n_words) * (double)tree->scale[i / s->dsub]);
        all += (double)(ret_width[i] * ret_width[i]) / d;
    }
    for (uint32_t i = 0; i < d && all > 0; i++)
        ret_width[i] /= (float)sqrt(all);
}

static void draw_unit(struct drawing *d, uint32_t layer, uint32_t kind, uint32_t head,
                      const struct dpq_tensor *tensor, void *memory)
{
    const struct dpq_geometry *g = &d->profile->geometry;
    struct loop_unit u = { .layer = layer, .kind = kind, .head = head };
    float *y = d->codec->rows[PLANE_BASE];

    u.index = dpq_stream_index(g, layer, kind, head);
    u.stream = &d->profile->streams[u.index];
    u.reference = u.stream->reference;
    memset(u.frame, u.reference >= REFERENCE_DEPTH_HEAD ? FRAME_PREDICTED : FRAME_INTRA,
           sizeof(u.frame));
    loop_count_predicted(&u);
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        const float *normal = d->pool + rng_below(&d->rng, N_POOL - g->head_dim);

        for (uint32_t i = 0; i < g->head_dim; i++)
            y[t * g->head_dim + i] = d->width[u.index * g->head_dim + i] * normal[i];
    }
    if (u.reference >= REFERENCE_DEPTH_HEAD)
        loop_predict_depth(d->codec, &u);
    loop_reconstruct(d->codec, &u, PLANE_BASE);
    if (d->codec->below)
        loop_keep(d->codec, &u, PLANE_BASE);
    loop_deliver(d->codec, &u, 0, KERN_TOKENS, layer, tensor, memory);
}

static void draw_tile(struct drawing *d, uint64_t first_position, uint8_t *ret_rows)
{
    const struct dpq_geometry *g = &d->profile->geometry;
    int64_t head = g->head_dim * 2;
    struct dpq_tensor tensor = { .dtype = DPQ_F16,
                                 .stride_head = head,
                                 .stride_kind = head * g->n_kv_heads,
                                 .stride_layer = head * g->n_kv_heads * 2,
                                 .stride_token = (int64_t)dpq_row_bytes(g, DPQ_F16) };

    codec_rope(d->codec, first_position);
    for (uint32_t layer = 0; layer < g->n_layers; layer++)
        for (uint32_t kind = 0; kind < 2; kind++)
            for (uint32_t k = 0; k < g->n_kv_heads; k++)
                draw_unit(d, layer, kind, k, &tensor, ret_rows);
}

static bool measured(void *user, uint32_t stream, const struct tile_energies *energies)
{
    struct drawing *d = user;

    d->error[stream] = 0;
    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        d->error[stream] += (double)energies->e2[t] / KERN_TOKENS;
    return false;
}

static void scale_by_pilot(struct drawing *d, uint8_t *rows)
{
    const struct dpq_profile *p = d->profile;
    struct tile_watch watch = { .user = d, .measured = measured };
    uint8_t *base = NULL, *fine = NULL;
    size_t n_base, n_fine;

    draw_tile(d, KERN_TOKENS, rows);
    if (tile_encode_watched(d->codec, rows, DPQ_F16, KERN_TOKENS, KERN_TOKENS, DPQ_RATE_QUALITY,
                            &watch, &base, &n_base, &fine, &n_fine))
        scale_die("the pilot tile could not be encoded");
    dpq_free(base);
    dpq_free(fine);
    for (uint32_t s = 0; s < p->n_streams; s++) {
        uint32_t tree = p->streams[s].reference >= REFERENCE_DEPTH_HEAD ? TREE_DELTA : TREE_INTRA;
        double wanted = (double)p->streams[s].tolerance[tree][PLANE_BASE];

        for (uint32_t i = 0; i < p->geometry.head_dim && wanted > 0 && d->error[s] > 0; i++)
            d->width[s * p->geometry.head_dim + i] *= (float)sqrt(wanted / d->error[s]);
    }
}

static void drawing_init(struct drawing *d, const struct dpq_profile *profile)
{
    uint32_t dim = profile->geometry.head_dim;

    d->profile = profile;
    d->rng = rng_seed(1);
    d->pool = malloc(N_POOL * sizeof(*d->pool));
    d->width = malloc((size_t)profile->n_streams * dim * sizeof(*d->width));
    d->error = calloc(profile->n_streams, sizeof(*d->error));
    if (!d->pool || !d->width || !d->error || dpq_codec_new(profile, ~0u, &d->codec))
        scale_die("no memory");
    fill_pool(d);
    for (uint32_t s = 0; s < profile->n_streams; s++)
        set_width(profile, &profile->streams[s], d->width + (size_t)s * dim);
}

uint8_t *scale_rows_draw(const struct dpq_profile *profile, uint32_t n_tokens)
{
    size_t row_bytes = dpq_row_bytes(&profile->geometry, DPQ_F16);
    struct drawing d = { 0 };
    uint8_t *rows =
        mmap(NULL, n_tokens * row_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (rows == MAP_FAILED || n_tokens < KERN_TOKENS)
        scale_die("no memory for %u tokens", n_tokens);
    drawing_init(&d, profile);
    for (uint32_t i = 0; i < N_PILOTS; i++)
        scale_by_pilot(&d, rows);
    for (uint32_t t = 0; t + KERN_TOKENS <= n_tokens; t += KERN_TOKENS)
        draw_tile(&d, t, rows + t * row_bytes);
    dpq_codec_free(d.codec);
    free(d.error);
    free(d.width);
    free(d.pool);
    return rows;
}
