/*
 * tile: whatever the bytes of base and fine object are, decoding refuses them or gives numbers
 *
 * Input: u32 length of the base object, base object, fine object (empty: none). It is decoded as it
 * is, and once more with lengths and profile digest put right, so that the rest is reached. A
 * range must give what the whole gives.
 */

#include "lib/codec/codec.h"
#include "lib/codec/tile_file.h"
#include "tests/util/toy_profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_ROW = 4 * 32 }; /* numbers in a row of the profile below */

static struct dpq_codec *codec; /* made once; the process ends with it */

static void set_up(void)
{
    static struct toy toy;

    toy = (struct toy){ .geometry = toy_geometry(2, 1, 32), .seed = 1, .mixed = true };
    if (toy_make(&toy) || dpq_codec_new(toy.profile, ~0u, &codec))
        abort();
}

static int decode(const uint8_t *base, size_t n_base, const uint8_t *fine, size_t n_fine,
                  const struct dpq_range *range, float *ret_rows)
{
    struct dpq_tensor tensor = {
        .dtype = DPQ_F32,
        .stride_kind = 32 * sizeof(float),
        .stride_layer = 2 * 32 * sizeof(float),
        .stride_token = 2 * 32 * sizeof(float) * range->n_layers,
    };
    struct dpq_fault fault;

    return dpq_tile_decode(codec, base, n_base, n_fine ? fine : NULL, n_fine, range, &tensor,
                           ret_rows, &fault);
}

static void decode_twice(const uint8_t *base, size_t n_base, const uint8_t *fine, size_t n_fine)
{
    static float whole[DPQ_TILE_TOKENS * FUZZ_ROW], part[7 * FUZZ_ROW / 2];
    struct dpq_range all = { 0, 2, 0, DPQ_TILE_TOKENS }, some = { 1, 1, 60, 7 };

    if (decode(base, n_base, fine, n_fine, &all, whole))
        return;
    if (decode(base, n_base, fine, n_fine, &some, part))
        abort();
    for (size_t t = 0; t < 7; t++)
        if (memcmp(part + t * FUZZ_ROW / 2, whole + (60 + t) * FUZZ_ROW + FUZZ_ROW / 2,
                   FUZZ_ROW / 2 * sizeof(float)))
            abort();
}

static void put_right(uint8_t *base, size_t n_base, uint8_t *fine, size_t n_fine)
{
    const uint8_t *digest = codec->profile->digest;
    uint32_t n = (uint32_t)n_base;

    if (n_base >= sizeof(struct tile_base_header)) {
        memcpy(base + offsetof(struct tile_base_header, profile), digest, DPQ_DIGEST_BYTES);
        memcpy(base + offsetof(struct tile_base_header, n_bytes), &n, sizeof(n));
    }
    n = (uint32_t)n_fine;
    if (n_fine >= sizeof(struct tile_fine_header)) {
        memcpy(fine + offsetof(struct tile_fine_header, profile), digest, DPQ_DIGEST_BYTES);
        memcpy(fine + offsetof(struct tile_fine_header, n_bytes), &n, sizeof(n));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *base, *fine;
    uint32_t n_base;
    size_t n_fine;

    if (!codec)
        set_up();
    if (size < sizeof(n_base))
        return 0;
    memcpy(&n_base, data, sizeof(n_base));
    size -= sizeof(n_base);
    n_base = n_base < size ? n_base : (uint32_t)size;
    n_fine = size - n_base;
    base = malloc(n_base); /* each in memory of its own size */
    fine = malloc(n_fine);
    if ((n_base && !base) || (n_fine && !fine))
        abort();
    if (n_base)
        memcpy(base, data + sizeof(n_base), n_base);
    if (n_fine)
        memcpy(fine, data + sizeof(n_base) + n_base, n_fine);
    decode_twice(base, n_base, fine, n_fine);
    put_right(base, n_base, fine, n_fine);
    decode_twice(base, n_base, fine, n_fine);
    free(base);
    free(fine);
    return 0;
}
