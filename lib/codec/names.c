/* Names and sizes of the public enums. */

#include <stdlib.h>

#include "lib/base/defs.h"
#include "lib/deltapq.h"

const char *dpq_version(void)
{
    return DPQ_VERSION;
}

const char *dpq_outcome_name(int r)
{
    static const char *const NAMES[] = {
        [DPQ_OK] = "OK",
        [DPQ_E_INVALID] = "INVALID",
        [DPQ_E_CORRUPT] = "CORRUPT",
        [DPQ_E_VERSION] = "VERSION",
        [DPQ_E_NOT_FINITE] = "NOT_FINITE",
        [DPQ_E_OUT_OF_SPACE] = "OUT_OF_SPACE",
        [DPQ_E_MISMATCH] = "MISMATCH",
        [DPQ_E_GONE] = "GONE",
        [DPQ_E_CANCELLED] = "CANCELLED",
        [DPQ_E_CUT] = "CUT",
    };

    if (r < 0)
        return "FAULT";
    return (size_t)r < ARRAY_SIZE(NAMES) ? NAMES[r] : "UNKNOWN";
}

size_t dpq_dtype_bytes(uint32_t dtype)
{
    switch (dtype) {
    case DPQ_F32:
        return 4;
    case DPQ_F16:
    case DPQ_BF16:
        return 2;
    default:
        return 0;
    }
}

void *dpq_free(void *p)
{
    free(p);
    return NULL;
}
