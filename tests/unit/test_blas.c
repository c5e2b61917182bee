/* lib/codec/blas.c: are OpenBLAS' kernels those that this CPU could have? */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/codec/blas.h"
#include "lib/kern/kern.h"

static void test_better(void **state)
{
    const unsigned all = KERN_CPU_AVX2 | KERN_CPU_AVX512;

    (void)state;
    assert_string_equal(blas_better_core("Prescott", all), "SkylakeX");
    assert_string_equal(blas_better_core("prescott", KERN_CPU_AVX2), "Haswell");
    assert_string_equal(blas_better_core("Sandybridge", all), "SkylakeX");
    assert_null(blas_better_core("Prescott", 0));
}

static void test_well(void **state)
{
    const unsigned all = KERN_CPU_AVX2 | KERN_CPU_AVX512;

    (void)state;
    assert_null(blas_better_core("SkylakeX", all));
    assert_null(blas_better_core("Zen", all));
    assert_null(blas_better_core("SapphireRapids", all));
    assert_null(blas_better_core("of a later version", all));
}

static void test_this_machine(void **state)
{
    const char *better = blas_better_core(blas_core(), kern_cpu_detect());

    (void)state;
    print_message("# OpenBLAS has %s%s%s\n", blas_core(), better ? ", should have " : "",
                  better ? better : "");
    assert_non_null(blas_core());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_better),
        cmocka_unit_test(test_well),
        cmocka_unit_test(test_this_machine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
