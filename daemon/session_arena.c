/*
 * Where arenas are while no daemon runs
 *
 *     arena_dir set:  files on a tmpfs, arena-<tenant>; they outlive "systemctl stop" as well
 *     else:           memfds that the service manager keeps by name, if there is one that does
 *     neither:        memfds that end with the process
 *
 * What is found is judged by store_attach(), in its fixed order. An arena that is refused is
 * neither emptied nor thrown away: it is put aside as kept-<tenant>, its reason is logged, and the
 * daemon goes on with a new one. One is kept for each tenant, the last; it is given up, with a line
 * in the log, only when there is no memory for the new one beside it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/fatal.h"
#include "daemon/log.h"
#include "daemon/session_keep.h"
#include "daemon/session_pressure.h"
#include "lib/base/error.h"
#include "lib/store/arena.h"
#include "lib/store/huge.h"

enum { NAME_BYTES = 80 };

/* Both ways of keeping, behind four calls. */
struct place_of_arena {
    struct tenant *tenant;
    int dir_fd; /* -1: memfds */
    char name[NAME_BYTES], kept_name[NAME_BYTES];
};

static const struct session_keeper *keeper_of(const struct place_of_arena *place)
{
    return place->tenant->session->keeper;
}

static void say_no_memory(const struct tenant *tenant)
{
    log_error("tenant %s: no arena of %.1f MiB can be made, %.1f MiB of memory are available: "
              "change arena_bytes, or free memory (the service's memory limit counts as well)",
              tenant->config->name, (double)tenant->config->arena_bytes / (1 << 20),
              (double)map_available_bytes() / (1 << 20));
}

/* --- the directory ---------------------------------------------------------------------------- */

/* Nobody else may be able to put a file there, or to make one of ours vanish. */
static int open_dir(const char *path, int *ret_fd)
{
    struct stat st;
    int fd;

    if (mkdir(path, 0700) && errno != EEXIST) {
        log_error("arena_dir %s cannot be made: %s", path, strerror(errno));
        return 1;
    }
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        log_error("arena_dir %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return 1;
    }
    if (st.st_uid != geteuid() || (st.st_mode & 0777) != 0700) {
        log_error("arena_dir %s: must be a directory of mode 0700 that belongs to uid %u, not mode "
                  "%04o of uid %u",
                  path, (unsigned)geteuid(), (unsigned)(st.st_mode & 07777), (unsigned)st.st_uid);
        close(fd);
        return 1;
    }
    *ret_fd = fd;
    return 0;
}

/* As map_open_file(); what cannot be mapped is in ret_map's fd all the same, if it is a descriptor.
 */
static int find(const struct place_of_arena *place, struct map *ret_map)
{
    const struct session_keeper *keeper = keeper_of(place);
    int fd, r;

    if (place->dir_fd >= 0)
        return map_open_file(place->dir_fd, place->name, ret_map);
    fd = keeper ? keeper->find(keeper->user, place->name) : -1;
    if (fd < 0)
        return MAP_E_NONE;
    r = map_adopt(fd, ret_map);
    if (r)
        ret_map->fd = fd;
    return r;
}

static void put_aside(const struct place_of_arena *place, struct map *map)
{
    const struct session_keeper *keeper = keeper_of(place);

    if (place->dir_fd >= 0) {
        if (renameat(place->dir_fd, place->name, place->dir_fd, place->kept_name))
            log_error("%s cannot be renamed to %s: %s", place->name, place->kept_name,
                      strerror(errno));
    } else if (keeper) {
        keeper->drop(keeper->user, place->kept_name);
        if (map->fd >= 0)
            keeper->keep(keeper->user, place->kept_name, map->fd);
        keeper->drop(keeper->user, place->name);
    }
    map_close(map);
}

static void give_up_kept(const struct place_of_arena *place)
{
    const struct session_keeper *keeper = keeper_of(place);

    log_warning("tenant %s: no memory for a new arena beside %s, which is given up",
                place->tenant->config->name, place->kept_name);
    if (place->dir_fd >= 0)
        (void)!unlinkat(place->dir_fd, place->kept_name, 0); /* there is none: fine */
    else if (keeper)
        keeper->drop(keeper->user, place->kept_name);
}

static int make_map(const struct place_of_arena *place, struct map *ret_map)
{
    uint64_t n_bytes = place->tenant->config->arena_bytes;

    return place->dir_fd >= 0 ? map_create_file(place->dir_fd, n_bytes, ret_map)
                              : map_create("deltapq-arena", n_bytes, ret_map);
}

/* From now on it is found under its name. */
static int publish(const struct place_of_arena *place, struct store *store)
{
    const struct session_keeper *keeper = keeper_of(place);
    struct map map = { .fd = store_fd(store) };

    if (place->dir_fd >= 0)
        return map_publish_file(&map, place->dir_fd, place->name);
    if (keeper)
        keeper->keep(keeper->user, place->name, map.fd);
    return 0;
}

/* --- a new one, or the one before ---------------------------------------------------------------
 */

static struct store_options options_of(struct tenant *tenant)
{
    struct session *session = tenant->session;
    struct store_options options = {
        .tenant = tenant->config->name,
        .grace_until_ns = session_now_ns() + session->config->lease_seconds * UINT64_C(1000000000),
        .cold_ns = session->config->cold_seconds * UINT64_C(1000000000),
        .evicted = session_tile_evicted,
        .dropped = session_tile_dropped,
        .user = tenant,
    };

    memcpy(options.secret_id, session->secret_id, sizeof(options.secret_id));
    return options;
}

/* What it is made of. @is_new: huge pages are asked for, if they are wanted */
static void count_huge(struct tenant *tenant, const struct map *map, bool is_new)
{
    bool is_wanted = !strcmp(tenant->session->config->huge_pages, "try");
    uint64_t from_ns = session_now_ns();
    int r = is_new && is_wanted ? map_make_huge(map) : 0;

    tenant->arena_huge_bytes = huge_bytes(map);
    if (is_wanted || tenant->arena_huge_bytes)
        log_info("tenant %s: %.1f of the arena's %.1f MiB are in huge pages%s%s (%.1f ms)",
                 tenant->config->name, (double)tenant->arena_huge_bytes / (1 << 20),
                 (double)map->n_bytes / (1 << 20), r ? "; the kernel says: " : "",
                 r ? strerror(-r) : "", (double)(session_now_ns() - from_ns) / 1e6);
}

static int make_new(const struct place_of_arena *place, bool is_kept)
{
    struct tenant *tenant = place->tenant;
    struct store_options options = options_of(tenant);
    _cleanup_(map_close) struct map map = MAP_NULL;
    int r = make_map(place, &map);

    if (r == MAP_E_MEMORY && is_kept) {
        give_up_kept(place);
        r = make_map(place, &map);
    }
    if (r == MAP_E_KIND) {
        log_error("arena_dir %s is not on a tmpfs: arenas there would not be memory",
                  tenant->session->config->arena_dir);
        return 1;
    }
    if (!r) {
        count_huge(tenant, &map, true);
        r = store_create(&map, &options, &tenant->store);
    }
    if (r == MAP_E_MEMORY || r == STORE_E_SIZE) {
        say_no_memory(tenant);
        return 1;
    }
    return r ? error_fold(r) : error_fold(publish(place, tenant->store));
}

static void say_attached(const struct tenant *tenant, const struct store_recovery *found,
                         uint64_t from_ns)
{
    struct store_stats stats;

    store_get_stats(tenant->store, &stats);
    log_info(
        "tenant %s: took over an arena of %.1f MiB with %llu tiles, %llu tails and %llu records "
        "in %.1f ms; freed %llu half-written objects and %llu without their other half%s",
        tenant->config->name, (double)stats.arena_bytes / (1 << 20),
        (unsigned long long)found->n_tiles, (unsigned long long)found->n_tails,
        (unsigned long long)found->n_records, (double)(session_now_ns() - from_ns) / 1e6,
        (unsigned long long)found->n_half_written, (unsigned long long)found->n_orphans,
        found->clean ? "" : "; the daemon before did not end in order");
    if (found->n_damaged)
        log_error("tenant %s: %llu slots of the arena were damaged, and what they named is gone",
                  tenant->config->name, (unsigned long long)found->n_damaged);
    if (found->faults || found->unready)
        log_warning(
            "tenant %s: %u earlier runs with this arena ended by their own fault, %u in a row "
            "were not ready before they ended",
            tenant->config->name, found->faults, found->unready);
    if (stats.arena_bytes != align_up(tenant->config->arena_bytes, 4096))
        log_warning(
            "tenant %s: arena_bytes is %llu, but the arena that was taken over has %llu; the "
            "change counts when a new one is made",
            tenant->config->name, (unsigned long long)tenant->config->arena_bytes,
            (unsigned long long)stats.arena_bytes);
}

enum found {
    FOUND_NOTHING,
    FOUND_ARENA,
    FOUND_UNREADABLE,
};

/* Return: 0, with what was found; why: of what is unreadable. 1 refused: logged. A fault */
static int attach(const struct place_of_arena *place, struct map *map, enum found *ret_found,
                  const char **ret_why)
{
    struct tenant *tenant = place->tenant;
    struct store_options options = options_of(tenant);
    uint64_t from_ns = session_now_ns();
    struct store_recovery found;
    int r = find(place, map);

    if (r == MAP_E_TAKEN)
        log_error("tenant %s: another process has %s open", tenant->config->name, place->name);
    if (r == MAP_E_MEMORY)
        say_no_memory(tenant);
    if (r == MAP_E_TAKEN || r == MAP_E_MEMORY)
        return 1;
    *ret_found = r == MAP_E_NONE ? FOUND_NOTHING : FOUND_UNREADABLE;
    *ret_why = "KIND";
    if (r)
        return r > 0 ? 0 : error_fold(r);
    fatal_watch(arena_fault_word(map->bytes)); /* before it is looked at */
    count_huge(tenant, map, false);
    r = store_attach(map, &options, &found, &tenant->store);
    if (r) {
        fatal_unwatch(arena_fault_word(map->bytes));
        *ret_why = store_outcome_name(r);
        return r > 0 ? 0 : error_fold(r);
    }
    *ret_found = FOUND_ARENA;
    say_attached(tenant, &found, from_ns);
    return 0;
}

static int open_place(const struct place_of_arena *place)
{
    _cleanup_(map_close) struct map map = MAP_NULL;
    enum found found = FOUND_NOTHING;
    const char *why = NULL;
    int r = attach(place, &map, &found, &why);

    if (r || found == FOUND_ARENA)
        return r == 1 ? 1 : error_fold(r);
    if (found == FOUND_UNREADABLE) {
        log_error("tenant %s: %s is not opened: %s. It is kept as %s, and a new arena is made",
                  place->tenant->config->name, place->name, why, place->kept_name);
        put_aside(place, &map);
    }
    r = make_new(place, found == FOUND_UNREADABLE);
    if (!r)
        fatal_watch(store_fault_word(place->tenant->store));
    return r == 1 ? 1 : error_fold(r);
}

int arena_open(struct tenant *tenant)
{
    const char *dir = tenant->session->config->arena_dir;
    struct place_of_arena place = { .tenant = tenant, .dir_fd = -1 };
    int r;

    snprintf(place.name, sizeof(place.name), "arena-%s", tenant->config->name);
    snprintf(place.kept_name, sizeof(place.kept_name), "kept-%s", tenant->config->name);
    if (dir[0] && open_dir(dir, &place.dir_fd))
        return 1;
    r = open_place(&place);
    if (place.dir_fd >= 0)
        close(place.dir_fd);
    return r == 1 ? 1 : error_fold(r);
}

void arena_close(struct tenant *tenant)
{
    if (tenant->store)
        fatal_unwatch(store_fault_word(tenant->store));
    tenant->store = store_free(tenant->store);
}
