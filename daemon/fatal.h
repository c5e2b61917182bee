#pragma once

/*
 * Runs that end by their own fault
 *
 * SIGSEGV, SIGBUS, SIGABRT (assertions, the watchdog), SIGILL and SIGFPE leave a mark in each arena
 * that is open, then end the process as they would have. The next start counts it: an arena with
 * which three runs ended so is not opened again. A SIGKILL leaves no mark.
 *
 * What is watched is a list of this process, because a signal's handler gets no argument.
 */

#include <stdatomic.h>

#include "lib/base/defs.h"

/** fatal_install() - the handlers. Thread: main, before any arena is looked at */
void fatal_install(void);

/** fatal_watch() - set this word to 1 in such a case; until fatal_unwatch(). Thread: main. At most
 * 64 words; more are not watched */
void fatal_watch(_Atomic uint64_t *word);
void fatal_unwatch(_Atomic uint64_t *word);
