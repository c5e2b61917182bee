#include "daemon/status.h"

double status_true_bits(const struct status *status)
{
    return status->tile_numbers
               ? 8.0 * (double)status->tile_stored_bytes / (double)status->tile_numbers
               : 0;
}
