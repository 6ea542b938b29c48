// SPDX-License-Identifier: Apache-2.0
// Finds the libraries of CUDA that are used where they are there: nothing of ours is linked with
// them.
#ifndef PHALANX_KERNELS_CUDA_LIBRARY_H
#define PHALANX_KERNELS_CUDA_LIBRARY_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

// Opens `name` ("libcublasLt.so.13"): in the folder that PHALANX_CUDA_LIBRARIES names, where the
// system's loader looks, in /usr/local/cuda/lib64, and among the packages of the Python that is
// active or first in PATH. It stays open for good: such libraries leave threads behind. NULL, and
// a sentence, where there is none.
void *library_open(const char *name, struct error *err);

#ifdef __cplusplus
}
#endif

#endif
