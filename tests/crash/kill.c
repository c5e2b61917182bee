/*
 * kill -9 at a random moment, again and again: the parent is a small service manager that keeps the
 * arena's descriptor, and an oracle of what was acknowledged. After each kill it looks at the arena
 * as mapped readers do, attaches a copy, and compares. Readers in other processes go on all the
 * time.
 *
 *     kill_loop [KILLS]
 *     kill_loop_planted NUMBER KILLS   with a bug, which is to be found
 *
 * With DELTAPQ_FULL in the environment the nightly size counts, 10,000.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/crash/plants.h"
#include "tests/crash/world.h"

enum { N_READERS = 2, MAX_MICROSECONDS = 1500, DEFAULT_KILLS = 10000 };

int crash_planted;

static const struct world_size SIZE = {
    .arena_bytes = 4 << 20,
    .n_slots = 256,
    .base_bytes = 120000,
    .fine_bytes = 60000,
    .row_bytes = 2048,
};

struct reading {
    _Atomic long n_read, n_gone, n_wrong;
};

static void pause_for(uint64_t microseconds)
{
    struct timespec t = { 0, (long)microseconds * 1000 };

    nanosleep(&t, NULL);
}

/* --- readers ---------------------------------------------------------------------------------- */

/* Lines of records are nobody's business; a line that changes meanwhile is none of this word's. */
static bool is_record(const struct arena_line *line, uint64_t word)
{
    bool record = line->kind == SLOT_KIND_RECORD;

    atomic_thread_fence(memory_order_acquire);
    return record || atomic_load(&line->word) != word;
}

static void read_on(int fd, const struct arena_line *lines, struct reading *sum)
{
    struct dpq_reader *reader = NULL;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dpq_reader_new(fd, &reader, NULL))
        _exit(2);
    for (uint64_t slot = 0;; slot = (slot + 1) % SIZE.n_slots) {
        uint64_t word = atomic_load(&lines[slot].word);
        struct dpq_slot_ref ref = { slot, word >> 2 };
        struct dpq_slot_view view;
        int r;

        if (!slot)
            pause_for(2000); /* the machine has other things to do */
        if ((word & 3) != SLOT_COMMITTED || is_record(&lines[slot], word))
            continue;
        r = dpq_reader_slot(reader, &ref, /* verify= */ true, &view);
        if (r == DPQ_E_GONE)
            atomic_fetch_add(&sum->n_gone, 1);
        else if (r)
            atomic_fetch_add(&sum->n_wrong, 1);
        else
            atomic_fetch_add(&sum->n_read, 1);
    }
}

/* --- the manager ------------------------------------------------------------------------------ */

struct tally {
    long n_kills, n_writing, n_in_flight, n_unready, n_ended;
    struct verdict verdict;
};

static bool is_mid_write(const struct arena_line *lines)
{
    for (uint64_t i = 0; i < SIZE.n_slots; i++)
        if ((lines[i].word & 3) == SLOT_WRITING)
            return true;
    return false;
}

/* One in ten is killed as it starts, one in ten from the announcement on, while it looks at what it
 * has found; the others when they have worked for a while. */
static void run_and_kill(struct map *map, struct oracle *o, struct rng *rng, struct tally *sum)
{
    uint64_t when = rng_below(rng, 10);
    bool early = when == 0, finding = when == 1;
    int status;
    pid_t pid;

    atomic_store(&o->announced, 0);
    pid = fork();
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        world_run(map, &SIZE, o, UINT64_MAX, 0);
    }
    for (int i = 0; !early && i < 10000 && (!o->announced || (o->opening && !finding)); i++)
        pause_for(20);
    pause_for(rng_below(rng, early ? 250 : MAX_MICROSECONDS));
    sum->n_ended += waitpid(pid, &status, WNOHANG) == pid;
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    sum->n_kills++;
    sum->n_unready += !o->announced;
    sum->n_in_flight += o->in_flight;
    sum->n_writing += is_mid_write((const struct arena_line *)(map->bytes + ARENA_PAGE));
}

static void check(struct map *map, struct map *copy, struct oracle *o, struct tally *sum)
{
    world_check_raw(map->bytes, &SIZE, o, NULL, &sum->verdict);
    memcpy(copy->bytes, map->bytes, SIZE.arena_bytes);
    world_check_recovered(copy->fd, &SIZE, o, &sum->verdict);
}

static int report(const struct tally *t, const struct oracle *o, const struct reading *r)
{
    const struct verdict *v = &t->verdict;
    long n_wrong = r ? r->n_wrong : 0;

    printf(
        "%ld kills (%ld before it was ready): %ld in the middle of a write, %ld of an operation; "
        "%llu operations; to make room %llu fine objects and %llu tiles of sequences went\n",
        t->n_kills, t->n_unready, t->n_writing, t->n_in_flight, (unsigned long long)o->n_ops,
        (unsigned long long)o->n_dropped, (unsigned long long)o->n_cut);
    printf("torn %ld lost %ld back %ld mixed %ld leaked %ld refused %ld epoch %ld leased %ld, "
           "ended by itself %ld\n",
           v->torn, v->lost, v->back, v->mixed, v->leaked, v->refused, v->epoch, v->leased,
           t->n_ended);
    if (r)
        printf("readers: %ld objects read and verified, %ld gone, %ld wrong\n", r->n_read,
               r->n_gone, n_wrong);
    if (verdict_sum(v) || t->n_ended || n_wrong)
        return 1;
    if (2 * t->n_writing < t->n_kills) {
        printf("fewer than half of the kills came in the middle of a write\n");
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    long n_kills = argc > 1 && !getenv("DELTAPQ_FULL") ? atol(argv[argc - 1]) : DEFAULT_KILLS;
    struct map map, copy = MAP_NULL;
    struct rng rng = rng_seed(3);
    struct tally tally = { 0 };
    pid_t readers[N_READERS] = { 0 };
    struct oracle *oracle;
    struct reading *sum;
    int r;

    world_init();
    oracle = mmap(NULL, sizeof(*oracle), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sum = mmap(NULL, sizeof(*sum), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    world_create(&SIZE, &map, oracle);
    oracle->poked_slot = UINT64_MAX;
    if (map_create("copy", SIZE.arena_bytes, &copy))
        return 2;
    crash_planted = argc > 2 ? atoi(argv[1]) : PLANT_NONE;
    for (int i = 0; i < N_READERS && !crash_planted; i++)
        if (!(readers[i] = fork()))
            read_on(map.fd, (const struct arena_line *)(map.bytes + ARENA_PAGE), sum);
    for (long i = 0; i < n_kills; i++) {
        run_and_kill(&map, oracle, &rng, &tally);
        check(&map, &copy, oracle, &tally);
        if (verdict_sum(&tally.verdict) || tally.n_ended)
            break;
    }
    for (int i = 0; i < N_READERS && !crash_planted; i++) {
        kill(readers[i], SIGKILL);
        waitpid(readers[i], NULL, 0);
    }
    r = report(&tally, oracle, crash_planted ? NULL : sum);
    if (crash_planted)
        printf("the planted bug was %sfound\n", verdict_sum(&tally.verdict) ? "" : "NOT ");
    return crash_planted ? !verdict_sum(&tally.verdict) : r;
}
