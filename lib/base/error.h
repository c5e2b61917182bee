#pragma once

#include "lib/base/defs.h"

/*
 * What an int says
 *
 *   0    done
 *   < 0  a fault, as -errno: forward it by error_fold(), never compare it
 *   > 0  an outcome, named in the header of the function that returned it: deal with it right there
 *
 * An outcome is part of one function's contract and means nothing to that function's caller's
 * caller. error_fold() turns one that nobody dealt with into a fault, hence `if (r) return
 * error_fold(r);` reads: nothing but faults leave here. (The scheme is dbus-broker's.)
 */

/**
 * typedef error_hook_fn - one step of a fault's trace, innermost first
 * @r:      the fault; ENOTRECOVERABLE stands for an outcome that was not dealt with
 * @origin: true where the fault began, false where it was passed on
 *
 * Thread: the failing one.
 */
typedef void (*error_hook_fn)(int r, int origin, const char *func, const char *file, int line);

/**
 * error_set_hook() - say where traces go
 * @hook: NULL for nowhere, which is the default
 *
 * The library prints nothing. This hook is its only process-wide state.
 *
 * Thread: once, before any other thread starts.
 */
void error_set_hook(error_hook_fn hook);

_cold_ int error_slow_origin(int r, const char *func, const char *file, int line);
_cold_ int error_slow_fold(int r, const char *func, const char *file, int line);

/* Begin a fault: return error_origin(-ENOMEM); */
#define error_origin(r) error_slow_origin((r), __func__, __FILE__, __LINE__)

/* Forward what a callee returned: if (r) return error_fold(r); */
#define error_fold(r) \
    ({ \
        int _fold = (r); \
        __builtin_expect(!_fold, 1) ? 0 : error_slow_fold(_fold, __func__, __FILE__, __LINE__); \
    })
