// SPDX-License-Identifier: Apache-2.0
// Sums of memory that one device reaches, for back ends that only move bytes (collectives/trade.h).
#include "collectives/cuda/device.cuh"

namespace
{

constexpr unsigned sum_threads = 256, sum_blocks_max = 1024;

struct sum_call {
    void *dst[COLL_DEVICE_SOURCES_MAX];
    const void *src[COLL_DEVICE_SOURCES_MAX];
    unsigned n_dst, n_src;
};

template <class OP, class T>
__global__ void __launch_bounds__(sum_threads)
    sum_kernel(const __grid_constant__ sum_call c, size_t count)
{
    constexpr unsigned N = 16 / sizeof(T);
    size_t step = (size_t)gridDim.x * blockDim.x * N;
    for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N; i < count; i += step) {
        float sum[N] = {};
        unsigned valid = (unsigned)(count - i < N ? count - i : N);
        for (unsigned r = 0; r < c.n_src; r++)
            pack_add<OP>(sum, pack_load<T, N>(static_cast<const T *>(c.src[r]) + i, valid), r == 0);
        pack<T, N> v = pack_round<T, N>(sum);
        for (unsigned r = 0; r < c.n_dst; r++)
            pack_store<T, N>(static_cast<T *>(c.dst[r]) + i, v, valid);
    }
}

template <class OP, class T> cudaError_t start(const sum_call &c, size_t count, void *stream)
{
    constexpr size_t each = sum_threads * (16 / sizeof(T));
    size_t blocks = (count + each - 1) / each;
    phx_launch_config l = {};
    l.grid = dim3((unsigned)(blocks < sum_blocks_max ? blocks : sum_blocks_max));
    l.block = dim3(sum_threads);
    l.stream = (cudaStream_t)stream;
    return phx_launch(l, sum_kernel<OP, T>, c, count);
}

typedef cudaError_t start_fn(const sum_call &c, size_t count, void *stream);

start_fn *const starts[2][3] = {
    {start<op_sum, float>, start<op_sum, phx_f16>, start<op_sum, phx_bf16>},
    {start<op_max, float>, start<op_max, phx_f16>, start<op_max, phx_bf16>}};

} // namespace

enum status coll_device_sum(const struct coll_device_sum_args *a, struct error *err)
{
    unsigned type = device_type(a->dtype);
    sum_call c = {};
    if (type > 2)
        return device_wrong_type("a sum", a->dtype, err);
    if (a->n_dst < 1 || a->n_src < 1 || a->n_dst > COLL_DEVICE_SOURCES_MAX ||
        a->n_src > COLL_DEVICE_SOURCES_MAX)
        return status_fail(err, STATUS_INVALID,
            "a sum of %u buffers into %u; 1 to %d were expected", (unsigned)a->n_src,
            (unsigned)a->n_dst, (int)COLL_DEVICE_SOURCES_MAX);
    if (a->count == 0)
        return STATUS_OK;
    c.n_dst = a->n_dst;
    c.n_src = a->n_src;
    for (unsigned r = 0; r < a->n_dst; r++)
        c.dst[r] = a->dst[r];
    for (unsigned r = 0; r < a->n_src; r++)
        c.src[r] = a->src[r];
    return device_started(starts[a->max][type](c, a->count, a->stream), "a sum", err);
}
