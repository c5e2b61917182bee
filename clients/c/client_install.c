/* Profiles.Install, a file in pieces, and Remove. */
#include <string.h>

#include "clients/c/client_call.h"
#include "deltapq/v1/profiles.pb-c.h"

enum { PIECE_BYTES = 1 << 20 };

int dpq_client_install_profile(struct dpq_client *client, const void *bytes, size_t n_bytes,
                               uint8_t ret_profile_id[32], struct dpq_client_error *ret_error)
{
    uint64_t upload_id = 0;
    size_t offset = 0;

    for (;;) {
        _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
        Deltapq__V1__InstallRequest request = DELTAPQ__V1__INSTALL_REQUEST__INIT;
        size_t n = n_bytes - offset < PIECE_BYTES ? n_bytes - offset : PIECE_BYTES;
        const Deltapq__V1__InstallReply *reply;
        int r;

        request.data = client_data((const uint8_t *)bytes + offset, n);
        request.offset = offset;
        request.total_bytes = n_bytes;
        request.upload_id = upload_id;
        r = client_call(client, "/deltapq.v1.Profiles/Install", &request.base,
                        &deltapq__v1__install_reply__descriptor, &message, ret_error);
        if (r)
            return r;
        reply = (const Deltapq__V1__InstallReply *)message;
        upload_id = reply->upload_id;
        offset += n;
        if (offset < n_bytes)
            continue;
        if (reply->profile_id.len != DPQ_DIGEST_BYTES)
            return client_error_set(ret_error, DPQ_CLIENT_DATA_LOSS, "REPLY",
                                    "the last reply to Install has no profile id");
        memcpy(ret_profile_id, reply->profile_id.data, DPQ_DIGEST_BYTES);
        return 0;
    }
}

int dpq_client_remove_profile(struct dpq_client *client, const uint8_t profile_id[32],
                              struct dpq_client_error *ret_error)
{
    _cleanup_(client_message_freep) ProtobufCMessage *message = NULL;
    Deltapq__V1__RemoveProfileRequest request = DELTAPQ__V1__REMOVE_PROFILE_REQUEST__INIT;

    request.profile_id = client_data(profile_id, DPQ_DIGEST_BYTES);
    return client_call(client, "/deltapq.v1.Profiles/Remove", &request.base,
                       &deltapq__v1__remove_profile_reply__descriptor, &message, ret_error);
}
