#pragma once

#include <stddef.h>
#include <stdint.h>

#define _cleanup_(fn)  __attribute__((cleanup(fn)))
#define _must_check_   __attribute__((warn_unused_result))
#define _cold_         __attribute__((cold))
#define _printf_(f, a) __attribute__((format(printf, f, a)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/**
 * DEFINE_CLEANUP() - define fn##p(), to be used as _cleanup_(fn##p)
 * @type: a pointer type
 * @fn:   its destructor: accepts NULL and half-built objects, returns NULL
 */
#define DEFINE_CLEANUP(type, fn) \
    static inline void fn##p(type *p) \
    { \
        *p = fn(*p); \
    } \
    struct dpq_swallow_semicolon

/* The value of an owning pointer; the variable becomes NULL, so that its cleanup does nothing. */
#define steal_ptr(p) \
    ({ \
        __typeof__(p) *_steal_from = &(p), _stolen = *_steal_from; \
        *_steal_from = NULL; \
        _stolen; \
    })

static inline uint64_t align_up(uint64_t x, uint64_t to)
{
    return (x + to - 1) / to * to;
}
