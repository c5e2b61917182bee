#include "daemon/session.h"
#include "store.h"
