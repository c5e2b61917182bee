#pragma once

/*
 * libdeltapq-client: a deltapqd on this machine, from C
 *
 * Calls block, with a deadline; names and numbers travel by gRPC, bulk by shared memory. Beside
 * what the daemon does, dpq_client_decode() decodes stored tokens right here, from the arena,
 * without a call.
 *
 *     new -> [attach] -> create_sequence -> append … -> lookup -> decode, or read -> release ->
 * free
 *
 * attach is needed for staging and for decode only.
 *
 * What an int says: 0 done; > 0 an enum dpq_client_code, ret_error (may be NULL) says more; < 0 a
 * fault (-errno), e.g. -ENOMEM. Outputs begin with ret_ and are untouched unless 0 is returned.
 *
 * Thread: any; several calls of one client may run at the same time, except attach and free.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <deltapq.h>

#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* gRPC's numbers. What happens on this side uses them as well: see each function. */
enum dpq_client_code {
    DPQ_CLIENT_OK = 0,
    DPQ_CLIENT_CANCELLED = 1,
    DPQ_CLIENT_UNKNOWN = 2,
    DPQ_CLIENT_INVALID_ARGUMENT = 3,
    DPQ_CLIENT_DEADLINE_EXCEEDED = 4,
    DPQ_CLIENT_NOT_FOUND = 5,
    DPQ_CLIENT_ALREADY_EXISTS = 6,
    DPQ_CLIENT_PERMISSION_DENIED = 7,
    DPQ_CLIENT_RESOURCE_EXHAUSTED = 8,
    DPQ_CLIENT_FAILED_PRECONDITION = 9,
    DPQ_CLIENT_ABORTED = 10,
    DPQ_CLIENT_OUT_OF_RANGE = 11,
    DPQ_CLIENT_UNIMPLEMENTED = 12,
    DPQ_CLIENT_INTERNAL = 13,
    DPQ_CLIENT_UNAVAILABLE = 14, /* nobody listens, or the connection broke: may work later */
    DPQ_CLIENT_DATA_LOSS = 15,   /* bytes are not what they claim to be */
    DPQ_CLIENT_UNAUTHENTICATED = 16,
};

struct dpq_client_error {
    int32_t code;      /* enum dpq_client_code: what the function returned */
    char reason[32];   /* CAPITALS, for programs; "" when only gRPC itself had something to say */
    char message[240]; /* one sentence, for people */
};

struct dpq_client;

struct dpq_client_options {
    const char *socket_path; /* of grpc.sock */
    const char *name;        /* shown in the daemon's log and status, ≤ 63 bytes; may be NULL */
    uint32_t timeout_ms;     /* deadline of each call; 0: 30,000 */
};

/**
 * dpq_client_new() - prepare a client; connects with the first call
 * @options: borrowed during the call
 * Return: 0; INVALID_ARGUMENT.
 */
int dpq_client_new(const struct dpq_client_options *options, struct dpq_client **ret_client,
                   struct dpq_client_error *ret_error);

/** dpq_client_free() - detach, unmap, disconnect; accepts NULL, returns NULL */
struct dpq_client *dpq_client_free(struct dpq_client *client);

/**
 * dpq_client_attach() - get a staging segment and the arena, and map them
 * @staging_bytes: 0 for none
 * Once in a client's life. Return: 0; what the daemon said; FAILED_PRECONDITION when attached.
 */
int dpq_client_attach(struct dpq_client *client, uint64_t staging_bytes,
                      struct dpq_client_error *ret_error);

/** dpq_client_staging() - the segment that offsets refer to; NULL and 0 when there is none */
void *dpq_client_staging(const struct dpq_client *client, uint64_t *ret_n_bytes);

/* --- profiles --------------------------------------------------------------------------------- */

/** dpq_client_install_profile() - hand a profile file to the daemon; fine when it is there */
int dpq_client_install_profile(struct dpq_client *client, const void *bytes, size_t n_bytes,
                               uint8_t ret_profile_id[32], struct dpq_client_error *ret_error);

/**
 * dpq_client_remove_profile() - take a profile out of service that nothing stored needs any more
 * What dpq_client_profile() gave stays. Return: 0; NOT_FOUND; FAILED_PRECONDITION, reason IN_USE:
 * the message says by how much of the tenant's.
 */
int dpq_client_remove_profile(struct dpq_client *client, const uint8_t profile_id[32],
                              struct dpq_client_error *ret_error);

/**
 * dpq_client_profile() - fetch and open one of the daemon's profiles, or take the one here already
 * @ret_profile: lives as long as the client
 * Return: 0; FAILED_PRECONDITION (attach first); NOT_FOUND; DATA_LOSS.
 */
int dpq_client_profile(struct dpq_client *client, const uint8_t profile_id[32],
                       const struct dpq_profile **ret_profile, struct dpq_client_error *ret_error);

/* --- sequences -------------------------------------------------------------------------------- */

/* What makes two prefixes the same. Pointers are borrowed during the call. */
struct dpq_client_prefix {
    const uint8_t *profile_id; /* 32 bytes */
    uint32_t rate;             /* enum dpq_rate */
    const char *adapter;       /* NULL means "" */
    const char *salt;          /* NULL means "" */
    uint64_t position_base;    /* RoPE position of the first token */
    const uint32_t *token_ids;
    size_t n_token_ids;
};

/**
 * dpq_client_create_sequence() - begin a sequence; stored tiles of its prefix are adopted
 * @ret_n_tokens: how many tokens it has already; may be NULL
 */
int dpq_client_create_sequence(struct dpq_client *client, const struct dpq_client_prefix *prefix,
                               uint64_t *ret_sequence_id, uint64_t *ret_n_tokens,
                               struct dpq_client_error *ret_error);

struct dpq_client_append_args {
    uint64_t sequence_id;
    uint64_t first_token;      /* the sequence's length */
    uint32_t n_tokens;         /* ≥ 1 */
    const uint32_t *token_ids; /* n_tokens of them, or NULL: nobody can look the tokens up */
    struct dpq_tensor tensor;  /* offsets in staging, or in inline_bytes */
    const void *inline_bytes;  /* NULL: in staging */
    size_t n_inline_bytes;     /* ≤ 1 MiB */
};

struct dpq_client_appended {
    uint64_t n_tokens;        /* length of the sequence now */
    uint64_t n_shared_tokens; /* found stored under the same key */
    uint64_t n_tile_tokens;   /* in tiles; the rest is the raw tail */
    uint64_t generation;
};

/** dpq_client_append() - all or nothing. @ret_appended: may be NULL */
int dpq_client_append(struct dpq_client *client, const struct dpq_client_append_args *args,
                      struct dpq_client_appended *ret_appended, struct dpq_client_error *ret_error);

struct dpq_client_read_args {
    uint64_t sequence_id;
    uint64_t first_token, n_tokens;
    uint32_t first_layer, n_layers; /* n_layers 0: all from first_layer on */
    struct dpq_tensor tensor; /* element (first_layer, K, 0, first_token, 0) goes to its offset */
    void *inline_bytes;       /* NULL: into staging; bytes between elements become 0 */
    size_t n_inline_bytes;    /* ≤ 1 MiB, to the tensor's end at least */
    bool base_only;
};

struct dpq_client_was_read {
    uint64_t generation;
    uint64_t n_coded_tokens;   /* decoded from tiles; the rest is raw */
    uint64_t n_dropped_tokens; /* of these, whose fine plane was made, and dropped */
};

/** dpq_client_read() - let the daemon decode. @ret_read: may be NULL */
int dpq_client_read(struct dpq_client *client, const struct dpq_client_read_args *args,
                    struct dpq_client_was_read *ret_read, struct dpq_client_error *ret_error);

/** dpq_client_release() - give a sequence up; discard frees tiles that no other sequence uses
 *  @ret_freed_bytes: may be NULL */
int dpq_client_release(struct dpq_client *client, uint64_t sequence_id, bool discard,
                       uint64_t *ret_freed_bytes, struct dpq_client_error *ret_error);

/**
 * dpq_client_fork() - a sequence that begins as another one is now; tiles are shared
 * @n_tokens:     of its first; 0: all there are
 * @fork_key:     any number: asked again with it, the answer is the fork that was made; 0: none
 * @ret_n_tokens: how many it has; may be NULL
 */
int dpq_client_fork(struct dpq_client *client, uint64_t sequence_id, uint64_t n_tokens,
                    uint64_t fork_key, uint64_t *ret_sequence_id, uint64_t *ret_n_tokens,
                    struct dpq_client_error *ret_error);

struct dpq_client_trimmed {
    uint64_t n_tokens, n_tile_tokens;
    uint64_t n_lossy_tokens; /* of the tail: decoded ones, of a tile that was cut through */
    uint64_t generation, freed_bytes;
};

/** dpq_client_trim() - keep a sequence's first n_tokens alone, as they are. @ret_trimmed: may be
 * NULL
 */
int dpq_client_trim(struct dpq_client *client, uint64_t sequence_id, uint64_t n_tokens,
                    struct dpq_client_trimmed *ret_trimmed, struct dpq_client_error *ret_error);

/** dpq_client_delete() - forget a sequence; tiles that nobody can look up, and no fork uses, go
 *  @ret_freed_bytes: may be NULL */
int dpq_client_delete(struct dpq_client *client, uint64_t sequence_id, uint64_t *ret_freed_bytes,
                      struct dpq_client_error *ret_error);

/**
 * dpq_client_pin() - keep a sequence and all its tiles, for the client's life and beyond
 * @ttl_ms:      1 … 86,400,000, from now on; an end that was set before and is later counts
 * @ret_left_ms: until the end; may be NULL
 */
int dpq_client_pin(struct dpq_client *client, uint64_t sequence_id, uint64_t ttl_ms,
                   uint64_t *ret_left_ms, struct dpq_client_error *ret_error);

/** dpq_client_unpin() - end a pin now, whoever set it. @ret_was_pinned: may be NULL */
int dpq_client_unpin(struct dpq_client *client, uint64_t sequence_id, bool *ret_was_pinned,
                     struct dpq_client_error *ret_error);

/* --- look-up and local decode ----------------------------------------------------------------- */

struct dpq_client_tile {
    struct dpq_slot_ref base, fine;
    bool has_fine;
};

struct dpq_client_found {
    uint64_t n_tokens;      /* stored, from the beginning */
    uint64_t n_tile_tokens; /* of these, in tiles */
    uint64_t epoch;         /* of the arena that the slots are in */
    uint32_t lease_ms;      /* slots are not reused this long after the daemon's reply */
    struct dpq_client_tile *tiles;
    size_t n_tiles;
    struct dpq_slot_ref tail;
    bool has_tail;
};

/**
 * dpq_client_lookup() - how much of this prefix is stored, and where
 * @sequence_id: its raw tail counts, too; 0: none
 * @slots:       ask for the slots, under a lease
 * @ret_found:   dpq_client_found_deinit() when done
 */
int dpq_client_lookup(struct dpq_client *client, const struct dpq_client_prefix *prefix,
                      uint64_t sequence_id, bool slots, struct dpq_client_found *ret_found,
                      struct dpq_client_error *ret_error);

/** dpq_client_found_deinit() - works on a zeroed struct, leaves one */
void dpq_client_found_deinit(struct dpq_client_found *found);

struct dpq_client_decode_args {
    const uint8_t *profile_id;            /* as in the look-up */
    const struct dpq_client_found *found; /* looked up with slots */
    uint64_t first_token, n_tokens;
    uint32_t first_layer, n_layers; /* n_layers 0: all from first_layer on */
    struct dpq_tensor tensor;       /* element (first_layer, K, 0, first_token, 0) → offset */
    void *memory;
    uint64_t n_bytes; /* of memory */
    bool base_only;
};

/**
 * dpq_client_decode() - decode a range of what was found, from the arena, without a call
 *
 * Gives the same bytes as dpq_client_read(). Payloads are checked against their checksums, and
 * afterwards the slots once more: what is returned with 0 is right even if the lease ran out. On
 * anything else memory is unspecified.
 *
 * Return: 0; ABORTED, reason GONE: look up again (epoch changed: attach anew, with a new client);
 *         INVALID_ARGUMENT, OUT_OF_RANGE, FAILED_PRECONDITION (not attached), DATA_LOSS.
 */
int dpq_client_decode(struct dpq_client *client, const struct dpq_client_decode_args *args,
                      struct dpq_client_error *ret_error);

/* --- events ----------------------------------------------------------------------------------- */

enum dpq_client_what { /* numbers as in the oneof of monitor.proto, which says what each one is */
                       DPQ_CLIENT_SEQUENCE_CREATED = 10,
                       DPQ_CLIENT_SEQUENCE_RELEASED = 11,
                       DPQ_CLIENT_TILE_STORED = 12,
                       DPQ_CLIENT_TILE_EVICTED = 13,
                       DPQ_CLIENT_TILE_SHARED = 14,
                       DPQ_CLIENT_CLIENT_ATTACHED = 15,
                       DPQ_CLIENT_CLIENT_GONE = 16,
                       DPQ_CLIENT_PROFILE_INSTALLED = 17,
                       DPQ_CLIENT_CALIBRATION_PROGRESS = 18,
                       DPQ_CLIENT_SPACE_EXHAUSTED = 19,
                       DPQ_CLIENT_SEQUENCE_FORKED = 30,
                       DPQ_CLIENT_SEQUENCE_TRIMMED = 31,
                       DPQ_CLIENT_PROFILE_REMOVED = 32,
                       DPQ_CLIENT_ZONE_CHANGED = 40,
                       DPQ_CLIENT_STREAM_RESET = 41,
                       DPQ_CLIENT_ALL_CLEARED = 42,
                       DPQ_CLIENT_FINE_DROPPED = 50,
                       DPQ_CLIENT_TOKENS_EVICTED = 51,
};

struct dpq_client_event { /* what an event does not say is 0 */
    uint64_t seq;         /* 1, 2, 3 … of the tenant, in one incarnation */
    uint64_t time_unix_ms;
    uint32_t what;          /* enum dpq_client_what; 0: one that this client does not know */
    uint32_t n_sequences;   /* that went with a client */
    uint64_t id, origin_id; /* of a sequence, or a client; what it was forked from */
    uint64_t first_token, n_tokens, generation;
    uint64_t n_bytes;     /* stored, freed or wanted */
    uint64_t done, total; /* of a calibration */
    uint8_t digest[32];   /* of a tile or a profile */
    char text[128];       /* a name or label, cut off */
    uint32_t layer, kind, head;
    bool all_streams;
    uint32_t zone_from, zone_to, cause; /* Zone and RiskCause of monitor.proto */
    float mu;
};

struct dpq_client_watch; /* one reader of events, on a connection of its own */

struct dpq_client_watch_args {
    /* Go on after that event, as dpq_client_watch_position() said; zeros: with all that is kept */
    uint64_t incarnation, after_seq;
    bool from_now;     /* only what happens from now on */
    bool acknowledges; /* will call dpq_client_watch_ack() */
    uint32_t queue;    /* events that the daemon keeps for it: 1 … 65536; 0: 1024 */
    uint32_t flush_ms; /* how long they may gather before they are sent: 0 … 10000 */
};

/**
 * dpq_client_watch_new() - begin; what happens from its return on is not missed
 * @client: must live until dpq_client_watch_free()
 * @args:   NULL for zeros
 * Return: 0; UNAVAILABLE; INVALID_ARGUMENT; RESOURCE_EXHAUSTED, too many subscribers.
 */
int dpq_client_watch_new(struct dpq_client *client, const struct dpq_client_watch_args *args,
                         struct dpq_client_watch **ret_watch, struct dpq_client_error *ret_error);

/**
 * dpq_client_watch_next() - the next event
 * @timeout_ms: 0: only what is there already
 *
 * When the connection breaks, or the daemon starts anew, it goes on by itself after the last event;
 * what is not kept any more counts as lost.
 *
 * Thread: one at a time for each watch, except dpq_client_watch_cancel().
 * Return: 0; DEADLINE_EXCEEDED when nothing has happened; UNAVAILABLE when there is no connection:
 *         the next call tries again; CANCELLED, from dpq_client_watch_cancel() on.
 */
int dpq_client_watch_next(struct dpq_client_watch *watch, uint32_t timeout_ms,
                          struct dpq_client_event *ret_event, struct dpq_client_error *ret_error);

/** dpq_client_watch_ack() - all events handed out are dealt with; once a second is often enough
 *  Return: 0; UNAVAILABLE, NOT_FOUND when the connection broke: say it again after the next event.
 */
int dpq_client_watch_ack(struct dpq_client_watch *watch, struct dpq_client_error *ret_error);

struct dpq_client_watch_position {
    uint64_t incarnation, seq; /* of the last event handed out: arguments for going on after it */
    uint64_t n_received;       /* handed out */
    uint64_t n_lost; /* published and missed; with n_received all there were since the beginning */
    uint64_t
        n_restarts; /* of the daemon; what the one before said at its end is in neither count */
};
void dpq_client_watch_position(const struct dpq_client_watch *watch,
                               struct dpq_client_watch_position *ret_position);

/** dpq_client_watch_cancel() - dpq_client_watch_next() returns, now and ever after. Thread: any */
void dpq_client_watch_cancel(struct dpq_client_watch *watch);

/** dpq_client_watch_free() - accepts NULL, returns NULL */
struct dpq_client_watch *dpq_client_watch_free(struct dpq_client_watch *watch);

/* --- status ----------------------------------------------------------------------------------- */

struct dpq_client_status {
    char daemon_version[32];
    char tenant[64];
    double uptime_seconds;
    uint64_t arena_bytes, arena_used_bytes, staging_bytes, epoch;
    uint64_t n_tiles, n_sequences, n_clients, n_profiles;
    uint64_t tokens_appended, tokens_read, tokens_shared;
    double true_bits_per_number;
};

/** dpq_client_get_status() - of the caller's tenant */
int dpq_client_get_status(struct dpq_client *client, struct dpq_client_status *ret_status,
                          struct dpq_client_error *ret_error);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
