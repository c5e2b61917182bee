#pragma once

/* A profile in the words of profiles.proto, for List and Get. */

#include "daemon/session.h"
#include "deltapq/v1/profiles.pb-c.h"

/** rpc_profile_fill() - messages that point to info's strings and numbers */
void rpc_profile_fill(Deltapq__V1__ProfileInfo *profile, Deltapq__V1__Geometry *geometry,
                      const struct session_profile_info *info);
