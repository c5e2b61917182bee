/* session_restore: sequences and prefixes of an earlier daemon, from a manager's memfds and from
 * files */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/session_keep.h"
#include "lib/store/arena.h"
#include "tests/unit/session_kept.h"

/* Tiles and tail, with and without ids; they go on as if nothing had been. */
static void test_sequences(void **state)
{
    struct fixture *f = *state;
    uint64_t keyed = create(f, NULL, 0, 0), plain = create(f, NULL, 0, 0);
    uint64_t short_one = create(f, NULL, 0, 0), empty = create(f, NULL, 0, 0), generation;
    struct session_append op;
    float *rows[3];

    append(f, keyed, 0, 300, true);
    generation = append(f, keyed, 300, 100, true).generation;
    append(f, plain, 0, 200, false);
    append(f, plain, 200, 1, false);
    append(f, short_one, 0, 5, true);
    rows[0] = read_all(f, keyed, 400);
    rows[1] = read_all(f, plain, 201);
    rows[2] = read_all(f, short_one, 5);
    for (int i = 0; i < 3; i++) {
        restart(f);
        expect(f, keyed, 400, rows[0]);
        expect(f, plain, 201, rows[1]);
        expect(f, short_one, 5, rows[2]);
        assert_string_equal(read_run(f, empty, 0, 0, NULL).error.reason, "SEQUENCE");
        assert_int_equal(status_of(f).n_sequences, 3);
        /* who did not hear the answer asks again */
        op = append_run(f, append_op(f, keyed, 300, 100, true));
        assert_int_equal(op.error.code, SESSION_OK);
        assert_int_equal(op.n_shared_tokens, 100);
        assert_int_equal(op.generation, generation);
        /* prefixes are shared */
        assert_int_equal(lookup_run(f, f->ids, 400, 0, false).n_tokens, 384);
        assert_int_equal(lookup_run(f, f->ids, 400, keyed, false).n_tokens, 400);
    }
    append(f, keyed, 400, 200, true);
    append(f, plain, 201, 99, false);
    append(f, short_one, 5, 200, true); /* its first tile is keyed's, too */
    for (int i = 0; i < 3; i++)
        free(rows[i]);
    rows[0] = read_all(f, keyed, 600);
    rows[1] = read_all(f, plain, 300);
    rows[2] = read_all(f, short_one, 205);
    assert_memory_equal(rows[0], rows[2], 128 * ROW_BYTES);
    restart(f);
    expect(f, keyed, 600, rows[0]);
    expect(f, plain, 300, rows[1]);
    expect(f, short_one, 205, rows[2]);
    release_run(f, keyed, true);
    release_run(f, plain, true);
    release_run(f, short_one, true);
    restart(f);
    assert_int_equal(status_of(f).n_sequences, 0);
    assert_int_equal(status_of(f).n_tiles, 0);
    for (int i = 0; i < 3; i++)
        free(rows[i]);
}

/* Token by token, past what a record has room for at first, with restarts in between. */
static void test_many_small_appends(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    float *rows;

    for (uint32_t i = 0; i < 700; i++) {
        append(f, id, i, 1, true);
        if (i % 97 == 96)
            restart(f);
    }
    rows = read_all(f, id, 700);
    restart(f);
    expect(f, id, 700, rows);
    assert_int_equal(lookup_run(f, f->ids, 700, id, false).n_tokens, 700);
    free(rows);
}

/* Ids of an append that never was are not taken for those of the next one. */
static void test_ids_of_failed_append(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct record_change change = { .has_ids = true, .first_token = 10, .n_ids = 7 };
    struct sequence *sequence;

    append(f, id, 0, 10, true);
    sequence = sequence_find(f->session, 0, id);
    change.ids = f->ids + 500;
    memcpy(sequence->token_ids + 0, f->ids, 10 * sizeof(uint32_t));
    assert_int_equal(sequence_write(sequence, &change, 0), 0); /* and there it was killed */
    restart(f);
    sequence = sequence_find(f->session, 0, id);
    assert_int_equal(sequence->n_tokens, 10);
    assert_int_equal(sequence->n_token_ids, 10);
    append(f, id, 10, 20, false);
    restart(f);
    sequence = sequence_find(f->session, 0, id);
    assert_int_equal(sequence->n_tokens, 30);
    assert_int_equal(sequence->n_token_ids, 10);
    assert_memory_equal(sequence->token_ids, f->ids, 10 * sizeof(uint32_t));
    assert_int_equal(lookup_run(f, f->ids, 30, id, false).n_tokens, 10);
}

/* Sequences whose clients only looked are gone with their clients. */
static void test_adopted(void **state)
{
    struct fixture *f = *state;
    uint64_t writer = create(f, NULL, 0, 0), reader, branch;
    float *rows;

    append(f, writer, 0, 256, true);
    reader = create(f, f->ids, 256, 0);
    branch = create(f, f->ids, 256, 0);
    append(f, branch, 256, 3, true);
    rows = read_all(f, branch, 259);
    restart(f);
    assert_string_equal(read_run(f, reader, 0, 0, NULL).error.reason, "SEQUENCE");
    expect(f, branch, 259, rows);
    assert_int_equal(status_of(f).n_tiles, 2);
    reader = create(f, f->ids, 256, 0);
    expect(f, reader, 256, rows);
    free(rows);
}

/* An arena that is not opened is put aside, whole, and the daemon goes on with a new one. */
static void test_refused_arena(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    char path[300];
    struct stat before, after;

    append(f, id, 0, 200, true);
    fixture_close(f);
    snprintf(path, sizeof(path), "%s/state/secret", f->dir);
    assert_int_equal(unlink(path), 0); /* its keys mean nothing any more */
    if (f->config.arena_dir[0]) {
        snprintf(path, sizeof(path), "%s/arena-test", f->config.arena_dir);
        assert_int_equal(stat(path, &before), 0);
    } else {
        assert_int_equal(fstat(look_up("arena-test")->fd, &before), 0);
    }
    open_again(f);
    assert_string_equal(read_run(f, id, 0, 1, NULL).error.reason, "SEQUENCE");
    if (f->config.arena_dir[0]) {
        snprintf(path, sizeof(path), "%s/kept-test", f->config.arena_dir);
        assert_int_equal(stat(path, &after), 0);
    } else {
        assert_int_equal(fstat(look_up("kept-test")->fd, &after), 0);
    }
    assert_int_equal(before.st_ino, after.st_ino);
    id = create(f, NULL, 0, 0);
    append(f, id, 0, 200, true);
    restart(f);
    assert_int_equal(read_run(f, id, 0, 0, NULL).error.code, SESSION_OK);
}

/* What this daemon cannot read stays where it is. */
static void test_missing_profile(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    char command[300];
    float *rows;

    append(f, id, 0, 200, true);
    rows = read_all(f, id, 200);
    fixture_close(f);
    snprintf(command, sizeof(command), "mv %s/state/profiles %s/away", f->dir, f->dir);
    assert_int_equal(system(command), 0);
    open_again(f);
    assert_string_equal(read_run(f, id, 0, 1, NULL).error.reason, "SEQUENCE");
    fixture_close(f);
    snprintf(command, sizeof(command), "rm -r %s/state/profiles; mv %s/away %s/state/profiles",
             f->dir, f->dir, f->dir);
    assert_int_equal(system(command), 0);
    open_again(f);
    expect(f, id, 200, rows);
    free(rows);
}

/* A flipped bit in what an earlier daemon stored: named, and never served. */
static void test_damage(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct store_object base, fine;
    struct session_append op;
    struct sequence *sequence;
    float *rows;

    append(f, id, 0, 200, true);
    rows = read_all(f, id, 200);
    restart(f);
    sequence = sequence_find(f->session, 0, id);
    *(uint8_t *)sequence->tail_object.bytes ^= 1;
    assert_int_equal(read_run(f, id, 150, 1, rows).error.code, SESSION_DATA_LOSS);
    assert_int_equal(read_run(f, id, 0, 128, rows).error.code, SESSION_OK);
    op = append_run(f, append_op(f, id, 200, 100, true));
    assert_int_equal(op.error.code, SESSION_DATA_LOSS);
    *(uint8_t *)sequence->tail_object.bytes ^= 1;
    append(f, id, 200, 10, true);
    tile_objects(sequence->tiles[0], &base, &fine);
    *(uint8_t *)base.bytes ^= 1;
    assert_int_equal(read_run(f, id, 0, 128, rows).error.code, SESSION_DATA_LOSS);
    assert_int_equal(lookup_run(f, f->ids, 200, 0, false).n_tokens, 0);
    free(rows);
}

/* A directory that is not ours alone, or not memory, is refused before anything is put there. */
static void test_bad_directories(void **state)
{
    struct fixture *f = *state;
    struct config config = f->config;
    struct session *session = NULL;

    snprintf(config.arena_dir, sizeof(config.arena_dir), "/proc/self");
    assert_int_equal(session_new(&config, f->hub, f->pool, &session), 1);
    assert_int_equal(chmod(f->config.arena_dir, 0755), 0);
    assert_int_equal(session_new(&f->config, f->hub, f->pool, &session), 1);
    assert_int_equal(chmod(f->config.arena_dir, 0700), 0);
    assert_int_equal(session_new(&f->config, f->hub, f->pool, &session), 1); /* it is in use */
    assert_null(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sequences, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_sequences, kept_setup_files, kept_teardown),
        cmocka_unit_test_setup_teardown(test_many_small_appends, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_ids_of_failed_append, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_adopted, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_refused_arena, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_refused_arena, kept_setup_files, kept_teardown),
        cmocka_unit_test_setup_teardown(test_missing_profile, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_damage, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_bad_directories, kept_setup_files, kept_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
