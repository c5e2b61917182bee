#include <sys/mman.h>

#include <xxhash.h>
