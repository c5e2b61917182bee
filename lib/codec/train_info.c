/*
 * The JSON section of a trained profile. Nothing in it depends on time, threads or locale.
 */

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/codec/train.h"

static void put_string(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 0x20)
            fprintf(f, "\\u%04x", c);
        else
            fputc(c, f);
    }
    fputc('"', f);
}

/* Six digits after the point, which printf() would take from the locale. */
static void put_ratio(FILE *f, double value)
{
    unsigned long long millionths = (unsigned long long)llrint(fmin(fmax(value, 0), 1e6) * 1e6);

    fprintf(f, "%llu.%06llu", millionths / 1000000, millionths % 1000000);
}

static double nmse(const struct train_result *r, bool fine)
{
    return r->power > 0 ? r->mean_error[fine ? PLANE_FINE : PLANE_BASE] / r->power : 0;
}

static void put_references(FILE *f, const struct train_run *run)
{
    static const char *const NAMES[] = { "none", "temporal", "depth-head", "depth" };
    uint32_t n[4] = { 0 };

    for (uint32_t i = 0; i < dpq_n_streams(run->geometry); i++)
        n[run->results[i].stream.reference]++;
    fprintf(f, ",\"reference\":\"%s\",\"references\":{",
            run->options->reference ? NAMES[run->options->reference - 1] : "auto");
    for (int k = 0; k < 4; k++)
        fprintf(f, "%s\"%s\":%u", k ? "," : "", NAMES[k], n[k]);
    fputc('}', f);
}

static void put_kind(FILE *f, const struct dpq_geometry *g, const struct train_result *results,
                     uint32_t kind)
{
    double sum[2] = { 0 };
    uint32_t n = g->n_layers * g->n_kv_heads;

    for (uint32_t layer = 0; layer < g->n_layers; layer++)
        for (uint32_t head = 0; head < g->n_kv_heads; head++)
            for (int fine = 0; fine < 2; fine++)
                sum[fine] += nmse(&results[dpq_stream_index(g, layer, kind, head)], fine);
    fprintf(f, "\"%c\":{\"base\":", kind == DPQ_K ? 'k' : 'v');
    put_ratio(f, sum[0] / n);
    fputs(",\"fine\":", f);
    put_ratio(f, sum[1] / n);
    fputc('}', f);
}

static void put_streams(FILE *f, const char *name, const struct train_result *results, uint32_t n,
                        bool fine)
{
    fprintf(f, "\"%s\":[", name);
    for (uint32_t i = 0; i < n; i++) {
        if (i)
            fputc(',', f);
        put_ratio(f, nmse(&results[i], fine));
    }
    fputc(']', f);
}

/* What single streams were given: [layer, kind, head, reference, dsub, planes] each. */
static void put_own(FILE *f, const struct dpq_trainer *t)
{
    uint32_t n_heads = t->geometry.n_kv_heads;
    bool first = true;

    for (uint32_t i = 0; t->streams && i < dpq_n_streams(&t->geometry); i++) {
        const struct dpq_stream_options *own = &t->streams[i];

        if (!own->reference && !own->dsub && !own->planes)
            continue;
        fprintf(f, "%s[%u,%u,%u,%u,%u,%u]", first ? ",\"own\":[" : ",", i / n_heads / 2,
                i / n_heads % 2, i % n_heads, own->reference, own->dsub, own->planes);
        first = false;
    }
    if (!first)
        fputc(']', f);
}

static void put_all(FILE *f, const struct train_run *run)
{
    const struct dpq_geometry *g = run->geometry;
    const struct dpq_train_options *o = run->options;
    const struct train_result *results = run->results;

    fputs("{\"model\":", f);
    put_string(f, o->model_name);
    fprintf(f,
            ",\"geometry\":{\"n_layers\":%u,\"n_kv_heads\":%u,\"n_q_heads\":%u,\"head_dim\":%u,"
            "\"rope_pairing\":%u,\"rotary_dim\":%u,\"n_sink\":%u}",
            g->n_layers, g->n_kv_heads, g->n_q_heads, g->head_dim, g->rope_pairing, g->rotary_dim,
            g->n_sink);
    put_references(f, run);
    fprintf(f, ",\"dsub\":[%u,%u],\"metric\":\"%s\"", o->dsub[0] ? o->dsub[0] : 2,
            o->dsub[1] ? o->dsub[1] : 2, run->plan.trainer->metric ? "given" : "identity");
    put_own(f, run->plan.trainer);
    fprintf(f, ",\"seed\":%llu,\"iterations\":%u", (unsigned long long)o->seed,
            o->n_iterations ? o->n_iterations : TRAIN_ITERATIONS);
    fprintf(f, ",\"tokens\":%llu,\"tokens_learned\":%zu,\"tokens_held_out\":%zu",
            (unsigned long long)run->plan.trainer->n_tokens, run->plan.n_valid[0],
            run->plan.n_valid[1]);
    fputs(",\"nmse\":{", f);
    put_kind(f, g, results, DPQ_K);
    fputc(',', f);
    put_kind(f, g, results, DPQ_V);
    fputs("},\"streams\":{", f);
    put_streams(f, "nmse_base", results, dpq_n_streams(g), false);
    fputc(',', f);
    put_streams(f, "nmse_fine", results, dpq_n_streams(g), true);
    fputs("}}", f);
}

char *train_info(const struct train_run *run)
{
    char *text = NULL;
    size_t n_text;
    FILE *f = open_memstream(&text, &n_text);
    bool failed;

    if (!f)
        return NULL;
    put_all(f, run);
    failed = ferror(f);
    if (fclose(f) || failed) {
        free(text);
        return NULL;
    }
    return text;
}
