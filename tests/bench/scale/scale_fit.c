/* Medians, a line through points, and the lists of the command line */

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

#include "tests/bench/scale/scale.h"

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double scale_quantile(double *values, uint32_t n, double share)
{
    qsort(values, n, sizeof(*values), ascending);
    return values[(uint32_t)((double)(n - 1) * share + .5)];
}

double scale_median(double *values, uint32_t n)
{
    return scale_quantile(values, n, .5);
}

/* Student's 97.5 % quantile, within .01 from 3 degrees of freedom on (Cornish and Fisher) */
static double student(double degrees)
{
    double z = 1.959964, z3 = z * z * z, z5 = z3 * z * z;

    return z + (z3 + z) / (4 * degrees) + (5 * z5 + 16 * z3 + 3 * z) / (96 * degrees * degrees);
}

struct scale_slope scale_fit(const double *x, const double *y, uint32_t n)
{
    double mean_x = 0, mean_y = 0, xx = 0, xy = 0, rest = 0;
    struct scale_slope fit = { NAN, NAN };

    if (n < 5)
        return fit;
    for (uint32_t i = 0; i < n; i++) {
        mean_x += log(x[i]) / n;
        mean_y += log(y[i]) / n;
    }
    for (uint32_t i = 0; i < n; i++) {
        xx += (log(x[i]) - mean_x) * (log(x[i]) - mean_x);
        xy += (log(x[i]) - mean_x) * (log(y[i]) - mean_y);
    }
    fit.slope = xy / xx;
    for (uint32_t i = 0; i < n; i++) {
        double e = log(y[i]) - mean_y - fit.slope * (log(x[i]) - mean_x);

        rest += e * e;
    }
    fit.half = student(n - 2) * sqrt(rest / (n - 2) / xx);
    return fit;
}

bool scale_parse_list(const char *text, struct scale_list *ret_list)
{
    struct scale_list list = { .n = 0 };

    do {
        char *end;

        if (list.n == SCALE_MAX_LIST || !isdigit((unsigned char)*text))
            return false;
        list.at[list.n++] = strtod(text, &end);
        text = end;
    } while (*text++ == ',');
    if (text[-1])
        return false;
    *ret_list = list;
    return true;
}

bool scale_parse_cpus(const char *text, cpu_set_t *ret_cpus)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    do {
        unsigned long first, last;
        char *end;

        if (!isdigit((unsigned char)*text))
            return false;
        first = last = strtoul(text, &end, 10);
        if (*end == '-' && isdigit((unsigned char)end[1]))
            last = strtoul(end + 1, &end, 10);
        for (unsigned long i = first; i <= last && i < CPU_SETSIZE; i++)
            CPU_SET(i, &cpus);
        text = end;
    } while (*text++ == ',');
    if (text[-1])
        return false;
    *ret_cpus = cpus;
    return true;
}
