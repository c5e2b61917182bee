/* risk_shape: closed forms and estimates against the oracle's digits; neighbours, codes, tiers */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/risk/risk_shape.h"
#include "tests/util/oracle.h"

static const uint32_t DIMS[] = { 1, 2, 4, 8, 16 };

/* dpq.py: the generator that everything else rests on */
static void test_random_numbers(void **state)
{
    static const double UNITS[] = { 0.44435922, 0.4442647, 0.76289439 };
    static const double NORMALS[] = { -2.02713485, -0.2958782, 0.22379858, -0.7888492 };
    static const double LAPLACES[] = { -0.21284138, 0.23678713, -0.09444716 };
    struct risk_random g = { 1 };
    double *normals;

    (void)state;
    assert_true(risk_random_next(&g) == 0x910a2dec89025cc1);
    assert_true(risk_random_next(&g) == 0xbeeb8da1658eec67);
    assert_true(risk_random_next(&g) == 0xf893a2eefb32555e);
    for (int i = 0; i < 3; i++)
        assert_true(oracle_prints(risk_random_unit(&g), UNITS[i], 1e-8));
    normals = oracle_normals(&g, 4);
    for (int i = 0; i < 4; i++)
        assert_true(oracle_prints(normals[i], NORMALS[i], 1e-8));
    free(normals);
    for (int i = 0; i < 3; i++)
        assert_true(oracle_prints(oracle_laplace(&g), LAPLACES[i], 1e-8));
    assert_true(fabs(risk_random_gamma(&g, .5) - 0.1340575736094223) < 1e-14);
    assert_true(fabs(risk_random_gamma(&g, 4) - 2.3885623182593183) < 1e-13);
}

/* dpq.py: thirteen tokens of a closed loop */
static void test_closed_loop(void **state)
{
    static const int CODES[] = { -1, 1, 0, 0, 14, 5, 3, 13, 2, 0, 14, 8, 6 };
    struct risk_random g = { 3 };
    double *x = oracle_normals(&g, 26), words[32];
    struct oracle_loop loop;

    (void)state;
    oracle_ring16(sqrt(1 - .81), words);
    oracle_ar1(x, 13, 2, .9);
    loop = oracle_dpcm(x, 13, 2, words, .9);
    for (int t = 0; t < 13; t++)
        assert_int_equal(loop.code[t], CODES[t]);
    assert_true(oracle_prints(loop.reference[24], 1.474687, 1e-6));
    assert_true(oracle_prints(loop.e[24] * loop.e[24] + loop.e[25] * loop.e[25], .005806, 1e-6));
    oracle_loop_drop(&loop);
    free(x);
}

static double uniform(uint32_t k)
{
    (void)k;
    return log(12);
}

static double product_half(uint32_t k)
{
    return risk_shape_product(.5, k);
}

static double product_1(uint32_t k)
{
    return risk_shape_product(1, k);
}

static double radial_half(uint32_t k)
{
    return risk_shape_radial(.5, k);
}

static double radial_1(uint32_t k)
{
    return risk_shape_radial(1, k);
}

static double radial_4(uint32_t k)
{
    return risk_shape_radial(4, k);
}

static double t3(uint32_t k)
{
    return risk_shape_t(3, k);
}

static double t5(uint32_t k)
{
    return risk_shape_t(5, k);
}

static double t10(uint32_t k)
{
    return risk_shape_t(10, k);
}

/* constants.py: ln S, less the Gaussian's but in the first row */
static void test_closed_forms(void **state)
{
    static const struct {
        double (*ln_s)(uint32_t);
        double want[5];
    } WANT[] = {
        { product_half, { 1.090975, 0.306103, -0.203594, -0.505627, -0.672638 } },
        { product_1, { 0.503189, 0.241564, 0.071665, -0.029012, -0.084683 } },
        { uniform, { -1.000889, -0.739265, -0.569366, -0.468688, -0.413018 } },
        { radial_half, { 1.090975, 0.603535, 0.320915, 0.166286, 0.084801 } },
        { radial_1, { 0.503189, 0.287682, 0.156264, 0.081983, 0.042094 } },
        { radial_4, { -0.387344, -0.241564, -0.140842, -0.077474, -0.040878 } },
        { t3, { 2.020466, 1.098612, 0.628609, 0.370449, 0.219570 } },
        { t5, { 0.883106, 0.510826, 0.318403, 0.206359, 0.133850 } },
        { t10, { 0.362095, 0.223144, 0.150928, 0.107822, 0.077472 } },
    };
    static const double GAUSS[] = { 3.485795, 3.224171, 3.054272, 2.953595, 2.897924 };

    (void)state;
    for (int i = 0; i < 5; i++) {
        assert_true(oracle_prints(risk_shape_gauss(DIMS[i]), GAUSS[i], 1e-6));
        assert_true(fabs(risk_shape_radial(2, DIMS[i]) - risk_shape_gauss(DIMS[i])) < 1e-12);
        assert_true(fabs(risk_shape_product(2, DIMS[i]) - risk_shape_gauss(DIMS[i])) < 1e-12);
        for (size_t row = 0; row < ARRAY_SIZE(WANT); row++)
            assert_true(oracle_prints(WANT[row].ln_s(DIMS[i]) - risk_shape_gauss(DIMS[i]),
                                      WANT[row].want[i], 1e-6));
    }
}

static void test_first_moment_ratios(void **state)
{
    static const double P[] = { .5, 1, 2, 4 };
    static const double RADIAL[] = { 0.89180807, 0.94280904, 0.96931070, 0.98268199 };
    static const double AXIS[] = { 0.54772256, 0.70710678, 0.79788456, 0.84089642 };

    (void)state;
    for (int i = 0; i < 4; i++) {
        assert_true(oracle_prints(risk_shape_radial_ratio(P[i], 8), RADIAL[i], 1e-8));
        assert_true(oracle_prints(risk_shape_axis_ratio(P[i]), AXIS[i], 1e-8));
        assert_true(fabs(risk_shape_fit_p(risk_shape_radial_ratio(P[i], 8), 8) - P[i]) < 1e-3);
        assert_true(fabs(risk_shape_fit_b(risk_shape_axis_ratio(P[i])) - P[i]) < 1e-3);
    }
    assert_true(risk_shape_fit_p(0, 4) == .25 && risk_shape_at_edge(.25));
    assert_true(risk_shape_fit_p(1, 4) == 40 && risk_shape_at_edge(40));
    assert_true(risk_shape_fit_p(NAN, 4) == .25);
    assert_true(risk_shape_fit_b(0) == .3);
    assert_true(risk_shape_fit_b(1) == 12);
}

/* n vectors of a law of shape.py, [n][k] */
static double *sample(const char *law, size_t n, size_t k, uint64_t seed)
{
    struct risk_random g = { seed };
    double *x = NULL, *scale;

    if (!strcmp(law, "laplace-prod") || !strcmp(law, "uniform")) {
        x = oracle_alloc(n * k);
        for (size_t i = 0; i < n * k; i++)
            x[i] = *law == 'u' ? 2 * risk_random_unit(&g) - 1 : oracle_laplace(&g);
        return x;
    }
    x = oracle_normals(&g, n * k);
    scale = oracle_alloc(n);
    if (!strcmp(law, "laplace-rad")) {
        for (size_t t = 0; t < n; t++) {
            double r2 = 0;

            for (size_t i = 0; i < k; i++)
                r2 += x[t * k + i] * x[t * k + i];
            scale[t] = risk_random_gamma(&g, (double)k) / sqrt(r2);
        }
    } else if (!strcmp(law, "scale-mix")) {
        for (size_t t = 0; t < n; t++)
            scale[t] = risk_random_unit(&g) < .9 ? .3 : 3;
    } else if (*law == 't') {
        size_t nu = (size_t)(law[1] - '0');
        double *chi = oracle_normals(&g, n * nu);

        for (size_t t = 0; t < n; t++) {
            for (size_t i = 0; i < nu; i++)
                scale[t] += chi[t * nu + i] * chi[t * nu + i];
            scale[t] = 1 / sqrt(scale[t] / (double)nu);
        }
        free(chi);
    }
    for (size_t i = 0; strcmp(law, "gauss") && i < n * k; i++)
        x[i] *= scale[i / k];
    free(scale);
    return x;
}

enum { N = 2000 };

/* shape.py: fitted exponent, and ln S less the Gaussian's by each estimate */
static void test_estimates(void **state)
{
    static const struct {
        uint32_t k;
        const char *law;
        double p, knn, radial, product, corrected;
    } WANT[] = {
        { 2, "gauss", 1.996114, -0.096599, 0.000751, 0.007323, 0.001490 },
        { 2, "laplace-prod", 1.012970, 0.072137, 0.282026, 0.173638, 0.215466 },
        { 2, "laplace-rad", 0.929171, 0.150693, 0.320103, 0.211501, 0.320113 },
        { 2, "t5", 0.946272, 0.262808, 0.312026, 0.209462, 0.430018 },
        { 2, "t3", 0.650080, 0.385293, 0.481578, 0.285778, 0.600338 },
        { 2, "scale-mix", 0.256707, 0.192854, 0.921735, 0.194930, 0.444722 },
        { 2, "uniform", 9.749672, -0.738684, -0.462263, -0.079786, -0.684283 },
        { 4, "gauss", 1.933126, -0.073728, 0.007377, 0.006647, 0.019538 },
        { 4, "laplace-prod", 0.922952, -0.061144, 0.174981, 0.063115, 0.083948 },
        { 4, "laplace-rad", 0.961033, 0.009699, 0.165529, 0.063599, 0.151020 },
        { 4, "t5", 0.757496, 0.066572, 0.221516, 0.073850, 0.225001 },
        { 4, "t3", 0.424095, 0.151685, 0.360762, 0.031119, 0.371769 },
        { 4, "scale-mix", 0.250000, 0.051590, 0.489867, -0.494284, 0.271673 },
        { 4, "uniform", 6.351610, -0.422253, -0.221627, -0.072970, -0.383308 },
        { 8, "gauss", 1.996161, -0.056128, 0.000222, 0.001127, 0.002140 },
        { 8, "laplace-prod", 0.932170, -0.099915, 0.090446, 0.017497, 0.018321 },
        { 8, "laplace-rad", 0.965052, -0.023035, 0.086267, 0.016768, 0.092201 },
        { 8, "t5", 0.558523, -0.006941, 0.152725, 0.010123, 0.146433 },
        { 8, "t3", 0.250000, -0.058001, 0.251758, -0.309284, 0.103800 },
        { 8, "scale-mix", 0.250000, 0.042465, 0.251758, -0.940555, 0.204266 },
        { 8, "uniform", 5.642561, -0.176432, -0.113168, -0.023986, -0.196833 },
    };
    double *scratch = oracle_alloc(risk_shape_scratch(N, 8));

    (void)state;
    for (size_t row = 0; row < ARRAY_SIZE(WANT); row++) {
        uint32_t k = WANT[row].k;
        double *x = sample(WANT[row].law, N, k, 100), *z = oracle_transpose(x, N, k);
        double gauss = risk_shape_gauss(k);
        struct risk_shape s;

        assert_int_equal(risk_shape_whiten(z, N, k), 0);
        risk_shape_estimate(z, N, k, RISK_SHAPE_SEED, scratch, &s);
        assert_true(oracle_prints(s.p, WANT[row].p, 1e-6));
        assert_true(oracle_prints(s.knn - gauss, WANT[row].knn, 1e-6));
        assert_true(oracle_prints(s.radial - gauss, WANT[row].radial, 1e-6));
        assert_true(oracle_prints(s.product - gauss, WANT[row].product, 1e-6));
        assert_true(oracle_prints(s.corrected - gauss, WANT[row].corrected, 1e-6));
        free(z);
        free(x);
    }
    free(scratch);
}

/* shape.py's last column: mean and standard deviation of the corrected estimate's error, over the
 * seeds 100 … 107, for the laws' true ln S less the Gaussian's */
static const struct {
    uint32_t k;
    const char *law;
    double truth, bias, deviation;
} BIAS[] = {
    { 2, "gauss", 0.000000, 0.017, 0.015 },        { 2, "laplace-prod", 0.241564, 0.021, 0.030 },
    { 2, "laplace-rad", 0.287682, 0.020, 0.029 },  { 2, "t5", 0.510826, -0.110, 0.037 },
    { 2, "t3", 1.098612, -0.483, 0.059 },          { 2, "scale-mix", 0.381115, 0.080, 0.065 },
    { 2, "uniform", -0.739265, 0.088, 0.015 },     { 4, "gauss", 0.000000, 0.013, 0.009 },
    { 4, "laplace-prod", 0.071665, 0.022, 0.013 }, { 4, "laplace-rad", 0.156264, -0.007, 0.013 },
    { 4, "t5", 0.318403, -0.084, 0.012 },          { 4, "t3", 0.628609, -0.275, 0.035 },
    { 4, "scale-mix", 0.185099, 0.077, 0.019 },    { 4, "uniform", -0.569366, 0.170, 0.020 },
};

/* mean and standard deviation over eight seeds */
static void measure_bias(const char *law, uint32_t k, double truth, double *ret_bias,
                         double *ret_deviation)
{
    double *scratch = oracle_alloc(risk_shape_scratch(N, k)), sum = 0, square = 0;

    for (uint64_t seed = 100; seed < 108; seed++) {
        double *x = sample(law, N, k, seed), *z = oracle_transpose(x, N, k), error;
        struct risk_shape s;

        assert_int_equal(risk_shape_whiten(z, N, k), 0);
        risk_shape_estimate(z, N, k, RISK_SHAPE_SEED, scratch, &s);
        error = s.corrected - risk_shape_gauss(k) - truth;
        sum += error / 8;
        square += error * error / 8;
        free(z);
        free(x);
    }
    free(scratch);
    *ret_bias = sum;
    *ret_deviation = sqrt(square - sum * sum);
}

static void test_bias(void **state)
{
    (void)state;
    for (size_t row = 0; row < ARRAY_SIZE(BIAS); row++) {
        double bias, deviation;

        measure_bias(BIAS[row].law, BIAS[row].k, BIAS[row].truth, &bias, &deviation);
        assert_true(oracle_prints(bias, BIAS[row].bias, 1e-3));
        assert_true(oracle_prints(deviation, BIAS[row].deviation, 1e-3));
    }
}

/* theory.md 6.3: bias and standard deviation that it states for the corrected estimate. (It does
 * not say where its four clusters are.) */
static const struct {
    uint32_t k;
    const char *law;
    double bias, deviation;
} STATED[] = {
    { 1, "gauss", .00, .06 },        { 1, "laplace-prod", -.04, .08 },
    { 1, "t5", -.33, .07 },          { 2, "gauss", -.01, .02 },
    { 2, "laplace-prod", .00, .03 }, { 2, "t5", -.14, .06 },
    { 2, "scale-mix", .27, .06 },    { 4, "gauss", .00, .01 },
    { 4, "laplace-prod", .01, .01 }, { 4, "laplace-rad", .01, .01 },
    { 4, "t5", -.08, .02 },          { 4, "t3", -.26, .02 },
    { 4, "scale-mix", .19, .02 },    { 8, "gauss", .00, .01 },
    { 8, "laplace-prod", .05, .01 }, { 8, "laplace-rad", .00, .01 },
    { 8, "t5", -.04, .00 },          { 8, "t3", -.15, .03 },
    { 8, "scale-mix", .18, .01 },    { 8, "uniform", .26, .02 },
};

/* 90 % of deviation .3, 10 % of deviation 3: by quadrature over the radius */
static double ln_s_of_mixture(uint32_t k)
{
    double alpha = (double)k / (k + 2), sum = 0, step = 1e-3;

    for (double r = step / 2; r < 60; r += step) {
        double narrow = .9 * exp(-r * r / 2 / .09) * pow(2 * M_PI * .09, -.5 * k);
        double wide = .1 * exp(-r * r / 2 / 9) * pow(2 * M_PI * 9, -.5 * k);

        sum += step * pow(r, k - 1) * pow(narrow + wide, alpha);
    }
    sum *= 2 * pow(M_PI, .5 * k) / exp(risk_shape_ln_gamma(.5 * k));
    return log(sum) / alpha - log(.9 * .09 + .1 * 9);
}

static double true_ln_s(const char *law, uint32_t k)
{
    if (!strcmp(law, "gauss"))
        return risk_shape_gauss(k);
    if (!strcmp(law, "laplace-prod"))
        return risk_shape_product(1, k);
    if (!strcmp(law, "laplace-rad"))
        return risk_shape_radial(1, k);
    if (!strcmp(law, "uniform"))
        return log(12);
    if (!strcmp(law, "scale-mix"))
        return ln_s_of_mixture(k);
    return risk_shape_t(law[1] - '0', k);
}

/* No estimate is off by more than theory.md says, two deviations and its last digit granted. Its
 * figures are without the clamp of the exponent that it asks for, which costs Student's laws up to
 * .06. Deviations in one dimension are not held to it: codes have two or four. */
static void test_stated_bias(void **state)
{
    (void)state;
    for (size_t row = 0; row < ARRAY_SIZE(STATED); row++) {
        double truth = true_ln_s(STATED[row].law, STATED[row].k) - risk_shape_gauss(STATED[row].k);
        double clamp = *STATED[row].law == 't' ? .06 : 0, bias, deviation;

        measure_bias(STATED[row].law, STATED[row].k, truth, &bias, &deviation);
        assert_true(fabs(bias) <= fabs(STATED[row].bias) + 2 * STATED[row].deviation + .01 + clamp);
        assert_true(STATED[row].k == 1 || deviation <= 2 * STATED[row].deviation + .01);
    }
}

/* ln S by looking at all pairs */
static double knn_of_all_pairs(const double *z, size_t n, uint32_t k)
{
    double d = k, alpha = d / (d + 2), sum = 0;

    for (size_t t = 0; t < n; t++) {
        double best[3] = { INFINITY, INFINITY, INFINITY };

        for (size_t s = 0; s < n; s++) {
            double d2 = 0;

            for (uint32_t i = 0; i < k; i++)
                d2 += (z[i * n + t] - z[i * n + s]) * (z[i * n + t] - z[i * n + s]);
            for (int j = 0; s != t && j < 3; j++) {
                double least = fmin(best[j], d2);

                d2 = fmax(best[j], d2);
                best[j] = least;
            }
        }
        sum += exp((1 - alpha) * (log((double)n - 1) + d / 2 * log(M_PI) - lgamma(d / 2 + 1) +
                                  d / 2 * log(fmax(best[2], 1e-24))));
    }
    return (log(sum / (double)n) + lgamma(3) - lgamma(4 - alpha)) / alpha;
}

/* Odd sizes, ties and clusters: sorting and stopping early must not lose a neighbour. */
static void test_neighbours_are_the_nearest(void **state)
{
    static const size_t SIZES[] = { 5, 16, 17, 33, 257, 600 };
    double *scratch = oracle_alloc(risk_shape_scratch(600, 16));

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(SIZES); i++)
        for (size_t j = 0; j < ARRAY_SIZE(DIMS); j++) {
            size_t n = SIZES[i];
            uint32_t k = DIMS[j];
            struct risk_random g = { n * 100 + k };
            double *z = oracle_normals(&g, n * k);

            for (size_t t = 0; t < n * k; t += 3)
                z[t] = round(2 * z[t]);
            assert_true(fabs(risk_shape_knn(z, n, k, scratch) - knn_of_all_pairs(z, n, k)) < 1e-11);
            free(z);
        }
    free(scratch);
}

static void test_whitening(void **state)
{
    struct risk_random g = { 12 };
    double *z = oracle_normals(&g, 4 * 500), mean[4], c[16];

    (void)state;
    for (size_t t = 0; t < 500; t++) {
        z[t] = 100 + 5 * z[t] + z[500 + t];
        z[1500 + t] = 1e-3 * z[1500 + t];
    }
    assert_int_equal(risk_shape_whiten(z, 500, 4), 0);
    risk_shape_covariance(z, 500, 4, mean, c);
    for (int i = 0; i < 16; i++)
        assert_true(fabs(c[i] - (i % 5 == 0)) < 1e-9);
    for (size_t t = 0; t < 500; t++)
        z[t] = z[500 + t];
    mean[0] = z[77];
    assert_int_equal(risk_shape_whiten(z, 500, 4), RISK_SHAPE_E_FLAT);
    assert_true(z[77] == mean[0]);
    z[3] = NAN;
    assert_int_equal(risk_shape_whiten(z, 500, 4), RISK_SHAPE_E_FLAT);
    free(z);
}

/* rwf.py's last column: error of a code trained on a Gaussian with spectrum c^-i over that of the
 * flat one. The same start and iterations, hence the same digits. */
static void test_codes_of_known_error(void **state)
{
    static const struct {
        uint32_t k, n_words;
        double want[3];
    } WANT[] = { { 2, 16, { .963, .942, .793 } }, { 4, 256, { .896, .743, .359 } } };
    enum { TRAIN = 12000, TEST = 8000 };
    double *distance = oracle_alloc(TRAIN), words[256 * 4];

    (void)state;
    for (size_t row = 0; row < ARRAY_SIZE(WANT); row++) {
        struct risk_random learn = { 30 }, judge = { 31 };
        uint32_t k = WANT[row].k, n_words = WANT[row].n_words;
        double *z = oracle_normals(&learn, TRAIN * k), *y = oracle_normals(&judge, TEST * k);
        double *a = oracle_transpose(z, TRAIN, k), *b = oracle_transpose(y, TEST, k), flat = 0;

        for (int i = -1; i < (k == 2 ? 3 : 0); i++) {
            double c = i < 0 ? 1 : (double[]){ 1.5, 2, 4 }[i], sum = 0, error;

            for (uint32_t j = 0; j < k; j++)
                sum += pow(c, -(double)j);
            for (uint32_t j = 0; j < k; j++) {
                double s = sqrt(pow(c, -(double)j) * k / sum);

                for (size_t t = 0; t < TRAIN; t++)
                    a[j * TRAIN + t] = z[t * k + j] * s;
                for (size_t t = 0; t < TEST; t++)
                    b[j * TEST + t] = y[t * k + j] * s;
            }
            risk_shape_kmeans(a, TRAIN, k, n_words, 15, 1, distance, words);
            error = risk_shape_distances(b, TEST, TEST, k, words, n_words, distance, NULL);
            if (i < 0)
                flat = error;
            else
                assert_true(oracle_prints(error / flat, WANT[row].want[i], 1e-3));
        }
        /* gamma0 of theory.md 1, from other samples */
        assert_true(fabs(flat / TEST / k / (k == 2 ? .1114 : .1006) - 1) < .03);
        free(b);
        free(a);
        free(y);
        free(z);
    }
    free(distance);
}

/* Which tier judges what; and that each finds a residual of a quarter of the energy: ln(1/4). */
static void test_tiers(void **state)
{
    static const struct {
        size_t n;
        uint32_t k, n_words;
        const char *x, *d;
        double scale;
        enum risk_shape_tier tier;
    } WANT[] = {
        { 255, 2, 16, "gauss", "gauss", .5, RISK_SHAPE_UNKNOWN },
        { 256, 2, 16, "gauss", "gauss", .5, RISK_SHAPE_PROXY },
        { 1000, 2, 16, "gauss", "gauss", .5, RISK_SHAPE_KNN },
        { 999, 4, 16, "gauss", "gauss", .5, RISK_SHAPE_PROXY },
        { 1000, 4, 16, "gauss", "gauss", .5, RISK_SHAPE_KNN },
        { 1000, 4, 15, "gauss", "gauss", .5, RISK_SHAPE_DIRECT }, /* less than a bit a number */
        { 1999, 8, 256, "gauss", "gauss", .5, RISK_SHAPE_PROXY },
        { 2000, 8, 256, "gauss", "gauss", .5, RISK_SHAPE_KNN },
        { 2000, 8, 16, "gauss", "gauss", .5, RISK_SHAPE_DIRECT },
        { 1000, 2, 16, "gauss", "gauss", 1, RISK_SHAPE_DIRECT }, /* too close to decide by shape */
        { 1000, 2, 16, "laplace-rad", "laplace-rad", .5, RISK_SHAPE_KNN },
        { 2000, 16, 256, "gauss", "gauss", .5, RISK_SHAPE_DIRECT },
    };

    (void)state;
    for (size_t row = 0; row < ARRAY_SIZE(WANT); row++) {
        size_t n = WANT[row].n;
        uint32_t k = WANT[row].k;
        double *a = sample(WANT[row].x, n, k, 5), *b = sample(WANT[row].d, n, k, 6);
        double *x = oracle_transpose(a, n, k), *d = oracle_transpose(b, n, k);
        double *scratch = oracle_alloc(risk_shape_compare_scratch(n, k));
        struct risk_shape_verdict v;

        for (size_t i = 0; i < n * k; i++)
            d[i] *= WANT[row].scale;
        risk_shape_compare(x, d, n, k, WANT[row].n_words, scratch, &v);
        assert_int_equal(v.tier, WANT[row].tier);
        if (v.tier != RISK_SHAPE_UNKNOWN) {
            assert_true(fabs(v.ln_ratio - 2 * log(WANT[row].scale)) < fmax(v.u, .2));
            assert_true(v.u >= .05 && v.u < .5);
            assert_true(fabs(v.ln_eta) < fmax(v.u, .2));
        } else {
            assert_true(isinf(v.u) && v.ln_ratio == 0);
        }
        free(scratch);
        free(d);
        free(x);
        free(b);
        free(a);
    }
}

/* Heavier tails cost: of t5 over a Gaussian .51 in two dimensions, found with the bias stated in
 * theory.md 6.3 (-.14, std .06). */
static void test_tails_show_in_eta(void **state)
{
    enum { K = 2 };
    double *a = sample("gauss", N, K, 100), *b = sample("t5", N, K, 101);
    double *x = oracle_transpose(a, N, K), *d = oracle_transpose(b, N, K);
    double *scratch = oracle_alloc(risk_shape_compare_scratch(N, K));
    struct risk_shape_verdict v;

    (void)state;
    for (size_t i = 0; i < N * K; i++)
        d[i] *= .3;
    risk_shape_compare(x, d, N, K, 16, scratch, &v);
    assert_int_equal(v.tier, RISK_SHAPE_KNN);
    assert_true(v.u >= .05 && v.u <= .15);
    assert_true(fabs(v.ln_eta - .51 + .14) < .15);
    free(scratch);
    free(d);
    free(x);
    free(b);
    free(a);
}

/* A direction that is always the same has no shape. */
static void test_flat_is_unknown(void **state)
{
    struct risk_random g = { 3 };
    double *x = oracle_normals(&g, 2 * N),
           *scratch = oracle_alloc(risk_shape_compare_scratch(N, 2));
    struct risk_shape_verdict v;

    (void)state;
    risk_shape_compare(x, x, N, 2, 16, scratch, &v);
    assert_int_equal(v.tier, RISK_SHAPE_DIRECT);
    assert_true(v.ln_ratio == 0 && v.u == .05);
    for (size_t t = 0; t < N; t++)
        x[t] = 4;
    risk_shape_compare(x, x, N, 2, 16, scratch, &v);
    assert_int_equal(v.tier, RISK_SHAPE_UNKNOWN);
    free(scratch);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_numbers),  cmocka_unit_test(test_closed_loop),
        cmocka_unit_test(test_closed_forms),    cmocka_unit_test(test_first_moment_ratios),
        cmocka_unit_test(test_estimates),       cmocka_unit_test(test_bias),
        cmocka_unit_test(test_stated_bias),     cmocka_unit_test(test_neighbours_are_the_nearest),
        cmocka_unit_test(test_whitening),       cmocka_unit_test(test_codes_of_known_error),
        cmocka_unit_test(test_tiers),           cmocka_unit_test(test_tails_show_in_eta),
        cmocka_unit_test(test_flat_is_unknown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
