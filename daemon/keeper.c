#include "daemon/keeper.h"

#include <string.h>

static int find_kept(void *user, const char *name)
{
    struct sd_sockets *passed = user;

    for (size_t i = 0; i < passed->n_kept; i++) {
        struct sd_kept *kept = &passed->kept[i];
        int fd = kept->fd;

        if (fd < 0 || strcmp(kept->name, name))
            continue;
        kept->fd = -1;
        return fd;
    }
    return -1;
}

static void keep(void *user, const char *name, int fd)
{
    (void)user;
    sd_keep(name, fd);
}

static void forget(void *user, const char *name)
{
    (void)user;
    sd_forget(name);
}

struct session_keeper keeper_of(struct sd_sockets *passed)
{
    return (struct session_keeper){ find_kept, keep, forget, passed };
}
