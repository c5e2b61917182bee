/*
 * Every state that a kill can leave: a child attaches and works, a parent steps it instruction by
 * instruction, and whenever the arena or what was acknowledged has changed, it attaches a copy and
 * compares it with the oracle. kill -9 leaves exactly the memory of that moment, so copying equals
 * killing.
 *
 *     step [OPERATIONS]             the code as it is
 *     step_planted K/N [OPERATIONS] planted bugs K, K + N, K + 2 N …: each must be found, and the
 *                                   code without clean
 *     step_planted N OPERATIONS     one of them
 *
 * With DELTAPQ_FULL in the environment the nightly sizes count, 1,000 and 100.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/crash/plants.h"
#include "tests/crash/world.h"

enum {
    ROW = 4,
    N_SLOTS = 64,
    N_PAGES = 40,
    PIECE = 640,
    RESTART_EVERY = 50,
    NO_TRACING = 77,
    SEED = 5,
    SHORT_SEED = 13
};

int crash_planted;

static const struct world_size SIZE = {
    .arena_bytes = 4096 + N_SLOTS * ARENA_LINE_BYTES + N_PAGES * 4096,
    .n_slots = N_SLOTS,
    .base_bytes = 120,
    .fine_bytes = 60,
    .row_bytes = ROW,
};

/* What a word stood for when it was first seen. */
struct seen {
    uint64_t word, content;
};

struct run {
    struct map map, copy;
    struct oracle *oracle;
    uint8_t *before; /* the arena at the last state that was looked at */
    struct arena_line at_attach[N_SLOTS];
    uint64_t changes;
    struct seen *seen[N_SLOTS];
    size_t n_seen[N_SLOTS];
    long n_steps, n_states, n_reclaims;
    struct verdict verdict;
};

/* Nothing that is stored here is longer than PIECE, so the rest of a page can't change. */
static bool has_changed(const struct run *run)
{
    const uint8_t *a = run->map.bytes, *b = run->before;
    size_t head = 4096 + N_SLOTS * ARENA_LINE_BYTES;

    if (run->oracle->changes != run->changes || memcmp(a, b, 2 * ARENA_HEADER_STEP + 64) ||
        memcmp(a + 4096, b + 4096, head - 4096))
        return true;
    for (size_t at = head; at < SIZE.arena_bytes; at += 4096)
        if (memcmp(a + at, b + at, PIECE))
            return true;
    return false;
}

/* One word, one content: it is all that a reader has to go by. */
static void check_reuse(struct run *run)
{
    const struct arena_line *lines = (const struct arena_line *)(run->map.bytes + 4096);

    for (size_t i = 0; i < N_SLOTS; i++) {
        uint64_t word = lines[i].word, content = lines[i].line_checksum ^ lines[i].checksum;
        struct seen *last;

        if ((word & 3) != SLOT_COMMITTED ||
            (i == run->oracle->poked_slot && word == run->oracle->poked_word))
            continue;
        last = run->n_seen[i] ? &run->seen[i][run->n_seen[i] - 1] : NULL;
        if (last && last->word == word) {
            run->verdict.reused += last->content != content;
            continue;
        }
        for (size_t k = 0; k < run->n_seen[i]; k++)
            run->verdict.reused += run->seen[i][k].word == word;
        run->seen[i] = realloc(run->seen[i], (run->n_seen[i] + 1) * sizeof(struct seen));
        run->seen[i][run->n_seen[i]++] = (struct seen){ word, content };
    }
}

static void look(struct run *run)
{
    memcpy(run->before, run->map.bytes, SIZE.arena_bytes);
    run->changes = run->oracle->changes;
    run->n_states++;
    world_check_raw(run->map.bytes, &SIZE, run->oracle, run->at_attach, &run->verdict);
    check_reuse(run);
    memcpy(run->copy.bytes, run->map.bytes, SIZE.arena_bytes);
    world_check_recovered(run->copy.fd, &SIZE, run->oracle, &run->verdict);
}

/* One slot half written, one with a flipped bit in its line, as a run before might have left. */
static void poke(struct run *run)
{
    struct arena_line *lines = (struct arena_line *)(run->map.bytes + 4096);
    struct arena_line line = { .kind = DPQ_SLOT_BASE, .n_tokens = 128, .n_bytes = 8 };

    line.first_page = N_PAGES - 1;
    line.checksum = hash_xxh3(run->map.bytes + SIZE.arena_bytes - 4096, 8);
    line.word = slot_word(1, SLOT_COMMITTED);
    world_key(TILE_NAME(WORLD_TILES, 1), line.key);
    line.line_checksum = line_checksum(&line);
    line.key[5] ^= 1;
    lines[N_SLOTS - 1] = line;
    lines[N_SLOTS - 2].word = slot_word(1, SLOT_WRITING);
    run->oracle->poked_slot = N_SLOTS - 1;
    run->oracle->poked_word = line.word;
}

static void prepare(struct run *run)
{
    *run = (struct run){ .oracle = mmap(NULL, sizeof(struct oracle), PROT_READ | PROT_WRITE,
                                        MAP_SHARED | MAP_ANONYMOUS, -1, 0) };
    world_create(&SIZE, &run->map, run->oracle);
    if (map_create("copy", SIZE.arena_bytes, &run->copy))
        exit(2);
    run->before = calloc(1, SIZE.arena_bytes);
    poke(run);
    memcpy(run->at_attach, run->map.bytes + 4096, sizeof(run->at_attach));
}

static void clear(struct run *run)
{
    for (size_t i = 0; i < N_SLOTS; i++)
        free(run->seen[i]);
    free(run->before);
    map_close(&run->map);
    map_close(&run->copy);
    munmap(run->oracle, sizeof(struct oracle));
}

static pid_t start(struct run *run, uint64_t n_ops)
{
    pid_t pid = fork();

    if (pid)
        return pid;
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
        _exit(NO_TRACING);
    raise(SIGSTOP);
    world_run(&run->map, &SIZE, run->oracle, n_ops, RESTART_EVERY);
    _exit(0);
}

static void follow(struct run *run, pid_t pid, int *status, bool stop_early)
{
    bool opening = false;

    while (WIFSTOPPED(*status)) {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) || waitpid(pid, status, 0) != pid)
            exit(2);
        if (!WIFSTOPPED(*status))
            return;
        run->n_steps++;
        if (!has_changed(run))
            continue;
        if (run->oracle->opening && !opening)
            memcpy(run->at_attach, run->map.bytes + 4096, sizeof(run->at_attach));
        opening = run->oracle->opening;
        look(run);
        if (stop_early && verdict_sum(&run->verdict)) {
            kill(pid, SIGKILL);
            waitpid(pid, status, 0);
        }
    }
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Return: 0 clean; 1 something is wrong; NO_TRACING */
static int one(int plant, const char *what, uint64_t n_ops, uint64_t seed)
{
    double from = seconds();
    struct verdict *v;
    struct run run;
    bool bad;
    int status;
    pid_t pid;

    crash_planted = PLANT_NONE;
    prepare(&run);
    crash_planted = plant;
    run.oracle->seed = seed;
    pid = start(&run, n_ops);
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_TRACING)
        return NO_TRACING;
    follow(&run, pid, &status, plant != PLANT_NONE);
    v = &run.verdict;
    bad = verdict_sum(v) || !WIFEXITED(status) || WEXITSTATUS(status);
    printf("%s: %lu operations, %ld instructions, %ld states, %.1f s | torn %ld lost %ld back %ld "
           "mixed %ld leaked %ld refused %ld epoch %ld uncounted %ld reused %ld leased %ld%s\n",
           what, (unsigned long)run.oracle->n_ops, run.n_steps, run.n_states, seconds() - from,
           v->torn, v->lost, v->back, v->mixed, v->leaked, v->refused, v->epoch, v->uncounted,
           v->reused, v->leased, !verdict_sum(v) && bad ? " | ended badly" : "");
    fflush(stdout);
    clear(&run);
    return bad;
}

static int each(int first, int step, uint64_t n_ops)
{
#define X(name, text) text,
    static const char *const names[] = { "no bug", PLANTS(X) };
#undef X
    int r = one(PLANT_NONE, names[0], n_ops, SEED), n = 0, n_missed = 0;

    if (r)
        return r;
    for (int plant = first; plant < N_PLANTS; plant += step, n++)
        /* a short course that meets most of them, and a long one */
        if (!one(plant, names[plant], 8 * n_ops, SHORT_SEED) &&
            !one(plant, names[plant], 40 * n_ops, SEED)) {
            printf("NOT FOUND: %s\n", names[plant]);
            n_missed++;
        }
    printf("%d of %d planted bugs found\n", n - n_missed, n);
    return n_missed != 0;
}

int main(int argc, char **argv)
{
    bool full = getenv("DELTAPQ_FULL");
    uint64_t n_ops = argc > 1 && !full ? strtoull(argv[argc - 1], NULL, 10) : 0;
    int first, step, r;

    world_init();
    if (argc > 1 && sscanf(argv[1], "%d/%d", &first, &step) == 2 && first > 0 && step > 0)
        r = each(first, step, n_ops ? n_ops : 100);
    else if (argc > 2 && !full)
        r = one(atoi(argv[1]), "planted", n_ops, SEED);
    else
        r = one(PLANT_NONE, "no bug", n_ops ? n_ops : 1000, SEED);
    if (r == NO_TRACING)
        printf("no tracing here\n");
    return r;
}
