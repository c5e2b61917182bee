#include "lib/base/error.h"

#include <errno.h>

static error_hook_fn error_hook;

void error_set_hook(error_hook_fn hook)
{
    error_hook = hook;
}

static int trace(int r, int origin, const char *func, const char *file, int line)
{
    if (error_hook)
        error_hook(r, origin, func, file, line);
    return r;
}

int error_slow_origin(int r, const char *func, const char *file, int line)
{
    return trace(r < 0 ? r : -ENOTRECOVERABLE, 1, func, file, line);
}

int error_slow_fold(int r, const char *func, const char *file, int line)
{
    if (r > 0)
        return error_slow_origin(r, func, file, line);
    return trace(r, 0, func, file, line);
}
