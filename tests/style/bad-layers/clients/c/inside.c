#include "lib/deltapq.h"
#include "lib/store/map.h"
