/*
 * Stored tiles decode to what they decoded to when they were stored, exported files are read;
 * damaged ones fail by name
 *
 *   golden FOLDER        (see make_golden.c for what is in it)
 *
 * BLAS may round differently on another machine, hence sums are compared to 1e-4 of the root of the
 * sum of squares, on the portable kernels and on those of the CPU.
 */

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/store/export_file.h"
#include "tests/golden/golden.h"

struct file {
    uint8_t *bytes;
    size_t n;
};

static int n_checks, n_failures;

static void expect(bool ok, const char *what, const char *why)
{
    n_checks++;
    n_failures += !ok;
    if (!ok)
        printf("%s: %s\n", what, why);
}

static struct file read_file(const char *folder, const char *name)
{
    struct file file = { 0 };
    char path[8192];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "rb");
    if (!f) {
        perror(path);
        exit(1);
    }
    file.bytes = malloc(1 << 20);
    file.n = fread(file.bytes, 1, 1 << 20, f);
    file.bytes = realloc(file.bytes, file.n ? file.n : 1); /* so that reading beyond shows */
    fclose(f);
    return file;
}

static void check_line(const char *folder, struct dpq_codec *codec, const char *line)
{
    static float rows[GOLDEN_NUMBERS];
    char name[64], planes[8], file[80];
    struct golden_sums want, got;
    struct file base, fine = { 0 };
    uint32_t stream;
    double scale;
    int r;

    if (sscanf(line, "%63s %7s %u %lf %lf %lf", name, planes, &stream, &want.sum, &want.squares,
               &want.sample) != 6 ||
        stream >= GOLDEN_STREAMS) {
        expect(false, "expected", "a line cannot be read");
        return;
    }
    snprintf(file, sizeof(file), "%s.base", name);
    base = read_file(folder, file);
    if (!strcmp(planes, "fine")) {
        snprintf(file, sizeof(file), "%s.fine", name);
        fine = read_file(folder, file);
    }
    r = golden_decode(codec, base.bytes, base.n, fine.bytes, fine.n, rows);
    expect(!r, name, dpq_outcome_name(r));
    got = golden_sum(rows, stream);
    scale = 1e-4 * sqrt(want.squares);
    expect(fabs(got.sum - want.sum) < scale && fabs(got.sample - want.sample) < scale &&
               fabs(got.squares - want.squares) < 1e-4 * want.squares,
           name, "other numbers than expected");
    free(base.bytes);
    free(fine.bytes);
}

static void check_expected(const char *folder, struct dpq_codec *codec)
{
    char path[4096], line[256];
    FILE *f;

    snprintf(path, sizeof(path), "%s/expected", folder);
    f = fopen(path, "r");
    if (!f) {
        perror(path);
        exit(1);
    }
    while (fgets(line, sizeof(line), f))
        check_line(folder, codec, line);
    fclose(f);
}

static int read_export(const uint8_t *bytes, size_t n)
{
    struct export_record record = { 0 };
    struct export_reader reader;
    int r = 0;

    export_reader_init(&reader, bytes, n);
    while (!r && record.kind != EXPORT_END)
        r = export_next(&reader, &record);
    return r;
}

/* "CORRUPT-magic.base": outcome, what, which object */
static void check_error(const char *folder, const char *errors, const char *name,
                        struct dpq_codec *codec)
{
    static float rows[GOLDEN_NUMBERS];
    struct file bad = read_file(errors, name), good = { 0 };
    struct dpq_profile *profile = NULL;
    const char *kind = strrchr(name, '.');
    int r;

    if (!strcmp(kind, ".export")) {
        static const char *const NAMES[] = { "OK", "CORRUPT", "VERSION", "CUT" };

        r = read_export(bad.bytes, bad.n);
        expect(!strncmp(name, NAMES[r], strcspn(name, "-")), name, NAMES[r]);
        free(bad.bytes);
        return;
    }
    if (!strcmp(kind, ".profile")) {
        r = dpq_profile_open(bad.bytes, bad.n, &profile, NULL);
        dpq_profile_free(profile);
    } else if (!strcmp(kind, ".fine")) {
        good = read_file(folder, "tile-f16.base");
        r = golden_decode(codec, good.bytes, good.n, bad.bytes, bad.n, rows);
    } else {
        r = golden_decode(codec, bad.bytes, bad.n, NULL, 0, rows);
    }
    expect(!strncmp(name, dpq_outcome_name(r), strcspn(name, "-")), name, dpq_outcome_name(r));
    free(bad.bytes);
    free(good.bytes);
}

static void check_errors(const char *folder, struct dpq_codec *codec)
{
    char path[4096];
    struct dirent *e;
    DIR *dir;

    snprintf(path, sizeof(path), "%s/errors", folder);
    dir = opendir(path);
    if (!dir) {
        perror(path);
        exit(1);
    }
    while ((e = readdir(dir)))
        if (e->d_name[0] != '.')
            check_error(folder, path, e->d_name, codec);
    closedir(dir);
}

int main(int argc, char **argv)
{
    struct dpq_profile *profile = NULL;
    struct file file, sample;

    if (argc != 2)
        return 2;
    file = read_file(argv[1], "toy.profile");
    if (dpq_profile_open(file.bytes, file.n, &profile, NULL)) {
        printf("toy.profile cannot be opened\n");
        return 1;
    }
    sample = read_file(argv[1], "sample.export");
    expect(!read_export(sample.bytes, sample.n), "sample.export", "it cannot be read any more");
    free(sample.bytes);
    for (int simd = 0; simd < 2; simd++) {
        struct dpq_codec *codec = NULL;

        if (dpq_codec_new(profile, simd ? ~0u : 0, &codec))
            return 1;
        check_expected(argv[1], codec);
        check_errors(argv[1], codec);
        dpq_codec_free(codec);
    }
    dpq_profile_free(profile);
    free(file.bytes);
    printf("%d checks, %d failed\n", n_checks, n_failures);
    return n_failures ? 1 : 0;
}
