#pragma once

/* What both checks of kernels share: guarded memory at odd offsets, special numbers, the walk over
 * the instruction sets of this CPU. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/half.h"
#include "lib/base/rng.h"
#include "lib/kern/kern.h"

enum { T = KERN_TOKENS, GUARD = 64 };

static const struct isa {
    const char *name;
    unsigned cpu;
} ISAS[] = {
    { "c", 0 }, /* beside itself: what is left is arithmetic, on any machine */
#ifdef __aarch64__
    { "neon", KERN_CPU_NEON },
#else
    { "avx2", KERN_CPU_AVX2 },
    { "avx512", KERN_CPU_AVX2 | KERN_CPU_AVX512 },
    { "vnni", KERN_CPU_AVX2 | KERN_CPU_AVX512 | KERN_CPU_VNNI },
    { "fp16", KERN_CPU_AVX2 | KERN_CPU_AVX512 | KERN_CPU_VNNI | KERN_CPU_FP16 },
#endif
};

/* Memory at an odd offset between guards. */
struct box {
    uint8_t *all, *p;
    size_t n, offset;
};

static inline struct box box_new(size_t n, size_t offset)
{
    struct box b = { .all = malloc(n + 2 * GUARD + offset), .n = n, .offset = offset };

    assert_non_null(b.all);
    memset(b.all, 0xa5, n + 2 * GUARD + offset);
    b.p = b.all + GUARD + offset;
    return b;
}

static inline void box_check(const struct box *b)
{
    for (size_t i = 0; i < GUARD + b->offset; i++)
        assert_int_equal(b->all[i], 0xa5);
    for (size_t i = 0; i < GUARD; i++)
        assert_int_equal(b->p[b->n + i], 0xa5);
}

/* Both boxes hold the same, and nothing was written around them. */
static inline void boxes_end(struct box *a, struct box *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->p, b->p, a->n);
    box_check(a);
    box_check(b);
    free(a->all);
    free(b->all);
}

static const uint32_t SPECIAL[] = {
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0xff7fffff,
    0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffc12345, 0x3f800000, 0xbf800000, 0x3f000000,
    0x3fc00000, 0x40200000, 0x477fe000, 0x477fefff, 0x477ff000, 0x33000000, 0x33000001, 0x387fc000,
    0x387fe000, 0x38800000, 0x387fffff, 0x3f808000, 0x3f818000, 0x3f807fff, 0x45fff800, 0xc5fff800,
};

/* Any bits, special bits, or a plain number. */
static inline float random_float(struct rng *r)
{
    switch (rng_below(r, 4)) {
    case 0:
        return f32_from_bits((uint32_t)rng_next(r));
    case 1:
        return f32_from_bits(SPECIAL[rng_below(r, sizeof(SPECIAL) / sizeof(SPECIAL[0]))]);
    default:
        return (float)(8 * rng_unit(r) - 4);
    }
}

static inline void fill_floats(struct rng *r, float *x, size_t n, bool special)
{
    for (size_t i = 0; i < n; i++)
        x[i] = special ? random_float(r) : (float)(8 * rng_unit(r) - 4);
}

static inline void fill_bytes(struct rng *r, void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)p)[i] = (uint8_t)rng_next(r);
}

struct pair {
    struct kern c, isa;
    unsigned cpu; /* of isa */
};

/* Run a check for each instruction set of this CPU, several times, from one seed. */
static inline void each(void (*check)(const struct pair *, struct rng *), int n_rounds)
{
    unsigned have = kern_cpu_detect();

    for (size_t i = 0; i < sizeof(ISAS) / sizeof(ISAS[0]); i++) {
        struct rng r = rng_seed(42 + i);
        struct pair p;

        p.cpu = ISAS[i].cpu & have;
        kern_init(&p.c, 0);
        kern_init(&p.isa, p.cpu);
        if (p.cpu != ISAS[i].cpu) {
            print_message("# %s: not on this machine\n", ISAS[i].name);
            return;
        }
        for (int k = 0; k < n_rounds; k++)
            check(&p, &r);
    }
}
