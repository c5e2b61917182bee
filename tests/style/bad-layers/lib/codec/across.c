#include <cblas.h>
#include <openssl/evp.h>
#include <uv.h>

#include "lib/kern/kern.h"
#include "lib/store/store.h"
