#include <stdlib.h>

#include "daemon/rpc/rpc_methods.h"
#include "daemon/rpc/rpc_profile.h"
#include "daemon/rpc/rpc_state.h"

struct row {
    Deltapq__V1__ProfileInfo profile;
    Deltapq__V1__Geometry geometry;
};

void rpc_profile_fill(Deltapq__V1__ProfileInfo *profile, Deltapq__V1__Geometry *geometry,
                      const struct session_profile_info *info)
{
    const struct dpq_geometry *g = info->geometry;

    *geometry = (Deltapq__V1__Geometry)DELTAPQ__V1__GEOMETRY__INIT;
    geometry->n_layers = g->n_layers;
    geometry->n_kv_heads = g->n_kv_heads;
    geometry->n_q_heads = g->n_q_heads;
    geometry->head_dim = g->head_dim;
    geometry->rope_pairing = (Deltapq__V1__RopePairing)g->rope_pairing;
    geometry->rotary_dim = g->rotary_dim;
    geometry->attention_scaling = g->attention_scaling;
    geometry->n_sink = g->n_sink;
    geometry->n_inv_freq = g->rotary_dim / 2;
    geometry->inv_freq = (float *)g->inv_freq;
    *profile = (Deltapq__V1__ProfileInfo)DELTAPQ__V1__PROFILE_INFO__INIT;
    profile->profile_id =
        (ProtobufCBinaryData){ .len = DPQ_DIGEST_BYTES, .data = (uint8_t *)info->profile_id };
    profile->model_name = (char *)info->model_name;
    profile->file_bytes = info->file_bytes;
    profile->geometry = geometry;
    profile->info_json = (char *)info->info_json;
}

static void reply(struct rpc_call *call, const struct session_profile_info *infos, size_t n)
{
    Deltapq__V1__ListProfilesReply reply = DELTAPQ__V1__LIST_PROFILES_REPLY__INIT;
    Deltapq__V1__ProfileInfo **profiles = calloc(n + 1, sizeof(*profiles));
    struct row *rows = calloc(n + 1, sizeof(*rows));

    if (profiles && rows) {
        for (size_t i = 0; i < n; i++) {
            rpc_profile_fill(&rows[i].profile, &rows[i].geometry, &infos[i]);
            profiles[i] = &rows[i].profile;
        }
        reply.n_profiles = n;
        reply.profiles = profiles;
        rpc_call_reply(call, &reply.base);
    } else {
        rpc_call_no_memory(call);
    }
    free(profiles);
    free(rows);
}

void rpc_list(struct rpc_call *call, const void *message)
{
    struct session *session = call->server->options.session;
    size_t n = session_profile_list(session, NULL, 0), n_now, n_got;
    struct session_profile_info *infos = calloc(n + 1, sizeof(*infos));

    (void)message;
    if (!infos) {
        rpc_call_no_memory(call);
        return;
    }
    n_now = session_profile_list(session, infos, n);
    n_got = n < n_now ? n : n_now;
    reply(call, infos, n_got);
    for (size_t i = 0; i < n_got; i++)
        session_profile_unref(session, &infos[i]);
    free(infos);
}
