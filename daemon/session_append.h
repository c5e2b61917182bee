#pragma once

/* An append under way, between session_append.c and session_commit.c. */

#include "daemon/session_internal.h"

/* A tile in the making. */
struct part {
    uint8_t key[KEY_BYTES];
    struct tile *tile;    /* found under its key, or stored; referenced */
    bool shared;          /* found */
    bool ready;           /* found or encoded: session's lock */
    uint8_t *base, *fine; /* NULL once it is stored */
    size_t n_base, n_fine;
    struct risk_course *courses; /* NULL: found, or not watched */
    struct verdict_trail *trail; /* NULL: the next part does not follow it */
    bool keeps_fine;             /* without it some token would be beyond the hard bound */
};

struct append {
    struct pool_loop loop; /* tiles, then the rows of the new tail */
    struct turn turn;
    struct job job; /* plan */
    struct session *session;
    struct session_append *op;
    struct sequence *sequence; /* held by the turn */
    struct numbers from;
    size_t row_bytes;    /* of the request's dtype */
    bool keyed;          /* all tokens up to the end have ids */
    bool has_maker;      /* new tiles have keys of an id that the record does not know yet */
    uint32_t old_dtype;  /* of the old tail, and of a tile or tail that begins with its rows */
    uint32_t tail_dtype; /* of the tail afterwards */
    size_t tail_row_bytes;
    uint64_t tail_first;    /* where the old tail begins: a multiple of 128 */
    uint32_t n_old_rows;    /* rows in the old tail */
    uint32_t n_tail_tokens; /* tokens in the tail afterwards */
    uint32_t n_tail_rows;   /* of these, rows that come from the request */
    uint32_t n_parts;
    struct part *parts;
    uint8_t *tail_rows;
    struct risk_input *inputs; /* for the first tile that is encoded; NULL: none */
    bool inputs_used;
    uint32_t first_made;        /* the first part that was not found */
    struct session_error error; /* of the first turn, in order, that failed */
    uint32_t error_turn;
    bool is_storing; /* a worker stores parts: session's lock; the next two are that worker's */
    uint32_t n_put;  /* parts stored so far, in their order */
    uint64_t wanted_bytes;        /* of what is being stored */
    struct tail_holder *new_tail; /* the commit's; NULL: none, or the old one has grown */
};

/**
 * append_store() - the i-th part is ready: store it, if those before it are, and those behind it
 *
 * A worker that finds another one at it leaves its part to that one. Encoded bytes are freed, so
 * that an append takes no more memory than the tiles that are being made.
 * Return: 0; 1, no room, with ret_error; a fault. Nothing more is stored then.
 */
int append_store(struct append *append, uint32_t i, struct session_error *ret_error) _must_check_;

/** append_roll_back() - discard what has been stored of an append that failed */
void append_roll_back(struct append *append);

/**
 * append_commit() - store the new tail, make the sequence point to all that is stored, tell the hub
 * Ends in append_finish(). If it fails, append->error says why, and nothing has changed.
 * Thread: the worker that finished the preparation; nothing of it is running any more.
 */
void append_commit(struct append *append, uint32_t worker);

/** append_plan_trails() - which parts are made after which; those of one sequence, watched, are
 * made side by side, a layer behind each other. Return: 0, -ENOMEM */
int append_plan_trails(struct append *append) _must_check_;

/** append_begin_verdict() - how the i-th tile is to be coded, and its room for courses
 *  Nothing if its streams are not watched. Return: 0, -ENOMEM. Thread: the worker whose desk it is
 */
int append_begin_verdict(struct append *append, uint32_t i, struct verdict_desk *desk,
                         struct tile_watch *ret_watch) _must_check_;

/**
 * append_gather() - n canonical rows of the request, from its first-th, judged
 * @dtype: the request's, or one that holds all that the request's can
 * Return: 0; 1 refused, with ret_error; a fault.
 */
int append_gather(struct append *append, uint32_t first, uint32_t n, uint32_t dtype, uint8_t *rows,
                  struct session_error *ret_error) _must_check_;

/** append_finish() - answer by append->error, and let the next turn begin; frees the append */
void append_finish(struct append *append);

void append_fill_reply(const struct sequence *sequence, struct session_append *op);
