#pragma once

/* What the files of the session layer share. Nobody else includes this. */

#include <pthread.h>

#include "daemon/config.h"
#include "daemon/monitor.h"
#include "daemon/session.h"
#include "daemon/session_record.h"
#include "daemon/session_verdict.h"
#include "daemon/work.h"
#include "lib/base/hash.h"
#include "lib/store/map.h"
#include "lib/store/store.h"

enum {
    PROTOCOL = 1,
    KEY_BYTES = 32,
    MAX_SEQUENCES = 1 << 20, /* a tenant */
    MAX_CLIENTS = 4096,      /* a tenant */
    MAX_PROFILES = 1024,
    MAX_WAITING_TURNS = 64, /* appends and releases that wait for one sequence */
    MAX_APPEND_TOKENS = 1 << 24,
    MAX_SEQUENCE_TOKENS = 1 << 30,
    N_INLINE_IDS = 4096, /* more token ids than this are hashed on a worker */
    N_WORKER_CODECS = 8,
    RETRY_MS = 200, /* what a client is told that came at a busy moment */
};

#define MAX_POSITION      (UINT64_C(1) << 40)
#define MAX_PROFILE_BYTES (UINT64_C(1) << 30)
#define NO_SLOT           UINT64_MAX

/* --- things with an id (session_table.c) ------------------------------------------------------ */

/* The first member of what is found by id. */
struct id_entry {
    uint64_t id;
    struct id_entry *next;
};

struct id_table {
    struct id_entry **buckets;
    uint32_t n_buckets; /* a power of two, or 0 */
    uint32_t n;
};

int id_table_init(struct id_table *table) _must_check_;
void id_table_deinit(struct id_table *table); /* not the entries */
void id_table_add(struct id_table *table, struct id_entry *entry);
struct id_entry *id_table_find(const struct id_table *table, uint64_t id);
void id_table_remove(struct id_table *table, struct id_entry *entry);
/* the entry after @entry in some order (NULL: the first); the table must not change meanwhile */
struct id_entry *id_table_next(const struct id_table *table, const struct id_entry *entry);

/* --- the objects ------------------------------------------------------------------------------ */

struct profile_entry { /* immutable, but for what the session's mutex guards */
    struct map map;    /* the file, sealed */
    int ro_fd;
    struct dpq_profile *profile;
    uint32_t refs;             /* the table's, and each user's; locked */
    uint32_t n_codecs;         /* of these, workers' codecs, which nobody may be using; locked */
    bool gone;                 /* is being removed, or has been: nobody finds it any more; locked */
    struct verdict_book *book; /* NULL: its streams can't be watched */
};

/* Makes keys; its mutex is held while one is made. */
struct key_maker {
    pthread_mutex_t mutex;
    struct hash_mac *mac;
};

struct worker { /* touched by one worker thread only */
    struct profile_entry *codec_of[N_WORKER_CODECS];
    struct dpq_codec *codecs[N_WORKER_CODECS];
    uint32_t next_codec;
    uint8_t *rows; /* scratch for one tile's canonical rows */
    size_t n_rows_bytes;
    struct verdict_desk desk;
};

struct tenant {
    const struct config_tenant *config;
    uint32_t index;
    struct session *session;
    struct store *store;
    uint64_t arena_huge_bytes;                   /* in huge pages, when it was opened */
    uint64_t staging_bytes, staging_total_bytes; /* limits, see config; locked */
    uint64_t staging_reserved;
    uint64_t n_clients, n_sequences;
    uint64_t tokens_appended, tokens_read, tokens_shared;
    uint64_t lookup_tokens_asked, lookup_tokens_hit;
    uint64_t tokens_evicted;  /* of sequences */
    uint64_t relief_after_ns; /* not before, since there was nothing to free; atomic */
    uint64_t errors;
};

enum client_state {
    CLIENT_TICKET,    /* waits for its ticket to be shown */
    CLIENT_REDEEMING, /* its staging is being made */
    CLIENT_LIVE,
    CLIENT_GONE, /* not in the table any more; jobs may still refer to its staging */
};

struct client {
    struct id_entry entry;
    struct tenant *tenant;
    struct session_peer peer;
    enum client_state state;
    uint32_t refs; /* the table's, and one a job */
    uint8_t ticket[16];
    uint64_t ticket_until_ns;
    uint64_t staging_bytes; /* reserved */
    struct map staging;
    char name[64];
};

/* A raw tail and those who read it: it is freed when the last lets go. */
struct tail_holder {
    struct tail *tail;
    uint32_t refs;
    struct tail_holder *next; /* of those to be let go */
};

/*
 * Appends and releases of one sequence take turns, in the order they came. begin() is called,
 * without a lock, when a turn that had to wait has come; it returns true when it is over already.
 * From then on the turn's memory is its owner's again.
 */
struct turn {
    struct turn *next;
    bool (*begin)(struct turn *turn);
};

struct sequence {
    struct id_entry entry;
    struct tenant *tenant;
    struct profile_entry *profile; /* a reference */
    uint32_t refs;                 /* the table's, and one a turn */
    uint32_t rate;
    uint64_t position_base;
    uint8_t scope[KEY_BYTES]; /* what, beside token ids, makes keys different */
    uint64_t owner;           /* the client that created it, 0: nobody */
    bool owner_gone, released, was_trimmed;
    uint64_t fork_origin;          /* 0: it is no fork */
    bool keeps_fine, keeps_tokens; /* see session_pressure.h */
    bool is_offered;               /* to be made worse or shorter, while room is made */
    uint64_t used_ns;              /* when it was last created, appended to, or read */
    uint64_t n_evicted_end; /* where it ended before tokens were evicted; 0: none are missing */
    uint64_t n_tokens, n_adopted_tokens;
    uint64_t generation;
    uint64_t pinned_until_ns; /* see sequence_pinned() */
    struct tile **tiles;      /* n_tokens / 128; one reference each */
    size_t n_tiles, tiles_capacity;
    struct tail_holder *tail;        /* NULL when n_tokens is a multiple of 128 */
    struct store_object tail_object; /* as of the last commit */
    uint32_t tail_dtype;
    struct record_tail tail_mark; /* version of the next tail, too; each trim and cut has another */
    uint32_t *token_ids;          /* of the leading tokens, until the first append without ids */
    size_t n_token_ids, token_ids_capacity;
    uint64_t private_id;         /* keys of the next tiles without ids are made with it */
    struct record_maker *makers; /* such ids of the tiles there are, as in the record */
    size_t n_makers, makers_capacity;
    struct record *record;     /* NULL: nothing was appended yet */
    uint64_t n_recorded_ids;   /* in the record: more than acknowledged, if an append failed */
    bool busy;                 /* someone has its turn */
    struct risk_input *inputs; /* [n_streams], for the next tile; NULL: none */
    struct turn *first_turn, **last_turn; /* those that wait for it */
    uint32_t n_waiting;
};

struct session {
    const struct config *config;
    struct hub *hub;
    struct pool *pool;
    struct monitor *monitor;
    uint32_t cpu_mask;
    char side_socket[CONFIG_PATH_BYTES + 16];
    uint64_t started_ns;
    uint64_t message_bytes; /* of memory, that nothing else may take */

    const struct session_keeper *keeper; /* NULL: arenas end with the process */
    uint8_t secret_id[16];               /* names the secret in the arenas' headers */
    uint64_t healthy_ns; /* when earlier runs' faults are forgiven; 0: they have been */
    struct scrub *scrub; /* session_scrub.c */

    struct worker *workers;
    struct key_maker *makers; /* one a worker, and a last one for all other threads */
    uint32_t n_workers, n_makers;

    pthread_mutex_t mutex;              /* of everything below, and of refs and states above */
    uint32_t high_percent, low_percent; /* of an arena, see config */
    uint64_t cold_ns;
    uint64_t next_id;
    struct tenant *tenants;
    uint32_t n_tenants;
    struct id_table clients;
    struct id_table sequences;
    struct profile_entry **profiles;
    size_t n_profiles;
    pthread_mutex_t
        profiles_mutex; /* before the other: the files of profiles, and what is served */
    struct session_calibration *calibrations; /* session_calibration.h */
    uint32_t n_calibrations;                  /* of these, that collect or train */
    uint32_t n_refining;                      /* that collect from appends; atomic, too */
    uint64_t next_pin_ns;                     /* no pin ends before; UINT64_MAX: there is none */
    uint64_t input_bytes;                     /* of all sequences' inputs */
};

/* session.c */
void session_tile_evicted(void *user, const uint8_t key[32], uint64_t freed_bytes);
void session_lock(struct session *session);
void session_unlock(struct session *session);
uint64_t session_new_id(struct session *session); /* locked */
void session_error_clear(struct session_error *error);
/* NOT_FOUND SEQUENCE: sequence_find() found none */
void session_error_no_sequence(struct session_error *error, uint64_t sequence_id);
/* A fault stops here: logged, and the request gets INTERNAL, or RESOURCE_EXHAUSTED for -ENOMEM. */
void session_error_fault(struct session_error *error, int r, const char *what);
int session_worker_codec(struct session *session, uint32_t worker, struct profile_entry *profile,
                         struct dpq_codec **ret_codec) _must_check_;
int session_worker_rows(struct session *session, uint32_t worker, size_t n_bytes,
                        uint8_t **ret_rows) _must_check_;

/* session_client.c; all locked but the last two */
struct client *client_find(struct session *session, uint32_t tenant, uint64_t client_id);
/* drop a reference; the caller frees what it gets, after unlocking (client_free() takes NULL) */
struct client *client_unref(struct client *client) _must_check_;
struct client *client_free(struct client *client);

/* Where a request's numbers are: judged against the memory's size, which stays until the release.
 */
struct numbers {
    struct client *client; /* NULL: inline */
    uint8_t *bytes;
    uint64_t n_bytes;
};
int numbers_acquire(struct session *session, uint32_t tenant, const struct session_numbers *from,
                    const struct dpq_geometry *geometry, uint32_t n_layers, uint32_t n_tokens,
                    struct numbers *ret_numbers, struct session_error *ret_error) _must_check_;
void numbers_release(struct session *session, struct numbers *numbers);
/* the tensor as seen from its n-th token */
struct dpq_tensor tensor_from_token(const struct dpq_tensor *tensor, uint64_t n);
/* canonical rows */
struct dpq_tensor tensor_canonical(const struct dpq_geometry *geometry, uint32_t dtype);

/* session_sequence.c; "locked" means by the caller */
struct sequence *sequence_find(struct session *session, uint32_t tenant,
                               uint64_t sequence_id); /* locked */
void sequence_unref(struct session *session, struct sequence *sequence);
int sequence_enter(struct sequence *sequence, struct turn *turn, bool *ret_begin,
                   struct session_error *ret_error) _must_check_; /* locked */
/* is what only its owner can want, who has gone, to go now? locked */
bool sequence_is_orphan(const struct sequence *sequence, uint64_t now_ns);
/* a pinned one keeps its tiles, both planes, and is not dropped. Locked */
static inline bool sequence_pinned(const struct sequence *sequence, uint64_t now_ns)
{
    return sequence->pinned_until_ns > now_ns;
}
/* out of the table: from now on nobody finds it; locked */
void sequence_unlink(struct session *session, struct sequence *sequence);
/* record, tail and tiles of an unlinked one; drops the table's reference. Returns freed bytes */
uint64_t sequence_empty(struct session *session, struct sequence *sequence,
                        enum session_discard discard);
/* the running turn is over: the next begins; drops that turn's reference to the sequence */
void sequence_leave(struct session *session, struct sequence *sequence);
/* sequences that only this client could have wanted go; returns how many */
uint32_t sequence_owner_gone(struct session *session, uint64_t client_id);
/* once a second: what pins that have ended kept of clients that have gone goes */
void sequence_pins_tick(struct session *session, uint64_t now_ns);
void sequence_set_pin(struct sequence *sequence, uint64_t until_ns); /* 0: none; locked */
uint64_t tail_holder_unref(struct session *session, struct tail_holder *holder);
/* Its last tiles have gone from its array: tail and ids follow, it ends with the tiles that are
 * left. @tails: a list that its tail's reference is added to, to be let go without the lock. Locked
 */
void sequence_shorten(struct sequence *sequence, struct tail_holder **tails);
void sequence_forget_all(struct session *session); /* memory alone: the arena keeps them */
int sequence_reserve_ids(struct sequence *sequence, size_t n) _must_check_; /* locked */
uint64_t sequence_new_id(struct session *session); /* one that is not in the table; locked */
/* a place in the table, and an id if it has none. 0; 1 with ret_error: too many. Locked */
int sequence_add(struct session *session, struct sequence *sequence,
                 struct session_error *ret_error) _must_check_;
/* memory alone; accepts NULL, returns NULL */
struct sequence *sequence_free(struct sequence *sequence);
/* the id that keys of its tiles without token ids are made with, at that tile */
uint64_t sequence_private_id(const struct sequence *sequence, uint64_t tile_index);
int sequence_reserve_maker(struct sequence *sequence) _must_check_; /* one more */
/* can nobody find the tile by its key? */
static inline bool sequence_tile_is_private(const struct sequence *sequence, uint64_t tile_index)
{
    return (tile_index + 1) * DPQ_TILE_TOKENS > sequence->n_token_ids;
}
/* what its streams are watched by; NULL: they are not */
static inline const struct verdict_book *sequence_book(const struct sequence *sequence)
{
    return sequence->tenant->config->monitor ? sequence->profile->book : NULL;
}
/* the arena is full: an error, and an event */
void tenant_no_room(struct tenant *tenant, uint64_t wanted_bytes, struct session_error *ret_error);
/* rows of the tail, from its first, that are decoded ones */
static inline uint64_t sequence_n_lossy(const struct sequence *sequence)
{
    uint64_t first = sequence->n_tiles * (uint64_t)DPQ_TILE_TOKENS;

    return sequence->tail && sequence->tail_mark.lossy_end > first
               ? sequence->tail_mark.lossy_end - first
               : 0;
}
/**
 * tail_holder_new() - a raw tail of the sequence, committed, with one reference
 * @rows: n_tokens canonical rows
 * It counts when the record says so. Return: 0; STORE_E_FULL; a fault.
 */
int tail_holder_new(const struct sequence *sequence, const struct record_tail *mark,
                    uint64_t first_index, uint32_t dtype, const void *rows, uint32_t n_tokens,
                    uint64_t now_ns, struct tail_holder **ret_holder) _must_check_;

/* session_key.c */
int key_maker_init(struct key_maker *maker, const uint8_t secret[32]) _must_check_;
void key_maker_deinit(struct key_maker *maker);
struct key_maker *session_key_maker(struct session *session, int32_t worker); /* -1: no worker */
int key_scope(struct key_maker *maker, const char *tenant, const struct session_prefix *prefix,
              uint8_t ret_scope[KEY_BYTES]) _must_check_;
/* @token_ids: 128 of them; @parent: key of the tile before, zero for the first */
int key_tile(struct key_maker *maker, const uint8_t scope[KEY_BYTES],
             const uint8_t parent[KEY_BYTES], const uint32_t *token_ids,
             uint8_t ret_key[KEY_BYTES]) _must_check_;
/* of a tile that nobody can look up */
int key_private(struct key_maker *maker, const uint8_t scope[KEY_BYTES], uint64_t sequence_id,
                uint64_t tile_index, uint8_t ret_key[KEY_BYTES]) _must_check_;
/* the id of a sequence's fork that its client has given a number, other than 0 */
int key_fork(struct key_maker *maker, uint64_t origin_id, uint64_t fork_key,
             uint64_t *ret_id) _must_check_;
int secret_load(const char *state_dir,
                uint8_t ret_secret[32]) _must_check_; /* 1: refused, logged */
/* what an arena's header calls it: a hash, which tells nothing about it */
int secret_name(const uint8_t secret[32], uint8_t ret_id[16]) _must_check_;

/* session_lookup.c */
struct prefix_hit {
    struct tile **tiles; /* referenced */
    size_t n_tiles;
};
int prefix_check(const struct session_prefix *prefix, struct session_error *ret_error) _must_check_;
/* the longest stored run of whole tiles, from the start */
int prefix_find(struct store *store, struct key_maker *maker, const uint8_t scope[KEY_BYTES],
                const uint32_t *token_ids, size_t n_token_ids,
                struct prefix_hit *ret_hit) _must_check_;
void prefix_hit_deinit(struct prefix_hit *hit);

/* session_commit.c: what store_put() is told of a tile of this sequence's that begins at a token
 * and follows its last one; key and objects are for the caller to add */
struct store_put_args sequence_put_args(const struct sequence *sequence, uint64_t first_index);

/* session_profile.c */
/* also one that is being removed; locked */
struct profile_entry *profile_find(const struct session *session, const uint8_t profile_id[32]);
/* with a reference; NULL: unknown */
struct profile_entry *profile_get(struct session *session, const uint8_t profile_id[32]);
struct profile_entry *profile_ref(struct profile_entry *entry); /* locked */
struct profile_entry *profile_put(struct session *session, struct profile_entry *entry); /* NULL */
/* from the state directory; 0; 1 with ret_error */
int profile_forget_file(const struct session *session, const struct profile_entry *entry,
                        struct session_error *ret_error) _must_check_;
int profile_load_all(struct session *session) _must_check_; /* 1: refused, logged */
struct profile_entry *profile_entry_free(struct profile_entry *entry);
static inline const struct dpq_geometry *profile_geometry(const struct profile_entry *entry)
{
    return dpq_profile_geometry(entry->profile);
}

/* session_risk.c */
/* what was said about a sequence since its last tile, or NULL: the caller's; and back, if it was
 * not used and nothing newer is there */
struct risk_input *sequence_take_inputs(struct session *session, struct sequence *sequence);
void sequence_return_inputs(struct session *session, struct sequence *sequence,
                            struct risk_input *inputs);
void sequence_drop_inputs(struct session *session, struct sequence *sequence); /* locked */
/* a sequence begins with tiles that are there: into the map of zones */
void sequence_adopt_zones(struct session *session, const struct sequence *sequence);
struct monitor_tile sequence_monitor_tile(const struct sequence *sequence, uint64_t first_token);

/* session_calibration.c */
/* joins threads that have ended, forgets what nobody has and whose time is over */
void calibration_tick(struct session *session, uint64_t now_ns);
/* stops training and drops all; no request has one any more */
void calibration_drop_all(struct session *session);

/* session_refine.c */
/**
 * refine_offer() - a tile is being encoded: does anybody want to learn from it?
 * @key: of the tile: what decides, so that the same tile is always wanted, or never
 * @first_index: of its first token in the sequence
 * @rows: 128 canonical rows of that dtype; copied
 * Thread: any. Some milliseconds when it is wanted, nothing when nobody refines.
 */
void refine_offer(const struct sequence *sequence, const uint8_t key[KEY_BYTES],
                  uint64_t first_index, uint32_t dtype, const void *rows);
/* refinements whose time is over begin to train; locked */
void refine_tick(struct session *session, uint64_t now_ns);

/* session_audit.c: what a trainer's audit hooks measure, and the section that they leave */
struct audit;
/* @is_limited: the trainer may have to refuse a reference for what decoding costs */
int audit_new(const struct dpq_geometry *geometry, bool is_limited,
              struct audit **ret_audit) _must_check_;
struct audit *audit_free(struct audit *audit);
struct dpq_audit_hooks audit_hooks(struct audit *audit); /* for as long as the audit lives */
