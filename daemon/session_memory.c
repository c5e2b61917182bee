/*
 * Memory beside the arenas: what is not there is refused, before the kernel kills for it
 *
 * Arenas and staging are promised at the start, and messages have a limit (rpc_room.h). Profiles,
 * uploads and calibrations are as large as their models, and are looked at one by one.
 */
#include "daemon/session_internal.h"
#include "lib/store/map.h"

int session_check_memory(const struct session *session, uint64_t n_bytes, const char *what,
                         struct session_error *ret_error)
{
    uint64_t left = map_available_bytes();

    if (left >= session->message_bytes && n_bytes <= left - session->message_bytes)
        return 0;
    session_error_set(ret_error, SESSION_RESOURCE_EXHAUSTED, "MEMORY",
                      "%s takes %.1f MiB: the machine, or the daemon's control group, has %.1f MiB "
                      "left, of which %.1f MiB are kept for messages",
                      what, (double)n_bytes / 1048576, (double)left / 1048576,
                      (double)session->message_bytes / 1048576);
    return 1;
}
