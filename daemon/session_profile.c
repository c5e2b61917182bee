/*
 * Profiles: judged once, kept in the state directory, served from sealed memory
 *
 * state_dir/profiles/<sha-256 in hex>.dpqp, written beside its place and renamed, so that a file
 * under such a name is whole. A file there that is not what its name says is logged and skipped at
 * the start: it must not keep the daemon from serving the others. In memory a profile is a sealed
 * memfd, which is also what clients are given; it stays until the last user lets go: a sequence, a
 * refinement, a worker's codec, a request while it looks.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/hub.h"
#include "daemon/log.h"
#include "daemon/session_internal.h"
#include "lib/base/error.h"

enum {
    HEX_BYTES = 2 * DPQ_DIGEST_BYTES + 1,
    PATH_BYTES = CONFIG_PATH_BYTES + 16,
    PROFILE_COPIES = 3, /* of the file: sealed, and laid out for the codec; measured as 2.8 */
};

DEFINE_CLEANUP(struct profile_entry *, profile_entry_free);

struct profile_entry *profile_entry_free(struct profile_entry *entry)
{
    if (!entry)
        return NULL;
    verdict_book_free(entry->book);
    dpq_profile_free(entry->profile);
    if (entry->ro_fd >= 0)
        close(entry->ro_fd);
    map_close(&entry->map);
    free(entry);
    return NULL;
}

static int close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
    return -1;
}
DEFINE_CLEANUP(int, close_fd);

static void to_hex(const uint8_t digest[DPQ_DIGEST_BYTES], char ret_hex[HEX_BYTES])
{
    for (int i = 0; i < DPQ_DIGEST_BYTES; i++)
        snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
}

static void profiles_dir(const struct session *session, char ret_path[PATH_BYTES])
{
    snprintf(ret_path, PATH_BYTES, "%s/profiles", session->config->state_dir);
}

/* --- judging ---------------------------------------------------------------------------------- */

/* Copy the bytes into sealed memory and judge the copy. 0; 1 with ret_error. */
static int entry_new(const void *bytes, size_t n_bytes, struct profile_entry **ret_entry,
                     struct session_error *ret_error)
{
    _cleanup_(profile_entry_freep) struct profile_entry *entry = calloc(1, sizeof(*entry));
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    int r;

    if (!entry) {
        session_error_fault(ret_error, error_origin(-ENOMEM), "profile");
        return 1;
    }
    entry->map = (struct map)MAP_NULL;
    entry->ro_fd = -1;
    if (n_bytes == 0 || n_bytes > MAX_PROFILE_BYTES) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "PROFILE_CORRUPT",
                          "a profile file of %llu bytes: 1 ... %llu are possible",
                          (unsigned long long)n_bytes, (unsigned long long)MAX_PROFILE_BYTES);
        return 1;
    }
    r = map_create_sealed("deltapq-profile", bytes, n_bytes, &entry->map);
    if (!r)
        r = map_reopen_ro(&entry->map, &entry->ro_fd);
    if (r) {
        session_error_fault(ret_error, r == MAP_E_MEMORY ? -ENOMEM : error_fold(r), "profile");
        return 1;
    }
    r = dpq_profile_open(entry->map.bytes, n_bytes, &entry->profile, &fault);
    if (r == DPQ_E_CORRUPT || r == DPQ_E_VERSION) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT,
                          r == DPQ_E_VERSION ? "PROFILE_VERSION" : "PROFILE_CORRUPT",
                          "not a profile that can be used: %s", fault.message);
        return 1;
    } else if (r) {
        session_error_fault(ret_error, error_fold(r), "profile");
        return 1;
    }
    r = verdict_book_new(entry->profile, &entry->book);
    if (r) {
        session_error_fault(ret_error, error_fold(r), "profile");
        return 1;
    }
    entry->map.n_bytes = n_bytes; /* what is in use of the pages */
    *ret_entry = steal_ptr(entry);
    return 0;
}

/* --- the table -------------------------------------------------------------------------------- */

struct profile_entry *profile_find(const struct session *session, const uint8_t profile_id[32])
{
    for (size_t i = 0; i < session->n_profiles; i++) {
        if (!memcmp(dpq_profile_digest(session->profiles[i]->profile), profile_id,
                    DPQ_DIGEST_BYTES))
            return session->profiles[i];
    }
    return NULL;
}

struct profile_entry *profile_ref(struct profile_entry *entry)
{
    entry->refs++;
    return entry;
}

struct profile_entry *profile_get(struct session *session, const uint8_t profile_id[32])
{
    struct profile_entry *entry;

    session_lock(session);
    entry = profile_find(session, profile_id);
    entry = entry && !entry->gone ? profile_ref(entry) : NULL;
    session_unlock(session);
    return entry;
}

struct profile_entry *profile_put(struct session *session, struct profile_entry *entry)
{
    uint32_t refs;

    if (!entry)
        return NULL;
    session_lock(session);
    assert(entry->refs);
    refs = --entry->refs;
    session_unlock(session);
    return refs ? NULL : profile_entry_free(entry);
}

/* Takes the entry when it is new. 0; 1: one of that digest is there; 2: too many; a fault. */
static int add(struct session *session, struct profile_entry *entry)
{
    struct profile_entry **profiles;
    int r = 0;

    session_lock(session);
    if (profile_find(session, dpq_profile_digest(entry->profile))) {
        r = 1;
    } else if (session->n_profiles >= MAX_PROFILES) {
        r = 2;
    } else {
        profiles = realloc(session->profiles, (session->n_profiles + 1) * sizeof(*profiles));
        if (profiles) {
            session->profiles = profiles;
            session->profiles[session->n_profiles++] = profile_ref(entry);
        } else {
            r = error_origin(-ENOMEM);
        }
    }
    session_unlock(session);
    return r;
}

static void fill_info(struct profile_entry *entry, struct session_profile_info *ret_info)
{
    *ret_info = (struct session_profile_info){
        .entry = entry,
        .profile_id = dpq_profile_digest(entry->profile),
        .model_name = dpq_profile_name(entry->profile),
        .info_json = dpq_profile_info(entry->profile),
        .file_bytes = entry->map.n_bytes,
        .geometry = dpq_profile_geometry(entry->profile),
        .bytes = entry->map.bytes,
        .fd = entry->ro_fd,
    };
}

int session_profile(struct session *session, const uint8_t profile_id[32],
                    struct session_profile_info *ret_info)
{
    struct profile_entry *entry = profile_get(session, profile_id);

    if (!entry)
        return 1;
    fill_info(entry, ret_info);
    return 0;
}

void session_profile_unref(struct session *session, struct session_profile_info *info)
{
    profile_put(session, info->entry);
    *info = (struct session_profile_info){ .fd = -1 };
}

size_t session_profile_list(struct session *session, struct session_profile_info *infos, size_t n)
{
    size_t n_profiles = 0;

    session_lock(session);
    for (size_t i = 0; i < session->n_profiles; i++) {
        if (session->profiles[i]->gone)
            continue;
        if (n_profiles < n)
            fill_info(profile_ref(session->profiles[i]), &infos[n_profiles]);
        n_profiles++;
    }
    session_unlock(session);
    return n_profiles;
}

/* --- the state directory ---------------------------------------------------------------------- */

static int write_all(int fd, const uint8_t *bytes, size_t n_bytes)
{
    while (n_bytes) {
        ssize_t n = write(fd, bytes, n_bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 1;
        bytes += n;
        n_bytes -= (size_t)n;
    }
    return 0;
}

/* Two who keep the same profile at once write the same bytes: each renames a file of its own. */
static int keep(const struct session *session, const struct profile_entry *entry,
                struct session_error *ret_error)
{
    _cleanup_(close_fdp) int dir = -1;
    _cleanup_(close_fdp) int fd = -1;
    char path[PATH_BYTES], hex[HEX_BYTES], name[HEX_BYTES + 8], fresh[64];
    uint64_t unique;

    profiles_dir(session, path);
    to_hex(dpq_profile_digest(entry->profile), hex);
    snprintf(name, sizeof(name), "%s.dpqp", hex);
    if (hash_random(&unique, sizeof(unique)))
        unique = (uint64_t)(uintptr_t)entry;
    snprintf(fresh, sizeof(fresh), "new-%016llx.tmp", (unsigned long long)unique);
    dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0)
        fd = openat(dir, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || write_all(fd, entry->map.bytes, entry->map.n_bytes) || fsync(fd) < 0 ||
        renameat(dir, fresh, dir, name) < 0 || fsync(dir) < 0) {
        int e = errno;

        if (fd >= 0)
            (void)!unlinkat(dir, fresh, 0); /* gone already, if only the last fsync failed */
        log_error("profile %s: can't be kept in %s: %s", hex, path, strerror(e));
        session_error_set(
            ret_error, e == ENOSPC || e == EDQUOT ? SESSION_RESOURCE_EXHAUSTED : SESSION_INTERNAL,
            "PROFILE", "the profile can't be written to the state directory: %s", strerror(e));
        return 1;
    }
    return 0;
}

int profile_forget_file(const struct session *session, const struct profile_entry *entry,
                        struct session_error *ret_error)
{
    _cleanup_(close_fdp) int dir = -1;
    char path[PATH_BYTES], hex[HEX_BYTES], name[HEX_BYTES + 8];

    profiles_dir(session, path);
    to_hex(dpq_profile_digest(entry->profile), hex);
    snprintf(name, sizeof(name), "%s.dpqp", hex);
    dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0 && (!unlinkat(dir, name, 0) || errno == ENOENT) && !fsync(dir))
        return 0;
    log_error("profile %s: can't be removed from %s: %s", hex, path, strerror(errno));
    session_error_set(ret_error, SESSION_INTERNAL, "PROFILE",
                      "the profile can't be removed from the state directory");
    return 1;
}

static bool is_served(struct session *session, const uint8_t profile_id[32])
{
    bool served;

    session_lock(session);
    served = profile_find(session, profile_id) != NULL;
    session_unlock(session);
    return served;
}

/* Into the directory and the table, both or none. 0; 1: it was there; 2: refused; the mutex of
 * profiles is held, so that none is removed meanwhile */
static int keep_and_add(struct session *session, struct profile_entry *entry,
                        struct session_error *ret_error)
{
    int r;

    if (is_served(session, dpq_profile_digest(entry->profile)))
        return 1;
    if (keep(session, entry, ret_error))
        return 2;
    r = add(session, entry);
    if (r == 2)
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "LIMIT",
                          "%d profiles are installed, the most there may be", MAX_PROFILES);
    else if (r < 0)
        session_error_fault(ret_error, error_fold(r), "Install");
    return r < 0 ? 2 : r;
}

/* what workers need for tiles of this geometry: measured as 1.6 tiles of fp16 each */
static uint64_t working_bytes(const struct session *session, const struct dpq_profile *profile)
{
    uint64_t tile_bytes =
        (uint64_t)DPQ_TILE_TOKENS * dpq_row_bytes(dpq_profile_geometry(profile), DPQ_F16);

    return session->n_workers * 2 * tile_bytes;
}

int session_profile_install(struct session *session, const void *bytes, size_t n_bytes,
                            uint8_t ret_profile_id[32], struct session_error *ret_error)
{
    _cleanup_(profile_entry_freep) struct profile_entry *entry = NULL;
    struct event event = { .kind = EVENT_PROFILE_INSTALLED, .tenant = EVENT_ALL_TENANTS };
    char hex[HEX_BYTES];
    int r;

    session_error_clear(ret_error);
    if (session_check_memory(session, PROFILE_COPIES * (uint64_t)n_bytes, "a profile of this size",
                             ret_error))
        return 1;
    r = entry_new(bytes, n_bytes, &entry, ret_error);
    if (r)
        return 1;
    if (session_check_memory(session, working_bytes(session, entry->profile),
                             "working with this profile", ret_error))
        return 1;
    memcpy(event.digest, dpq_profile_digest(entry->profile), sizeof(event.digest));
    snprintf(event.text, sizeof(event.text), "%s", dpq_profile_name(entry->profile));
    pthread_mutex_lock(&session->profiles_mutex);
    r = keep_and_add(session, entry, ret_error);
    pthread_mutex_unlock(&session->profiles_mutex);
    if (r == 2)
        return 1;
    if (r == 0) {
        (void)steal_ptr(entry); /* the table's */
        to_hex(event.digest, hex);
        log_info("profile %.16s of model \"%s\" installed, %llu bytes", hex, event.text,
                 (unsigned long long)n_bytes);
        hub_publish(session->hub, &event);
    }
    memcpy(ret_profile_id, event.digest, sizeof(event.digest));
    return 0;
}

/* --- at the start ----------------------------------------------------------------------------- */

/* the whole file, malloc'ed; errno says why not */
static uint8_t *read_file(int dir, const char *name, size_t *ret_n_bytes)
{
    _cleanup_(close_fdp) int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    uint8_t *bytes;
    size_t n = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        return NULL;
    if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t)st.st_size > MAX_PROFILE_BYTES) {
        errno = EINVAL;
        return NULL;
    }
    bytes = malloc((size_t)st.st_size);
    while (bytes && n < (size_t)st.st_size) {
        ssize_t got = read(fd, bytes + n, (size_t)st.st_size - n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    if (bytes)
        *ret_n_bytes = n; /* a file that shrank is judged like any other */
    return bytes;
}

static int load(struct session *session, int dir, const char *path, const char *name)
{
    _cleanup_(profile_entry_freep) struct profile_entry *entry = NULL;
    struct session_error error;
    char hex[HEX_BYTES];
    uint8_t *bytes;
    size_t n_bytes;
    int r;

    bytes = read_file(dir, name, &n_bytes);
    if (!bytes) {
        log_warning("%s/%s: skipped: %s", path, name, strerror(errno));
        return 0;
    }
    r = entry_new(bytes, n_bytes, &entry, &error);
    free(bytes);
    if (r) {
        log_warning("%s/%s: skipped: %s", path, name, error.message);
        return 0;
    }
    to_hex(dpq_profile_digest(entry->profile), hex);
    if (strncmp(name, hex, sizeof(hex) - 1)) {
        log_warning("%s/%s: skipped: its SHA-256 is %s", path, name, hex);
        return 0;
    }
    r = add(session, entry);
    if (r == 2)
        log_warning("%s/%s: skipped: %d profiles are loaded", path, name, MAX_PROFILES);
    else if (r == 0)
        (void)steal_ptr(entry); /* the table's */
    return r < 0 ? error_fold(r) : 0;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), n_end = strlen(end);

    return n >= n_end && !strcmp(s + n - n_end, end);
}

int profile_load_all(struct session *session)
{
    char path[PATH_BYTES];
    struct dirent *entry;
    DIR *dir;
    int r = 0;

    profiles_dir(session, path);
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        log_error("%s: can't be created: %s", path, strerror(errno));
        return 1;
    }
    dir = opendir(path);
    if (!dir) {
        log_error("%s: %s", path, strerror(errno));
        return 1;
    }
    while (!r && (entry = readdir(dir))) {
        if (ends_with(entry->d_name, ".dpqp"))
            r = load(session, dirfd(dir), path, entry->d_name);
        else if (ends_with(entry->d_name, ".tmp"))
            (void)!unlinkat(dirfd(dir), entry->d_name, 0); /* of a write that was cut short */
    }
    closedir(dir);
    if (r)
        return error_fold(r);
    log_info("%zu profiles loaded from %s", session->n_profiles, path);
    return 0;
}
