// SPDX-License-Identifier: Apache-2.0
#include "collectives/bootstrap.h"

#include "collectives/star.h"

enum status bootstrap_threads(uint32_t size, struct bootstrap **members, struct error *err)
{
    return star_make_all(size, members, err);
}
