/* The portable table: the definitions, and half floats by bits. */

#include "lib/kern/kern_body.h"

static DECL_KERN_LOAD(load_f16)
{
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;

        for (size_t i = 0; i < d; i++) {
            uint16_t h;

            memcpy(&h, row + i * sizeof(h), sizeof(h));
            ret_x[t * d + i] = f32_from_f16(h);
        }
    }
}

static DECL_KERN_STORE(store_f16)
{
    for (size_t t = 0; t < n; t++) {
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;

        for (size_t i = 0; i < d; i++) {
            uint16_t h = f16_from_f32(x[t * d + i]);

            memcpy(row + i * sizeof(h), &h, sizeof(h));
        }
    }
}

void kern_init_c(struct kern *k)
{
    *k = (struct kern){
        .load = { load_f32, load_f16, load_bf16 },
        .store = { store_f32, store_f16, store_bf16 },
        .rope = { NULL, rope_half, rope_interleaved },
        .add = add,
        .gains = gains,
        .quantize = quantize,
        .search = search,
        .search_child = search_child,
        .pack = pack,
        .unpack = unpack,
        .decode = decode,
    };
}
