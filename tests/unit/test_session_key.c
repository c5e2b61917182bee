/* daemon/session_key.c: keys of tiles, and the secret behind them */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/session_internal.h"

struct fixture {
    char dir[64];
    struct key_maker maker;
    struct session_prefix prefix;
    uint32_t ids[DPQ_TILE_TOKENS];
};

static int setup(void **state)
{
    static struct fixture f;
    uint8_t secret[32];

    memset(&f, 0, sizeof(f));
    for (int i = 0; i < 32; i++)
        secret[i] = (uint8_t)i;
    snprintf(f.dir, sizeof(f.dir), "/tmp/test_session_key.XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    assert_int_equal(key_maker_init(&f.maker, secret), 0);
    for (int i = 0; i < 32; i++)
        f.prefix.profile_id[i] = (uint8_t)(255 - i);
    strcpy(f.prefix.adapter, "lora");
    strcpy(f.prefix.salt, "s");
    f.prefix.position_base = 0x0102030405060708;
    f.prefix.rate = 1;
    for (uint32_t i = 0; i < DPQ_TILE_TOKENS; i++)
        f.ids[i] = i * 1000;
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char path[128];

    key_maker_deinit(&f->maker);
    snprintf(path, sizeof(path), "%s/secret", f->dir);
    unlink(path);
    assert_int_equal(rmdir(f->dir), 0);
    return 0;
}

static void hex(const uint8_t *bytes, char ret_hex[65])
{
    for (int i = 0; i < 32; i++)
        snprintf(ret_hex + 2 * i, 3, "%02x", bytes[i]);
}

/* Values from an independent implementation: Python's hmac over tag (u32), length (u64), bytes. */
static void test_known(void **state)
{
    struct fixture *f = *state;
    uint8_t scope[32], first[32], second[32], private_key[32], zero[32] = { 0 };
    char text[65];

    assert_int_equal(key_scope(&f->maker, "alice", &f->prefix, scope), 0);
    hex(scope, text);
    assert_string_equal(text, "8b77d82f5dcbf12f3c07e339580483dd4163b09b344f3b92efeaf7015b067b88");
    assert_int_equal(key_tile(&f->maker, scope, zero, f->ids, first), 0);
    hex(first, text);
    assert_string_equal(text, "7d054c3c1055c6cb2c2ce1608e945a38033bbe5b1ce87d98976228008914d462");
    assert_int_equal(key_tile(&f->maker, scope, first, f->ids, second), 0);
    hex(second, text);
    assert_string_equal(text, "c4b41519417fd791c0e600fe7a7391137bcbf2392e89fd7a5ae744e86b1058d4");
    assert_int_equal(key_private(&f->maker, scope, 77, 3, private_key), 0);
    hex(private_key, text);
    assert_string_equal(text, "5dcca2597ca64c69b8b7423f17388495a3f7e4b6850655511c4f5b99b1749b71");
}

/* every part of a prefix counts, and parts do not run into each other */
static void test_scopes_differ(void **state)
{
    struct fixture *f = *state;
    struct session_prefix variants[7];
    uint8_t keys[8][32];

    for (size_t i = 0; i < ARRAY_SIZE(variants); i++)
        variants[i] = f->prefix;
    variants[1].profile_id[31] ^= 1;
    variants[2].rate = 2;
    strcpy(variants[3].adapter, "loras");
    strcpy(variants[3].salt, "");
    strcpy(variants[4].adapter, "");
    strcpy(variants[4].salt, "loras");
    variants[5].position_base++;
    strcpy(variants[6].salt, "t");
    for (size_t i = 0; i < ARRAY_SIZE(variants); i++)
        assert_int_equal(key_scope(&f->maker, "alice", &variants[i], keys[i]), 0);
    assert_int_equal(key_scope(&f->maker, "bob", &variants[0], keys[7]), 0);
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(keys[i], keys[k], 32);
    }
}

static void test_tiles_differ(void **state)
{
    struct fixture *f = *state;
    uint8_t scope[32] = { 1 }, other[32] = { 2 }, zero[32] = { 0 }, a[32], b[32];

    assert_int_equal(key_tile(&f->maker, scope, zero, f->ids, a), 0);
    assert_int_equal(key_tile(&f->maker, other, zero, f->ids, b), 0);
    assert_memory_not_equal(a, b, 32);
    assert_int_equal(key_tile(&f->maker, scope, other, f->ids, b), 0);
    assert_memory_not_equal(a, b, 32);
    f->ids[127]++;
    assert_int_equal(key_tile(&f->maker, scope, zero, f->ids, b), 0);
    assert_memory_not_equal(a, b, 32);
    assert_int_equal(key_private(&f->maker, scope, 1, 2, a), 0);
    assert_int_equal(key_private(&f->maker, scope, 2, 1, b), 0);
    assert_memory_not_equal(a, b, 32);
}

/* --- the secret ------------------------------------------------------------------------------- */

static void write_secret(const struct fixture *f, size_t n_bytes, mode_t mode)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "%s/secret", f->dir);
    unlink(path);
    file = fopen(path, "w");
    assert_non_null(file);
    for (size_t i = 0; i < n_bytes; i++)
        fputc(7, file);
    fclose(file);
    assert_int_equal(chmod(path, mode), 0);
}

static void test_secret_kept(void **state)
{
    struct fixture *f = *state;
    uint8_t a[32], b[32], zero[32] = { 0 };
    struct stat st;
    char path[128];

    assert_int_equal(secret_load(f->dir, a), 0);
    assert_memory_not_equal(a, zero, 32);
    snprintf(path, sizeof(path), "%s/secret", f->dir);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    assert_int_equal(st.st_size, 32);
    assert_int_equal(secret_load(f->dir, b), 0);
    assert_memory_equal(a, b, 32);
}

static void test_secret_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t secret[32] = { 9 }, untouched[32] = { 9 };
    char path[128];

    write_secret(f, 32, 0640);
    assert_int_equal(secret_load(f->dir, secret), 1);
    write_secret(f, 31, 0600);
    assert_int_equal(secret_load(f->dir, secret), 1);
    write_secret(f, 33, 0600);
    assert_int_equal(secret_load(f->dir, secret), 1);
    snprintf(path, sizeof(path), "%s/secret", f->dir);
    unlink(path);
    assert_int_equal(symlink("/dev/zero", path), 0);
    assert_int_equal(secret_load(f->dir, secret), 1);
    unlink(path);
    assert_int_equal(mkdir(path, 0600), 0);
    assert_int_equal(secret_load(f->dir, secret), 1);
    rmdir(path);
    assert_int_equal(secret_load("/dev/null", secret), 1);
    assert_memory_equal(secret, untouched, 32);
    write_secret(f, 32, 0600);
    assert_int_equal(secret_load(f->dir, secret), 0);
    assert_int_equal(secret[31], 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_known, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scopes_differ, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tiles_differ, setup, teardown),
        cmocka_unit_test_setup_teardown(test_secret_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_secret_refused, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
