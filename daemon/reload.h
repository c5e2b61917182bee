#pragma once

struct config;
struct session;

/**
 * reload_config() - read the configuration again
 * @running: what the daemon runs by; what can change at once does, all of it or nothing
 * The log says what has changed, what waits for the next start, and what is wrong. Loop thread.
 */
void reload_config(const char *path, struct config *running, struct session *session);
