#pragma once

/* The keys of the configuration, as a table, and how their values are read. config/deltapqd.conf
 * names every one with the same default; a test compares them. */

#include <stdbool.h>
#include <sys/socket.h>

#include "daemon/config.h"

enum config_scope {
    CONFIG_SCOPE_NONE, /* before the first section */
    CONFIG_SCOPE_DAEMON,
    CONFIG_SCOPE_HTTP,
    CONFIG_SCOPE_TENANT,
};

enum config_type {
    CONFIG_TYPE_BOOL,   /* bool */
    CONFIG_TYPE_NUMBER, /* uint32_t, min … max */
    CONFIG_TYPE_SIZE,   /* uint64_t bytes, min … max */
    CONFIG_TYPE_PATH, /* char[CONFIG_PATH_BYTES], absolute, max bytes; "" for the word in choices */
    CONFIG_TYPE_CHOICE, /* char[max], one of the words in choices */
    CONFIG_TYPE_LISTEN, /* char[max], a loopback address with port, or off */
    CONFIG_TYPE_UIDS,   /* struct config_tenant's uids; each mention adds */
};

struct config_key {
    enum config_scope scope;
    const char *name;
    const char *preset; /* NULL: must be given */
    enum config_type type;
    size_t offset; /* in struct config, or struct config_tenant */
    uint64_t min, max;
    const char *choices; /* words, separated by one space */
    bool is_live;        /* SIGHUP changes it in a running daemon */
};

/** config_keys() - the table */
const struct config_key *config_keys(size_t *ret_n);

/** config_key_find() - NULL when there is none */
const struct config_key *config_key_find(enum config_scope scope, const char *name);

/** config_key_nearest() - a key that the name may have been meant to be, in any section; or NULL */
const struct config_key *config_key_nearest(const char *name);

/** config_scope_nearest() - "daemon", "http" or "tenant NAME" if the section's name is close */
const char *config_scope_nearest(const char *section);

/** config_scope_name() - "[daemon]" … for messages */
const char *config_scope_name(enum config_scope scope);

enum { CONFIG_WHY_BYTES = 160 };

/**
 * config_key_set() - read a value
 * @base:    the struct that key->offset is in
 * @ret_why: CONFIG_WHY_BYTES: what would be right ("must be …"), set with CONFIG_E_REFUSED
 * Return: 0, CONFIG_E_REFUSED.
 */
int config_key_set(const struct config_key *key, void *base, const char *value, char *ret_why);

/** config_key_equal() - has it the same value in two structs? */
bool config_key_equal(const struct config_key *key, const void *base, const void *other);

/** config_key_copy() - @from's value into @to */
void config_key_copy(const struct config_key *key, void *to, const void *from);

enum { CONFIG_VALUE_BYTES = CONFIG_PATH_BYTES };

/** config_key_show() - as it could stand in the file; uids: how many there are */
void config_key_show(const struct config_key *key, const void *base,
                     char ret_text[CONFIG_VALUE_BYTES]);

/**
 * config_listen() - what a listen value means
 * Return: 0; 1 for "off"; 2 when it is neither a numeric loopback address with port nor "off".
 */
int config_listen(const char *value, struct sockaddr_storage *ret_address, socklen_t *ret_n);
