/*
 * Refining: a new profile from what a tenant appends
 *
 *     refine -> each tile that is encoded: its key decides -> rows into the trainer's file -> …
 *     -> enough of them, or a day is over -> training, as of any calibration -> a new profile
 *
 * A key is a keyed hash of text and scope, so a share of all keys is a fair share of all tiles, the
 * same one whoever appends in whatever order; and a prefix that many sequences share is encoded,
 * and hence learned from, once. The sequences that are learned from keep the profile they have.
 *
 * Workers add while they encode. The one that has added the last tile starts the training: nobody
 * is in the trainer then.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/session_calibration.h"
#include "lib/base/error.h"

#define MAX_BUDGET_TOKENS (UINT64_C(1) << 24)

/* --- the request -------------------------------------------------------------------------------
 */

static int check(struct session *session, const struct session_refine *op,
                 const struct profile_entry *entry, struct session_error *ret_error)
{
    uint64_t limit = session->config->calibration_max_bytes, row_bytes;

    if (!session->tenants[op->tenant].config->refine) {
        session_error_set(ret_error, SESSION_FAILED_PRECONDITION, "REFINE_OFF",
                          "[tenant %s] does not say refine = true: its appends are not sampled",
                          session->tenants[op->tenant].config->name);
        return 1;
    }
    if (!entry) {
        session_error_set(ret_error, SESSION_NOT_FOUND, "PROFILE",
                          "profile_id names no installed profile");
        return 1;
    }
    if (!(op->sample_rate > 0 && op->sample_rate <= 1)) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "RATE",
                          "sample_rate %g is not more than 0 and at most 1", op->sample_rate);
        return 1;
    }
    row_bytes = dpq_row_bytes(profile_geometry(entry), DPQ_F32);
    if (op->budget_tokens < REFINE_MIN_TOKENS || op->budget_tokens > MAX_BUDGET_TOKENS ||
        op->budget_tokens > limit / row_bytes) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "BUDGET",
                          "budget_tokens %llu is not in %d ... %llu (calibration_max_bytes, at "
                          "%llu bytes a token)",
                          (unsigned long long)op->budget_tokens, REFINE_MIN_TOKENS,
                          (unsigned long long)(limit / row_bytes < MAX_BUDGET_TOKENS
                                                   ? limit / row_bytes
                                                   : MAX_BUDGET_TOKENS),
                          (unsigned long long)row_bytes);
        return 1;
    }
    return 0;
}

/* What the old profile says about how it was learned; defaults where it says nothing. */
static void fill_options(const struct profile_entry *entry, struct dpq_train_options *options)
{
    static const char *const NAMES[] = { "auto", "none", "temporal", "depth-head", "depth" };
    const char *info = dpq_profile_info(entry->profile);
    const char *reference = strstr(info, "\"reference\":\""), *dsub = strstr(info, "\"dsub\":[");
    unsigned k, v;

    snprintf(options->model_name, sizeof(options->model_name), "%s",
             dpq_profile_name(entry->profile));
    options->seed = 1;
    for (uint32_t i = 0; reference && i < ARRAY_SIZE(NAMES); i++) {
        size_t n = strlen(NAMES[i]);

        if (!strncmp(reference + 13, NAMES[i], n) && reference[13 + n] == '"')
            options->reference = i;
    }
    if (dsub && sscanf(dsub + 8, "%u,%u", &k, &v) == 2 && (k == 2 || k == 4) && (v == 2 || v == 4))
        memcpy(options->dsub, (uint32_t[2]){ k, v }, sizeof(options->dsub));
}

/* Streams that were given options of their own keep them. */
static int keep_own(const struct profile_entry *entry, struct dpq_trainer *trainer)
{
    const char *at = strstr(dpq_profile_info(entry->profile), "\"own\":[");
    struct dpq_stream_options own;
    uint32_t layer, kind, head;
    int r = 0, n = 0;

    for (at = at ? at + 6 : NULL; at && r != -ENOMEM; at += n)
        if (sscanf(at, "%*1[[,][%u,%u,%u,%u,%u,%u]%n", &layer, &kind, &head, &own.reference,
                   &own.dsub, &own.planes, &n) == 6)
            r = dpq_trainer_stream(trainer, layer, kind, head, &own, NULL);
        else
            break;
    return r < 0 ? error_fold(r) : 0;
}

static bool is_collecting(const struct session_calibration *calibration)
{
    return calibration->refined && calibration->state == SESSION_CALIBRATION_COLLECTING;
}

/* locked */
static struct session_calibration *find_of_tenant(const struct session *session, uint32_t tenant)
{
    struct session_calibration *c = session->calibrations;

    while (c && !(is_collecting(c) && c->tenant == tenant))
        c = c->next;
    return c;
}

/* Into the list, unless the tenant has one there. 0, 1; locked. */
static int enter(struct session_calibration *made, struct session_error *ret_error)
{
    struct session *session = made->session;
    const struct session_calibration *other = find_of_tenant(session, made->tenant);

    if (other) {
        session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "LIMIT",
                          "calibration_id %llu is refining for this tenant: one at a time",
                          (unsigned long long)other->id);
        return 1;
    }
    made->id = session_new_id(session);
    made->attached = false;
    calibration_list(made);
    __atomic_add_fetch(&session->n_refining, 1, __ATOMIC_RELAXED);
    return 0;
}

void session_refine(struct session *session, struct session_refine *op)
{
    struct session_calibrate ask = { .tenant = op->tenant };
    struct session_calibration *made;
    struct profile_entry *entry;
    uint64_t now_ns = session_now_ns();
    int r;

    session_error_clear(&op->error);
    entry = profile_get(session, op->profile_id);
    r = check(session, op, entry, &op->error);
    if (!r) {
        ask.geometry = *profile_geometry(entry);
        fill_options(entry, &ask.options);
        snprintf(ask.label, sizeof(ask.label), "refine");
        r = calibration_make(session, &ask, &made, &op->error);
    }
    if (r) {
        profile_put(session, entry);
        return;
    }
    r = keep_own(entry, made->trainer);
    if (r) {
        profile_put(session, entry);
        calibration_destroy(made);
        session_error_fault(&op->error, r, "Refine");
        return;
    }
    made->refined = entry;
    made->below = op->sample_rate < 1 ? (uint64_t)ldexp(op->sample_rate, 64) : UINT64_MAX;
    made->budget_tokens = op->budget_tokens;
    made->until_ns = now_ns + REFINE_SECONDS * UINT64_C(1000000000);
    session_lock(session);
    r = enter(made, &op->error);
    op->calibration_id = made->id;
    session_unlock(session);
    if (r)
        calibration_destroy(made);
    else
        log_info("refining \"%s\" for tenant %s: %g of its tiles, up to %llu tokens",
                 ask.options.model_name, session->tenants[op->tenant].config->name, op->sample_rate,
                 (unsigned long long)op->budget_tokens);
}

/* --- tiles -------------------------------------------------------------------------------------
 */

/* locked; nobody adds, or the last who does calls it again */
static void start_if_complete(struct session_calibration *calibration)
{
    if (!is_collecting(calibration) || calibration->n_adding ||
        !(calibration->closing || calibration->n_tokens >= calibration->budget_tokens))
        return;
    __atomic_sub_fetch(&calibration->session->n_refining, 1, __ATOMIC_RELAXED);
    calibration_start(calibration);
    if (calibration->started)
        return;
    calibration->state = SESSION_CALIBRATION_FAILED; /* no thread could be made */
    calibration->until_ns = calibration_park_until(calibration, session_now_ns());
}

/* Who wants this tile? Reserves its tokens. NULL: nobody */
static struct session_calibration *reserve(const struct sequence *sequence,
                                           const uint8_t key[KEY_BYTES])
{
    struct session *session = sequence->tenant->session;
    struct session_calibration *c;
    uint64_t number;

    memcpy(&number, key, sizeof(number));
    session_lock(session);
    c = find_of_tenant(session, sequence->tenant->index);
    if (c && c->refined == sequence->profile && number <= c->below && !c->closing &&
        c->n_reserved < c->budget_tokens) {
        c->n_reserved += DPQ_TILE_TOKENS;
        c->n_adding++;
    } else {
        c = NULL;
    }
    session_unlock(session);
    return c;
}

/* @r: of the adding. What can't be kept ends the sampling; training goes with what is there. */
static void release(struct session_calibration *calibration, int r)
{
    struct session *session = calibration->session;

    if (r)
        log_warning("refining: a tile can't be kept (%s): no more are taken",
                    r < 0 ? strerror(-r) : "there are too many bytes");
    session_lock(session);
    calibration->n_adding--;
    if (r)
        calibration->closing = true;
    else
        calibration->n_tokens += DPQ_TILE_TOKENS;
    start_if_complete(calibration);
    session_unlock(session);
}

void refine_offer(const struct sequence *sequence, const uint8_t key[KEY_BYTES],
                  uint64_t first_index, uint32_t dtype, const void *rows)
{
    const struct dpq_geometry *g = profile_geometry(sequence->profile);
    struct dpq_fault fault = { .layer = -1, .kind = -1, .head = -1, .token = -1 };
    const struct dpq_tensor tensor = tensor_canonical(g, dtype);
    struct session_calibration *calibration;
    int r;

    if (!__atomic_load_n(&sequence->tenant->session->n_refining, __ATOMIC_RELAXED))
        return;
    if (first_index == 0 && sequence->position_base > 0)
        return; /* a trainer knows sinks by their position, and would learn from these */
    calibration = reserve(sequence, key);
    if (!calibration)
        return;
    pthread_mutex_lock(&calibration->add_mutex);
    r = dpq_trainer_add(calibration->trainer, &tensor, rows,
                        DPQ_TILE_TOKENS * dpq_row_bytes(g, dtype),
                        sequence->position_base + first_index, DPQ_TILE_TOKENS, &fault);
    pthread_mutex_unlock(&calibration->add_mutex);
    release(calibration, r);
}

void refine_tick(struct session *session, uint64_t now_ns)
{
    for (struct session_calibration *c = session->calibrations; c; c = c->next) {
        if (!is_collecting(c) || c->until_ns > now_ns)
            continue;
        c->closing = true;
        start_if_complete(c);
    }
}
