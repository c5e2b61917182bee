#pragma once

/*
 * From the wire to the session's structs: lengths, ranges, what belongs together
 *
 * Each function says 0, or 1 with ret_error. What only the session can know (do the sequence, the
 * profile, the client exist? does the tensor fit?) is not judged here.
 */

#include <protobuf-c/protobuf-c.h>

#include "daemon/session.h"
#include "deltapq/v1/types.pb-c.h"
#include "lib/base/defs.h"

/** rpc_check_utf8() - how many bytes from the start of text are well-formed UTF-8 */
size_t rpc_check_utf8(const char *text);

/** rpc_check_text() - UTF-8 that fits; @field: its name, for the message */
int rpc_check_text(const char *text, const char *field, char *ret_text, size_t size,
                   struct session_error *ret_error) _must_check_;

int rpc_check_profile_id(const ProtobufCBinaryData *bytes, uint8_t ret_profile_id[32],
                         struct session_error *ret_error) _must_check_;

/** rpc_check_prefix() - what CreateSequence and Lookup have in common; token ids are borrowed */
int rpc_check_prefix(const ProtobufCBinaryData *profile_id, Deltapq__V1__Rate rate,
                     const char *adapter, const char *salt, uint64_t position_base,
                     const uint32_t *token_ids, size_t n_token_ids,
                     struct session_prefix *ret_prefix,
                     struct session_error *ret_error) _must_check_;

/**
 * rpc_check_numbers() - where the numbers of a request are
 * @inline_data: borrowed; NULL when they are to be written
 */
int rpc_check_numbers(const Deltapq__V1__TensorDesc *tensor, uint64_t client_id,
                      const ProtobufCBinaryData *inline_data, struct session_numbers *ret_numbers,
                      struct session_error *ret_error) _must_check_;

/** rpc_check_geometry() - frequencies from rope_theta where none are given */
int rpc_check_geometry(const Deltapq__V1__Geometry *geometry, struct dpq_geometry *ret_geometry,
                       struct session_error *ret_error) _must_check_;
