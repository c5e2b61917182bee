#include <grpc/grpc.h>
#include <xxhash.h>

#include "lib/codec/codec.h"
