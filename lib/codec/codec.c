#include "lib/codec/codec.h"

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/tile_file.h"

DEFINE_CLEANUP(struct dpq_codec *, dpq_codec_free);

/* 2^(i/8), rounded to fp32 here and not by a library. */
static const float EIGHTH_OCTAVE[8] = {
    0x1p0f,        0x1.172b84p+0f, 0x1.306fep+0f,  0x1.4bfdaep+0f,
    0x1.6a09e6p0f, 0x1.8ace54p+0f, 0x1.ae89fap+0f, 0x1.d5818ep+0f,
};

static void fill_gains(struct dpq_codec *c)
{
    for (int code = 1; code < GAIN_CODES; code++) {
        int e = code - GAIN_ONE, octave = (e + 8 * 32) / 8 - 32, eighth = (e + 8 * 32) % 8;

        c->gain[code] = ldexpf(EIGHTH_OCTAVE[eighth], octave);
        c->inverse_gain[code] = 1 / c->gain[code];
    }
}

/* 64-byte aligned, zeroed: scratch must not make results depend on what lay there. */
static int scratch(size_t n_bytes, void **ret_p)
{
    void *p = aligned_alloc(64, align_up(n_bytes, 64));

    if (!p)
        return error_origin(-ENOMEM);
    memset(p, 0, n_bytes);
    *ret_p = p;
    return 0;
}

static int allocate(struct dpq_codec *c)
{
    size_t n = (size_t)KERN_TOKENS * c->profile->geometry.head_dim;
    int r;

    r = rope_table_new(&c->profile->geometry, KERN_TOKENS, &c->rope);
    r = r ? r : scratch(n * sizeof(float), (void **)&c->x);
    r = r ? r : scratch(n * sizeof(float), (void **)&c->y);
    r = r ? r : scratch(n * sizeof(float), (void **)&c->y_base);
    r = r ? r : scratch(n * sizeof(float), (void **)&c->y_fine);
    for (int plane = 0; plane < N_PLANES; plane++)
        r = r ? r : scratch(n * sizeof(float), (void **)&c->rows[plane]);
    r = r ? r : scratch(n * sizeof(float), (void **)&c->p);
    r = r ? r : scratch(n * sizeof(int16_t), (void **)&c->q);
    r = r ? r : tile_view_new(c->profile, &c->view);
    return r;
}

static bool any_depth(const struct dpq_profile *p)
{
    for (uint32_t i = 0; i < p->n_streams; i++)
        if (p->streams[i].weight)
            return true;
    return false;
}

int dpq_codec_new(const struct dpq_profile *profile, uint32_t cpu_mask,
                  struct dpq_codec **ret_codec)
{
    const struct dpq_geometry *g = &profile->geometry;
    _cleanup_(dpq_codec_freep) struct dpq_codec *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return error_origin(-ENOMEM);
    openblas_set_num_threads(1); /* parallelism is the caller's; results must not depend on it */
    c->profile = profile;
    c->rope_position = UINT64_MAX;
    kern_init(&c->kern, cpu_mask & kern_cpu_detect());
    fill_gains(c);
    r = allocate(c);
    if (r)
        return error_fold(r);
    if (any_depth(profile)) {
        size_t n = (size_t)KERN_TOKENS * g->n_kv_heads * g->head_dim;

        r = scratch(4 * n * sizeof(float), (void **)&c->below);
        if (r)
            return error_fold(r);
    }
    *ret_codec = steal_ptr(c);
    return 0;
}

struct dpq_codec *dpq_codec_free(struct dpq_codec *codec)
{
    if (!codec)
        return NULL;
    tile_view_free(codec->view);
    free(codec->below);
    free(codec->q);
    free(codec->p);
    for (int plane = 0; plane < N_PLANES; plane++)
        free(codec->rows[plane]);
    free(codec->y_base);
    free(codec->y_fine);
    free(codec->y);
    free(codec->x);
    rope_table_free(&codec->rope);
    free(codec);
    return NULL;
}

void codec_rope(struct dpq_codec *codec, uint64_t first_position)
{
    if (codec->rope_position == first_position)
        return;
    rope_table_fill(&codec->rope, &codec->profile->geometry, first_position, KERN_TOKENS);
    codec->rope_position = first_position;
}
