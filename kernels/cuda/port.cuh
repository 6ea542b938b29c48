// SPDX-License-Identifier: Apache-2.0
// The one header that every .cu of ours includes: CUDA where nvcc compiles, the emulator where g++
// or clang++ does. What the two compilers must be told differently has one spelling here.
//
//   PHX_SHARED(float[32], tile);           a __shared__ variable
//   PHX_SHARED_DYNAMIC(float, p);          the dynamic shared memory, as a pointer
//   phx_launch(l, kernel, arguments...);   starts a kernel (g++ cannot read <<<>>>)
//   PHX_NOINLINE __device__ ...            a function that is called, and compiled once
#ifndef PHALANX_KERNELS_CUDA_PORT_CUH
#define PHALANX_KERNELS_CUDA_PORT_CUH

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#include <stdint.h>
#define PHX_EMU 0
#define PHX_NOINLINE __noinline__
template <class T> using phx_type = T;
#define PHX_SHARED(type, name) __shared__ phx_type<type> name
#define PHX_SHARED_DYNAMIC(type, name)                                                             \
    extern __shared__ __align__(128) unsigned char phx_dynamic_memory[];                           \
    phx_type<type> *const name = reinterpret_cast<phx_type<type> *>(phx_dynamic_memory)
#else
#include "kernels/emu/runtime.hpp"
#define PHX_EMU 1
#define PHX_NOINLINE __attribute__((noinline))
#endif

// How a kernel is started. All fields have a use on both sides; zeros are the usual case.
struct phx_launch_config {
    dim3 grid, block;
    size_t dynamic_bytes;
    cudaStream_t stream;
    bool cooperative; // all blocks run at once, or the launch fails: for kernels that wait
                      // for blocks of their own or of other ranks
    bool overlaps;    // may begin before the previous kernel of the stream has ended: all its
                      // blocks call phx_grid_wait before they touch what a kernel writes, or read
                      // what one wrote. Only on devices of compute capability 9.0 and more.
};

#if defined(__CUDACC__)
template <class... P, class... A>
inline cudaError_t phx_launch(const phx_launch_config &l, void (*kernel)(P...), A... arguments)
{
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t c = {};
    c.gridDim = l.grid;
    c.blockDim = l.block;
    c.dynamicSmemBytes = l.dynamic_bytes;
    c.stream = l.stream;
    c.attrs = attributes;
    if (l.cooperative) {
        attributes[c.numAttrs].id = cudaLaunchAttributeCooperative;
        attributes[c.numAttrs++].val.cooperative = 1;
    }
    if (l.overlaps) {
        attributes[c.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[c.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    return cudaLaunchKernelEx(&c, kernel, static_cast<P>(arguments)...);
}
#else
template <class... P, class... A>
inline cudaError_t phx_launch(const phx_launch_config &l, void (*kernel)(P...), A... arguments)
{
    return emu::start(reinterpret_cast<const void *>(kernel), l.grid, l.block, l.dynamic_bytes,
        l.cooperative, l.overlaps, l.stream, [=] { kernel(static_cast<P>(arguments)...); });
}
#endif

#endif
