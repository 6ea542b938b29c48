// SPDX-License-Identifier: Apache-2.0
#include "kernels/kernels.h"

#include <string.h>

enum status kernels_find(const char *name, const struct kernels **out, struct error *err)
{
    if (strcmp(name, "cpu") == 0) {
        *out = kernels_cpu();
        return STATUS_OK;
    }
    return status_fail(
        err, STATUS_UNSUPPORTED, "device '%s' is unknown; this build has: cpu", name);
}
