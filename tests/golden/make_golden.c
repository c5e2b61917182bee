/*
 * Write the golden files anew: after a change of the format, before the first release
 *
 *   make_golden tests/golden tests/fuzz/corpus
 *
 * toy.profile has a stream of each reference; tile-*.base and .fine are tiles of it with every
 * section; expected holds sums and samples of what they decode to; errors/OUTCOME-what.kind must
 * fail with that outcome. Everything follows from seeds, so a second run changes nothing.
 */

#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>

#include "tests/golden/golden.h"
#include "tests/util/craft_tile.h"
#include "tests/util/export_sample.h"
#include "tests/util/profile_file.h"

static void write_file(const char *folder, const char *name, const void *bytes, size_t n)
{
    char path[8192];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) {
        perror(path);
        exit(1);
    }
}

static void write_expected(FILE *f, const char *name, const char *planes, struct dpq_codec *codec,
                           const struct craft *t, bool with_fine)
{
    static float rows[GOLDEN_NUMBERS];
    int r = golden_decode(codec, t->base, t->n_base, with_fine ? t->fine : NULL,
                          with_fine ? t->n_fine : 0, rows);

    if (r) {
        fprintf(stderr, "%s: %s\n", name, dpq_outcome_name(r));
        exit(1);
    }
    for (uint32_t s = 0; s < GOLDEN_STREAMS; s++) {
        struct golden_sums sums = golden_sum(rows, s);

        fprintf(f, "%s %s %u %.9g %.9g %.9g\n", name, planes, s, sums.sum, sums.squares,
                sums.sample);
    }
}

/* Damage one field, write, repair. */
static void write_error(const char *folder, const char *name, uint8_t *bytes, size_t n, size_t at,
                        uint32_t value, size_t n_value)
{
    uint8_t old[4];

    memcpy(old, bytes + at, n_value);
    memcpy(bytes + at, &value, n_value);
    write_file(folder, name, bytes, n);
    memcpy(bytes + at, old, n_value);
}

#define BASE_AT(field) offsetof(struct tile_base_header, field)
#define FINE_AT(field) offsetof(struct tile_fine_header, field)

static void write_errors(const char *folder, struct craft *t)
{
    struct tile_base_header h;
    uint8_t *b = t->base, *f = t->fine;
    size_t n = t->n_base, m = t->n_fine;

    memcpy(&h, b, sizeof(h));
    write_error(folder, "CORRUPT-magic.base", b, n, BASE_AT(magic), 0, 4);
    write_error(folder, "VERSION-newer.base", b, n, BASE_AT(version), 2, 2);
    write_error(folder, "MISMATCH-profile.base", b, n, BASE_AT(profile), 0, 4);
    write_error(folder, "CORRUPT-dtype.base", b, n, BASE_AT(dtype), 3, 1);
    write_error(folder, "CORRUPT-length.base", b, n, BASE_AT(n_bytes), (uint32_t)n + 1, 4);
    write_error(folder, "CORRUPT-streams.base", b, n, BASE_AT(n_streams), 5, 4);
    write_error(folder, "CORRUPT-directory.base", b, n, BASE_AT(directory_offset), ~0u, 4);
    write_error(folder, "CORRUPT-gains.base", b, n, BASE_AT(gains_offset), (uint32_t)n - 64, 4);
    write_error(folder, "CORRUPT-unaligned.base", b, n, BASE_AT(panels_offset), 65, 4);
    write_error(folder, "CORRUPT-lines.base", b, n, BASE_AT(n_panel_lines), 1u << 26, 4);
    write_error(folder, "CORRUPT-kinds.base", b, n, BASE_AT(kinds_offset), (uint32_t)n - 8, 4);
    write_error(folder, "CORRUPT-droppable.base", b, n, BASE_AT(droppable_offset), ~0u, 4);
    write_error(folder, "CORRUPT-verdict.base", b, n, BASE_AT(n_verdict_bytes), ~0u, 4);
    write_error(folder, "CORRUPT-panel.base", b, n, h.directory_offset, 1000, 4);
    write_error(folder, "CORRUPT-reference.base", b, n, h.directory_offset + 4, 3, 1);
    write_error(folder, "CORRUPT-dsub.base", b, n, h.directory_offset + 5, 8, 1);
    write_error(folder, "CORRUPT-raw-stream.base", b, n, h.raw_offset, 4, 4);
    write_error(folder, "CORRUPT-raw-type.base", b, n, h.raw_offset + 4, 3, 1);
    write_error(folder, "CORRUPT-raw-rows.base", b, n, h.n_bytes - 40 - 24 - 3 * 36 + 40 + 12, ~0u,
                4);
    write_file(folder, "CORRUPT-cut.base", b, 100);
    write_file(folder, "CORRUPT-empty.base", b, 0);
    write_error(folder, "CORRUPT-magic.fine", f, m, FINE_AT(magic), 0, 4);
    write_error(folder, "VERSION-newer.fine", f, m, FINE_AT(version), 2, 2);
    write_error(folder, "MISMATCH-tile.fine", f, m, FINE_AT(first_index), 128, 4);
    write_error(folder, "CORRUPT-lines.fine", f, m, FINE_AT(n_panel_lines), 1u << 26, 4);
    write_error(folder, "CORRUPT-panel.fine", f, m, sizeof(struct tile_fine_header), 1000, 4);
    write_error(folder, "CORRUPT-unexpected.fine", f, m, sizeof(struct tile_fine_header) + 12, 0,
                4);
    write_file(folder, "CORRUPT-cut.fine", f, 63);
}

static void write_profile_errors(const char *folder, const struct toy *toy)
{
    uint8_t *b = malloc(toy->n_bytes);

    memcpy(b, toy->bytes, toy->n_bytes);
    write_file(folder, "CORRUPT-cut.profile", b, 4096);
    write_error(folder, "VERSION-newer.profile", b, 4096, 8, 2, 4);
    write_error(folder, "CORRUPT-magic.profile", b, 4096, 0, 0, 4);
    free(b);
}

static void write_seed(const char *folder, const char *name, const struct craft *t, bool with_fine)
{
    size_t n_fine = with_fine ? t->n_fine : 0;
    uint32_t n_base = (uint32_t)t->n_base;
    uint8_t *bytes = malloc(4 + t->n_base + t->n_fine);

    memcpy(bytes, &n_base, 4);
    memcpy(bytes + 4, t->base, t->n_base);
    memcpy(bytes + 4 + t->n_base, t->fine, n_fine);
    write_file(folder, name, bytes, 4 + t->n_base + n_fine);
    free(bytes);
}

/* Seeds for the profile's fuzz target: each reference, and damage that the CRC would hide. */
static void write_profile_seeds(const char *folder)
{
    static const char *const NAMES[] = { "none", "temporal", "depth_head", "depth" };

    for (uint32_t reference = 0; reference <= REFERENCE_DEPTH; reference++) {
        struct toy toy = { .geometry = toy_geometry(1, 1, 32), .seed = 2, .dsub = 2 };
        struct profile_file_header *h;
        struct profile_file_stream *s;

        toy.reference = reference;
        if (toy_make(&toy))
            exit(1);
        write_file(folder, NAMES[reference], toy.bytes, toy.n_bytes);
        if (reference == REFERENCE_NONE) {
            write_file(folder, "empty", NULL, 0);
            write_file(folder, "cut", toy.bytes, toy.n_bytes / 2);
            write_file(folder, "header_only", toy.bytes, sizeof(*h));
            h = (struct profile_file_header *)toy.bytes;
            s = (struct profile_file_stream *)(toy.bytes + h->streams_offset);
            s->mean = UINT64_MAX - 63;
            profile_seal(toy.bytes, toy.n_bytes);
            write_file(folder, "offset_wraps", toy.bytes, toy.n_bytes);
        }
        toy_drop(&toy);
    }
}

static void write_export(const char *folder, const char *errors, const char *corpus)
{
    static struct export_memory m;

    if (export_sample(&m))
        exit(1);
    write_file(folder, "sample.export", m.bytes, m.n);
    write_file(corpus, "sample", m.bytes, m.n);
    write_file(corpus, "cut", m.bytes, m.n / 2);
    write_file(corpus, "header", m.bytes, 40);
    write_file(errors, "CUT-half.export", m.bytes, m.n / 2);
    write_error(errors, "CORRUPT-magic.export", m.bytes, m.n, 0, 0, 4);
    write_error(errors, "VERSION-newer.export", m.bytes, m.n, 8, 2, 4);
    write_error(errors, "CORRUPT-payload.export", m.bytes, m.n, 1000, 0x55, 1);
    write_error(errors, "CORRUPT-kind.export", m.bytes, m.n, 16, 9, 4);
}

int main(int argc, char **argv)
{
    static const char *const NAMES[] = { "f32", "f16", "bf16" };
    struct toy toy = { .geometry = toy_geometry(2, 1, 32), .seed = 1, .mixed = true };
    struct dpq_codec *codec;
    char path[4096], corpus[4096];
    FILE *f;

    if (argc != 3 || toy_make(&toy) || dpq_codec_new(toy.profile, ~0u, &codec)) {
        fprintf(stderr, "usage: make_golden FOLDER CORPUS\n");
        return 1;
    }
    write_file(argv[1], "toy.profile", toy.bytes, toy.n_bytes);
    snprintf(path, sizeof(path), "%s/expected", argv[1]);
    f = fopen(path, "w");
    if (!f)
        return 1;
    snprintf(corpus, sizeof(corpus), "%s/profile", argv[2]);
    write_profile_seeds(corpus);
    snprintf(corpus, sizeof(corpus), "%s/tile", argv[2]);
    snprintf(path, sizeof(path), "%s/errors", argv[1]);
    mkdir(path, 0777);
    snprintf(corpus, sizeof(corpus), "%s/export", argv[2]);
    mkdir(corpus, 0777);
    write_export(argv[1], path, corpus);
    snprintf(corpus, sizeof(corpus), "%s/tile", argv[2]);
    for (uint32_t dtype = 0; dtype < 3; dtype++) {
        struct craft t = craft_tile(&toy, dtype, 100 + dtype);
        char name[64];

        snprintf(name, sizeof(name), "tile-%s.base", NAMES[dtype]);
        write_file(argv[1], name, t.base, t.n_base);
        snprintf(name, sizeof(name), "tile-%s.fine", NAMES[dtype]);
        write_file(argv[1], name, t.fine, t.n_fine);
        snprintf(name, sizeof(name), "tile-%s", NAMES[dtype]);
        write_expected(f, name, "base", codec, &t, false);
        write_expected(f, name, "fine", codec, &t, true);
        write_seed(corpus, NAMES[dtype], &t, dtype != DPQ_F16);
        if (dtype == DPQ_F16) {
            write_errors(path, &t);
            write_profile_errors(path, &toy);
        }
        craft_drop(&t);
    }
    fclose(f);
    dpq_codec_free(codec);
    toy_drop(&toy);
    return 0;
}
