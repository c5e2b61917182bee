#include "daemon/accept.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/listener.h"
#include "daemon/log.h"
#include "lib/base/error.h"

enum {
    ACCEPTS_PER_WAKE = 64, /* then the loop turns */
    MAX_FDS = 65536,
    QUIET_MS = 1000, /* one refusal a second is logged, the others are counted */
};

struct entry {
    ino_t inode; /* 0: nobody */
    struct session_peer peer;
};

struct acceptor {
    struct accept_options options;
    struct listener listener;
    char *path; /* NULL: passed to us */
    uv_poll_t poll;
    uv_loop_t *loop;
    bool stopped;
    int spare; /* a descriptor to give up when there are no others */
    int fd_cap;
    struct accept_counts counts;
    uint64_t last_logged_ms, n_unlogged;

    pthread_mutex_t mutex; /* the table: written by the loop thread, read by any */
    struct entry *entries; /* by descriptor */
    int n_entries, n_used; /* n_used: all above are empty */
};

static ino_t socket_inode(int fd)
{
    struct stat st;

    return !fstat(fd, &st) && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

/* --- the peer table --------------------------------------------------------------------------- */

int acceptor_peer(struct acceptor *acceptor, int fd, struct session_peer *ret_peer)
{
    struct entry entry = { 0 };

    if (fd < 0)
        return 1;
    pthread_mutex_lock(&acceptor->mutex);
    if (fd < acceptor->n_used)
        entry = acceptor->entries[fd];
    pthread_mutex_unlock(&acceptor->mutex);
    if (!entry.inode || entry.inode != socket_inode(fd))
        return 1;
    *ret_peer = entry.peer;
    return 0;
}

/* Connections of a uid; on the way those that were closed meanwhile are forgotten, if asked to. */
static uint32_t count_uid(struct acceptor *acceptor, uid_t uid, bool forget)
{
    uint32_t n = 0;

    for (int fd = 0; fd < acceptor->n_used; fd++) {
        struct entry *entry = &acceptor->entries[fd];

        if (!entry->inode || entry->peer.uid != uid)
            continue;
        if (forget && socket_inode(fd) != entry->inode)
            entry->inode = 0;
        else
            n++;
    }
    return n;
}

static bool note_peer(struct acceptor *acceptor, int fd, const struct session_peer *peer)
{
    struct entry entry = { .inode = socket_inode(fd), .peer = *peer };
    uint32_t max = acceptor->options.max_per_uid;
    bool ok;

    pthread_mutex_lock(&acceptor->mutex);
    acceptor->entries[fd].inode = 0; /* the descriptor's former use has ended */
    ok = entry.inode && (count_uid(acceptor, peer->uid, false) < max ||
                         count_uid(acceptor, peer->uid, true) < max);
    if (ok) {
        acceptor->entries[fd] = entry;
        if (fd >= acceptor->n_used)
            acceptor->n_used = fd + 1;
    }
    pthread_mutex_unlock(&acceptor->mutex);
    return ok;
}

/* --- one connection --------------------------------------------------------------------------- */

/* Return: NULL, or why not. */
static const char *judge(struct acceptor *acceptor, int fd, struct session_peer *ret_peer)
{
    const struct accept_options *options = &acceptor->options;
    struct ucred cred;
    socklen_t n = sizeof cred;

    *ret_peer = (struct session_peer){ .uid = (uid_t)-1 };
    if (fd >= acceptor->fd_cap) /* the rest is for memfds, logs and passing descriptors */
        return "too many descriptors are open";
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) || n != sizeof cred)
        return "who it is cannot be told";
    *ret_peer = (struct session_peer){ .uid = cred.uid, .gid = cred.gid, .pid = cred.pid };
    if (cred.pid != getpid()) {
        if (cred.uid == geteuid() && !options->allow_same_uid)
            return "the daemon's own user is not allowed (allow_same_uid)";
        if (options->admit && !options->admit(options->user, ret_peer))
            return "the user belongs to no tenant";
    }
    return note_peer(acceptor, fd, ret_peer) ? NULL : "too many connections of this user";
}

static void log_refusal(struct acceptor *acceptor, const struct session_peer *peer, const char *why)
{
    uint64_t now_ms = uv_now(acceptor->loop);

    if (acceptor->last_logged_ms && now_ms - acceptor->last_logged_ms < QUIET_MS) {
        acceptor->n_unlogged++;
        return;
    }
    if (acceptor->n_unlogged)
        log_warning("%s: %llu more connections refused since the last such line",
                    acceptor->options.name, (unsigned long long)acceptor->n_unlogged);
    log_warning("%s: refused a connection of uid %ld, pid %ld: %s", acceptor->options.name,
                (long)(int32_t)peer->uid, (long)peer->pid, why);
    acceptor->last_logged_ms = now_ms;
    acceptor->n_unlogged = 0;
}

enum { NOTHING_TO_ACCEPT = -1, DROPPED_ONE = -2 };

/* Return: a descriptor, or one of the above. */
static int accept_one(struct acceptor *acceptor)
{
    int fd = accept4(acceptor->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0)
        return fd;
    if (errno == EINTR || errno == ECONNABORTED)
        return DROPPED_ONE;
    if (errno != EMFILE && errno != ENFILE)
        return NOTHING_TO_ACCEPT;
    /* The queue must be emptied, or the listener stays readable and its clients hang. */
    if (acceptor->spare >= 0)
        close(acceptor->spare);
    fd = accept4(acceptor->listener.fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        acceptor->counts.exhausted++;
        log_refusal(acceptor, &(struct session_peer){ .uid = (uid_t)-1 }, "no descriptor is left");
    }
    acceptor->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0 ? DROPPED_ONE : NOTHING_TO_ACCEPT;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct acceptor *acceptor = poll->data;
    struct session_peer peer;
    const char *why;

    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPTS_PER_WAKE && !acceptor->stopped; i++) {
        int fd = accept_one(acceptor);

        if (fd == NOTHING_TO_ACCEPT)
            return;
        if (fd == DROPPED_ONE)
            continue;
        why = judge(acceptor, fd, &peer);
        if (why) { /* before one byte of it was read */
            acceptor->counts.refused++;
            log_refusal(acceptor, &peer, why);
            close(fd);
        } else {
            acceptor->counts.accepted++;
            acceptor->options.connected(acceptor->options.user, fd);
        }
    }
}

/* --- life ------------------------------------------------------------------------------------- */

static struct acceptor *acceptor_destroy(struct acceptor *acceptor)
{
    int saved = errno; /* an outcome's reason survives the cleaning up */

    if (!acceptor)
        return NULL;
    listener_close(&acceptor->listener, acceptor->path);
    if (acceptor->spare >= 0)
        close(acceptor->spare);
    pthread_mutex_destroy(&acceptor->mutex);
    free(acceptor->entries);
    free(acceptor->path);
    free(acceptor);
    errno = saved;
    return NULL;
}
DEFINE_CLEANUP(struct acceptor *, acceptor_destroy);

static void on_closed_unused(uv_handle_t *handle)
{
    acceptor_destroy(handle->data);
}

static int acceptor_prepare(const struct accept_options *options, const char *path,
                            struct acceptor **ret_acceptor)
{
    _cleanup_(acceptor_destroyp) struct acceptor *acceptor = calloc(1, sizeof *acceptor);
    struct rlimit limit;

    if (!acceptor)
        return error_origin(-ENOMEM);
    acceptor->options = *options;
    acceptor->listener = (struct listener)LISTENER_NULL;
    acceptor->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pthread_mutex_init(&acceptor->mutex, NULL);
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return error_origin(-errno);
    acceptor->n_entries = limit.rlim_cur > MAX_FDS ? MAX_FDS : (int)limit.rlim_cur;
    acceptor->fd_cap = acceptor->n_entries - (acceptor->n_entries < 256 ? 16 : 64);
    acceptor->entries = calloc((size_t)acceptor->n_entries, sizeof *acceptor->entries);
    if (path)
        acceptor->path = strdup(path);
    if (!acceptor->entries || (path && !acceptor->path))
        return error_origin(-ENOMEM);
    *ret_acceptor = steal_ptr(acceptor);
    return 0;
}

static int acceptor_start(struct acceptor *acceptor, uv_loop_t *loop)
{
    int r;

    acceptor->loop = loop;
    acceptor->poll.data = acceptor;
    r = uv_poll_init(loop, &acceptor->poll, acceptor->listener.fd);
    if (r) {
        acceptor_destroy(acceptor);
        return error_origin(r);
    }
    r = uv_poll_start(&acceptor->poll, UV_READABLE, on_readable);
    if (r) {
        uv_close((uv_handle_t *)&acceptor->poll, on_closed_unused);
        return error_origin(r);
    }
    return 0;
}

int acceptor_new(uv_loop_t *loop, const char *path, const struct accept_options *options,
                 struct acceptor **ret_acceptor, long *ret_pid)
{
    _cleanup_(acceptor_destroyp) struct acceptor *acceptor = NULL;
    struct acceptor *started;
    int r;

    r = acceptor_prepare(options, path, &acceptor);
    if (r)
        return error_fold(r);
    r = listener_open(path, &acceptor->listener, ret_pid);
    if (r == LISTENER_E_TAKEN)
        return ACCEPTOR_E_TAKEN;
    if (r == LISTENER_E_PATH)
        return ACCEPTOR_E_PATH;
    if (r)
        return error_fold(r);
    started = steal_ptr(acceptor);
    r = acceptor_start(started, loop);
    if (r)
        return error_fold(r);
    *ret_acceptor = started;
    return 0;
}

int acceptor_new_fd(uv_loop_t *loop, int fd, const struct accept_options *options,
                    struct acceptor **ret_acceptor)
{
    struct acceptor *acceptor = NULL;
    int r;

    r = acceptor_prepare(options, NULL, &acceptor);
    if (r) {
        close(fd);
        return error_fold(r);
    }
    acceptor->listener.fd = fd;
    r = acceptor_start(acceptor, loop);
    if (r)
        return error_fold(r);
    *ret_acceptor = acceptor;
    return 0;
}

void acceptor_stop(struct acceptor *acceptor)
{
    if (!acceptor || acceptor->stopped)
        return;
    acceptor->stopped = true;
    uv_close((uv_handle_t *)&acceptor->poll, NULL);
    if (acceptor->path)
        unlink(acceptor->path);
    close(acceptor->listener.fd); /* the lock stays until the end: nobody else starts before */
    acceptor->listener.fd = -1;
}

struct acceptor *acceptor_free(struct acceptor *acceptor)
{
    return acceptor_destroy(acceptor);
}

void acceptor_get_counts(const struct acceptor *acceptor, struct accept_counts *ret_counts)
{
    *ret_counts = acceptor->counts;
}
