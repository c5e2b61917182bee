#include "lib/codec/blas.h"

#include <cblas.h>
#include <stddef.h>
#include <strings.h>

#include "lib/base/defs.h"
#include "lib/kern/kern.h"

const char *blas_core(void)
{
    return openblas_get_corename();
}

const char *blas_better_core(const char *core, unsigned cpu)
{
    /* those of x86 with registers of 16 bytes, or without FMA */
    static const char *const old[] = {
        "Generic",   "Prescott", "Core2",  "Penryn",      "Dunnington",
        "Nehalem",   "Atom",     "Athlon", "Opteron",     "Opteron_SSE3",
        "Barcelona", "Bobcat",   "Nano",   "Sandybridge", "Bulldozer",
    };

    for (size_t i = 0; i < ARRAY_SIZE(old); i++) {
        if (!strcasecmp(core, old[i]))
            return cpu & KERN_CPU_AVX512 ? "SkylakeX" : cpu & KERN_CPU_AVX2 ? "Haswell" : NULL;
    }
    return NULL;
}
