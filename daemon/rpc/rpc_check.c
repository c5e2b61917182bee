#include "daemon/rpc/rpc_check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- text ------------------------------------------------------------------------------------- */

/* The length of the character at p, 0 if it is none: no overlong forms, no surrogates. */
static size_t utf8_length(const unsigned char *p)
{
    static const struct {
        unsigned char first, last, second_first, second_last;
        size_t n;
    } forms[] = {
        { 0x01, 0x7f, 0, 0, 1 },       { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
        { 0xe1, 0xec, 0x80, 0xbf, 3 }, { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 },
        { 0xf0, 0xf0, 0x90, 0xbf, 4 }, { 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        if (p[0] < forms[i].first || p[0] > forms[i].last)
            continue;
        if (forms[i].n > 1 && (p[1] < forms[i].second_first || p[1] > forms[i].second_last))
            return 0;
        for (size_t k = 2; k < forms[i].n; k++) {
            if ((p[k] & 0xc0) != 0x80)
                return 0;
        }
        return forms[i].n;
    }
    return 0;
}

size_t rpc_check_utf8(const char *text)
{
    size_t n = 0, n_more;

    while ((n_more = utf8_length((const unsigned char *)text + n)))
        n += n_more;
    return n;
}

int rpc_check_text(const char *text, const char *field, char *ret_text, size_t size,
                   struct session_error *ret_error)
{
    size_t n = strlen(text);

    if (n >= size) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "TEXT",
                          "%s has %zu bytes: %zu are possible", field, n, size - 1);
        return 1;
    }
    if (rpc_check_utf8(text) != n) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "TEXT",
                          "%s is not UTF-8 from byte %zu on", field, rpc_check_utf8(text));
        return 1;
    }
    memcpy(ret_text, text, n + 1);
    return 0;
}

/* --- profile and prefix ----------------------------------------------------------------------- */

int rpc_check_profile_id(const ProtobufCBinaryData *bytes, uint8_t ret_profile_id[32],
                         struct session_error *ret_error)
{
    if (bytes->len != DPQ_DIGEST_BYTES) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "PROFILE",
                          "profile_id has %zu bytes: it must have %d", bytes->len,
                          DPQ_DIGEST_BYTES);
        return 1;
    }
    memcpy(ret_profile_id, bytes->data, DPQ_DIGEST_BYTES);
    return 0;
}

int rpc_check_prefix(const ProtobufCBinaryData *profile_id, Deltapq__V1__Rate rate,
                     const char *adapter, const char *salt, uint64_t position_base,
                     const uint32_t *token_ids, size_t n_token_ids,
                     struct session_prefix *ret_prefix, struct session_error *ret_error)
{
    struct session_prefix prefix = { .rate = (uint32_t)rate,
                                     .position_base = position_base,
                                     .token_ids = token_ids,
                                     .n_token_ids = n_token_ids };

    if (prefix.rate > DPQ_RATE_COMPACT) { /* an enum of proto3 may hold any number */
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "RATE",
                          "rate %d is unknown: 0 to %d are served", (int)rate, DPQ_RATE_COMPACT);
        return 1;
    }
    if (rpc_check_profile_id(profile_id, prefix.profile_id, ret_error) ||
        rpc_check_text(adapter, "adapter", prefix.adapter, sizeof(prefix.adapter), ret_error) ||
        rpc_check_text(salt, "salt", prefix.salt, sizeof(prefix.salt), ret_error))
        return 1;
    *ret_prefix = prefix;
    return 0;
}

/* --- numbers ---------------------------------------------------------------------------------- */

static int check_tensor(const Deltapq__V1__TensorDesc *tensor, struct dpq_tensor *ret_tensor,
                        struct session_error *ret_error)
{
    if (!tensor) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "TENSOR", "tensor is missing");
        return 1;
    }
    if (!dpq_dtype_bytes((uint32_t)tensor->dtype)) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "TENSOR",
                          "tensor.dtype %d is unknown: 0 to %d are served", (int)tensor->dtype,
                          DPQ_BF16);
        return 1;
    }
    *ret_tensor = (struct dpq_tensor){ .dtype = (uint32_t)tensor->dtype,
                                       .offset = tensor->offset,
                                       .stride_layer = tensor->stride_layer,
                                       .stride_kind = tensor->stride_kind,
                                       .stride_head = tensor->stride_head,
                                       .stride_token = tensor->stride_token };
    return 0;
}

int rpc_check_numbers(const Deltapq__V1__TensorDesc *tensor, uint64_t client_id,
                      const ProtobufCBinaryData *inline_data, struct session_numbers *ret_numbers,
                      struct session_error *ret_error)
{
    struct session_numbers numbers = { .client_id = client_id };

    if (check_tensor(tensor, &numbers.tensor, ret_error))
        return 1;
    if (inline_data && inline_data->len > SESSION_MAX_INLINE_BYTES) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "INLINE_SIZE",
                          "inline_data has %zu bytes: %d are possible, more goes through staging",
                          inline_data->len, SESSION_MAX_INLINE_BYTES);
        return 1;
    }
    if (inline_data && inline_data->len && client_id) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "INLINE_SIZE",
                          "inline_data has %zu bytes, but client_id says that the numbers are in "
                          "staging: give one of them",
                          inline_data->len);
        return 1;
    }
    if (inline_data && !client_id) {
        numbers.inline_bytes = inline_data->data;
        numbers.n_inline_bytes = inline_data->len;
    }
    *ret_numbers = numbers;
    return 0;
}

/* --- geometry --------------------------------------------------------------------------------- */

static int fill_frequencies(const Deltapq__V1__Geometry *geometry,
                            struct dpq_geometry *ret_geometry, struct session_error *ret_error)
{
    uint32_t n = geometry->rotary_dim / 2;
    double theta = geometry->rope_theta;

    if (geometry->rotary_dim > DPQ_MAX_HEAD_DIM || n > ARRAY_SIZE(ret_geometry->inv_freq)) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "GEOMETRY",
                          "rotary_dim %u is more than %d", geometry->rotary_dim, DPQ_MAX_HEAD_DIM);
        return 1;
    }
    if (geometry->n_inv_freq == 0 && n > 0) {
        if (!isfinite(theta) || theta <= 0) {
            session_error_set(
                ret_error, SESSION_INVALID_ARGUMENT, "GEOMETRY",
                "rotary_dim is %u, and neither inv_freq nor a rope_theta > 0 is given",
                geometry->rotary_dim);
            return 1;
        }
        for (uint32_t i = 0; i < n; i++)
            ret_geometry->inv_freq[i] = (float)pow(theta, -2.0 * i / geometry->rotary_dim);
        return 0;
    }
    if (geometry->n_inv_freq != n) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "GEOMETRY",
                          "inv_freq has %zu values: rotary_dim %u needs %u", geometry->n_inv_freq,
                          geometry->rotary_dim, n);
        return 1;
    }
    if (n > 0)
        memcpy(ret_geometry->inv_freq, geometry->inv_freq, n * sizeof(float));
    return 0;
}

int rpc_check_geometry(const Deltapq__V1__Geometry *geometry, struct dpq_geometry *ret_geometry,
                       struct session_error *ret_error)
{
    struct dpq_geometry own;

    if (!geometry) {
        session_error_set(ret_error, SESSION_INVALID_ARGUMENT, "GEOMETRY", "geometry is missing");
        return 1;
    }
    own = (struct dpq_geometry){
        .n_layers = geometry->n_layers,
        .n_kv_heads = geometry->n_kv_heads,
        .n_q_heads = geometry->n_q_heads,
        .head_dim = geometry->head_dim,
        .rope_pairing = (uint32_t)geometry->rope_pairing,
        .rotary_dim = geometry->rotary_dim,
        .attention_scaling = geometry->attention_scaling == 0 ? 1.0f : geometry->attention_scaling,
        .n_sink = geometry->n_sink,
    };
    if (fill_frequencies(geometry, &own, ret_error))
        return 1;
    *ret_geometry = own;
    return 0;
}
