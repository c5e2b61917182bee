#include "lib/a/twice.h"
