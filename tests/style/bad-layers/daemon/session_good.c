/* Nothing wrong here: this is where they meet. */
#include "lib/codec/codec.h"
#include "lib/store/store.h"
