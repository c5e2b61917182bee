/* daemon/session_profile.c: profiles judged, kept and loaded */
#include "tests/unit/session_fixture.h"

static void test_profiles_kept(void **state)
{
    struct fixture *f = *state;
    struct session_profile_info info, infos[4];
    struct session_error error;
    uint8_t *bad, id[32];
    char path[512];
    FILE *file;
    int at;

    assert_int_equal(session_profile(f->session, f->profile_id, &info), 0);
    assert_int_equal(info.geometry->head_dim, HEAD_DIM);
    bad = malloc(info.file_bytes);
    memcpy(bad, info.bytes, info.file_bytes);
    assert_int_equal(session_profile_install(f->session, bad, info.file_bytes, id, &error), 0);
    assert_memory_equal(id, f->profile_id, 32);
    assert_int_equal(session_profile_list(f->session, infos, 4), 1);
    session_profile_unref(f->session, &infos[0]);
    bad[1] ^= 1;
    assert_int_equal(session_profile_install(f->session, bad, info.file_bytes, id, &error), 1);
    assert_string_equal(error.reason, "PROFILE_CORRUPT");
    assert_int_equal(session_profile_install(f->session, bad, 0, id, &error), 1);
    assert_int_equal(session_profile_install(f->session, info.bytes, 10, id, &error), 1);

    /* one bad file does not keep the daemon from serving the good one */
    snprintf(path, sizeof(path), "%s/profiles/%064d.dpqp", f->config.state_dir, 7);
    file = fopen(path, "w");
    assert_non_null(file);
    fwrite(bad, 1, info.file_bytes, file);
    fclose(file);
    snprintf(path, sizeof(path), "%s/profiles/%064d.dpqp", f->config.state_dir, 8);
    file = fopen(path, "w"); /* good, under a name that is not its digest */
    assert_non_null(file);
    fwrite(info.bytes, 1, info.file_bytes, file);
    fclose(file);
    session_profile_unref(f->session, &info);
    fixture_close(f);
    fixture_open(f);
    assert_int_equal(session_profile_list(f->session, infos, 4), 1);
    assert_memory_equal(infos[0].profile_id, f->profile_id, 32);
    session_profile_unref(f->session, &infos[0]);
    at = snprintf(path, sizeof(path), "%s/profiles/", f->config.state_dir);
    for (int i = 0; i < 32; i++)
        at += snprintf(path + at, sizeof(path) - (size_t)at, "%02x", f->profile_id[i]);
    snprintf(path + at, sizeof(path) - (size_t)at, ".dpqp");
    assert_int_equal(unlink(path), 0);
    fixture_close(f);
    fixture_open(f);
    assert_int_equal(session_profile_list(f->session, infos, 4), 0);
    free(bad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_profiles_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
