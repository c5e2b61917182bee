#pragma once

/*
 * The session layer: what the daemon does, without how it is asked
 *
 * Tenants, clients, sequences; it joins the codec and the store (nothing else does). Handlers in
 * daemon/rpc fill a request struct, call session_<verb>(), and get done() called exactly once, on a
 * worker thread or, for short verbs and early errors, before session_<verb>() returns. The struct
 * stays the caller's and must live until done(). Fields above the line are input, below output.
 *
 *     append: order within the sequence -> gather + judge + encode, tile by tile, on the workers ->
 *             commit all (tiles, then tail) -> done. Before the commit nothing is visible.
 *     read:   pin the tiles -> one job a tile, in parallel -> done by the job that finishes last.
 *
 * Locks: session mutex -> (store's own, hub's own). done() is called without any lock held.
 *
 * Reasons of errors, beside those that the .proto files name: CLIENT (unknown, or without what the
 * request needs), TICKET, TENSOR (shape, strides or bounds), NOT_FINITE, TOKEN_IDS, DTYPE (the tail
 * under construction has another one), EVICTED, LAYER_RANGE, RATE, POSITION, LIMIT (a count that is
 * capped), ARENA_FULL, QUEUE (too much is waiting), MEMORY, CALIBRATION_BYTES, TOO_FEW_TOKENS,
 * CORRUPT (a stored object does not match its checksum), CLIENT_GONE, CANCELLED, FAULT (our own;
 * see the log).
 */

#include <stdbool.h>
#include <sys/types.h>

#include "lib/deltapq.h"

/* What a refused request is told. The rpc layer maps code to a gRPC status. */
enum session_code {
    SESSION_OK = 0,
    SESSION_INVALID_ARGUMENT,
    SESSION_NOT_FOUND,
    SESSION_OUT_OF_RANGE,
    SESSION_PERMISSION_DENIED,
    SESSION_RESOURCE_EXHAUSTED, /* may work later: RetryInfo is attached */
    SESSION_FAILED_PRECONDITION,
    SESSION_ALREADY_EXISTS,
    SESSION_ABORTED,
    SESSION_DATA_LOSS,
    SESSION_CANCELLED,
    SESSION_UNAVAILABLE,
    SESSION_INTERNAL,
};

struct session_error {
    enum session_code code;
    char reason[32];           /* CAPITALS, as in the .proto files; the ErrorInfo's reason */
    char message[240];         /* one sentence for people; names field, value and limit */
    int32_t layer, kind, head; /* -1: does not apply; else into the ErrorInfo's metadata */
    int64_t token;
    uint32_t retry_ms; /* > 0 with RESOURCE_EXHAUSTED that may pass */
};

/** session_error_set() - fill error: code, reason and a printf-like message; location cleared */
void session_error_set(struct session_error *error, enum session_code code, const char *reason,
                       const char *format, ...) __attribute__((format(printf, 4, 5)));

/** session_error_busy() - RESOURCE_EXHAUSTED QUEUE: the workers have too much to do; may be retried
 */
void session_error_busy(struct session_error *error);

struct config;
struct hub;
struct pool;
struct session;
struct status;

enum {
    SESSION_MAX_INLINE_BYTES = 1 << 20, /* of numbers in a message; more goes through staging */
    SESSION_MAX_PIN_MS = 24 * 3600 * 1000,
};

/**
 * session_new() - make the arenas, read or create the secret, load the profiles kept
 * @config, @hub, @pool: borrowed for the session's life
 * Return: 0; 1 refused: the log has said why (arena too large, secret or state directory wrong);
 *         a fault.
 */
int session_new(const struct config *config, struct hub *hub, struct pool *pool,
                struct session **ret_session);
/*
 * Who keeps memfds, by name, while no daemon runs: the service manager. All called by
 * session_new(), on its thread.
 */
struct session_keeper {
    int (*find)(void *user,
                const char *name); /* a descriptor, the caller's from now on; -1: none */
    void (*keep)(void *user, const char *name, int fd); /* a duplicate of it */
    void (*drop)(void *user, const char *name);         /* if there is one */
    void *user;
};

/** session_new_kept() - session_new(), with arenas that may outlive the process. @keeper: borrowed
 */
int session_new_kept(const struct config *config, struct hub *hub, struct pool *pool,
                     const struct session_keeper *keeper, struct session **ret_session);

/**
 * session_reload() - from now on the limits are these: watermarks, what is cold, staging
 * @config: the session's own, in which only fields have changed that SIGHUP may change
 * The session has copies of them, so the caller may change them before it calls. Loop thread.
 */
void session_reload(struct session *session, const struct config *config);

/**
 * session_check_memory() - is there memory for something large beside arenas and messages?
 * @what: "a profile", in "a profile takes 3.1 MiB: …"
 * Return: 0; 1 with RESOURCE_EXHAUSTED MEMORY. It reads files of the kernel's: not often.
 */
int session_check_memory(const struct session *session, uint64_t n_bytes, const char *what,
                         struct session_error *ret_error);

/** session_ready() - requests are answered from here on */
void session_ready(struct session *session);

/** After no request is outstanding; stops running calibrations. Accepts NULL, returns NULL. The
 * pool may still exist, but must be idle. */
struct session *session_free(struct session *session);

/* Who asks, from SO_PEERCRED. */
struct session_peer {
    uid_t uid;
    gid_t gid;
    pid_t pid;
};

/**
 * session_tenant() - which tenant is this peer?
 * @ret_tenant: index for the requests below
 * Return: 0; 1 when the uid belongs to none.
 */
int session_tenant(struct session *session, const struct session_peer *peer, uint32_t *ret_tenant);

/* --- clients ---------------------------------------------------------------------------------- */

struct session_attach {
    uint32_t tenant;
    struct session_peer peer;
    uint32_t protocol;
    uint64_t staging_bytes;
    char client_name[64];
    /* ---- */
    struct session_error error;
    uint64_t client_id;
    uint8_t ticket[16];
    const char *side_socket; /* lives as long as the session */
    uint64_t ret_staging_bytes;
    uint64_t arena_bytes;
    uint64_t epoch;
    const char *tenant_name;
    uint64_t max_inline_bytes;
};
/* Inline, returns when done. The staging memfd is made when the ticket is shown. */
void session_attach(struct session *session, struct session_attach *op);

/* What the side socket hands out for a ticket. Descriptors stay the session's. */
struct session_fds {
    uint64_t client_id;
    int staging_fd; /* -1: none was asked for */
    uint64_t staging_bytes;
    int arena_fd; /* read-only */
    uint64_t arena_bytes;
};

/**
 * session_redeem() - a peer shows its ticket on the side socket
 * The connection is the client's life from here on: call session_client_gone() when it closes.
 * Return: 0; 1 refused, reason in ret_error.
 */
int session_redeem(struct session *session, const uint8_t ticket[16],
                   const struct session_peer *peer, struct session_fds *ret_fds,
                   struct session_error *ret_error);

/** session_client_gone() - staging is unmapped when its last job is done; empty sequences go */
void session_client_gone(struct session *session, uint64_t client_id);

/** session_now_ns() - the clock of tickets and leases: CLOCK_MONOTONIC, as uv_hrtime() */
uint64_t session_now_ns(void);

/** session_tick() - once a second: tickets that nobody showed expire. Loop thread.
 *  @now_ns: session_now_ns() */
void session_tick(struct session *session, uint64_t now_ns);

/* --- sequences -------------------------------------------------------------------------------- */

struct session_prefix { /* what makes two prefixes the same; strings are NUL-terminated */
    uint8_t profile_id[32];
    uint32_t rate;
    char adapter[256];
    char salt[256];
    uint64_t position_base;
    const uint32_t *token_ids;
    size_t n_token_ids;
};

struct session_create {
    uint32_t tenant;
    struct session_prefix prefix;
    uint64_t client_id;
    bool keep_fine, keep_tokens; /* nothing of it is dropped, or evicted, for want of room */
    void (*done)(struct session_create *op);
    /* ---- */
    struct session_error error;
    uint64_t sequence_id;
    uint64_t n_tokens;
};
void session_create(struct session *session, struct session_create *op);

/* Numbers in or out: a tensor in a client's staging segment, or in memory of the caller's. */
struct session_numbers {
    struct dpq_tensor tensor;
    uint64_t client_id; /* 0: inline */
    void *inline_bytes; /* the caller's, until done() */
    uint64_t n_inline_bytes;
};

struct session_append {
    uint32_t tenant;
    uint64_t sequence_id;
    uint64_t first_token;
    uint32_t n_tokens;
    const uint32_t *token_ids; /* n_token_ids is n_tokens or 0 */
    size_t n_token_ids;
    struct session_numbers from;
    void (*done)(struct session_append *op);
    /* ---- */
    struct session_error error;
    uint64_t n_total_tokens;
    uint64_t n_shared_tokens;
    uint64_t n_tile_tokens;
    uint64_t generation;
};
void session_append(struct session *session, struct session_append *op);

struct session_read {
    uint32_t tenant;
    uint64_t sequence_id;
    uint64_t first_token, n_tokens;
    uint32_t first_layer, n_layers; /* n_layers 0: all from first_layer on */
    struct session_numbers to;      /* inline: n_inline_bytes is set by session_read_size() */
    bool base_only;
    void (*done)(struct session_read *op);
    /* ---- */
    struct session_error error;
    uint64_t generation;
    uint64_t n_coded_tokens;
    uint64_t n_dropped_tokens; /* of these, whose fine plane was dropped */
};
/* Bytes that an inline reply of this read needs (the tensor's end); 1 with op->error on a bad one.
 */
int session_read_size(struct session *session, struct session_read *op, uint64_t *ret_n_bytes);
void session_read(struct session *session, struct session_read *op);

struct session_slot_pair {
    struct dpq_slot_ref base;
    struct dpq_slot_ref fine; /* slot == UINT64_MAX: none */
};

struct session_lookup {
    uint32_t tenant;
    struct session_prefix prefix;
    uint64_t sequence_id; /* 0: none */
    bool slots;
    void (*done)(struct session_lookup *op);
    /* ---- */
    struct session_error error;
    uint64_t n_tokens, n_tile_tokens, epoch;
    uint32_t lease_ms;
    struct session_slot_pair *pairs; /* malloc'ed, the caller's; NULL without slots */
    size_t n_pairs;
    struct dpq_slot_ref tail; /* slot == UINT64_MAX: none */
};
void session_lookup(struct session *session, struct session_lookup *op);

enum session_discard {
    DISCARD_NOTHING = 0,
    DISCARD_PRIVATE_TILES, /* that nobody can look up */
    DISCARD_TILES,
};

struct session_release {
    uint32_t tenant;
    uint64_t sequence_id;
    enum session_discard discard; /* of tiles that no other sequence uses */
    void (*done)(struct session_release *op);
    /* ---- */
    struct session_error error;
    uint64_t freed_bytes;
};
void session_release(struct session *session, struct session_release *op);

/* --- profiles (process-wide) ------------------------------------------------------------------ */

struct profile_entry;

/* A reference: what it points to is there until session_profile_unref(). */
struct session_profile_info {
    struct profile_entry *entry;
    const uint8_t *profile_id;
    const char *model_name;
    const char *info_json;
    uint64_t file_bytes;
    const struct dpq_geometry *geometry;
    const void *bytes; /* the file, in a sealed memfd */
    int fd;            /* read-only, to be handed out */
};

/** session_profile() - 0, then session_profile_unref() is due; or 1 when unknown */
int session_profile(struct session *session, const uint8_t profile_id[32],
                    struct session_profile_info *ret_info);

void session_profile_unref(struct session *session, struct session_profile_info *info);

/** session_profile_list() - up to n infos, session_profile_unref() each; returns how many */
size_t session_profile_list(struct session *session, struct session_profile_info *infos, size_t n);

/**
 * session_profile_install() - judge a profile file, keep it in the state directory, serve it
 * A worker thread: may take tens of milliseconds.
 * Return: 0 (also when it was there), 1 with ret_error.
 */
int session_profile_install(struct session *session, const void *bytes, size_t n_bytes,
                            uint8_t ret_profile_id[32], struct session_error *ret_error);

/**
 * session_profile_remove() - take a profile that nobody uses out of service and out of the state
 * directory
 * @tenant: who asks: numbers of others are not told
 * A worker thread: looks at each tile, and writes to the disk.
 * Return: 0; 1 with ret_error: PROFILE; IN_USE, and by whom.
 */
int session_profile_remove(struct session *session, uint32_t tenant, const uint8_t profile_id[32],
                           struct session_error *ret_error);

/* --- audits ----------------------------------------------------------------------------------- */

enum {
    SESSION_AUDIT_CANDIDATES = 5,
    SESSION_AUDIT_MAX_ROWS = 1024, /* at a time */
    SESSION_AUDIT_TEXT_BYTES = 512,
};

/* What one reference would do for a stream: message AuditCandidate has units and meanings. */
struct session_audit_candidate {
    const char *reference;                               /* static, as all names here */
    uint32_t n_tokens;                                   /* 0: not measured */
    bool is_predicted, is_looped, is_compared, has_fine; /* which figures are set */
    bool is_certified;
    const char *tier;
    float residual_ratio, domination, predicted_bits, ln_eta, eta_u;
    float loop_gain, kappa_plus, kappa_l_plus, margin, error_base;
    float error_fine, measured_bits, energy, moment_ratio;
};

struct session_audit_row {
    uint32_t layer, kind, head;
    const char *reference, *reason;
    char text[SESSION_AUDIT_TEXT_BYTES];
    struct session_audit_candidate candidates[SESSION_AUDIT_CANDIDATES];
};

struct session_audit_summary {
    uint32_t n_streams;
    uint32_t n_chosen[SESSION_AUDIT_CANDIDATES];
    const char *names[SESSION_AUDIT_CANDIDATES];
    double measured_bits, predicted_bits; /* of what was chosen, mean over streams */
    double prediction_error;              /* |predicted - measured|, mean; of n_compared */
    uint32_t n_compared;
    uint32_t n_delta, n_delta_loses, n_delta_foretold; /* temporal with a = 1: measured, worse
                                                          than none, and predicted to be */
    double delta_bits;                                 /* measured, mean */
    char text[SESSION_AUDIT_TEXT_BYTES];
};

struct session_audit {
    uint8_t profile_id[32];
    uint32_t first_row, max_rows; /* max_rows 0: SESSION_AUDIT_MAX_ROWS, which is the most */
    /* ---- */
    struct session_error error; /* PROFILE, NO_AUDIT, AUDIT_CORRUPT, AUDIT_VERSION, ROW, MEMORY */
    struct session_audit_row *rows; /* malloc'ed, the caller's */
    size_t n_rows;
    struct session_audit_summary summary; /* of all rows */
};
/** session_audit() - what calibration found for each stream; a worker thread: some milliseconds */
void session_audit(struct session *session, struct session_audit *op);

/* --- calibration ------------------------------------------------------------------------------ */

/*
 * Profiles.Calibrate: begin, then samples and metrics one at a time, then run or free
 *
 * With an id of the client's choice, free does not end a calibration: it is parked with what it
 * has, or trains on, for config.calibration_park_seconds. A begin with the same id and options has
 * it again. Samples then say which tokens they are, and those that were taken are skipped.
 */
struct session_calibration;

struct session_calibrate {
    uint32_t tenant;
    uint64_t calibration_id; /* of the tenant's; 0: none */
    struct dpq_geometry geometry;
    struct dpq_train_options options; /* but max_bytes, n_threads, spill_fd: the session's */
    char label[64];
};

/**
 * session_calibration_begin() - a new calibration, or one that was parked
 * Return: 0; 1 with ret_error: GEOMETRY, OPTIONS, LIMIT; ALREADY_EXISTS CALIBRATION_ID (its options
 *         were others); ABORTED CALIBRATION_BUSY (another request has it); and how it failed, if it
 *         did: that is forgotten then, and the next begin is a new one.
 */
int session_calibration_begin(struct session *session, const struct session_calibrate *ask,
                              struct session_calibration **ret_calibration,
                              struct session_error *ret_error);

struct session_samples {
    struct session_numbers from;
    uint64_t first_position; /* RoPE position of the first */
    uint32_t n_tokens;
    uint64_t first_token; /* with an id: index of the first among all of the calibration's */
};

/** copies the samples before it returns (≤ 1 MiB inline: some 100 µs; staging: a worker thread) */
int session_calibration_add(struct session_calibration *calibration,
                            const struct session_samples *samples, struct session_error *ret_error);

/**
 * session_calibration_metric() - what errors of a stream cost: dpq_trainer_metric()
 * @matrix: head_dim² floats, little-endian, 4-aligned; copied. Takes as long as samples.
 */
int session_calibration_metric(struct session_calibration *calibration, uint32_t layer,
                               uint32_t kind, uint32_t head, const void *matrix, size_t n_bytes,
                               struct session_error *ret_error);

/** session_calibration_stream() - what one stream gets: dpq_trainer_stream(); reason STREAM */
int session_calibration_stream(struct session_calibration *calibration, uint32_t layer,
                               uint32_t kind, uint32_t head,
                               const struct dpq_stream_options *options,
                               struct session_error *ret_error);

struct session_calibrated {
    struct session_error error;
    uint8_t profile_id[32];
    uint64_t n_tokens;
    double train_seconds;
    const char *info_json; /* of DONE, for as long as the calibration is there; for done() */
};
/** trains on threads of its own, installs, calls done once: from such a thread, from _cancel(), or
 * at once when training ended before */
void session_calibration_run(struct session_calibration *calibration,
                             void (*done)(void *user, const struct session_calibrated *result),
                             void *user);
/** the request is over, its answer unwanted: with an id, done is called now and training goes on;
 * without, training stops soon, and then done is called. Any thread. */
void session_calibration_cancel(struct session_calibration *calibration);
/** accepts NULL; after begin without run, or from within/after done */
struct session_calibration *session_calibration_free(struct session_calibration *calibration);

enum session_calibration_state {
    SESSION_CALIBRATION_COLLECTING,
    SESSION_CALIBRATION_TRAINING,
    SESSION_CALIBRATION_DONE,
    SESSION_CALIBRATION_FAILED,
};

struct session_calibration_info {
    enum session_calibration_state state;
    uint64_t n_tokens;                /* taken so far */
    uint64_t wanted_tokens;           /* of a refinement: its budget; else 0 */
    double progress;                  /* of training, 0 … 1 */
    struct session_calibrated result; /* of DONE and FAILED */
};

/** session_calibration_get() - 0; 1 with ret_error NOT_FOUND CALIBRATION: unknown, or forgotten */
int session_calibration_get(struct session *session, uint32_t tenant, uint64_t calibration_id,
                            struct session_calibration_info *ret_info,
                            struct session_error *ret_error);

/* Profiles.Refine: a new profile from what the tenant appends from now on */
struct session_refine {
    uint32_t tenant;
    uint8_t profile_id[32]; /* of the sequences to learn from */
    double sample_rate;     /* 0 … 1, share of their tiles */
    uint64_t budget_tokens; /* then it trains; or after a day, with what it has */
    /* ---- */
    struct session_error error; /* PROFILE, REFINE_OFF, RATE, BUDGET, LIMIT (one a tenant) */
    uint64_t calibration_id;    /* for session_calibration_get() */
};
/* Inline, returns when done. */
void session_refine(struct session *session, struct session_refine *op);

/* --- status ----------------------------------------------------------------------------------- */

/** session_status() - @tenant: index, or UINT32_MAX for sums over all tenants (HTTP) */
void session_status(struct session *session, uint32_t tenant, struct status *ret_status);

/** session_count_error() - one more request was answered with an error */
void session_count_error(struct session *session, uint32_t tenant);
