#pragma once

/* The daemon's life between configuration and exit code: everything is made, served, freed here. */

#include "daemon/config.h"

/**
 * life_run() - serve until a signal stops it
 * @config_path: read again on SIGHUP
 * @config:      what it says now; copied
 * Return: an enum exit_code (options.h); what went wrong is in the log.
 */
int life_run(const char *config_path, const struct config *config);
