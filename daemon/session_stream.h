#pragma once

/*
 * The session layer: what streams need, which take a sequence in pieces
 *
 * As session.h says of all requests. What is opened is held until it is closed, by whoever opened
 * it, on any thread, when none of its jobs runs any more.
 */

#include "daemon/session.h"

struct session_length {
    uint32_t tenant;
    uint64_t sequence_id;
    void (*done)(struct session_length *op);
    /* ---- */
    struct session_error error;
    uint64_t n_tokens, n_tile_tokens, generation;
};
/** session_length() - where a sequence ends, after the appends that were asked for before */
void session_length(struct session *session, struct session_length *op);

struct session_read_stream; /* a range of one state of a sequence, given out in chunks */

struct session_read_open {
    uint32_t tenant;
    uint64_t sequence_id;
    uint64_t first_token, n_tokens;
    uint32_t first_layer, n_layers; /* n_layers 0: all from first_layer on */
    uint32_t dtype;
    bool base_only;
    uint64_t
        max_chunk_bytes; /* of one token of one layer … SESSION_MAX_INLINE_BYTES; 0: the most */
    /* ---- */
    struct session_error error;
    uint64_t generation;
};
/** session_read_open() - hold what is to be read, until session_read_close()
 *  Return: 0; 1 with op->error, also CHUNK_SIZE */
int session_read_open(struct session *session, struct session_read_open *op,
                      struct session_read_stream **ret_stream);

/* Tokens × layers of the range: a tile's tokens, or a part of them, with as many layers as fit. */
struct session_chunk {
    void (*done)(struct session_chunk *chunk);
    /* ---- */
    struct session_error error;
    uint64_t first_token;
    uint32_t n_tokens, first_layer, n_layers;
    bool is_coded, is_dropped; /* is_dropped: of the tile a fine plane was made, and dropped */
    void *bytes;               /* [layer][kind][head][token][dim]; malloc'ed, the caller's */
    uint64_t n_bytes;
};
/** session_read_next() - the next chunk; one at a time
 *  Return: 0, done() will be called; 1, there is none: everything has been read */
int session_read_next(struct session_read_stream *stream, struct session_chunk *chunk);

/** no job runs any more; accepts NULL, returns NULL. Any thread */
struct session_read_stream *session_read_close(struct session_read_stream *stream);
