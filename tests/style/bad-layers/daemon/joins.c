#include <cblas.h>
#include <ini.h>
#include <microhttpd.h>
#include <systemd/sd-daemon.h>
#include <uv.h>

#include "daemon/rpc/rpc_server.h"
#include "lib/codec/codec.h"
#include "lib/store/store.h"
