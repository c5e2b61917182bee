/* profile: whatever the bytes are, opening refuses them or shows nothing outside them */

#include <stdlib.h>

#include "tests/util/profile_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Once as it is, and once with the size and checksum put right, so that the rest is reached. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size ? size : 1);
    uint64_t n_bytes = size;

    if (!bytes)
        return 0;
    if (size)
        memcpy(bytes, data, size);
    for (int sealed = 0; sealed < 2; sealed++) {
        struct dpq_profile *profile = NULL;
        struct dpq_fault fault;

        if (!dpq_profile_open(bytes, size, &profile, &fault))
            profile_walk(profile);
        dpq_profile_free(profile);
        if (size < sizeof(struct profile_file_header))
            break;
        memcpy(bytes + offsetof(struct profile_file_header, n_bytes), &n_bytes, sizeof(n_bytes));
        profile_seal(bytes, size);
    }
    free(bytes);
    return 0;
}
