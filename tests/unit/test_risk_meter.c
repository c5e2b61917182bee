/* risk_meter: the oracle's token loop, groups against tokens, each cause, a monitor at rest */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/risk/risk_meter.h"
#include "tests/util/oracle.h"

/* --- policy.py: 16 units of 8 subspaces of 2 numbers --------------------------------------- */

enum { UNITS = 16, WIDTH = 16, TOKENS = 1600, CHANGE = 800, ALL = UNITS * WIDTH };
enum kind { DELTA, INTRA, KEY, ESCAPE, N_KINDS };

static const double LIMIT = 6; /* c_hard */

static double energy(const double *v)
{
    double sum = 0;

    for (int i = 0; i < WIDTH; i++)
        sum += v[i] * v[i];
    return sum;
}

static void quantize(const double *v, const double words[32], double *ret)
{
    double gain = exp2(floor(8 * log2(sqrt(energy(v) / WIDTH) + 1e-9) + .5) / 8);

    for (int i = 0; i < WIDTH; i += 2) {
        double y[2] = { v[i] / gain, v[i + 1] / gain };
        int w = oracle_near(y, words);

        ret[i] = gain * words[2 * w];
        ret[i + 1] = gain * words[2 * w + 1];
    }
}

static double *source(uint64_t seed, int n, double rho)
{
    struct risk_random g = { seed };
    double *x = oracle_normals(&g, (size_t)n * ALL);

    oracle_ar1(x, (size_t)n, ALL, rho);
    return x;
}

struct calibrated {
    struct risk_calibration c;
    double a;
};

/* plain closed loop and plain intra coding over 800 tokens of rho .95 */
static struct calibrated calibrate(double a)
{
    enum { N = 800, SKIP = 60 };
    double *x = source(60, N, .95), words[32], e2 = 0, d2 = 0, i2 = 0, x2 = 0, u2 = 0, q;
    double h[ALL], d[WIDTH], c[WIDTH];
    struct calibrated r = { .a = a };

    oracle_ring16(1, words);
    memcpy(h, x, sizeof(h));
    for (int t = 1; t < N; t++)
        for (int b = 0; b < ALL; b += WIDTH) {
            const double *now = x + t * ALL + b, *before = now - ALL;
            double e = 0, intra = 0, u = 0;

            for (int i = 0; i < WIDTH; i++)
                d[i] = now[i] - a * h[b + i];
            quantize(d, words, c);
            for (int i = 0; i < WIDTH; i++) {
                h[b + i] = a * h[b + i] + c[i];
                e += (now[i] - h[b + i]) * (now[i] - h[b + i]);
                u += (now[i] - a * before[i]) * (now[i] - a * before[i]);
            }
            quantize(now, words, c);
            for (int i = 0; i < WIDTH; i++)
                intra += (now[i] - c[i]) * (now[i] - c[i]);
            u2 += u / (N - 1) / UNITS;
            if (t <= SKIP)
                continue;
            e2 += e / (N - 1 - SKIP) / UNITS;
            d2 += energy(d) / (N - 1 - SKIP) / UNITS;
            i2 += intra / (N - 1 - SKIP) / UNITS;
        }
    for (int i = 0; i < N * ALL; i++)
        x2 += x[i] * x[i] / N / UNITS;
    q = sqrt(e2 / d2) * a;
    r.c = (struct risk_calibration){ .error = e2,
                                     .residual = d2,
                                     .energy = x2,
                                     .tolerance = i2,
                                     .model = e2 / d2 * u2 / (1 - q) / (1 - q),
                                     .loop_gain = a * a,
                                     .relative = true };
    free(x);
    return r;
}

static double *scenario(const char *name)
{
    struct risk_random g = { 61 };
    double *x = oracle_normals(&g, TOKENS * ALL), *late = x + CHANGE * ALL;

    oracle_ar1(x, TOKENS, ALL, .95);
    if (!strcmp(name, "rho->0") || !strcmp(name, "rho->.8")) {
        double *w = oracle_normals(&g, (TOKENS - CHANGE) * ALL);

        if (strcmp(name, "rho->0"))
            oracle_ar1(w, TOKENS - CHANGE, ALL, .8);
        memcpy(late, w, (TOKENS - CHANGE) * ALL * sizeof(*w));
        free(w);
    }
    for (int i = 0; i < (TOKENS - CHANGE) * UNITS; i++) {
        if (!strcmp(name, "bursts") && risk_random_unit(&g) < .02)
            for (int j = 0; j < WIDTH; j++)
                late[i * WIDTH + j] *= 6;
        if (!strcmp(name, "ramp"))
            late[i * WIDTH] += 1.4 * (double)(i / UNITS + 1);
    }
    for (int i = 0; !strcmp(name, "scale x4") && i < (TOKENS - CHANGE) * ALL; i++)
        late[i] *= 4;
    return x;
}

struct unit {
    struct risk_monitor monitor;
    double h[WIDTH];
    bool is_first, last_escaped;
    int since;
};

struct setting {
    bool is_off; /* the same codec, without a policy */
    bool pq_keys, by_counter;
    bool is_blind; /* no word has a second coordinate */
};

struct token {
    enum kind kind;
    double out[WIDTH], e2, bits;
    struct risk_level level;
    bool has_changed;
};

static struct risk_rules rules_of(const struct setting *s)
{
    struct risk_rules rules = RISK_RULES;

    rules.cusum_max = INFINITY; /* the oracle has none */
    if (s->is_off) {
        rules.kappa_max = rules.escape_max = 1e18;
        rules.top = -log(1e-300);
        rules.stake = 1e-9;
    }
    return rules;
}

static bool is_key(const struct unit *u, const struct setting *s, int t)
{
    static const int GROUP[RISK_N_ZONES] = { 128, 32, 8 };
    int group = s->is_off ? 1000000000 : GROUP[u->monitor.zone.zone];

    if (u->is_first || u->monitor.zone.reset)
        return true;
    return s->by_counter ? u->since + 1 >= group : t % group == 0;
}

static void words_of(const struct setting *s, double ret_words[32])
{
    oracle_ring16(1, ret_words);
    for (int w = 0; s->is_blind && w < 16; w++)
        ret_words[2 * w + 1] = 0;
}

static struct token code_token(struct unit *u, const struct setting *s,
                               const struct calibrated *cal, const double *x, int t)
{
    struct risk_rules rules = rules_of(s);
    struct risk_group group;
    struct token r = { .kind = DELTA };
    double words[32], d[WIDTH], q[WIDTH], xi[WIDTH], e2 = 0, i2 = 0;
    bool key = is_key(u, s, t), careful = u->monitor.zone.zone >= RISK_YELLOW, escaped, intra, raw;
    double hard = (s->is_off ? 1e18 : LIMIT);

    words_of(s, words);
    for (int i = 0; i < WIDTH; i++)
        d[i] = x[i] - cal->a * u->h[i];
    quantize(d, words, q);
    quantize(x, words, xi);
    for (int i = 0; i < WIDTH; i++) {
        e2 += (d[i] - q[i]) * (d[i] - q[i]);
        i2 += (x[i] - xi[i]) * (x[i] - xi[i]);
    }
    u->monitor.zone.reset = u->is_first = false;
    risk_group_begin(&u->monitor.meter, &group);
    risk_group_energy(&group, energy(x));
    hard *= risk_meter_tolerance(&u->monitor.meter, &rules, &cal->c, &group);
    escaped = !key && (careful ? fmin(e2, i2) : e2) > hard;
    if (escaped)
        risk_group_escaped(&group);
    else if (!key)
        risk_group_coded(&group, energy(d), e2, 0);
    intra = careful && i2 < e2 && !key && !escaped;
    r.has_changed = risk_monitor_step(&u->monitor, &rules, &cal->c, &group, 0, &r.level);
    raw = key && (!s->pq_keys || i2 > 16 * u->monitor.meter.error);
    for (int i = 0; i < WIDTH; i++) {
        r.out[i] = raw || escaped ? x[i] : key || intra ? xi[i] : cal->a * u->h[i] + q[i];
        r.e2 += (x[i] - r.out[i]) * (x[i] - r.out[i]);
    }
    if (!escaped || u->last_escaped)
        memcpy(u->h, r.out, sizeof(r.out));
    r.kind = key || (escaped && u->last_escaped) ? KEY : escaped ? ESCAPE : intra ? INTRA : DELTA;
    r.bits = 1 + (raw || escaped ? 8 * WIDTH + 16 : WIDTH / 2 * 4 + 8);
    u->since = r.kind == KEY ? 0 : u->since + 1;
    u->last_escaped = escaped;
    return r;
}

struct result {
    int kinds[N_KINDS], late_zones[RISK_N_ZONES], n_red, delays[UNITS];
    double nmse, bits, most;
    char events[256]; /* of unit 0 */
};

static void note(struct result *r, const struct token *token, const struct unit *u, int before,
                 int t)
{
    size_t n = strlen(r->events);

    if (token->has_changed)
        snprintf(r->events + n, sizeof(r->events) - n, "%s%d:%c->%c mu=%.6f %s", n ? "; " : "", t,
                 "GYR"[before], "GYR"[u->monitor.zone.zone], token -> level.mu,
                 risk_cause_name(token->level.cause));
}

static struct result run(const char *name, const struct setting *s, struct calibrated cal)
{
    double *x = scenario(name), variance = 0;
    struct unit *units = calloc(UNITS, sizeof(*units));
    struct result r = { .n_red = 0 };

    assert_non_null(units);
    if (s->is_off)
        cal.c.tolerance = cal.c.model = 1e18;
    for (int b = 0; b < UNITS; b++) {
        units[b].is_first = true;
        risk_monitor_init(&units[b].monitor, &cal.c);
        r.delays[b] = -1;
    }
    for (int t = 0; t < TOKENS; t++)
        for (int b = 0; b < UNITS; b++) {
            uint8_t before = units[b].monitor.zone.zone;
            struct token token = code_token(&units[b], s, &cal, x + (t * UNITS + b) * WIDTH, t);

            r.kinds[token.kind]++;
            if (!b)
                note(&r, &token, &units[b], before, t);
            if (t >= CHANGE && units[b].monitor.zone.zone == RISK_RED && r.delays[b] < 0) {
                r.delays[b] = t - CHANGE;
                r.n_red++;
            }
            if (t >= CHANGE)
                r.most = fmax(r.most, token.e2);
            if (t < TOKENS - 400)
                continue;
            r.late_zones[units[b].monitor.zone.zone]++;
            r.nmse += token.e2 / 400 / UNITS;
            r.bits += token.bits / 400 / UNITS / WIDTH;
            variance += energy(x + (t * UNITS + b) * WIDTH) / 400 / UNITS;
        }
    if (!strcmp(name, "ramp"))
        variance = WIDTH;
    r.nmse /= variance;
    r.most /= variance;
    free(units);
    free(x);
    return r;
}

static void test_calibration(void **state)
{
    struct calibrated c = calibrate(.95);

    (void)state;
    assert_true(oracle_prints(c.c.error, .182242321, 1e-9));
    assert_true(oracle_prints(c.c.residual, 1.723997613, 1e-9));
    assert_true(oracle_prints(c.c.energy, 15.889158568, 1e-9));
    assert_true(oracle_prints(c.c.tolerance, 1.672064197, 1e-9));
    assert_true(oracle_prints(c.c.model, .345803522, 1e-9));
    c = calibrate(1);
    assert_true(oracle_prints(c.c.error, .187384833, 1e-9));
    assert_true(oracle_prints(c.c.residual, 1.782538988, 1e-9));
    assert_true(oracle_prints(c.c.model, .369001611, 1e-9));
}

static void test_first_tokens(void **state)
{
    static const struct {
        enum kind kind;
        double out[2], mu;
    } WANT[] = {
        { KEY, { .741064, .204631 }, .371420 },   { DELTA, { .585261, .400080 }, .372419 },
        { DELTA, { .080998, .855076 }, .377319 }, { DELTA, { -.106189, .495119 }, .385766 },
        { DELTA, { .265395, .104088 }, .388924 }, { DELTA, { .098126, -.167852 }, .392541 },
    };
    struct calibrated cal = calibrate(.95);
    struct setting s = { 0 };
    struct unit u = { .is_first = true };
    double *x = scenario("none");

    (void)state;
    risk_monitor_init(&u.monitor, &cal.c);
    for (int t = 0; t < 6; t++) {
        struct token token = code_token(&u, &s, &cal, x + t * ALL, t);

        assert_int_equal(token.kind, WANT[t].kind);
        assert_true(oracle_prints(token.out[0], WANT[t].out[0], 1e-6));
        assert_true(oracle_prints(token.out[1], WANT[t].out[1], 1e-6));
        assert_true(oracle_prints(token.level.mu, WANT[t].mu, 1e-6));
        assert_int_equal(token.level.cause, RISK_CAUSE_MODEL);
    }
    free(x);
}

/* The table of policy.py: kinds, zones of the last 400 tokens, rates, Red, events of unit 0. */
static const struct setting OFF = { .is_off = true }, RAW = { 0 }, PQ = { .pq_keys = true };
static const struct setting COUNTER = { .by_counter = true };
static const struct {
    const char *name;
    const struct setting *setting;
    int kinds[N_KINDS];
    double zones[RISK_N_ZONES], nmse, bits, most;
    int n_red, delay;
    const char *events;
} LOOP[] = {
    { "none", &OFF, { 25584, 0, 16, 0 }, { 1, 0, 0 }, 0.011451, 2.5625, 0.056, 0, -1, "" },
    { "none", &RAW, { 25392, 0, 208, 0 }, { 1, 0, 0 }, 0.011286, 2.6113, 0.051, 0, -1, "" },
    { "none", &PQ, { 25392, 0, 208, 0 }, { 1, 0, 0 }, 0.012108, 2.5635, 0.184, 0, -1, "" },
    { "none", &COUNTER, { 25392, 0, 208, 0 }, { 1, 0, 0 }, 0.011286, 2.6113, 0.051, 0, -1, "" },
    { "rho->.8", &OFF, { 25584, 0, 16, 0 }, { 1, 0, 0 }, 0.044420, 2.5625, 0.242, 0, -1, "" },
    { "rho->.8",
      &RAW,
      { 24176, 928, 496, 0 },
      { 0, 1, 0 },
      0.041583,
      2.7575,
      0.234,
      0,
      -1,
      "815:G->Y mu=0.708489 model" },
    { "rho->.8", &PQ, { 24152, 952, 496, 0 }, { 0, 1, 0 }, 0.045117, 2.5625, 0.352, 0, -1, NULL },
    { "rho->0", &OFF, { 25584, 0, 16, 0 }, { 1, 0, 0 }, 0.199885, 2.5625, 0.825, 0, -1, "" },
    { "rho->0",
      &RAW,
      { 14119, 9814, 1667, 0 },
      { 0, 0, 1 },
      0.089066,
      3.3750,
      0.441,
      16,
      28,
      "802:G->Y mu=0.724196 model; 817:Y->R mu=1.000000 detector" },
    { "rho->0", &PQ, { 14145, 9788, 1667, 0 }, { 0, 0, 1 }, 0.102152, 2.5625, 0.441, 16, 27, NULL },
    { "rho->0",
      &COUNTER,
      { 14112, 9809, 1679, 0 },
      { 0, 0, 1 },
      0.089262,
      3.3750,
      0.427,
      16,
      30,
      NULL },
    { "bursts", &OFF, { 25584, 0, 16, 0 }, { 1, 0, 0 }, 0.043107, 2.5625, 4.623, 0, -1, "" },
    { "bursts",
      &RAW,
      { 25141, 3, 225, 231 },
      { .980, .020, 0 },
      0.007401,
      2.7321,
      0.700,
      0,
      -1,
      "" },
    { "bursts",
      &PQ,
      { 25145, 2, 222, 231 },
      { .980, .020, 0 },
      0.007906,
      2.6823,
      0.760,
      0,
      -1,
      "" },
    { "scale x4", &OFF, { 25584, 0, 16, 0 }, { 1, 0, 0 }, 0.011378, 2.5625, 0.141, 0, -1, "" },
    { "scale x4", &RAW, { 25376, 0, 213, 11 }, { 1, 0, 0 }, 0.011286, 2.6113, 0.064, 0, -1, "" },
    { "scale x4", &PQ, { 25376, 0, 213, 11 }, { 1, 0, 0 }, 0.012108, 2.5635, 0.179, 0, -1, "" },
    { "ramp", &OFF, { 25584, 0, 16, 0 }, { 1, 0, 0 }, 0.140388, 2.5625, 0.409, 0, -1, "" },
    { "ramp", &RAW, { 25392, 0, 208, 0 }, { 1, 0, 0 }, 0.137024, 2.6113, 0.347, 0, -1, "" },
    { "ramp", &PQ, { 25392, 0, 208, 0 }, { 1, 0, 0 }, 0.137024, 2.6113, 0.347, 0, -1, "" },
};

static void test_token_loop(void **state)
{
    struct calibrated leaky = calibrate(.95), delta = calibrate(1);

    (void)state;
    for (size_t row = 0; row < ARRAY_SIZE(LOOP); row++) {
        struct result r =
            run(LOOP[row].name, LOOP[row].setting, strcmp(LOOP[row].name, "ramp") ? leaky : delta);
        int below = 0;

        assert_memory_equal(r.kinds, LOOP[row].kinds, sizeof(r.kinds));
        for (int z = 0; z < RISK_N_ZONES; z++)
            assert_true(oracle_prints(r.late_zones[z] / 400. / UNITS, LOOP[row].zones[z], 1e-3));
        assert_true(oracle_prints(r.nmse, LOOP[row].nmse, 1e-6));
        assert_true(oracle_prints(r.bits, LOOP[row].bits, 1e-4));
        assert_true(oracle_prints(r.most, LOOP[row].most, 1e-3));
        assert_int_equal(r.n_red, LOOP[row].n_red);
        for (int b = 0; b < UNITS; b++)
            below += r.delays[b] <= LOOP[row].delay;
        assert_true(r.n_red ? below >= UNITS / 2 : below == UNITS); /* the median */
        if (LOOP[row].events)
            assert_string_equal(r.events, LOOP[row].events);
    }
}

/* --- the counterexample (theory.md 5.1): a = 1, and an axis that no word reaches -------------- */

enum { LONG = 100000, N_LONG = 4, WINDOW = 1000 };

struct course {
    double early, late, most; /* mean |e|² of tokens up to 10,000 and up to LONG; largest ever */
    int n_red;
};

static void next_token(struct risk_random *g, double x[WIDTH])
{
    for (int i = 0; i < WIDTH; i += 2) {
        double a, b;

        risk_random_normals(g, &a, &b);
        x[i] += .3 * a;
        x[i + 1] += .1 * b;
    }
}

static struct course run_long(const struct setting *s, struct calibrated cal)
{
    struct course r = { 0 };

    cal.c.relative = false;
    if (s->is_off)
        cal.c.tolerance = cal.c.model = 1e18;
    for (int b = 0; b < N_LONG; b++) {
        struct risk_random g = { 70 + (uint64_t)b };
        struct unit u = { .is_first = true };
        double x[WIDTH] = { 0 };

        risk_monitor_init(&u.monitor, &cal.c);
        for (int t = 0; t < LONG; t++) {
            struct token token;

            next_token(&g, x);
            token = code_token(&u, s, &cal, x, t);
            r.most = fmax(r.most, token.e2);
            r.n_red += u.monitor.zone.zone == RISK_RED;
            if (t >= 10000 - WINDOW && t < 10000)
                r.early += token.e2 / WINDOW / N_LONG;
            if (t >= LONG - WINDOW)
                r.late += token.e2 / WINDOW / N_LONG;
        }
    }
    return r;
}

/* Without resets the textbook delta's error grows with the tokens, 13 times from 10,000 to 100,000;
 * with the monitor none of them all is beyond the hard bound. */
static void test_counterexample(void **state)
{
    struct setting alone = { .is_off = true, .is_blind = true }, watched = { .is_blind = true };
    struct calibrated cal = calibrate(1);
    struct course off = run_long(&alone, cal), on = run_long(&watched, cal);
    double bound = LIMIT * cal.c.tolerance;

    (void)state;
    assert_true(off.late >= 5 * off.early && off.late > 100 * bound);
    assert_true(on.most <= bound && on.late < 2 * on.early);
    assert_true(on.n_red > 0);
}

/* --- groups ---------------------------------------------------------------------------------- */

static const struct risk_calibration CAL = {
    .error = .2,
    .residual = 1.6,
    .energy = 16,
    .tolerance = .4,
    .model = INFINITY,
    .loop_gain = .9,
};

/* one group of n tokens, of which each has an error of `ratio` times the calibration's */
static bool feed(struct risk_monitor *m, const struct risk_calibration *c, uint32_t n, double ratio,
                 struct risk_level *ret_level)
{
    struct risk_rules rules = RISK_RULES;
    struct risk_group g;

    risk_group_begin(&m->meter, &g);
    for (uint32_t t = 0; t < n; t++)
        risk_group_energy(&g, c->energy);
    risk_meter_tolerance(&m->meter, &rules, c, &g);
    for (uint32_t t = 0; t < n; t++)
        risk_group_coded(&g, c->residual, ratio * c->error, 0);
    return risk_monitor_step(m, &rules, c, &g, 0, ret_level);
}

/* Tokens that are alike give the same meters in groups of any size. */
static void test_groups_are_tokens(void **state)
{
    static const uint32_t SIZES[] = { 8, 16, 32, 128 };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(SIZES); i++) {
        struct risk_monitor a, b;
        struct risk_level level;

        risk_monitor_init(&a, &CAL);
        risk_monitor_init(&b, &CAL);
        for (uint32_t t = 0; t < 128; t++)
            feed(&a, &CAL, 1, 1.2, &level);
        for (uint32_t t = 0; t < 128; t += SIZES[i])
            feed(&b, &CAL, SIZES[i], 1.2, &level);
        assert_true(fabs(a.meter.error / b.meter.error - 1) < 1e-12);
        assert_true(fabs(a.meter.residual / b.meter.residual - 1) < 1e-12);
        assert_true(fabs(a.meter.first / b.meter.first - 1) < 1e-12);
        assert_true(fabs(a.meter.energy / b.meter.energy - 1) < 1e-12);
        assert_true(fabs(a.meter.ln_m - b.meter.ln_m) < 1e-12);
        assert_true(a.zone.zone == b.zone.zone && a.zone.green == b.zone.green);
    }
}

/* An empty group, and one of nothing but keys, leave all but the energy alone. */
static void test_keys_and_nothing(void **state)
{
    struct risk_rules rules = RISK_RULES;
    struct risk_monitor m, before;
    struct risk_level level;
    struct risk_group g;

    (void)state;
    risk_monitor_init(&m, &CAL);
    feed(&m, &CAL, 32, 1.5, &level);
    before = m;
    assert_false(feed(&m, &CAL, 0, 1, &level));
    assert_memory_equal(&m, &before, sizeof(m));
    risk_group_begin(&m.meter, &g);
    risk_group_energy(&g, 32);
    risk_meter_tolerance(&m.meter, &rules, &CAL, &g);
    risk_monitor_step(&m, &rules, &CAL, &g, 0, &level);
    assert_true(m.meter.energy > before.meter.energy && m.meter.error == before.meter.error);
    assert_true(m.meter.ln_m == before.meter.ln_m && m.meter.square == before.meter.square);
}

/* --- causes ---------------------------------------------------------------------------------- */

static struct risk_level level_after(const struct risk_calibration *c, double ratio, uint32_t n)
{
    struct risk_monitor m;
    struct risk_level level;

    risk_monitor_init(&m, c);
    feed(&m, c, n, ratio, &level);
    return level;
}

static void test_causes(void **state)
{
    struct risk_calibration c = CAL;
    struct risk_rules rules = RISK_RULES;
    struct risk_level level = level_after(&c, 1, 1);
    struct risk_monitor m;
    struct risk_group g;

    (void)state;
    assert_true(fabs(level.component[RISK_CAUSE_PERFORMANCE] - .5) < 1e-12);
    assert_int_equal(level.cause, RISK_CAUSE_PERFORMANCE);
    assert_true(level.component[RISK_CAUSE_MODEL] == 0); /* no model */
    assert_true(level.component[RISK_CAUSE_DRIFT] == 0); /* no shape */
    level = level_after(&c, 16, 8); /* clipped: 8 tokens are enough for the detector, not for E */
    assert_true(level.component[RISK_CAUSE_DETECTOR] == 1 && level.mu >= 1);
    assert_true(level.component[RISK_CAUSE_CUSUM] < 1 && level.component[RISK_CAUSE_CUSUM] >= .7);
    c.model = .01;
    level = level_after(&c, 1, 1);
    assert_true(level.cause == RISK_CAUSE_MODEL && level.mu == .99);
    c.model = INFINITY;
    c.kappa_l = .98;
    level = level_after(&c, 1, 1);
    assert_true(level.component[RISK_CAUSE_DIRECTION] == 0);
    c.kappa_l = 1.1;
    level = level_after(&c, 1, 1);
    assert_true(level.cause == RISK_CAUSE_DIRECTION && fabs(level.mu - 1.1 / .98) < 1e-12);
    c = CAL;
    c.loop_gain = 0;
    level = level_after(&c, 1, 1);
    assert_true(level.component[RISK_CAUSE_STABILITY] == 0);
    c.loop_gain = 100;
    level = level_after(&c, 1, 1);
    assert_true(level.cause == RISK_CAUSE_STABILITY && level.mu > 100 / 8. / .7);
    c = CAL;
    risk_drift_init(&c.drift, .99, 64, .001); /* all |d| are alike: the ratio is 1 */
    level = level_after(&c, 1, 0);
    assert_true(level.component[RISK_CAUSE_DRIFT] < 1e-9); /* starts where calibration was */
    level = level_after(&c, 1, 128);
    assert_true(level.cause == RISK_CAUSE_DRIFT && level.mu == .79);
    /* escapes: 1 - (511/512)^128 of them at once is more than 5 % */
    risk_monitor_init(&m, &CAL);
    risk_group_begin(&m.meter, &g);
    for (int t = 0; t < 128; t++) {
        risk_group_energy(&g, 16);
        risk_group_escaped(&g);
    }
    risk_meter_tolerance(&m.meter, &rules, &CAL, &g);
    assert_true(risk_monitor_step(&m, &rules, &CAL, &g, 0, &level));
    assert_int_equal(level.cause, RISK_CAUSE_ESCAPE);
    assert_true(m.zone.zone == RISK_RED && m.zone.reset);
    assert_string_equal(risk_cause_name(RISK_CAUSE_DIRECTION), "direction");
    assert_string_equal(risk_cause_name(RISK_CAUSE_REPORT), "report");
    assert_string_equal(risk_cause_name(RISK_N_CAUSES), "unknown");
}

/* In depth the gain is what was measured: fed back over the references' error. */
static void test_depth_gain(void **state)
{
    struct risk_rules rules = RISK_RULES;
    struct risk_monitor m;
    struct risk_level level;
    struct risk_group g;

    (void)state;
    risk_monitor_init(&m, &CAL);
    for (int t = 0; t < 2000; t++) {
        risk_group_begin(&m.meter, &g);
        risk_group_energy(&g, 16);
        risk_meter_tolerance(&m.meter, &rules, &CAL, &g);
        risk_group_coded(&g, 1.6, .2, 3);
        risk_monitor_step(&m, &rules, &CAL, &g, 2, &level);
    }
    assert_true(fabs(level.component[RISK_CAUSE_STABILITY] - 1.5 * .125 / .7) < 1e-6);
}

/* Whether predictions gain follows what the last tokens had, either way, within a tile. */
static void test_gains(void **state)
{
    struct risk_rules rules = RISK_RULES;
    struct risk_monitor m;
    struct risk_level level;
    struct risk_group g;

    (void)state;
    risk_monitor_init(&m, &CAL);
    assert_true(risk_meter_gains(&m.meter, &rules));
    for (int residual = 24; residual >= 4; residual -= 20) {
        for (int t = 0; t < 128; t++) {
            risk_group_begin(&m.meter, &g);
            risk_group_energy(&g, 16);
            risk_meter_tolerance(&m.meter, &rules, &CAL, &g);
            risk_group_coded(&g, residual, .2, 0);
            risk_monitor_step(&m, &rules, &CAL, &g, 0, &level);
            assert_true(risk_meter_gains(&m.meter, &rules) ==
                        (m.meter.residual < .9 * m.meter.energy));
        }
        assert_true(risk_meter_gains(&m.meter, &rules) == (residual == 4));
    }
    m.meter.escapes = 1.9 * rules.escape_max;
    assert_true(risk_meter_gains(&m.meter, &rules));
    m.meter.escapes = 2 * rules.escape_max;
    assert_false(risk_meter_gains(&m.meter, &rules));
}

static void test_reports(void **state)
{
    struct risk_monitor m;
    struct risk_level level;

    (void)state;
    risk_monitor_init(&m, &CAL);
    risk_meter_report(&m.meter, .9);
    feed(&m, &CAL, 1, 1, &level);
    assert_int_equal(m.zone.zone, RISK_GREEN);
    risk_meter_report(&m.meter, 2);
    assert_true(feed(&m, &CAL, 1, 1, &level));
    assert_int_equal(level.cause, RISK_CAUSE_REPORT);
    assert_int_equal(m.zone.zone, RISK_RED);
    for (int t = 0; t < 600; t++)
        feed(&m, &CAL, 1, .5, &level);
    assert_int_equal(m.zone.zone, RISK_GREEN);
}

/* However long and bad it was: the detectors begin anew with Red, and never hold more than their
 * alarm, so that the way back takes a bounded time. */
static void test_recovery(void **state)
{
    struct risk_monitor m;
    struct risk_level level;
    int t = 0;

    (void)state;
    risk_monitor_init(&m, &CAL);
    while (m.zone.zone != RISK_RED)
        feed(&m, &CAL, 1, 100, &level);
    assert_true(level.mu >= 1 && m.meter.ln_m == 0 && m.meter.cusum == 0);
    for (int i = 0; i < 100000; i++)
        feed(&m, &CAL, 1, 100, &level);
    assert_true(m.meter.cusum == 20 && m.meter.ln_m == RISK_RULES.top);
    for (; m.zone.zone != RISK_GREEN; t++)
        feed(&m, &CAL, 1, .5, &level);
    assert_in_range(t, 64, 800);
}

/* Zeros for as long as anybody likes, then life: levels stay numbers and the stream gets well. */
static void test_silence(void **state)
{
    struct risk_calibration c = CAL;
    struct risk_rules rules = RISK_RULES;
    struct risk_monitor m;
    struct risk_level level;
    uint8_t bytes[RISK_MONITOR_BYTES];

    (void)state;
    for (int relative = 0; relative < 2; relative++) {
        c.relative = relative;
        risk_monitor_init(&m, &c);
        for (int t = 0; t < 2000; t++) {
            struct risk_group g;

            risk_group_begin(&m.meter, &g);
            for (int i = 0; i < 128; i++)
                risk_group_energy(&g, 0);
            risk_meter_tolerance(&m.meter, &rules, &c, &g);
            for (int i = 0; i < 128; i++)
                risk_group_coded(&g, 0, 0, 0);
            risk_monitor_step(&m, &rules, &c, &g, 0, &level);
            assert_true(isfinite(level.mu));
        }
        assert_int_equal(m.zone.zone, RISK_GREEN);
        risk_monitor_pack(&m, bytes);
        assert_int_equal(risk_monitor_unpack(bytes, &m), 0);
        for (int t = 0; t < 4000; t++)
            feed(&m, &c, 1, 1, &level);
        assert_int_equal(m.zone.zone, RISK_GREEN);
        assert_true(fabs(m.meter.error / c.error - 1) < 1e-6);
    }
}

/* --- at rest --------------------------------------------------------------------------------- */

/* Going on from bytes after each tile is going on, bit for bit; wherever it stops. */
static void test_rest(void **state)
{
    struct risk_random g = { 17 };
    struct risk_monitor live, woken, other;
    struct risk_meter before;
    struct risk_level a, b;
    uint8_t bytes[RISK_MONITOR_BYTES], again[RISK_MONITOR_BYTES];

    (void)state;
    risk_monitor_init(&live, &CAL);
    for (int tile = 0; tile < 200; tile++) {
        before = live.meter;
        risk_monitor_pack(&live, bytes);
        assert_true(fabs(live.meter.error / before.error - 1) < 1. / 256);
        memset(&woken, 0xff, sizeof(woken));
        assert_int_equal(risk_monitor_unpack(bytes, &woken), 0);
        risk_monitor_pack(&woken, again);
        assert_memory_equal(bytes, again, sizeof(bytes));
        assert_memory_equal(&live, &woken, sizeof(live));
        other = woken;
        for (int t = 0; t < 4; t++) {
            double ratio = 4 * risk_random_unit(&g) * risk_random_unit(&g) + (tile % 50 > 40);

            feed(&live, &CAL, 32, ratio, &a);
            feed(&other, &CAL, 32, ratio, &b);
            assert_true(a.mu == b.mu && a.cause == b.cause);
        }
        assert_memory_equal(&live, &other, sizeof(live));
    }
    assert_true(live.zone.dwell > RISK_DWELL_MIN); /* something has happened */
}

static void test_corrupt(void **state)
{
    static const uint16_t NEGATIVE = 0xbf80, ZERO = 0;
    uint8_t good[RISK_MONITOR_BYTES], bytes[RISK_MONITOR_BYTES];
    struct risk_monitor m, got, untouched;

    (void)state;
    risk_monitor_init(&m, &CAL);
    risk_monitor_pack(&m, good);
    memset(&got, 0x5a, sizeof(got));
    untouched = got;
    for (size_t i = 0; i < 10; i++) {
        memcpy(bytes, good, sizeof(bytes));
        memset(bytes + 2 * i, 0xff, 2);
        assert_int_equal(risk_monitor_unpack(bytes, &got), RISK_MONITOR_E_CORRUPT);
        memcpy(bytes + 2 * i, &NEGATIVE, 2);
        assert_int_equal(risk_monitor_unpack(bytes, &got), i == 6 ? 0 : RISK_MONITOR_E_CORRUPT);
        if (i == 6)
            got = untouched;
        memcpy(bytes + 2 * i, &ZERO, 2);
        if (i == 0 || i == 2)
            assert_int_equal(risk_monitor_unpack(bytes, &got), RISK_MONITOR_E_CORRUPT);
    }
    memcpy(bytes, good, sizeof(bytes));
    bytes[23] |= RISK_N_ZONES << 3;
    assert_int_equal(risk_monitor_unpack(bytes, &got), RISK_MONITOR_E_CORRUPT);
    memcpy(bytes, good, sizeof(bytes));
    bytes[23] |= 0x40;
    assert_int_equal(risk_monitor_unpack(bytes, &got), RISK_MONITOR_E_CORRUPT);
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(risk_monitor_unpack(bytes, &got), RISK_MONITOR_E_CORRUPT);
    assert_memory_equal(&got, &untouched, sizeof(got));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calibration),
        cmocka_unit_test(test_first_tokens),
        cmocka_unit_test(test_token_loop),
        cmocka_unit_test(test_counterexample),
        cmocka_unit_test(test_groups_are_tokens),
        cmocka_unit_test(test_keys_and_nothing),
        cmocka_unit_test(test_causes),
        cmocka_unit_test(test_depth_gain),
        cmocka_unit_test(test_gains),
        cmocka_unit_test(test_reports),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_recovery),
        cmocka_unit_test(test_rest),
        cmocka_unit_test(test_corrupt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
