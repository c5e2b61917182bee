#include "lib/base/hash.h"

#include <errno.h>
#include <stdlib.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <xxhash.h>

#include "lib/base/error.h"

int hash_sha256(const void *bytes, size_t n_bytes, uint8_t ret_digest[32])
{
    if (!EVP_Digest(bytes, n_bytes, ret_digest, NULL, EVP_sha256(), NULL))
        return error_origin(-ENOMEM);
    return 0;
}

struct hash_mac {
    EVP_MAC *mac;
    EVP_MAC_CTX *context;
    uint8_t secret[32];
};

int hash_mac_new(const uint8_t secret[32], struct hash_mac **ret_mac)
{
    _cleanup_(hash_mac_freep) struct hash_mac *m = calloc(1, sizeof(*m));

    if (!m)
        return error_origin(-ENOMEM);
    for (size_t i = 0; i < sizeof(m->secret); i++)
        m->secret[i] = secret[i];
    m->mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    m->context = m->mac ? EVP_MAC_CTX_new(m->mac) : NULL;
    if (!m->context)
        return error_origin(-ENOMEM);
    *ret_mac = steal_ptr(m);
    return 0;
}

struct hash_mac *hash_mac_free(struct hash_mac *mac)
{
    if (!mac)
        return NULL;
    EVP_MAC_CTX_free(mac->context);
    EVP_MAC_free(mac->mac);
    free(mac);
    return NULL;
}

int hash_mac_begin(struct hash_mac *mac)
{
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };

    if (!EVP_MAC_init(mac->context, mac->secret, sizeof(mac->secret), params))
        return error_origin(-ENOMEM);
    return 0;
}

int hash_mac_field(struct hash_mac *mac, uint32_t tag, const void *bytes, uint64_t n_bytes)
{
    uint8_t head[12];

    for (int i = 0; i < 4; i++)
        head[i] = (uint8_t)(tag >> 8 * i);
    for (int i = 0; i < 8; i++)
        head[4 + i] = (uint8_t)(n_bytes >> 8 * i);
    if (!EVP_MAC_update(mac->context, head, sizeof(head)) ||
        !EVP_MAC_update(mac->context, bytes, n_bytes))
        return error_origin(-ENOMEM);
    return 0;
}

int hash_mac_end(struct hash_mac *mac, uint8_t ret_key[32])
{
    size_t n = 0;

    if (!EVP_MAC_final(mac->context, ret_key, &n, 32))
        return error_origin(-ENOMEM);
    return 0;
}

int hash_random(void *bytes, size_t n_bytes)
{
    if (RAND_bytes(bytes, (int)n_bytes) != 1)
        return error_origin(-EIO);
    return 0;
}

uint64_t hash_xxh3(const void *bytes, size_t n_bytes)
{
    return XXH3_64bits(bytes, n_bytes);
}

struct hash_stream {
    XXH3_state_t *state;
};

int hash_stream_new(struct hash_stream **ret_stream)
{
    struct hash_stream *s = malloc(sizeof(*s));

    if (!s)
        return error_origin(-ENOMEM);
    s->state = XXH3_createState();
    if (!s->state) {
        free(s);
        return error_origin(-ENOMEM);
    }
    XXH3_64bits_reset(s->state);
    *ret_stream = s;
    return 0;
}

struct hash_stream *hash_stream_free(struct hash_stream *stream)
{
    if (!stream)
        return NULL;
    XXH3_freeState(stream->state);
    free(stream);
    return NULL;
}

void hash_stream_add(struct hash_stream *stream, const void *bytes, size_t n_bytes)
{
    XXH3_64bits_update(stream->state, bytes, n_bytes);
}

uint64_t hash_stream_value(const struct hash_stream *stream)
{
    return XXH3_64bits_digest(stream->state);
}
