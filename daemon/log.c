#include "daemon/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

static struct {
    _Atomic int level;
    bool journal;
} log_state = { .level = LOG_INFO };

/* The journal says which socket it gave us: JOURNAL_STREAM is that socket's device:inode. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;

    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           !fstat(STDERR_FILENO, &st) && st.st_dev == device && st.st_ino == inode;
}

void log_set_level(const char *level)
{
    static const struct {
        const char *name;
        int level;
    } levels[] = { { "error", LOG_ERROR },
                   { "warning", LOG_WARNING },
                   { "info", LOG_INFO },
                   { "debug", LOG_DEBUG } };
    int found = LOG_INFO;

    for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
        if (!strcmp(level, levels[i].name))
            found = levels[i].level;
    log_state.level = found;
}

void log_init(const char *level)
{
    log_state.journal = stderr_is_journal();
    log_set_level(level);
}

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_ERROR:
        return "error";
    case LOG_WARNING:
        return "warning";
    case LOG_INFO:
        return "info";
    default:
        return "debug";
    }
}

static size_t put_prefix(char *line, size_t size, enum log_level level)
{
    struct timespec now;
    struct tm tm;
    size_t n;

    if (log_state.journal)
        return (size_t)snprintf(line, size, "<%d>", (int)level);
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    n = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &tm);
    return n + (size_t)snprintf(line + n, size - n, ".%03ldZ %s: ", now.tv_nsec / 1000000,
                                level_name(level));
}

void log_line(enum log_level level, const char *format, ...)
{
    static const char cut[] = " ...";
    char line[LINE_BYTES];
    size_t n;
    va_list args;
    int more;

    if ((int)level > log_state.level)
        return;
    n = put_prefix(line, sizeof line, level);
    va_start(args, format);
    more = vsnprintf(line + n, sizeof line - n - 1, format, args);
    va_end(args);
    if (more < 0)
        return;
    if ((size_t)more >= sizeof line - n - 1) {
        n = sizeof line - sizeof cut;
        memcpy(line + n, cut, sizeof cut - 1);
        n += sizeof cut - 1;
    } else {
        n += (size_t)more;
    }
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            line[i] = '?';
    line[n++] = '\n';
    (void)!write(STDERR_FILENO, line, n); /* where would we complain? */
}

void log_fault(int r, int origin, const char *func, const char *file, int line)
{
    log_line(LOG_DEBUG, "%s %d (%s) in %s() at %s:%d", origin ? "fault" : "  through", -r,
             strerror(-r), func, file, line);
}
