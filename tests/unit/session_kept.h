#pragma once

/* A session whose arenas a service manager keeps, or that are files: it can be restarted. */

#include "tests/unit/session_fixture.h"

enum { N_NAMES = 8 };

/* A service manager: descriptors by name. */
static struct kept {
    char name[80];
    int fd;
} manager[N_NAMES];

static inline struct kept *look_up(const char *name)
{
    for (int i = 0; i < N_NAMES; i++)
        if (!strcmp(manager[i].name, name))
            return &manager[i];
    return NULL;
}

static inline int manager_find(void *user, const char *name)
{
    struct kept *k = look_up(name);

    (void)user;
    return k ? dup(k->fd) : -1;
}

static inline void manager_keep(void *user, const char *name, int fd)
{
    struct kept *k = look_up("");

    (void)user;
    assert_non_null(k);
    strcpy(k->name, name);
    k->fd = dup(fd);
}

static inline void manager_drop(void *user, const char *name)
{
    struct kept *k = look_up(name);

    (void)user;
    if (!k)
        return;
    close(k->fd);
    k->name[0] = '\0';
}

static const struct session_keeper KEEPER = { manager_find, manager_keep, manager_drop, NULL };

static inline void open_again(struct fixture *f)
{
    assert_int_equal(hub_new(2, 4096, 1, fixture_clock_ms, &f->hub), 0);
    assert_int_equal(pool_new(3, 1000, &f->pool), 0);
    assert_int_equal(session_new_kept(&f->config, f->hub, f->pool, &KEEPER, &f->session), 0);
    session_ready(f->session);
}

static inline void restart(struct fixture *f)
{
    fixture_close(f);
    open_again(f);
}

static inline int kept_setup(void **state)
{
    struct fixture *f;

    if (fixture_setup(state))
        return -1;
    f = *state;
    restart(f); /* its first arenas ended with it */
    return 0;
}

static inline int kept_setup_files(void **state)
{
    struct fixture *f;

    if (fixture_setup(state))
        return -1;
    f = *state;
    snprintf(f->config.arena_dir, sizeof(f->config.arena_dir), "/dev/shm/%s", strrchr(f->dir, '.'));
    restart(f);
    return 0;
}

static inline int kept_teardown(void **state)
{
    struct fixture *f = *state;
    char command[300] = "true";
    int r;

    if (f->config.arena_dir[0])
        snprintf(command, sizeof(command), "rm -r '%s'", f->config.arena_dir);
    r = fixture_teardown(state);
    if (system(command))
        r = -1;
    for (int i = 0; i < N_NAMES; i++)
        if (manager[i].name[0])
            manager_drop(NULL, manager[i].name);
    return r;
}

/* The same numbers as before, bit for bit. */
static inline void expect(struct fixture *f, uint64_t id, uint32_t n, const float *before)
{
    float *rows = malloc((size_t)n * ROW_BYTES);
    struct session_read op = read_run(f, id, 0, n, rows);

    assert_int_equal(op.error.code, SESSION_OK);
    assert_memory_equal(rows, before, (size_t)n * ROW_BYTES);
    free(rows);
    assert_string_equal(read_run(f, id, n, 1, NULL).error.reason, "TOKEN_RANGE"); /* and no more */
}

static inline float *read_all(struct fixture *f, uint64_t id, uint32_t n)
{
    float *rows = malloc((size_t)n * ROW_BYTES);

    assert_non_null(rows);
    assert_int_equal(read_run(f, id, 0, n, rows).error.code, SESSION_OK);
    return rows;
}
