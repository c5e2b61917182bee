#include "daemon/options.h"

#include <getopt.h>
#include <stdio.h>

static const char help[] =
    "Usage: deltapqd [--config FILE]\n"
    "       deltapqd [--config FILE] --check-config\n"
    "\n"
    "Keeps the KV caches of language models compressed in shared memory.\n"
    "\n"
    "  -c, --config FILE   the configuration; default: " DELTAPQ_CONFIG "\n"
    "      --check-config  say whether the configuration is right, without starting\n"
    "  -V, --version       print the version\n"
    "  -h, --help          print this\n"
    "\n"
    "Signals:\n"
    "  TERM, INT  stop: calls in flight get grace_seconds; a second one cancels them\n"
    "  HUP        read the configuration again: log_level changes, the rest at the next start\n"
    "\n"
    "Exit status:\n"
    "  0  stopped in order, or the configuration is right\n"
    "  1  something failed; the log says what\n"
    "  2  the configuration or the command line is wrong; the message has file and line\n"
    "  3  another deltapqd serves this runtime_dir; the message has its pid\n"
    "\n"
    "The log goes to stderr. Without service manager: mkdir run, write a configuration with\n"
    "runtime_dir, state_dir and a [tenant NAME], and start deltapqd --config FILE.\n";

int options_parse(int argc, char **argv, struct options *ret_options)
{
    static const struct option long_options[] = { { "config", required_argument, NULL, 'c' },
                                                  { "check-config", no_argument, NULL, 'k' },
                                                  { "version", no_argument, NULL, 'V' },
                                                  { "help", no_argument, NULL, 'h' },
                                                  { 0 } };
    struct options options = { .config_path = DELTAPQ_CONFIG };
    int c;

    while ((c = getopt_long(argc, argv, "c:Vh", long_options, NULL)) != -1) {
        switch (c) {
        case 'c':
            options.config_path = optarg;
            break;
        case 'k':
            options.check_config = true;
            break;
        case 'V':
            printf("deltapqd " DELTAPQ_VERSION "\n");
            return OPTIONS_E_DONE;
        case 'h':
            fputs(help, stdout);
            return OPTIONS_E_DONE;
        default: /* getopt_long() has said what is wrong */
            fprintf(stderr, "Try: deltapqd --help\n");
            return OPTIONS_E_WRONG;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "deltapqd: what is \"%s\"? Try: deltapqd --help\n", argv[optind]);
        return OPTIONS_E_WRONG;
    }
    *ret_options = options;
    return 0;
}
