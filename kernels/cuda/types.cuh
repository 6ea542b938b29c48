// SPDX-License-Identifier: Apache-2.0
// 16-bit floats as bits, with the conversions that both sides round alike (to nearest, ties to
// even; only the payload of a NaN may differ).
#ifndef PHALANX_KERNELS_CUDA_TYPES_CUH
#define PHALANX_KERNELS_CUDA_TYPES_CUH

#include "kernels/cuda/port.cuh"

#if PHX_EMU
#include "base/dtype.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

struct phx_f16 {
    uint16_t bits;
};
struct phx_bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float phx_float(float v)
{
    return v;
}

__device__ __forceinline__ float phx_float(phx_bf16 v)
{
    return __uint_as_float((unsigned)v.bits << 16);
}

__device__ __forceinline__ float phx_float(phx_f16 v)
{
#if PHX_EMU
    return dtype_f32_from_f16(v.bits);
#else
    return __half2float(__ushort_as_half(v.bits));
#endif
}

template <class T> __device__ __forceinline__ T phx_round(float f);

template <> __device__ __forceinline__ float phx_round<float>(float f)
{
    return f;
}

template <> __device__ __forceinline__ phx_bf16 phx_round<phx_bf16>(float f)
{
#if PHX_EMU
    return {dtype_bf16_from_f32(f)};
#else
    return {__bfloat16_as_ushort(__float2bfloat16_rn(f))};
#endif
}

template <> __device__ __forceinline__ phx_f16 phx_round<phx_f16>(float f)
{
#if PHX_EMU
    return {dtype_f16_from_f32(f)};
#else
    return {__half_as_ushort(__float2half_rn(f))};
#endif
}

#endif
