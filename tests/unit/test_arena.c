/* arena: the order of a commit, looked at after every single instruction */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/hash.h"
#include "lib/base/rng.h"
#include "lib/store/arena.h"

enum { N_BYTES = 1 << 20, N_ROUNDS = 30, MAX_STEPS = 20000000 };

static const struct arena_identity WHOSE = { { 1 }, { 2 } };

static void test_states(void **state)
{
    uint8_t *bytes = calloc(1, N_BYTES);
    struct arena_line line = { .kind = DPQ_SLOT_BASE, .n_tokens = 128 };
    struct arena_header copy;
    struct arena a = { 0 };

    (void)state;
    assert_int_equal(arena_format(bytes, 4096, &WHOSE, 0, 1, &a), ARENA_E_SIZE);
    assert_int_equal(arena_format(bytes, N_BYTES, &WHOSE, 0, 7, &a), 0);
    assert_int_equal(a.header.epoch, 7);
    assert_int_equal(a.header.extents_offset, 3 * 4096);
    assert_memory_equal(bytes, &a.header, sizeof(a.header));
    assert_int_equal(arena_judge(bytes, N_BYTES, &WHOSE, &copy), 0);
    memset(bytes, 0, 100); /* the other copy stands from the start */
    assert_int_equal(arena_judge(bytes, N_BYTES, &WHOSE, &copy), 0);
    assert_int_equal(copy.epoch, 7);
    for (uint64_t g = 1; g < 10; g += 2) {
        assert_int_equal(arena_begin(&a, 3), g);
        assert_true(a.lines[3].word == slot_word(g, SLOT_WRITING));
        arena_commit(&a, 3, &line);
        assert_true(a.lines[3].word == slot_word(g, SLOT_COMMITTED));
        assert_true(a.lines[3].line_checksum == line_checksum(&a.lines[3]));
        arena_release(&a, 3);
        assert_true(a.lines[3].word == slot_word(g + 1, SLOT_FREE));
    }
    a.lines[3].word = 0; /* what is mapped is not what is believed */
    assert_int_equal(arena_begin(&a, 3), 11);
    arena_deinit(&a);
    free(bytes);
}

/* --- single steps ----------------------------------------------------------------------------- */

/* In the child: put and free in two slots over one extent, as an eviction and a put would. */
static void put_and_free(struct arena *a)
{
    struct rng rng = rng_seed(1);
    uint8_t payload[64];

    raise(SIGSTOP);
    for (int i = 0; i < N_ROUNDS; i++) {
        struct arena_line line = { .kind = DPQ_SLOT_BASE, .n_tokens = 128, .n_bytes = 64 };
        uint64_t slot = (uint64_t)i % 2;

        for (size_t k = 0; k < sizeof(payload); k++)
            payload[k] = (uint8_t)rng_next(&rng);
        memcpy(line.key, payload, sizeof(line.key));
        line.checksum = hash_xxh3(payload, sizeof(payload));
        arena_begin(a, slot);
        memcpy(arena_extent(a, 0), payload, sizeof(payload));
        arena_commit(a, slot, &line);
        arena_release(a, slot);
    }
    _exit(0);
}

/* What must hold whenever the writer is stopped, or killed. Return: how many slots are committed */
static int look(const struct arena *a, uint64_t seen[2])
{
    int n = 0;

    for (int i = 0; i < 2; i++) {
        const struct arena_line *line = &a->lines[i];
        uint64_t word = atomic_load(&line->word);

        assert_true(word >> 2 >= seen[i]); /* generations only grow */
        seen[i] = word >> 2;
        if ((word & 3) != SLOT_COMMITTED)
            continue;
        n++;
        assert_true(line_checksum(line) == line->line_checksum);
        assert_true(hash_xxh3(arena_extent(a, line->first_page), line->n_bytes) == line->checksum);
    }
    assert_true(n < 2); /* one owner of an extent */
    return n;
}

static void test_every_step(void **state)
{
    uint8_t *bytes = mmap(NULL, N_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    long n_steps = 0, n_committed = 0;
    uint64_t seen[2] = { 0 };
    struct arena a = { 0 };
    int status;
    pid_t pid;

    (void)state;
    assert_int_equal(arena_format(bytes, N_BYTES, &WHOSE, 0, 7, &a), 0);
    pid = fork();
    if (!pid) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
            _exit(errno == EPERM ? 77 : 1);
        put_and_free(&a);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("no tracing here\n");
        return;
    }
    while (WIFSTOPPED(status)) {
        assert_true(++n_steps < MAX_STEPS);
        n_committed += look(&a, seen);
        assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
    }
    assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
    assert_true(n_committed >= N_ROUNDS);
    assert_int_equal(seen[0] + seen[1], 2 * N_ROUNDS);
    arena_deinit(&a);
    munmap(bytes, N_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_every_step),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
