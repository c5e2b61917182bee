#pragma once

/*
 * libdeltapq: the Delta-PQ codec, and read-only access to a daemon's shared memory
 *
 * Words (README.md has more): a *stream* is one (layer, kind, KV head); a *tile* is 128 tokens of
 * all streams of a sequence, stored as a base object and, optionally, a fine object; a *profile* is
 * everything that calibration learned about one model, immutable, named by the SHA-256 of its
 * bytes.
 *
 * What an int says: 0 done; > 0 an outcome of enum dpq_outcome that the function's comment lists;
 * < 0 a fault (-errno), e.g. -ENOMEM. Outputs begin with ret_ and are untouched unless 0 is
 * returned. The library neither logs, nor reads clocks, nor keeps state of its own.
 *
 * The part between the two "cffi" lines is plain C without macros: the Python client reads it as
 * it stands.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* cffi: begin */

enum dpq_outcome {
    DPQ_OK = 0,
    DPQ_E_INVALID = 1,      /* an argument or option is out of range: the message says which */
    DPQ_E_CORRUPT = 2,      /* bytes are not what they claim to be: checksum, bounds, values */
    DPQ_E_VERSION = 3,      /* a format version that this library does not read */
    DPQ_E_NOT_FINITE = 4,   /* NaN or Inf in the input */
    DPQ_E_OUT_OF_SPACE = 5, /* the buffer given is too small */
    DPQ_E_MISMATCH = 6,     /* tile and profile, or profile and geometry, do not belong together */
    DPQ_E_GONE = 7,         /* the slot now holds something else, or nothing */
    DPQ_E_CANCELLED = 8,    /* the progress callback asked to stop */
    DPQ_E_CUT = 9,          /* the bytes end before what they announce does */
};

enum dpq_dtype {
    DPQ_F32 = 0,
    DPQ_F16 = 1,
    DPQ_BF16 = 2,
};

enum dpq_kind {
    DPQ_K = 0,
    DPQ_V = 1,
};

enum dpq_rope_pairing {
    DPQ_ROPE_NONE = 0,        /* keys carry no rotary embedding, or are coded as they come */
    DPQ_ROPE_HALF = 1,        /* coordinate i turns with i + rotary_dim/2 (NeoX, Llama in HF) */
    DPQ_ROPE_INTERLEAVED = 2, /* coordinate 2i turns with 2i + 1 (GPT-J) */
};

/* Which planes of a tile are kept, per kind: see enum dpq_rate. */
enum dpq_rate {
    DPQ_RATE_QUALITY = 0,  /* K and V base + fine: 4 bits a number and overhead */
    DPQ_RATE_BALANCED = 1, /* K base + fine, V base: 3 bits */
    DPQ_RATE_COMPACT = 2,  /* base only: 2 bits */
};

/* A tile's length and other constants of the format. */
enum {
    DPQ_TILE_TOKENS = 128,
    DPQ_MAX_LAYERS = 1024,
    DPQ_MAX_KV_HEADS = 256,
    DPQ_MAX_HEAD_DIM = 256,
    DPQ_MAX_STREAMS = 65536,
    DPQ_DIGEST_BYTES = 32,
    DPQ_MESSAGE_BYTES = 240,
};

/* What one model's cache looks like. head_dim is one of 32, 64, 80, 96, 128, 256. */
struct dpq_geometry {
    uint32_t n_layers;   /* 1 … 1024 */
    uint32_t n_kv_heads; /* 1 … 256 */
    uint32_t n_q_heads;  /* a multiple of n_kv_heads; information only (GQA) */
    uint32_t head_dim;
    uint32_t rope_pairing;   /* enum dpq_rope_pairing */
    uint32_t rotary_dim;     /* even, 0 … head_dim: the leading coordinates that are rotated */
    float attention_scaling; /* multiplies cos and sin (YaRN); 1 otherwise; finite, > 0 */
    uint32_t n_sink;         /* leading tokens of a sequence that stay raw: 0 … 128, usually 4 */
    float inv_freq[128];     /* rotary_dim/2 values, radians a token; the rest is 0 */
};

/*
 * Where the numbers of n tokens lie: element (layer, kind, head, token, i) at
 * base + layer*stride_layer + kind*stride_kind + head*stride_head + token*stride_token
 * + i*sizeof(dtype). Strides are bytes, may be negative or 0, multiples of the element size.
 */
struct dpq_tensor {
    uint32_t dtype;  /* enum dpq_dtype */
    uint64_t offset; /* of element (0, 0, 0, 0, 0), from the start of the memory it is in */
    int64_t stride_layer;
    int64_t stride_kind;
    int64_t stride_head;
    int64_t stride_token;
};

/* A range of layers and tokens. In a tile, tokens count from the tile's first. */
struct dpq_range {
    uint32_t first_layer;
    uint32_t n_layers;
    uint32_t first_token;
    uint32_t n_tokens;
};

/* Where and what: filled when a function returns an outcome that can be located. */
struct dpq_fault {
    int32_t layer, kind, head; /* -1 where it does not apply */
    int64_t token;             /* counted from the first token of the call; -1 likewise */
    char message[240];         /* one English sentence without a full stop, no pointers or paths */
};

struct dpq_profile;
struct dpq_codec;
struct dpq_layer_loop;
struct dpq_trainer;
struct dpq_reader;

/** dpq_version() - the library's version, "0.1.0" */
const char *dpq_version(void);

/** dpq_outcome_name() - "CORRUPT" for DPQ_E_CORRUPT; "FAULT" for r < 0, "UNKNOWN" otherwise */
const char *dpq_outcome_name(int r);

/** dpq_dtype_bytes() - 4, 2, 2; 0 for anything else */
size_t dpq_dtype_bytes(uint32_t dtype);

/**
 * dpq_geometry_check() - is this a geometry that the codec can serve?
 * Return: 0, or DPQ_E_INVALID with the field named in ret_fault (may be NULL).
 */
int dpq_geometry_check(const struct dpq_geometry *geometry, struct dpq_fault *ret_fault);

/**
 * dpq_tensor_check() - does every element of a tensor lie inside n_bytes of memory?
 * @n_layers, @n_tokens: how much of it will be touched; kinds are 2, heads and dims the geometry's
 *
 * This is the only place where offsets and strides from outside are judged; it is exact and
 * overflow-safe, and an empty range is fine.
 * Return: 0, or DPQ_E_INVALID with the reason in ret_fault (may be NULL).
 */
int dpq_tensor_check(const struct dpq_tensor *tensor, const struct dpq_geometry *geometry,
                     uint32_t n_layers, uint32_t n_tokens, uint64_t n_bytes,
                     struct dpq_fault *ret_fault);

/** dpq_row_bytes() - one token of all streams in canonical order [layer][kind][head][dim] */
size_t dpq_row_bytes(const struct dpq_geometry *geometry, uint32_t dtype);

/* --- profiles ------------------------------------------------------------------------------- */

/**
 * dpq_profile_open() - judge a profile file and make it usable
 * @bytes:       borrowed until dpq_profile_free(): a mapping, or memory; must not change meanwhile
 * @ret_profile: owned by the caller; read-only afterwards, hence shareable between threads
 *
 * Distrusts every byte: magic, version, CRC32C, bounds, finite values.
 * Return: 0; DPQ_E_CORRUPT, DPQ_E_VERSION with the reason in ret_fault (may be NULL); -ENOMEM.
 */
int dpq_profile_open(const void *bytes, size_t n_bytes, struct dpq_profile **ret_profile,
                     struct dpq_fault *ret_fault);

/** dpq_profile_free() - free the object, not the bytes; accepts NULL, returns NULL */
struct dpq_profile *dpq_profile_free(struct dpq_profile *profile);

/** dpq_profile_geometry() - lives as long as the profile */
const struct dpq_geometry *dpq_profile_geometry(const struct dpq_profile *profile);

/** dpq_profile_digest() - SHA-256 of the file, 32 bytes; lives as long as the profile */
const uint8_t *dpq_profile_digest(const struct dpq_profile *profile);

/** dpq_profile_name() - the model's name, UTF-8, at most 127 bytes; lives as long as the profile */
const char *dpq_profile_name(const struct dpq_profile *profile);

/** dpq_profile_info() - a JSON object about the profile, NUL-terminated; lives as long as it
 *  (model name, geometry, seed, tokens seen, held-out error per kind and plane) */
const char *dpq_profile_info(const struct dpq_profile *profile);

/** dpq_profile_audit() - the audit's section, opaque here; NULL and 0 without one */
const void *dpq_profile_audit(const struct dpq_profile *profile, size_t *ret_n_bytes);

/* --- calibration ---------------------------------------------------------------------------- */

/* What vectors are predicted from before their residuals are coded. */
enum dpq_reference {
    DPQ_REFERENCE_AUTO = 0,       /* for each stream what pays, measured in closed loop */
    DPQ_REFERENCE_NONE = 1,       /* nothing */
    DPQ_REFERENCE_TEMPORAL = 2,   /* the token before, leaky */
    DPQ_REFERENCE_DEPTH_HEAD = 3, /* same token, the layer below, the same head's K and V */
    DPQ_REFERENCE_DEPTH = 4,      /* same token, the layer below, all heads */
};

/* Zero is a default everywhere but in model_name, max_bytes and n_threads. */
struct dpq_train_options {
    char model_name[128];  /* NUL-terminated UTF-8 */
    uint64_t seed;         /* same samples, options and seed: same profile bytes */
    uint64_t max_bytes;    /* of samples kept; dpq_trainer_add() refuses beyond */
    uint32_t n_iterations; /* of k-means, 1 … 100; 0: 12 */
    uint32_t n_threads;    /* 1 … 64; does not change the result */
    uint32_t reference;    /* enum dpq_reference, of all streams that can have it */
    uint32_t dsub[2];      /* of K and V: 2 or 4 coordinates a code; 0: 2 */
    uint32_t group_tokens; /* temporal: 8, 16, 32, 64, 128 from key to key; 0: 32 */
    float leak;            /* temporal: of all subspaces, 0 … 1, and every token predicted, paying
                              or not; 0: least squares, at most .98, where it pays */
    float metric_lambda;   /* share of the identity in dpq_trainer_metric()'s; 0: .1; < 0: the
                              metric only says what an error costs */
    float balanced_bits;   /* of a code, mean over streams, at DPQ_RATE_BALANCED, spent where a
                              bit buys most (needs a metric); 0: K 4, V 2 */
    float bound;           /* no token's squared error beyond this many times the held-out mean:
                              it is stored raw instead; 0: 8; < 0: no bound */
    float max_decode_mflop; /* auto: of a token's depth predictions; 0: no limit */
    bool full_references;   /* predictions in depth see both planes: better, but a tile's fine plane
                               can't be dropped, nor be added later */
    int32_t spill_fd;       /* > 0: a file, open for reading and writing, that holds the samples
                               instead of memory; borrowed for the trainer's life */
};

/** typedef of the progress callback: done of total steps; return true to stop. Any thread. */
typedef bool (*dpq_progress_fn)(void *user, uint64_t done, uint64_t total);

/** dpq_trainer_new() - 0, DPQ_E_INVALID (ret_fault says what), -ENOMEM */
int dpq_trainer_new(const struct dpq_geometry *geometry, const struct dpq_train_options *options,
                    struct dpq_trainer **ret_trainer, struct dpq_fault *ret_fault);
struct dpq_trainer *dpq_trainer_free(struct dpq_trainer *trainer);

/**
 * dpq_trainer_add() - copy the KV of n consecutive tokens
 * @memory, @n_bytes: what tensor's offsets refer to; read during the call only
 * @first_position:   RoPE position of the first token
 *
 * Return: 0; DPQ_E_INVALID (tensor), DPQ_E_NOT_FINITE (located), DPQ_E_OUT_OF_SPACE (max_bytes);
 *         -ENOMEM. After an outcome the trainer holds what it held before.
 */
int dpq_trainer_add(struct dpq_trainer *trainer, const struct dpq_tensor *tensor,
                    const void *memory, uint64_t n_bytes, uint64_t first_position,
                    uint32_t n_tokens, struct dpq_fault *ret_fault);

/**
 * dpq_trainer_metric() - what an error of a stream costs: e^T M e
 * @metric: [head_dim][head_dim], symmetric, positive; of keys before RoPE. For instance E[g g^T], g
 *          the gradient of the model's loss with respect to the vector, on calibration text.
 *
 * Once a metric is given for one stream, streams without one count as costing nothing.
 * Return: 0; DPQ_E_INVALID (no such stream), DPQ_E_NOT_FINITE; -ENOMEM.
 */
int dpq_trainer_metric(struct dpq_trainer *trainer, uint32_t layer, uint32_t kind, uint32_t head,
                       const float *metric, struct dpq_fault *ret_fault);

/* What one stream gets, whatever the options say. Zero: what they say. */
struct dpq_stream_options {
    uint32_t reference; /* enum dpq_reference; a stream with nothing below has no depth */
    uint32_t dsub;      /* 2 or 4 coordinates a code */
    uint32_t planes;    /* at every rate: 1 the base plane, 2 both */
};

/**
 * dpq_trainer_stream() - options of one stream; the last ones given count
 *
 * Return: 0; DPQ_E_INVALID (no such stream, or it cannot have that); -ENOMEM.
 */
int dpq_trainer_stream(struct dpq_trainer *trainer, uint32_t layer, uint32_t kind, uint32_t head,
                       const struct dpq_stream_options *options, struct dpq_fault *ret_fault);

/*
 * What an audit sees of a stream and a candidate for its reference: held-out tokens, coded in
 * closed loop with the candidate's own rotation and cheap codebooks. Arrays are
 * [n_tokens][head_dim] in coded coordinates: a subspace is dsub consecutive ones.
 */
struct dpq_candidate_view {
    uint32_t layer, kind, head;
    uint32_t candidate; /* 0 none, 1 temporal, 2 depth-head, 3 depth, 4 temporal with a = 1 */
    uint32_t head_dim, dsub;
    uint64_t n_tokens;      /* in their order in the text, tile by tile */
    const float *x;         /* the vectors, less their mean */
    const float *d;         /* what was coded instead: residuals of the closed loop */
    const float *e;         /* errors of the base plane */
    const float *loop_gain; /* [head_dim / dsub]: which share of an error's energy comes back: a^2
                               in time, omega in depth; NULL without a reference */
};

/* What a stream got in the end. */
struct dpq_choice {
    uint32_t layer, kind, head;
    uint32_t candidate;            /* as above, 0 … 3 */
    bool forced;                   /* by the options */
    double error_base, error_fine; /* held-out squared error a number, final codebooks */
};

struct dpq_audit_hooks {
    void *user;
    /* Once for each stream and candidate that is possible; several threads at once. */
    void (*measure)(void *user, const struct dpq_candidate_view *view);
    /* Once, at the end: a section for the profile, malloc'ed, or none. 0, or what ends the run. */
    int (*finish)(void *user, const struct dpq_choice *choices, uint32_t n_choices,
                  uint8_t **ret_bytes, size_t *ret_n_bytes);
};

/** dpq_trainer_audit() - have candidates measured, whatever the reference asked for; copied */
void dpq_trainer_audit(struct dpq_trainer *trainer, const struct dpq_audit_hooks *hooks);

/** dpq_trainer_tokens() - how many tokens have been added */
uint64_t dpq_trainer_tokens(const struct dpq_trainer *trainer);

/**
 * dpq_trainer_run() - learn means, rotations, predictors and tree codebooks; write a profile file
 * @progress:  may be NULL
 * @ret_bytes: malloc'ed, the caller frees it with dpq_free()
 *
 * Return: 0; DPQ_E_INVALID when there are too few tokens (< 1,024); DPQ_E_CANCELLED; -ENOMEM.
 */
int dpq_trainer_run(struct dpq_trainer *trainer, dpq_progress_fn progress, void *user,
                    uint8_t **ret_bytes, size_t *ret_n_bytes, struct dpq_fault *ret_fault);

/** dpq_free() - free what the library malloc'ed for its caller; returns NULL */
void *dpq_free(void *p);

/* --- coding --------------------------------------------------------------------------------- */

/**
 * dpq_codec_new() - scratch memory and kernels for one thread
 * @profile:  borrowed for the codec's life
 * @cpu_mask: which instruction sets may be used; ~0u for all that the CPU has, 0 for portable C.
 *            The environment is not consulted. Codes, and hence stored bytes, are the same for all.
 * Return: 0, -ENOMEM.
 */
int dpq_codec_new(const struct dpq_profile *profile, uint32_t cpu_mask,
                  struct dpq_codec **ret_codec);
struct dpq_codec *dpq_codec_free(struct dpq_codec *codec);

/**
 * dpq_rows_gather() - copy n tokens into canonical rows [token][layer][kind][head][dim]
 * @rows:   n_tokens × dpq_row_bytes(geometry, tensor->dtype); same dtype, bit for bit
 *
 * The tensor must have passed dpq_tensor_check(). Each input byte is read once, and the copy is
 * what is judged: the source may be changing under our feet.
 * Return: 0; DPQ_E_NOT_FINITE, located (rows are then unspecified).
 */
int dpq_rows_gather(const struct dpq_geometry *geometry, const struct dpq_tensor *tensor,
                    const void *memory, uint32_t n_tokens, void *rows, struct dpq_fault *ret_fault);

/**
 * dpq_rows_scatter() - write canonical rows to a tensor, converting the dtype where they differ
 * @rows, @dtype: canonical rows of range->first_token + range->n_tokens tokens at least
 * @range:        layers and tokens to write; (first_layer, first_token) goes to element (0, …, 0)
 * Values too large for the destination's dtype become Inf, as IEEE rounding says.
 */
void dpq_rows_scatter(const struct dpq_geometry *geometry, const void *rows, uint32_t dtype,
                      const struct dpq_range *range, const struct dpq_tensor *tensor, void *memory);

/**
 * dpq_tile_encode() - encode 128 tokens
 * @rows:           128 canonical rows (dpq_rows_gather()), finite
 * @first_position: RoPE position of the tile's first token
 * @first_index:    index of that token in its sequence, a multiple of 128 (sinks: index < n_sink)
 * @rate:           enum dpq_rate
 * @ret_base:       malloc'ed base object, freed with dpq_free()
 * @ret_fine:       the same for the fine object; NULL when the rate keeps no fine plane
 *
 * A pure function: same rows, profile and arguments, same bytes, on every instruction set.
 * Thread: any, one call per codec at a time.
 * Return: 0; DPQ_E_INVALID (rate, dtype, index); -ENOMEM.
 */
int dpq_tile_encode(struct dpq_codec *codec, const void *rows, uint32_t dtype,
                    uint64_t first_position, uint64_t first_index, uint32_t rate,
                    uint8_t **ret_base, size_t *ret_n_base, uint8_t **ret_fine, size_t *ret_n_fine);
/** dpq_tile_fine() - of a base object: was a fine plane made, and is every token within the hard
 * bound without it? Return: 0; DPQ_E_CORRUPT */
int dpq_tile_fine(const void *base, size_t n_base, bool *ret_made, bool *ret_droppable);

/**
 * dpq_tile_decode() - reconstruct a range of a tile
 * @base, @fine: the objects as stored; fine may be NULL (base-only decode, or none was kept);
 *               they may lie in shared memory that changes: nothing but wrong numbers can follow
 * @range:       layers and tokens of the tile; element (first_layer, …, first_token) goes to
 *               element (0, …, 0) of tensor
 * @tensor:      must have passed dpq_tensor_check(); any dtype
 *
 * Distrusts every byte of base and fine. A range, the whole tile and any number of threads give
 * the same numbers bit for bit. Thread: any, one call per codec at a time.
 * Return: 0; DPQ_E_CORRUPT, DPQ_E_VERSION, DPQ_E_MISMATCH, DPQ_E_INVALID, reason in ret_fault.
 */
int dpq_tile_decode(struct dpq_codec *codec, const void *base, size_t n_base, const void *fine,
                    size_t n_fine, const struct dpq_range *range, const struct dpq_tensor *tensor,
                    void *memory, struct dpq_fault *ret_fault);

/**
 * dpq_layer_loop_new() - code 128 tokens layer by layer, while a model computes them
 * @codec: which profile; the loop may go on with any codec of the same profile
 * @first_position, @first_index, @rate: as of dpq_tile_encode()
 *
 * For judging a codec: attention can see a layer's coded keys and values before the layers above
 * have any. Return: 0; DPQ_E_INVALID (rate, index); -ENOMEM.
 */
int dpq_layer_loop_new(const struct dpq_codec *codec, uint64_t first_position, uint64_t first_index,
                       uint32_t rate, struct dpq_layer_loop **ret_loop);
struct dpq_layer_loop *dpq_layer_loop_free(struct dpq_layer_loop *loop);

/**
 * dpq_layer_loop_next() - the next layer, from 0 on: what a reader of the tile would get
 * @from, @to: 128 tokens of one layer, at element (0, kind, head, token); both must have passed
 *             dpq_tensor_check() for one layer
 * The numbers are those of dpq_tile_encode() and dpq_tile_decode(), bit for bit.
 * Return: 0; DPQ_E_NOT_FINITE, located; DPQ_E_INVALID after the last layer; -ENOMEM.
 */
int dpq_layer_loop_next(struct dpq_layer_loop *loop, struct dpq_codec *codec,
                        const struct dpq_tensor *from, const void *from_memory,
                        const struct dpq_tensor *to, void *to_memory, struct dpq_fault *ret_fault);

/* --- the arena, read by another process ----------------------------------------------------- */

/* A slot as a daemon names it in a Lookup reply: valid while its generation stands. */
struct dpq_slot_ref {
    uint64_t slot; /* index in the arena's slot table */
    uint64_t generation;
};

/* What a slot holds. */
struct dpq_slot_view {
    uint32_t kind;        /* enum dpq_slot_kind */
    uint32_t dtype;       /* of a tail's rows; enum dpq_dtype */
    uint64_t first_index; /* of the first token in its sequence */
    uint32_t n_tokens;    /* 128 for tiles */
    const void *bytes;    /* in the mapping: stable as long as the generation is */
    uint64_t n_bytes;
    uint64_t first_position;
};

enum dpq_slot_kind {
    DPQ_SLOT_BASE = 1, /* base object of a tile */
    DPQ_SLOT_FINE = 2, /* fine object of a tile */
    DPQ_SLOT_TAIL = 3, /* canonical raw rows, K as given */
};

/**
 * dpq_reader_new() - map an arena read-only
 * @fd:         the memfd received on the side socket; borrowed during the call
 * @ret_reader: thread-safe; unmapped by dpq_reader_free()
 * Return: 0; DPQ_E_CORRUPT, DPQ_E_VERSION; a fault from fstat() or mmap().
 */
int dpq_reader_new(int fd, struct dpq_reader **ret_reader, struct dpq_fault *ret_fault);
struct dpq_reader *dpq_reader_free(struct dpq_reader *reader);

/**
 * dpq_reader_slot() - look at a slot, without a system call
 * @verify: check the stored bytes against their XXH3-64 as well
 * Return: 0; DPQ_E_GONE when the generation is another; DPQ_E_CORRUPT.
 */
int dpq_reader_slot(const struct dpq_reader *reader, const struct dpq_slot_ref *ref, bool verify,
                    struct dpq_slot_view *ret_view);

/**
 * dpq_reader_check() - after use: was the slot the same all the time?
 * Return: 0, or DPQ_E_GONE: throw away what was read from it.
 */
int dpq_reader_check(const struct dpq_reader *reader, const struct dpq_slot_ref *ref);

/* --- export files: FORMAT.md has the bytes, and the kinds ------------------------------------- */

struct dpq_export_record {    /* what a kind does not have is 0 */
    uint32_t kind, crc32c;    /* as stored */
    uint64_t offset, n_bytes; /* of the record in the file: header, payload and zeroes */
    const void *payload;      /* in the file's bytes */
    uint64_t n_payload;
    uint64_t first_index; /* of a tile's or tail's first token in its sequence */
    uint64_t n_tokens;    /* of a sequence, a tile, a tail */
};

struct dpq_export;

/** dpq_export_new() - @bytes: a file, or as much of it as there is; borrowed. Return: 0, -ENOMEM */
int dpq_export_new(const void *bytes, size_t n_bytes, struct dpq_export **ret_export);
struct dpq_export *dpq_export_free(struct dpq_export *export_file);

/**
 * dpq_export_next() - the next record, judged: order, lengths, checksum; not what is in a tile
 * Return: 0; DPQ_E_CUT, the file ends within it; DPQ_E_CORRUPT, DPQ_E_VERSION.
 */
int dpq_export_next(struct dpq_export *export_file, struct dpq_export_record *ret_record,
                    struct dpq_fault *ret_fault);

/** dpq_crc32c() - of n_bytes behind those that gave crc; 0 to begin with */
uint32_t dpq_crc32c(uint32_t crc, const void *bytes, size_t n_bytes);

/** dpq_map_profile() - map a sealed profile memfd read-only; unmap with dpq_unmap() */
int dpq_map_profile(int fd, const void **ret_bytes, size_t *ret_n_bytes);

/** dpq_map_staging() - map a staging memfd for reading and writing; unmap with dpq_unmap() */
int dpq_map_staging(int fd, void **ret_bytes, size_t *ret_n_bytes);
void dpq_unmap(const void *bytes, size_t n_bytes);

/* cffi: end */

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
