#include <immintrin.h>
#include <sys/mman.h>

#include "lib/base/defs.h"
#include "lib/codec/codec.h"
