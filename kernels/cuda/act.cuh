// SPDX-License-Identifier: Apache-2.0
// One activation of one element, for `act` and for `linear_act`: the arithmetic of the CPU back
// end.
#ifndef PHALANX_KERNELS_CUDA_ACT_CUH
#define PHALANX_KERNELS_CUDA_ACT_CUH

#include "kernels/cpu/canon_act.h"
#include "kernels/cuda/port.cuh"
#include "kernels/kernels.h"

__device__ __forceinline__ float phx_act(enum act_kind kind, float x)
{
    switch (kind) {
    case ACT_SILU:
        return canon_silu(x);
    case ACT_GELU_ERF:
        return canon_gelu_erf(x);
    case ACT_GELU_TANH:
        return canon_gelu_tanh(x);
    case ACT_RELU:
        return canon_relu(x);
    case ACT_RELU2:
        return canon_relu(x) * canon_relu(x);
    case ACT_COUNT:
        break;
    }
    return x;
}

#endif
