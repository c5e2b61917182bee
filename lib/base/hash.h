#pragma once

/* The door to OpenSSL (SHA-256, HMAC, random) and libxxhash. */

#include "lib/base/defs.h"

int hash_sha256(const void *bytes, size_t n_bytes, uint8_t ret_digest[32]) _must_check_;

/* HMAC-SHA256; used for tile keys: see session.c for what is hashed. */
struct hash_mac;
int hash_mac_new(const uint8_t secret[32], struct hash_mac **ret_mac) _must_check_;
struct hash_mac *hash_mac_free(struct hash_mac *mac);
DEFINE_CLEANUP(struct hash_mac *, hash_mac_free);
/* begin, add fields (each is preceded by its tag and length), end; then it can begin again */
int hash_mac_begin(struct hash_mac *mac) _must_check_;
int hash_mac_field(struct hash_mac *mac, uint32_t tag, const void *bytes,
                   uint64_t n_bytes) _must_check_;
int hash_mac_end(struct hash_mac *mac, uint8_t ret_key[32]) _must_check_;

/* Random bytes for tickets and secrets. */
int hash_random(void *bytes, size_t n_bytes) _must_check_;

uint64_t hash_xxh3(const void *bytes, size_t n_bytes);

/* XXH3-64 of bytes that come piece by piece; hash_stream_value() may be asked at any time. */
struct hash_stream;
int hash_stream_new(struct hash_stream **ret_stream) _must_check_;
struct hash_stream *hash_stream_free(struct hash_stream *stream);
void hash_stream_add(struct hash_stream *stream, const void *bytes, size_t n_bytes);
uint64_t hash_stream_value(const struct hash_stream *stream);
