/* fixture_profile FILE: what the tests of session train, once for all of them; see
 * session_fixture.h */
#include "tests/unit/session_fixture.h"

int main(int argc, char **argv)
{
    struct fixture f = { .input = fixture_input() };
    const uint8_t *bytes;
    size_t n_bytes;
    FILE *file;

    unsetenv("DELTAPQ_FIXTURE_PROFILE");
    if (argc != 2)
        return 2;
    fixture_train(&f, &bytes, &n_bytes);
    free(f.input);
    file = fopen(argv[1], "wb");
    return !file || fwrite(bytes, 1, n_bytes, file) != n_bytes || fclose(file);
}
