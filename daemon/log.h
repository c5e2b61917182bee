#pragma once

/*
 * One line an event, to stderr
 *
 * When stderr is the journal, lines begin with its <N> priority prefix; otherwise with the time
 * (UTC) and the level. Control characters in a message are shown as '?', so that one event stays
 * one line. The level is the process's: the only state here.
 */

#include "lib/base/defs.h"

enum log_level {
    LOG_ERROR = 3, /* the journal's numbers */
    LOG_WARNING = 4,
    LOG_INFO = 6,
    LOG_DEBUG = 7,
};

/** log_init() - once, before other threads start. @level: name from the config; unknown: info */
void log_init(const char *level);

/** log_set_level() - lines above it are dropped from now on; unknown names: info. Thread: any. */
void log_set_level(const char *level);

/* Thread: any. A line is written by one write(). */
void log_line(enum log_level level, const char *format, ...) _printf_(2, 3);

#define log_error(...)   log_line(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_DEBUG, __VA_ARGS__)

/** log_fault() - an error_hook_fn: one debug line a step, for error_set_hook() */
void log_fault(int r, int origin, const char *func, const char *file, int line);
