#pragma once

/*
 * Encoding one stream of a tile
 *
 *   rows -> fp32, K un-rotated -> minus mean, minus prediction -> y = E x -> gains -> integers
 *        -> nearest parent, nearest child of it -> panels -> what the decoder will make of them
 *        -> the hard bound
 *
 *   encode_layer.c     the streams of a layer, in coding order; again with both planes if need be
 *   encode_unit.c      one of them; gains and panels where tokens do not depend on each other
 *   encode_temporal.c  gains and panels where each token is predicted from the one before
 *   encode_bound.c     which tokens have to be stored raw, and as what
 *   encode_energy.c    what the loop showed, for whoever watches the stream
 */

#include "lib/codec/loop.h"
#include "lib/codec/tile_watch.h"

enum { N_RAW_TYPES = 3 };

/* Of one stream: where its vectors are, and what the tile allows. */
struct encode_input {
    const uint8_t *rows; /* vector of token t at rows + t * row_bytes */
    size_t row_bytes;
    uint32_t dtype;
    uint32_t n_sink;     /* the first tokens of the tile are sinks: stored raw, all bits kept */
    uint32_t group_log2; /* temporal: tokens from one key frame to the next */
    bool is_reference;   /* later streams are predicted from this one */
    struct tile_verdict verdict;
    bool is_measured; /* energies are wanted */
};

struct encode_unit {
    struct loop_unit loop; /* in: layer … reference; out: the rest */
    uint8_t *base_panel;   /* n_subspaces lines */
    uint8_t *fine_panel;   /* likewise; NULL: no fine plane */
    uint8_t gain_code[KERN_TOKENS];
    uint64_t raw[N_RAW_TYPES][2]; /* by enum raw_type: bit t % 64 of word t / 64, token t */
    uint32_t droppable;           /* bit i: fine codes of tokens 8 i … 8 i + 7 may be dropped */
    float error[N_PLANES][KERN_TOKENS]; /* |e|^2 of y; [PLANE_FINE] only with a fine plane */
    bool is_better;                     /* in: a strict stream may do without predictions, too */
    float coded[KERN_TOKENS];           /* |y|^2; not of a temporal one, which has it in own */
    /* |x|^2 less the mean, and less the prediction, too; set where there is one. Temporal: of y. */
    float own[KERN_TOKENS], rest[KERN_TOKENS];
};

/**
 * encode_sink_run() - how many tokens of a sequence's first tile are sinks, in one layer
 * @values:  V of head 0 and token 0; of token t at values + t * row_bytes, heads side by side
 *
 * The first n_sink, and those right after them that are copies of the first one: a run of equal
 * tokens at the start (padding, an indent) shares the attention of a sink, and each copy has its
 * outlying vectors. Their values are within 1/4 of the first token's length, in every head.
 */
uint32_t encode_sink_run(const struct dpq_codec *codec, const uint8_t *values, size_t row_bytes,
                         uint32_t dtype);

/**
 * encode_unit() - fill panels and all that unit says
 *
 * Leaves in codec: y, the coordinates that were coded; y_base and y_fine, what the planes make of
 * them (temporal: of the vector, not of the difference); p, a depth prediction. With is_reference
 * its reconstruction is kept in codec, as the decoder will.
 */
void encode_unit(struct dpq_codec *codec, const struct encode_input *in, struct encode_unit *unit);

/* One layer of a tile, and what its owner does with each stream. */
struct encode_layer {
    uint32_t layer, rate, dtype;
    const uint8_t *rows; /* of this layer: [kind][head][dim] of token 0; token t: + t * row_bytes */
    size_t row_bytes;
    bool starts_sequence;           /* the tile's first tokens may be sinks */
    const struct tile_watch *watch; /* may be NULL */
    void *user;
    /* say where unit's panels go: base_panel, and fine_panel if has_fine; a second time, with
     * has_fine, if the watcher wants that */
    void (*place)(void *user, bool has_fine, struct encode_unit *unit);
    /* the unit has been encoded */
    void (*take)(void *user, const struct encode_input *in, const struct encode_unit *unit);
};

/** encode_layer() - K, then V, head by head; those of the layer below first, if there is depth */
void encode_layer(struct dpq_codec *codec, const struct encode_layer *layer);

/**
 * encode_verdict() - of stream number i; @watch: may be NULL
 *
 * Raw rows that may be a fine plane are one, unless the rate has that anyway.
 */
static inline struct tile_verdict encode_verdict(const struct tile_watch *watch,
                                                 const struct profile_stream *stream, uint32_t i,
                                                 uint32_t rate)
{
    struct tile_verdict v = { 0 };

    if (watch && watch->verdicts)
        v = watch->verdicts[i];
    if (v.mode != TILE_VERDICT_RAW || !v.keeps_fine)
        return v;
    v.keeps_fine = !(stream->fine_rates >> rate & 1);
    if (v.keeps_fine)
        v.mode = TILE_VERDICT_INTRA;
    return v;
}

/** encode_keeps_fine() - does a stream have a fine plane at this rate, under that verdict? */
static inline bool encode_keeps_fine(const struct profile_stream *stream, uint32_t rate,
                                     struct tile_verdict verdict)
{
    return verdict.keeps_fine || stream->fine_rates >> rate & 1;
}

/** encode_is_full() - do later streams see both of its planes? */
static inline bool encode_is_full(const struct encode_unit *u)
{
    return u->loop.stream->full && u->fine_panel;
}

/**
 * encode_centred() - the same from vectors less their mean in codec->x, and for a depth reference
 *                    their predictions in codec->p; without sinks, bound and base reconstruction
 * Calibration codes its samples with it: what it learns from is what the codec makes.
 */
void encode_centred(struct dpq_codec *codec, uint32_t group_log2, struct encode_unit *unit);

/** encode_temporal() - frames, gains and panels in closed loop; y, y_base, y_fine as above */
void encode_temporal(struct dpq_codec *codec, uint32_t group_log2, struct encode_unit *unit);

/**
 * encode_bound() - note which tokens have to be raw, and which fine codes have to stay
 *
 * A token whose delivered error (with all planes that the tile has) exceeds the profile's bound is
 * stored in the cheapest type that meets it, as measured; where only the base plane's exceeds its
 * own bound, a few tokens are stored so, too, and of many the groups' fine codes may not be
 * dropped. Under TILE_VERDICT_RAW every token is raw.
 */
void encode_bound(struct dpq_codec *codec, const struct encode_input *in, struct encode_unit *unit);

/** encode_energy() - after encode_unit() with is_measured, while codec has what it left */
void encode_energy(const struct dpq_codec *codec, const struct encode_input *in,
                   const struct encode_unit *unit, struct tile_energies *ret_energies);

/** encode_square_sum() - |a|^2 of n numbers, or |a - b|^2; n a multiple of 8; b may be NULL */
float encode_square_sum(const float *a, const float *b, size_t n);

/**
 * encode_raw_row() - one vector as a raw row
 * @ret_row:   raw_row_bytes()
 * @ret_value: [head_dim]: what a decoder reads from it; may be NULL
 */
void encode_raw_row(const struct kern *k, const void *vector, uint32_t dtype, uint32_t d,
                    enum raw_type type, uint8_t *ret_row, float *ret_value);

static inline void encode_set_token(uint64_t tokens[2], uint32_t t)
{
    tokens[t / 64] |= (uint64_t)1 << t % 64;
}

/** encode_note_gain() - a token's, by its code as kernels give it. What is too large for a gain is
 * raw, and counts as zero */
static inline void encode_note_gain(const struct dpq_codec *codec, struct encode_unit *unit,
                                    uint32_t t, int32_t code)
{
    if (code >= GAIN_CODES)
        encode_set_token(unit->raw[RAW_INPUT], t);
    unit->gain_code[t] = code >= GAIN_CODES ? 0 : (uint8_t)code;
    unit->loop.gain[t] = codec->gain[unit->gain_code[t]];
}

static inline bool encode_has_token(const uint64_t tokens[2], uint32_t t)
{
    return tokens[t / 64] >> t % 64 & 1;
}

static inline bool encode_is_raw(const struct encode_unit *u, uint32_t t)
{
    return encode_has_token(u->raw[RAW_INPUT], t) || encode_has_token(u->raw[RAW_F16], t) ||
           encode_has_token(u->raw[RAW_INT8], t);
}
