/*
 * Without a fuzzing engine: replay files, and damage them in ways that are always the same
 *
 *   fuzz_x [--damage N] FILE|FOLDER...
 *
 * Each file is given to LLVMFuzzerTestOneInput() as it is, then N times (200 by default) after one
 * change each: a bit flipped, a byte or a 32-bit word set to a telling value, bytes cut off the
 * end. The changes follow from the file's size and N only. Nothing at all is tried first.
 */

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void die(const char *path)
{
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    exit(1);
}

/* The input in memory of exactly its size, so that a sanitizer sees what is read beyond it. */
static void try_bytes(const uint8_t *bytes, size_t n)
{
    uint8_t *copy = calloc(n, 1);

    if (n && !copy)
        die("memory");
    if (n)
        memcpy(copy, bytes, n);
    (void)!LLVMFuzzerTestOneInput(copy, n); /* always 0 */
    free(copy);
}

static void damage(struct rng *r, const uint8_t *bytes, size_t n, uint8_t *copy)
{
    static const uint32_t TELLING[] = { 0, 1, 63, 64, 0x7fffffff, 0x80000000, 0xffffffc0, ~0u };
    size_t near = n < 256 ? n : 256; /* headers are in front, and worth most of the tries */
    size_t at = rng_below(r, rng_below(r, 3) ? near : n);

    memcpy(copy, bytes, n);
    switch (rng_below(r, 4)) {
    case 0:
        copy[at] ^= (uint8_t)(1 << rng_below(r, 8));
        break;
    case 1:
        copy[at] = (uint8_t)TELLING[rng_below(r, 8)];
        break;
    case 2:
        at &= ~(size_t)3;
        memcpy(copy + at, &TELLING[rng_below(r, 8)], n - at < 4 ? n - at : 4);
        break;
    default:
        n = at;
        break;
    }
    try_bytes(copy, n);
}

static void try_file(const char *path, size_t n_tries)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    uint8_t *bytes, *copy;
    size_t n;
    struct rng r;

    if (!f || fstat(fileno(f), &st))
        die(path);
    n = (size_t)st.st_size;
    bytes = malloc(n + 1);
    copy = malloc(n + 1);
    if (!bytes || !copy || fread(bytes, 1, n, f) != n)
        die(path);
    fclose(f);
    try_bytes(bytes, n);
    r = rng_seed(n);
    for (size_t i = 0; n && i < n_tries; i++)
        damage(&r, bytes, n, copy);
    free(bytes);
    free(copy);
}

static int by_name(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static size_t try_folder(const char *path, size_t n_tries)
{
    struct dirent **entries;
    int n = scandir(path, &entries, by_name, alphasort);

    if (n < 0)
        die(path);
    for (int i = 0; i < n; i++) {
        char file[4096];

        snprintf(file, sizeof(file), "%s/%s", path, entries[i]->d_name);
        try_file(file, n_tries);
        free(entries[i]);
    }
    free(entries);
    return (size_t)n;
}

int main(int argc, char **argv)
{
    size_t n_tries = 200, n_files = 0;

    try_bytes(NULL, 0);
    for (int i = 1; i < argc; i++) {
        struct stat st;

        if (!strcmp(argv[i], "--damage") && i + 1 < argc) {
            n_tries = strtoul(argv[++i], NULL, 10);
            continue;
        }
        if (stat(argv[i], &st))
            die(argv[i]);
        if (S_ISDIR(st.st_mode)) {
            n_files += try_folder(argv[i], n_tries);
        } else {
            try_file(argv[i], n_tries);
            n_files++;
        }
    }
    printf("%zu files, each as it is and damaged in %zu ways\n", n_files, n_tries);
    return n_files ? 0 : 1;
}
