#pragma once

/* Events of Monitor.Watch without protobuf-c. */

#include "clients/c/client.h"
#include "deltapq/v1/monitor.pb-c.h"

/** client_event_fill() - what a message says; what it does not say is 0 */
void client_event_fill(const Deltapq__V1__Event *message, struct dpq_client_event *ret_event);
