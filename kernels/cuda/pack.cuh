// SPDX-License-Identifier: Apache-2.0
// Loads and stores of activations of any type, a type chosen at run time, and sums of warps and
// blocks in a fixed order.
#ifndef PHALANX_KERNELS_CUDA_PACK_CUH
#define PHALANX_KERNELS_CUDA_PACK_CUH

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/cuda/types.cuh"

// N elements that are moved by one instruction: N * sizeof(T) is at most 16, and so is p aligned.
template <class T, int N> struct alignas(N * sizeof(T)) phx_pack {
    T v[N];
};

template <class T, int N> __device__ __forceinline__ void phx_load(const T *p, float (&out)[N])
{
    phx_pack<T, N> pack = *reinterpret_cast<const phx_pack<T, N> *>(p);
#pragma unroll
    for (int i = 0; i < N; i++)
        out[i] = phx_float(pack.v[i]);
}

template <class T, int N> __device__ __forceinline__ void phx_store(T *p, const float (&v)[N])
{
    phx_pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++)
        pack.v[i] = phx_round<T>(v[i]);
    *reinterpret_cast<phx_pack<T, N> *>(p) = pack;
}

// Element i of a vector whose type is known at run time only: f32, f16 or bf16.
__device__ __forceinline__ float phx_load_any(const void *p, enum dtype t, size_t i)
{
    if (t == DTYPE_F32)
        return static_cast<const float *>(p)[i];
    return t == DTYPE_F16 ? phx_float(static_cast<const phx_f16 *>(p)[i])
                          : phx_float(static_cast<const phx_bf16 *>(p)[i]);
}

// Elements i .. i + N - 1 of it, where they lie as phx_load wants them.
template <int N>
__device__ __forceinline__ void phx_load_any(const void *p, enum dtype t, size_t i, float (&v)[N])
{
    if (t == DTYPE_F32)
        phx_load<float, N>(static_cast<const float *>(p) + i, v);
    else if (t == DTYPE_F16)
        phx_load<phx_f16, N>(static_cast<const phx_f16 *>(p) + i, v);
    else
        phx_load<phx_bf16, N>(static_cast<const phx_bf16 *>(p) + i, v);
}

__device__ __forceinline__ void phx_store_any(void *p, enum dtype t, size_t i, float f)
{
    if (t == DTYPE_F32)
        static_cast<float *>(p)[i] = f;
    else if (t == DTYPE_F16)
        static_cast<phx_f16 *>(p)[i] = phx_round<phx_f16>(f);
    else
        static_cast<phx_bf16 *>(p)[i] = phx_round<phx_bf16>(f);
}

// Whether rows of `dim` elements of T can be moved N at a time from all of these addresses.
template <class T, int N> inline bool phx_packs(size_t dim)
{
    return dim % N == 0;
}
template <class T, int N, class... P> inline bool phx_packs(size_t dim, const void *p, P... more)
{
    return reinterpret_cast<uintptr_t>(p) % (N * sizeof(T)) == 0 && phx_packs<T, N>(dim, more...);
}

// Calls f with a value of the type: phx_dispatch(t, [&](auto type) { using T = decltype(type); }).
template <class F> inline void phx_dispatch(enum dtype t, F f)
{
    if (t == DTYPE_F32)
        f(float());
    else if (t == DTYPE_F16)
        f(phx_f16());
    else if (t == DTYPE_BF16)
        f(phx_bf16());
    else
        check_failed("a type of activations", __FILE__, __LINE__);
}

// All 32 lanes get the sum; added pairwise, so it does not depend on who asks.
__device__ __forceinline__ float phx_warp_sum(float v)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

// All threads of the block get the sum: of each warp, then of the warps in their order. `room` is
// shared memory for 32 numbers; the block's size is a multiple of 32. Two calls may use the same
// room.
__device__ __forceinline__ float phx_block_sum(float v, float *room)
{
    v = phx_warp_sum(v);
    unsigned n = (blockDim.x + 31) / 32;
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = room[0];
    for (unsigned i = 1; i < n; i++)
        sum += room[i];
    return sum;
}

#endif
