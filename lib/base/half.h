#pragma once

/* fp16 and bf16, by bits: round to nearest even, Inf on overflow, NaN stays NaN. */

#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    return u;
}

static inline float f32_from_bits(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline float f32_from_bf16(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t bf16_from_f32(float f)
{
    uint32_t u = f32_bits(f);

    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;

    if (e == 31)
        return f32_from_bits(sign | 0x7f800000 | m << 13 | (m ? 0x400000 : 0));
    if (e)
        return f32_from_bits(sign | (e + 112) << 23 | m << 13);
    /* a subnormal is m * 2^-24, exactly */
    return f32_from_bits(sign | f32_bits((float)m * 0x1p-24f));
}

static inline uint16_t f16_from_f32(float f)
{
    uint32_t u = f32_bits(f), a = u & 0x7fffffff;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);

    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) /* 65520 and more round to Inf */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) /* below 2^-14: let the FPU round m * 2^-24 to nearest even */
        return (uint16_t)(sign | (f32_bits(f32_from_bits(a) + 0.5f) - 0x3f000000));
    a += 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | (a - 0x38000000) >> 13);
}
