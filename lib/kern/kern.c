#include "lib/kern/kern.h"

unsigned kern_cpu_detect(void)
{
    unsigned cpu = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c"))
        cpu |= KERN_CPU_AVX2;
#endif
    return cpu;
}

/* The whole dispatch policy, from the bottom step up. */
void kern_init(struct kern *k, unsigned cpu)
{
    (void)cpu;
    kern_init_c(k);
#ifdef HAVE_KERN_AVX2
    if (cpu & KERN_CPU_AVX2)
        kern_init_avx2(k);
#endif
}
