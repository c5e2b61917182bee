#pragma once

/* The service manager as the session sees it: somebody who keeps arenas by name. */

#include "daemon/sd.h"
#include "daemon/session.h"

/** keeper_of() - what was passed at the start is found there; the rest goes by sd_keep(),
 * sd_forget()
 *  @passed: borrowed as long as the keeper is used */
struct session_keeper keeper_of(struct sd_sockets *passed);
