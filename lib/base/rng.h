#pragma once

/* xoshiro256** seeded by splitmix64 (Blackman and Vigna): for training and tests, not for secrets.
 */

#include <stdint.h>

struct rng {
    uint64_t s[4];
};

static inline struct rng rng_seed(uint64_t seed)
{
    struct rng r;

    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15);

        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        r.s[i] = z ^ z >> 31;
    }
    return r;
}

static inline uint64_t rng_next(struct rng *r)
{
    uint64_t x = r->s[1] * 5, t = r->s[1] << 17;

    x = (x << 7 | x >> 57) * 9;
    r->s[2] ^= r->s[0];
    r->s[3] ^= r->s[1];
    r->s[1] ^= r->s[2];
    r->s[0] ^= r->s[3];
    r->s[2] ^= t;
    r->s[3] = r->s[3] << 45 | r->s[3] >> 19;
    return x;
}

/* uniform in [0, 1) */
static inline double rng_unit(struct rng *r)
{
    return (double)(rng_next(r) >> 11) * 0x1p-53;
}

/* uniform in 0 … n-1, n > 0; the bias is below n / 2^64 */
static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
    return (uint64_t)((unsigned __int128)rng_next(r) * n >> 64);
}
