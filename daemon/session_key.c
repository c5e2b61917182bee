/*
 * Keys of tiles, and the secret behind them
 *
 * A tile's key is an HMAC-SHA256 chain: equal keys mean equal profile, rate, adapter, salt, first
 * position and token ids from the sequence's start to the tile's end, hence interchangeable bytes.
 * The chain is keyed by a secret of this daemon, so that a key that shows up in an event or an
 * arena tells nobody which tokens it stands for.
 *
 *     scope = HMAC(tenant, profile, adapter, salt, position base, rate)
 *     key n = HMAC(scope, key n-1, 128 token ids)
 *
 * Each field is preceded by its tag and length (hash_mac_field()), so no two lists of fields look
 * alike. Tiles without token ids get HMAC(scope, sequence id, index): ids are never used twice.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/session_internal.h"
#include "lib/base/error.h"

enum key_tag {
    TAG_TENANT = 1,
    TAG_PROFILE = 2,
    TAG_ADAPTER = 3,
    TAG_SALT = 4,
    TAG_POSITION_BASE = 5,
    TAG_RATE = 6,
    TAG_SCOPE = 7,
    TAG_PARENT = 8,
    TAG_TOKEN_IDS = 9,
    TAG_SEQUENCE = 10,
    TAG_INDEX = 11,
    TAG_FORK = 12,
};

struct key_field {
    uint32_t tag;
    const void *bytes;
    uint64_t n_bytes;
};

int key_maker_init(struct key_maker *maker, const uint8_t secret[32])
{
    int r = hash_mac_new(secret, &maker->mac);

    if (r)
        return error_fold(r);
    pthread_mutex_init(&maker->mutex, NULL);
    return 0;
}

void key_maker_deinit(struct key_maker *maker)
{
    hash_mac_free(maker->mac);
    maker->mac = NULL;
    pthread_mutex_destroy(&maker->mutex);
}

struct key_maker *session_key_maker(struct session *session, int32_t worker)
{
    return &session->makers[worker < 0 ? session->n_makers - 1 : (uint32_t)worker];
}

static int make(struct key_maker *maker, const struct key_field *fields, size_t n_fields,
                uint8_t ret_key[KEY_BYTES])
{
    uint8_t key[KEY_BYTES];
    int r;

    pthread_mutex_lock(&maker->mutex);
    r = hash_mac_begin(maker->mac);
    for (size_t i = 0; !r && i < n_fields; i++)
        r = hash_mac_field(maker->mac, fields[i].tag, fields[i].bytes, fields[i].n_bytes);
    if (!r)
        r = hash_mac_end(maker->mac, key);
    pthread_mutex_unlock(&maker->mutex);
    if (r)
        return error_fold(r);
    memcpy(ret_key, key, KEY_BYTES);
    return 0;
}

static void put_le(uint8_t *to, uint64_t value, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

int key_scope(struct key_maker *maker, const char *tenant, const struct session_prefix *prefix,
              uint8_t ret_scope[KEY_BYTES])
{
    uint8_t position[8], rate[4];
    const struct key_field fields[] = {
        { TAG_TENANT, tenant, strlen(tenant) },
        { TAG_PROFILE, prefix->profile_id, sizeof(prefix->profile_id) },
        { TAG_ADAPTER, prefix->adapter, strlen(prefix->adapter) },
        { TAG_SALT, prefix->salt, strlen(prefix->salt) },
        { TAG_POSITION_BASE, position, sizeof(position) },
        { TAG_RATE, rate, sizeof(rate) },
    };

    put_le(position, prefix->position_base, sizeof(position));
    put_le(rate, prefix->rate, sizeof(rate));
    return make(maker, fields, ARRAY_SIZE(fields), ret_scope);
}

int key_tile(struct key_maker *maker, const uint8_t scope[KEY_BYTES],
             const uint8_t parent[KEY_BYTES], const uint32_t *token_ids, uint8_t ret_key[KEY_BYTES])
{
    uint8_t ids[DPQ_TILE_TOKENS * 4];
    const struct key_field fields[] = {
        { TAG_SCOPE, scope, KEY_BYTES },
        { TAG_PARENT, parent, KEY_BYTES },
        { TAG_TOKEN_IDS, ids, sizeof(ids) },
    };

    for (size_t i = 0; i < DPQ_TILE_TOKENS; i++)
        put_le(ids + i * 4, token_ids[i], 4);
    return make(maker, fields, ARRAY_SIZE(fields), ret_key);
}

int key_private(struct key_maker *maker, const uint8_t scope[KEY_BYTES], uint64_t sequence_id,
                uint64_t tile_index, uint8_t ret_key[KEY_BYTES])
{
    uint8_t id[8], index[8];
    const struct key_field fields[] = {
        { TAG_SCOPE, scope, KEY_BYTES },
        { TAG_SEQUENCE, id, sizeof(id) },
        { TAG_INDEX, index, sizeof(index) },
    };

    put_le(id, sequence_id, sizeof(id));
    put_le(index, tile_index, sizeof(index));
    return make(maker, fields, ARRAY_SIZE(fields), ret_key);
}

int key_fork(struct key_maker *maker, uint64_t origin_id, uint64_t fork_key, uint64_t *ret_id)
{
    uint8_t origin[8], number[8], key[KEY_BYTES];
    const struct key_field fields[] = {
        { TAG_SEQUENCE, origin, sizeof(origin) },
        { TAG_FORK, number, sizeof(number) },
    };
    int r;

    put_le(origin, origin_id, sizeof(origin));
    put_le(number, fork_key, sizeof(number));
    r = make(maker, fields, ARRAY_SIZE(fields), key);
    if (r)
        return error_fold(r);
    memcpy(ret_id, key, sizeof(*ret_id));
    *ret_id += !*ret_id; /* 0 is no id */
    return 0;
}

/* --- the secret ------------------------------------------------------------------------------- */

static int close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
    return -1;
}
DEFINE_CLEANUP(int, close_fd);

static int secret_create(int dir, const char *state_dir, uint8_t ret_secret[32])
{
    _cleanup_(close_fdp) int fd = -1;
    int r = hash_random(ret_secret, 32);

    if (r)
        return error_fold(r);
    /* under another name first: a half-written secret must not be found by the next start */
    (void)!unlinkat(dir, "secret.new", 0); /* of a start that was cut short */
    fd = openat(dir, "secret.new", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || fchmod(fd, 0600) < 0 || write(fd, ret_secret, 32) != 32 || fsync(fd) < 0 ||
        linkat(dir, "secret.new", dir, "secret", 0) < 0 || unlinkat(dir, "secret.new", 0) < 0 ||
        fsync(dir) < 0) {
        log_error("state directory %s: can't create the file secret: %s", state_dir,
                  strerror(errno));
        return 1;
    }
    log_info("state directory %s: created a new secret", state_dir);
    return 0;
}

static int secret_read(int fd, const char *state_dir, uint8_t ret_secret[32])
{
    uint8_t bytes[33];
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_origin(-errno);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 07777) != 0600) {
        log_error("%s/secret: must be a regular file of mode 0600 that belongs to uid %u, not mode "
                  "%04o of uid %u",
                  state_dir, (unsigned)geteuid(), (unsigned)(st.st_mode & 07777),
                  (unsigned)st.st_uid);
        return 1;
    }
    if (read(fd, bytes, sizeof(bytes)) != 32) {
        log_error("%s/secret: must have exactly 32 bytes; remove it to get a new one", state_dir);
        return 1;
    }
    memcpy(ret_secret, bytes, 32);
    explicit_bzero(bytes, sizeof(bytes));
    return 0;
}

int secret_name(const uint8_t secret[32], uint8_t ret_id[16])
{
    static const char what[] = "deltapq arena";
    uint8_t bytes[sizeof(what) + 32], digest[32];
    int r;

    memcpy(bytes, what, sizeof(what));
    memcpy(bytes + sizeof(what), secret, 32);
    r = hash_sha256(bytes, sizeof(bytes), digest);
    explicit_bzero(bytes, sizeof(bytes));
    if (r)
        return error_fold(r);
    memcpy(ret_id, digest, 16);
    return 0;
}

int secret_load(const char *state_dir, uint8_t ret_secret[32])
{
    _cleanup_(close_fdp) int dir = -1;
    _cleanup_(close_fdp) int fd = -1;

    if (mkdir(state_dir, 0700) < 0 && errno != EEXIST) {
        log_error("state directory %s: can't be created: %s", state_dir, strerror(errno));
        return 1;
    }
    dir = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        log_error("state directory %s: %s", state_dir, strerror(errno));
        return 1;
    }
    fd = openat(dir, "secret", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0)
        return secret_read(fd, state_dir, ret_secret);
    if (errno == ENOENT)
        return secret_create(dir, state_dir, ret_secret);
    log_error("%s/secret: %s", state_dir, strerror(errno));
    return 1;
}
