#include "lib/kern/kern.h"

unsigned kern_cpu_detect(void)
{
    unsigned cpu = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c"))
        cpu |= KERN_CPU_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        cpu |= KERN_CPU_AVX512;
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"))
        cpu |= KERN_CPU_VNNI;
    if (__builtin_cpu_supports("avx512fp16"))
        cpu |= KERN_CPU_FP16;
#elif defined(__aarch64__)
    cpu |= KERN_CPU_NEON;
#endif
    return cpu;
}

/* The whole dispatch policy, from the bottom step up. */
void kern_init(struct kern *k, unsigned cpu)
{
    (void)cpu;
    kern_init_c(k);
#ifdef HAVE_KERN_NEON
    if (cpu & KERN_CPU_NEON)
        kern_init_neon(k);
#endif
#ifdef HAVE_KERN_AVX2
    if (!(cpu & KERN_CPU_AVX2))
        return;
    kern_init_avx2(k);
    kern_init_avx2_rows(k);
    kern_init_avx2_sums(k);
#ifdef HAVE_KERN_AVX512
    if (!(cpu & KERN_CPU_AVX512))
        return;
    kern_init_avx512(k);
    kern_init_avx512_sums(k);
#ifdef HAVE_KERN_VNNI
    if (!(cpu & KERN_CPU_VNNI))
        return;
    kern_init_vnni(k);
#ifdef HAVE_KERN_FP16
    if (!(cpu & KERN_CPU_FP16))
        return;
    kern_init_fp16(k);
#endif
#endif
#endif
#endif
}
