#include "lib/deltapq.h"
