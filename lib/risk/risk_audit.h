#pragma once

/*
 * The audit: what each reference would do for a stream, foretold and measured, and what was chosen
 *
 *   risk_audit.c              choosing, and saying why
 *   risk_audit_measure.c      one reference's entry from arrays
 *   risk_audit_file.c         rows to bytes and back
 *   risk_audit_calibration.c  what the monitor starts from
 *
 * A row is one stream. "Bits" are per number and relative to no reference at the same code: the
 * error falls by a factor 4^-bits. Thread: any, for all functions; nothing allocates.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/risk/risk_shape.h"

/* The codec's references, in its order, and one that is only ever forced. */
enum risk_reference {
    RISK_REFERENCE_NONE,
    RISK_REFERENCE_TEMPORAL,
    RISK_REFERENCE_DEPTH_HEAD,
    RISK_REFERENCE_DEPTH,
    RISK_REFERENCE_DELTA, /* temporal with a = 1, the textbook delta */
    RISK_N_REFERENCES,
};

/* Which fields of an entry are set. */
enum risk_audit_flag {
    RISK_AUDIT_PREDICTED = 1 << 0, /* residual_ratio … eta_u, energy … moment_high */
    RISK_AUDIT_CERTIFIED = 1 << 1, /* loop_gain … error_base, error_high */
    RISK_AUDIT_FINE = 1 << 2,      /* error_fine */
    RISK_AUDIT_COMPARED = 1 << 3,  /* measured_bits */
    RISK_AUDIT_ALL = 15,
};

/* Energies are in input units, squared. Subspaces looked at: see struct risk_audit_budget. */
struct risk_audit_entry {
    uint8_t flags;        /* of enum risk_audit_flag; 0: not measured, the rest is 0 */
    uint8_t tier;         /* enum risk_shape_tier: the weakest that ln_eta rests on */
    uint32_t n_tokens;    /* that all of it was measured on */
    float residual_ratio; /* E|d|² / E|x|², closed loop */
    float domination;     /* λ_max(S_x^-1/2 S_d S_x^-1/2) of the worst subspace; < 1: holds */
    float predicted_bits; /* from η and reverse water-filling at the base code's rate */
    float ln_eta;         /* mean over the subspaces looked at */
    float eta_u;          /* the largest uncertainty among them; INFINITY: unknown */
    float loop_gain;      /* E|A e|² / E|e|²; 0 without a loop */
    float kappa_plus;     /* 99 % upper limit of the trace's loop gain */
    float kappa_l_plus;   /* the same of the worst direction of the worst subspace */
    float margin;         /* -½ ln κ+, of the larger in time; INFINITY: no loop */
    float error_base;     /* held-out |e|² per number, base plane */
    float error_fine;     /* both planes */
    float measured_bits;  /* from error_base, against no reference */
    float energy;         /* |x|² per number */
    float moment_ratio;   /* E|d| / sqrt(E|d|²) of whole vectors: their shape */
    float moment_low;     /* the least and the largest that it was, over 64 tokens */
    float moment_high;
    float error_high; /* the largest |e|² per number, over 64 tokens */
};

enum risk_audit_reason {
    RISK_REASON_UNKNOWN,  /* nothing to choose by */
    RISK_REASON_FORCED,   /* somebody said so */
    RISK_REASON_BEST,     /* gains most of those that are certified */
    RISK_REASON_NO_GAIN,  /* no reference is worth it */
    RISK_REASON_UNSTABLE, /* one would gain, but its loop is not certified */
    RISK_REASON_COST,     /* a better one was not allowed */
    RISK_N_REASONS,
};

struct risk_audit_row {
    uint16_t layer, kind, head;
    uint8_t reference; /* enum risk_reference: the chosen one */
    uint8_t reason;    /* enum risk_audit_reason */
    struct risk_audit_entry entry[RISK_N_REFERENCES];
};

/* Where the choice is made (theory.md 6.4): error ratio < .9, κ_L+ < .98, enough tokens. */
#define RISK_AUDIT_MIN_BITS   .076
#define RISK_AUDIT_MIN_MARGIN .0101

/** risk_audit_reference_name() - "none", "temporal", "depth-head", "depth", "temporal a=1" */
const char *risk_audit_reference_name(uint32_t reference);

/** risk_audit_bits() - the gain to go by: measured, else predicted, else 0 */
double risk_audit_bits(const struct risk_audit_entry *entry);

/** risk_audit_is_certified() - measured on at least 512 tokens, with enough margin */
bool risk_audit_is_certified(const struct risk_audit_entry *entry);

/**
 * risk_audit_choose() - set measured_bits of all entries, reference and reason
 * @row:     entries are filled in by risk_audit_measure(); those not measured have flags 0
 * @allowed: bit i: reference i may be chosen; none always may
 *
 * Chosen is what gains most among those allowed that are certified and gain .076 bits.
 */
void risk_audit_choose(struct risk_audit_row *row, uint32_t allowed);

enum { RISK_AUDIT_TEXT_BYTES = 512 };

/**
 * risk_audit_reason_text() - the choice in one sentence, with its figures
 * @ret_text: "depth gains most: predicted 1.10 bits, measured 1.02; temporal a=1 would lose …"
 */
void risk_audit_reason_text(const struct risk_audit_row *row, char ret_text[RISK_AUDIT_TEXT_BYTES]);

/* --- measuring ------------------------------------------------------------------------------- */

struct risk_audit_input {
    uint32_t reference; /* enum risk_reference */
    uint32_t head_dim, dsub;
    uint32_t n_words;       /* of the base code of a subspace: 16 */
    size_t n_tokens;        /* in token order */
    uint32_t stride;        /* from one to the next in the text; 0: 1 */
    const float *x;         /* [n_tokens][head_dim]: centred and rotated, a subspace's coordinates
                               next to each other */
    const float *d;         /* the same: closed-loop residuals; NULL: x itself */
    const float *e;         /* the same: errors after the base plane; NULL: not coded yet */
    const float *e_fine;    /* after both planes; NULL: none */
    const float *loop_gain; /* [head_dim / dsub]: a² in time, ω in depth; NULL: no loop */
};

/* What the estimate of shape may look at; the rest takes all tokens and subspaces. */
struct risk_audit_budget {
    uint32_t max_subspaces; /* evenly spread; 0: η counts as 1 */
    uint32_t max_tokens;    /* evenly spread; 1000 are what kNN needs for dsub <= 4 */
};

/* One core, 64 dimensions, 1,000 to 2,000 tokens: 6 to 7 ms for each reference with dsub 2, 13 to
 * 14 with dsub 4; a third of it less with one subspace. */
#define RISK_AUDIT_BUDGET ((struct risk_audit_budget){ 2, 1000 })

/* Doubles that risk_audit_measure() needs as scratch. */
static inline size_t risk_audit_scratch(const struct risk_audit_input *input,
                                        const struct risk_audit_budget *budget)
{
    size_t n = budget->max_tokens < input->n_tokens ? budget->max_tokens : input->n_tokens;

    return 2 * (input->n_tokens + 1 + n * input->dsub) + 2 * input->n_tokens * input->dsub +
           risk_shape_compare_scratch(n, input->dsub);
}

/**
 * risk_audit_measure() - one reference's entry; measured_bits is left to risk_audit_choose()
 * @input:     dsub divides head_dim, 1 … RISK_MAX_DIM; values are finite
 * @scratch:   risk_audit_scratch(input, budget) doubles
 * @ret_entry: flags 0 when there are fewer than 8 tokens
 *
 * The base code works on vectors over their rms (the forward gain), so shapes are those of
 * x / rms(x) and d / rms(d); energies are those of x and d. The same input gives the same entry.
 */
void risk_audit_measure(const struct risk_audit_input *input,
                        const struct risk_audit_budget *budget, double *scratch,
                        struct risk_audit_entry *ret_entry);

/* --- for the monitor ------------------------------------------------------------------------- */

struct risk_calibration;

/**
 * risk_audit_calibration() - what a stream's monitor starts from
 * @reference: that the stream uses; usually row->reference
 * @factor:    the least D_tol over the held-out error; 2 puts a stationary stream at μ = .5
 *
 * D_tol is absolute, and so large that the worst that held-out tokens had is μ = .65: a stream that
 * varies by itself is no risk. For a reference it is no larger than without, which is what Red
 * falls back to, unless that is below factor times its own error.
 *
 * V is Theorem 1's, without help from correlation, with D_tol's room; it is left out in depth,
 * where the layers below would be needed. κ_L+ counts in time only. Shapes have drifted when ln S
 * has moved as far as from a Gaussian to Laplacian radii, and the moments' ratio 1.4 times as far
 * as on held-out tokens.
 *
 * Return: false when the row has no held-out error of this reference.
 */
bool risk_audit_calibration(const struct risk_audit_row *row, uint32_t reference, uint32_t head_dim,
                            double factor, struct risk_calibration *ret_calibration);

/* --- as bytes -------------------------------------------------------------------------------- */

/*
 * Little-endian, version 1:
 *
 *   header, 24 bytes   "DPQAUDIT"  u32 version  u32 row_bytes = 388  u32 n_rows  u32 0
 *   each row           u16 layer, kind, head; u8 reference, reason; five entries
 *   each entry, 76     u8 flags, tier; u16 0; u32 n_tokens; 17 × f32 in the order of struct
 *                      risk_audit_entry
 *
 * Rows ascend by (layer, kind, head). Nothing follows the last one. No value is NaN.
 */
enum { RISK_AUDIT_VERSION = 1, RISK_AUDIT_MAX_ROWS = 1 << 20 };

enum risk_audit_outcome {
    RISK_AUDIT_E_CORRUPT = 1, /* not an audit, or one that contradicts itself: do without */
    RISK_AUDIT_E_VERSION = 2, /* of another version: do without */
    RISK_AUDIT_E_SPACE = 3,   /* there are more than max_rows rows */
};

/** risk_audit_bytes() - size of a section of n_rows <= RISK_AUDIT_MAX_ROWS rows */
size_t risk_audit_bytes(size_t n_rows);

/**
 * risk_audit_write() - rows to bytes
 * @rows:      ascending by (layer, kind, head), all values in range
 * @ret_bytes: risk_audit_bytes(n_rows) of them
 */
void risk_audit_write(const struct risk_audit_row *rows, size_t n_rows, uint8_t *ret_bytes);

/**
 * risk_audit_parse() - bytes to rows; trusts none of them
 * @bytes:      n_bytes, not aligned; read twice, so they must not change meanwhile
 * @ret_rows:   [max_rows]
 * @ret_n_rows: how many were there
 *
 * What is accepted is what risk_audit_write() would write, byte for byte.
 * Return: 0; RISK_AUDIT_E_CORRUPT, RISK_AUDIT_E_VERSION, RISK_AUDIT_E_SPACE.
 */
int risk_audit_parse(const void *bytes, size_t n_bytes, size_t max_rows,
                     struct risk_audit_row *ret_rows, size_t *ret_n_rows);
