/*
 * The store's life, with each call that can fail failing once
 *
 * Whatever fails: an int says so, nothing leaks, what was acknowledged is there when the arena is
 * attached again, and the same life works the next time.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/fault/fault.h"
#include "tests/util/store_tiles.h"

enum { ROW = 64 };

static long n_live;

/* With meson's _FILE_OFFSET_BITS=64 the library calls these by their names for large files. */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__real_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __real_memfd_create(const char *name, unsigned flags);
int __real_ftruncate64(int fd, off_t n);
int __real_fallocate64(int fd, int mode, off_t offset, off_t n);
int __real_linkat(int from, const char *path, int to, const char *name, int flags);

void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __wrap_memfd_create(const char *name, unsigned flags);
int __wrap_ftruncate64(int fd, off_t n);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t n);
int __wrap_linkat(int from, const char *path, int to, const char *name, int flags);

void *__wrap_malloc(size_t n)
{
    void *p = fault_now(FAULT_MALLOC) ? NULL : __real_malloc(n);

    n_live += p != NULL;
    return p;
}

void *__wrap_calloc(size_t n, size_t size)
{
    void *p = fault_now(FAULT_MALLOC) ? NULL : __real_calloc(n, size);

    n_live += p != NULL;
    return p;
}

void *__wrap_realloc(void *p, size_t n)
{
    void *q = fault_now(FAULT_MALLOC) ? NULL : __real_realloc(p, n);

    n_live += !p && q;
    return q;
}

void __wrap_free(void *p)
{
    n_live -= p != NULL;
    __real_free(p);
}

void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    return fault_now(FAULT_MMAP) ? MAP_FAILED : __real_mmap64(at, n, prot, flags, fd, offset);
}

int __wrap_memfd_create(const char *name, unsigned flags)
{
    return fault_now(FAULT_MEMFD_CREATE) ? -1 : __real_memfd_create(name, flags);
}

int __wrap_ftruncate64(int fd, off_t n)
{
    return fault_now(FAULT_FTRUNCATE) ? -1 : __real_ftruncate64(fd, n);
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t n)
{
    return fault_now(FAULT_FALLOCATE) ? -1 : __real_fallocate64(fd, mode, offset, n);
}

int __wrap_linkat(int from, const char *path, int to, const char *name, int flags)
{
    return fault_now(FAULT_LINKAT) ? -1 : __real_linkat(from, path, to, name, flags);
}

/* --- a life ----------------------------------------------------------------------------------- */

/* What was acknowledged so far. */
struct acked {
    bool published, tile, record;
    uint32_t n_rows;
};

static uint8_t rows[128 * ROW];

static int put_one(struct store *s, struct tile **ret_tile)
{
    uint8_t key[32];
    struct store_put_args args = { .key = key,
                                   .parent = ZERO,
                                   .profile = ZERO,
                                   .base = rows,
                                   .n_base = 5000,
                                   .fine = rows + 5000,
                                   .n_fine = 300 };

    make_key(key, 1);
    return store_put(s, &args, 0, ret_tile);
}

static int work(struct store *s, struct acked *acked)
{
    struct record *record = NULL, *renewed = NULL;
    struct tail *tail = NULL;
    struct tile *t = NULL;
    int r;

    r = put_one(s, &t);
    if (r)
        return r;
    acked->tile = true;
    r = record_new(s, 7, "one", 3, 4096, NULL, 0, &record);
    if (!r)
        r = record_new(s, 7, "two", 3, 4096, record, 0, &renewed);
    if (r)
        return r;
    acked->record = true;
    r = tail_new(s, 7, ZERO, DPQ_F16, ROW, 0, 0, 0, &tail);
    for (int i = 0; i < 3 && !r; i++) {
        r = tail_grow(tail, rows + acked->n_rows * ROW, 5);
        acked->n_rows += r ? 0 : 5;
    }
    return r;
}

static void compare(struct store *s, const struct acked *acked)
{
    struct record *record = record_next(s, NULL);
    struct tail *tail = tail_next(s, NULL);
    struct store_object object;
    struct tile *t = NULL;
    const uint8_t *bytes;
    uint64_t n, room;
    uint8_t key[32];

    make_key(key, 1);
    MUST(!acked->tile || (!store_get(s, key, &t) && !tile_check(t)));
    tile_unref(t, false, 0, NULL);
    if (acked->record)
        MUST(!record_bytes(record, &bytes, &n, &room) && n == 3 && !memcmp(bytes, "two", 3));
    if (acked->n_rows) {
        MUST(tail && !tail_check(tail) && tail_n_tokens(tail) == acked->n_rows);
        tail_object(tail, &object);
        MUST(!memcmp(object.bytes, rows, object.n_bytes));
    }
}

static int make(int dir, bool file, struct store **ret_store)
{
    const struct store_options options = { .tenant = "t" };
    struct map map = MAP_NULL;
    int r = file ? map_create_file(dir, MIB, &map) : map_create("t", MIB, &map);

    if (!r)
        r = store_create(&map, &options, ret_store);
    if (r)
        map_close(&map);
    return r;
}

static int again(int dir, int fd, struct store **ret_store)
{
    const struct store_options options = { .tenant = "t" };
    struct store_recovery found;
    struct map map = MAP_NULL;
    int r;

    if (fd < 0) {
        r = map_open_file(dir, "arena", &map);
    } else {
        fd = dup(fd);
        r = map_adopt(fd, &map);
        if (r)
            close(fd);
    }
    if (!r)
        r = store_attach(&map, &options, &found, ret_store);
    if (r)
        map_close(&map);
    return r;
}

/* Return: 0, or what the armed call led to. */
static int live(int dir, bool file, struct acked *acked, int *ret_fd)
{
    struct dpq_reader *reader = NULL;
    struct store *s = NULL;
    int r;

    r = make(dir, file, &s);
    if (r)
        return r;
    if (file)
        r = map_publish_file(&s->map, dir, "arena");
    if (!file)
        *ret_fd = dup(store_fd(s));
    acked->published = !r;
    if (!r)
        r = work(s, acked);
    if (!r)
        r = dpq_reader_new(store_ro_fd(s), &reader, NULL);
    dpq_reader_free(reader);
    store_free(s);
    s = NULL;
    if (!r)
        r = again(dir, *ret_fd, &s);
    store_free(s);
    return r;
}

static void each(int dir, bool file, enum fault_call call, int error, long *n_ways)
{
    bool came = true;

    for (long n = 1; came; n++) {
        int n_fds = fault_n_fds(), fd = -1, r;
        struct acked acked = { 0 };
        struct store *s = NULL;
        long n_before = n_live;

        fault_arm(call, n, error);
        r = live(dir, file, &acked, &fd);
        came = fault_disarm();
        MUST(came || !r);
        if (acked.published) { /* the next process */
            MUST(!again(dir, fd, &s));
            compare(s, &acked);
            store_free(s);
        } else if (file) {
            MUST(again(dir, fd, &s) == MAP_E_NONE);
        }
        close(fd);
        unlinkat(dir, "arena", 0);
        MUST(fault_n_fds() == n_fds);
        MUST(n_live == n_before);
        *n_ways += came;
    }
}

int main(void)
{
    static const struct {
        enum fault_call call;
        int error;
    } kinds[] = { { FAULT_MALLOC, ENOMEM },       { FAULT_MMAP, ENOMEM },
                  { FAULT_MMAP, EACCES },         { FAULT_MEMFD_CREATE, EMFILE },
                  { FAULT_MEMFD_CREATE, EINVAL }, { FAULT_FTRUNCATE, EPERM },
                  { FAULT_FALLOCATE, ENOSPC },    { FAULT_FALLOCATE, EOPNOTSUPP },
                  { FAULT_LINKAT, EEXIST } };
    char path[] = "/dev/shm/deltapq-fault.XXXXXX";
    int dir = mkdtemp(path) ? open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC) : -1;
    long n_ways = 0;

    fill_bytes(rows, sizeof(rows), 3);
    for (int i = 0; i < 2;
         i++) { /* what OpenSSL and libc keep is there before anything is counted */
        struct store *s = NULL;

        MUST(!make(dir, false, &s));
        store_free(s);
    }
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        each(dir, false, kinds[i].call, kinds[i].error, &n_ways);
        if (dir >= 0)
            each(dir, true, kinds[i].call, kinds[i].error, &n_ways);
    }
    MUST(n_ways > 60);
    printf("%ld ways to fail, each of them survived\n", n_ways);
    if (dir >= 0) {
        close(dir);
        rmdir(path);
    }
    return 0;
}
