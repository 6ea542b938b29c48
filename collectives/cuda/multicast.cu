// SPDX-License-Identifier: Apache-2.0
// All-reduce by the switch: a load from the multicast address returns the sum over all ranks, a
// store goes to all. Sums in the switch's order, so its bits are not those of the other algorithms;
// only devices from sm_90 on have it. The emulator's switch sums from the last rank to the first.
#include "collectives/cuda/device.cuh"

#if PHX_EMU
#include "kernels/emu/driver.hpp"
#define HAS_MULTICAST 1
#elif __CUDA_ARCH__ >= 900
#define HAS_MULTICAST 1
#else
#define HAS_MULTICAST 0
#endif

namespace
{

#if PHX_EMU
template <class T> uint4 sum_load(const void *p)
{
    constexpr unsigned N = 16 / sizeof(T);
    const std::vector<void *> members = emu::multicast_of(p);
    float sum[N] = {};
    for (size_t r = members.size(); r-- > 0;)
        pack_add<op_sum>(
            sum, *static_cast<const pack<T, N> *>(members[r]), r + 1 == members.size());
    const pack<T, N> v = pack_round<T, N>(sum);
    return *reinterpret_cast<const uint4 *>(&v);
}

void spread_store(void *p, uint4 v)
{
    for (void *to : emu::multicast_of(p))
        *static_cast<uint4 *>(to) = v;
}
#elif HAS_MULTICAST
template <class T> __device__ __forceinline__ uint4 sum_load(const void *p);

#define SUM_LOAD(T, type)                                                                          \
    template <> __device__ __forceinline__ uint4 sum_load<T>(const void *p)                        \
    {                                                                                              \
        uint4 v;                                                                                   \
        asm volatile("multimem.ld_reduce.relaxed.sys.global.add" type " {%0, %1, %2, %3}, [%4];"   \
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)                                  \
                     : "l"(p)                                                                      \
                     : "memory");                                                                  \
        return v;                                                                                  \
    }
SUM_LOAD(float, ".v4.f32")
SUM_LOAD(phx_f16, ".acc::f32.v4.f16x2")
SUM_LOAD(phx_bf16, ".acc::f32.v4.bf16x2")
#undef SUM_LOAD

__device__ __forceinline__ void spread_store(void *p, uint4 v)
{
    asm volatile("multimem.st.relaxed.sys.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x),
                 "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}
#endif

template <class T>
__global__ void __launch_bounds__(512, 1) multicast_kernel(
    const __grid_constant__ pad_group g, uint8_t *heap, size_t offset, size_t bytes)
{
#if HAS_MULTICAST
    pad_place p;
    bool fine = pad_begin(g, p);
    pad_next(g, p, true);
    fine = fine && pad_meet(g, p, PAD_START);
    size_t units = bytes / 16;
    size_t begin = units * g.rank / g.size, end = units * (g.rank + 1) / g.size;
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t u = begin + blockIdx.x * blockDim.x + threadIdx.x; fine && u < end; u += step) {
        uint8_t *at = heap + offset + u * 16;
        spread_store(at, sum_load<T>(at));
    }
    if (fine)
        pad_meet(g, p, PAD_END);
    pad_end(g, p);
#endif
}

} // namespace

enum status device_multicast(
    coll_device_group *d, const coll_device_reduce_args *a, size_t offset, struct error *err);

enum status device_multicast(
    coll_device_group *d, const coll_device_reduce_args *a, size_t offset, struct error *err)
{
    size_t bytes = a->count * dtype_bytes(a->dtype);
    if (d->multicast_heap == NULL || !a->symmetric || a->max || offset % 16 != 0 || bytes % 16 != 0)
        return status_fail(err, STATUS_UNSUPPORTED,
            "all_reduce by multicast needs a multicast heap and a symmetric sum of whole 16 bytes");
    TRY(device_begin(d, a->stream, err));
    unsigned type = device_type(a->dtype);
    pad_group g =
        device_call(d, DEVICE_ALL_REDUCE, a->count, type, (uint64_t)COLL_DEVICE_MULTICAST, offset);
    size_t each = (size_t)d->threads * 16 * g.size;
    phx_launch_config l =
        device_launch(d, device_blocks(d, (bytes + each - 1) / each), 0, a->stream);
    auto kernel = type == 0   ? multicast_kernel<float>
                  : type == 1 ? multicast_kernel<phx_f16>
                              : multicast_kernel<phx_bf16>;
    return device_end(d, a->stream,
        phx_launch(l, kernel, g, static_cast<uint8_t *>(d->multicast_heap), offset, bytes),
        "all_reduce by multicast", err);
}
