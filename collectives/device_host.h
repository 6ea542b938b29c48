// SPDX-License-Identifier: Apache-2.0
// The host as a struct coll_device: for back ends that treat all memory through such a table (MPI),
// and for tests of back ends that need a device (NCCL).
#ifndef PHALANX_COLLECTIVES_DEVICE_HOST_H
#define PHALANX_COLLECTIVES_DEVICE_HOST_H

#include "collectives/backend.h"

extern const struct coll_device device_host;

#endif
