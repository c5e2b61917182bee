/* deltapqd: command line, configuration, log; then life.c */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "daemon/config.h"
#include "daemon/life.h"
#include "daemon/log.h"
#include "daemon/options.h"
#include "lib/base/error.h"

enum { MAX_OPEN_FILES = 65536 };

static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= MAX_OPEN_FILES)
        return;
    limit.rlim_cur = limit.rlim_max < MAX_OPEN_FILES ? limit.rlim_max : MAX_OPEN_FILES;
    (void)!setrlimit(RLIMIT_NOFILE, &limit); /* the lower one serves too */
}

/* Return: 0, or an exit code, after a message on stderr. */
static int load_config(const char *path, struct config *config)
{
    char message[CONFIG_MESSAGE_BYTES];
    int r;

    r = config_load(path, config, message);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-r));
        return EXIT_FAULT;
    }
    if (r) {
        fprintf(stderr, "%s\n", message);
        return EXIT_CONFIG;
    }
    if (config_check_machine(config, message)) {
        fprintf(stderr, "%s: %s\n", path, message);
        return EXIT_CONFIG;
    }
    return 0;
}

static void warn_same_uid(const struct config *config)
{
    if (config->allow_same_uid)
        log_warning("allow_same_uid: clients of uid %ld, the daemon's own, are let in; they can "
                    "open every arena for writing, so all of them must be trusted",
                    (long)geteuid());
}

/* Return: an exit code. */
static int run(const struct options *options, struct config *config)
{
    int r;

    r = load_config(options->config_path, config);
    if (r)
        return r;
    if (options->check_config) {
        printf("%s: right\n", options->config_path);
        return EXIT_STOPPED;
    }
    log_init(config->log_level);
    error_set_hook(log_fault);
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    log_info("deltapqd " DELTAPQ_VERSION ", pid %ld, configuration %s", (long)getpid(),
             options->config_path);
    warn_same_uid(config);
    return life_run(options->config_path, config);
}

/* A tile is some megabytes, and there is one after the other: without this, libc gives each back to
 * the kernel, which then has to clear new pages for the next. What is larger still goes back. */
static void keep_heap(void)
{
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 8 << 20);
}

int main(int argc, char **argv)
{
    struct options options;
    struct config *config;
    int r;

    keep_heap();
    r = options_parse(argc, argv, &options);
    if (r)
        return r == OPTIONS_E_DONE ? EXIT_STOPPED : EXIT_CONFIG;
    config = malloc(sizeof *config);
    if (!config)
        return EXIT_FAULT;
    r = run(&options, config);
    free(config);
    return r;
}
