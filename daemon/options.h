#pragma once

/* The command line. */

#include <stdbool.h>

#include "lib/base/defs.h"

enum exit_code { /* what --help says */
                 EXIT_STOPPED = 0,
                 EXIT_FAULT = 1,
                 EXIT_CONFIG = 2,
                 EXIT_TAKEN = 3,
};

struct options {
    const char *config_path;
    bool check_config; /* say whether the configuration is right, and end */
};

enum options_outcome {
    OPTIONS_E_DONE = 1,  /* --help or --version: printed, nothing is left to do */
    OPTIONS_E_WRONG = 2, /* said on stderr */
};

/** options_parse() - Return: 0, an outcome */
int options_parse(int argc, char **argv, struct options *ret_options);
