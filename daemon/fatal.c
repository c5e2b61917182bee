#include "daemon/fatal.h"

#include <signal.h>

enum { MAX_WORDS = 64 };

static _Atomic(_Atomic uint64_t *) words[MAX_WORDS];

/* A store for each word is all that may be done here. The handler was reset on entry, so that the
 * signal, raised again, does what it does by default. */
static void on_fatal(int number)
{
    for (int i = 0; i < MAX_WORDS; i++) {
        _Atomic uint64_t *word = atomic_load(&words[i]);

        if (word)
            atomic_store(word, 1);
    }
    raise(number);
}

void fatal_install(void)
{
    static const int numbers[] = { SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE };
    struct sigaction action = { .sa_handler = on_fatal, .sa_flags = SA_RESETHAND };

    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        (void)!sigaction(numbers[i], &action, NULL); /* cannot fail: the numbers are right */
}

void fatal_watch(_Atomic uint64_t *word)
{
    _Atomic uint64_t *none = NULL;

    for (int i = 0; i < MAX_WORDS; i++, none = NULL)
        if (atomic_compare_exchange_strong(&words[i], &none, word))
            return;
}

void fatal_unwatch(_Atomic uint64_t *word)
{
    for (int i = 0; i < MAX_WORDS; i++) {
        _Atomic uint64_t *found = word;

        if (atomic_compare_exchange_strong(&words[i], &found, NULL))
            return;
    }
}
