#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>

#include "deltapq/v1/kv_cache.pb-c.h"
