// SPDX-License-Identifier: Apache-2.0
// All-reduce, residual and RMSNorm in one kernel; a block does whole rows, each in pieces of
// packets. The sum of squares runs in the sixteen lanes of kernels/cpu/canon.h, so a half warp does
// it. The same kernel without a group norms rows that have been summed.
#include "collectives/cuda/device.cuh"

namespace
{

constexpr unsigned norm_threads = 512;

struct norm_call {
    const float *bias;
    const void *weight;
    unsigned rows, dim, weight_type; // device_type
    float scale, offset, eps;
};

// Adds the sums, rounded to the type that the all-reduce would have stored, to the residual stream.
template <class T> struct residual_sink {
    float *residual, *kept;
    const float *bias; // or nullptr
    float scale;

    template <unsigned N>
    __device__ __forceinline__ void take(unsigned at, const float *sum, unsigned valid) const
    {
#pragma unroll
        for (unsigned i = 0; i < N; i++)
            if (i < valid) {
                float x = phx_float(phx_round<T>(sum[i]));
                if (bias != nullptr)
                    x = x + bias[at + i];
                float r = fmaf(x, scale, residual[at + i]);
                residual[at + i] = r;
                kept[at + i] = r;
            }
    }
};

__device__ __forceinline__ float load_any(const void *p, unsigned type, unsigned i)
{
    if (type == 0)
        return static_cast<const float *>(p)[i];
    return type == 1 ? phx_float(static_cast<const phx_f16 *>(p)[i])
                     : phx_float(static_cast<const phx_bf16 *>(p)[i]);
}

// By threads 0 to 15, who all get a result; that of thread 0 counts.
__device__ __forceinline__ float canon_squares(const float *r, unsigned dim)
{
    float a = 0;
#pragma unroll 8
    for (unsigned i = threadIdx.x; i < dim; i += 16)
        a = fmaf(r[i], r[i], a);
    for (unsigned half = 8; half > 0; half /= 2)
        a = a + __shfl_down_sync(0xffffu, a, half, 16);
    return a;
}

// The block norms the row that lies in `kept`; `scale` is memory of the block.
template <class T>
__device__ __forceinline__ void norm_row(
    const norm_call &c, const float *kept, float &scale, T *out)
{
    if (threadIdx.x < 16) {
        float squares = canon_squares(kept, c.dim);
        if (threadIdx.x == 0)
            scale = 1.0f / sqrtf(squares / (float)c.dim + c.eps);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < c.dim; i += blockDim.x) {
        float w = c.weight == nullptr ? 1.0f : c.offset + load_any(c.weight, c.weight_type, i);
        out[i] = phx_round<T>(kept[i] * scale * w);
    }
    __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(norm_threads, 1) norm_kernel(
    const __grid_constant__ pad_group g, const T *x, float *residual, T *out, const norm_call c)
{
    constexpr unsigned each = PAD_PACKETS * 8 / sizeof(T);
    PHX_SHARED_DYNAMIC(float, kept);
    PHX_SHARED(float, scale);
    pad_place p;
    bool fine = pad_begin(g, p);
    for (unsigned row = blockIdx.x; fine && row < c.rows; row += gridDim.x) {
        size_t first = (size_t)row * c.dim;
        for (unsigned at = 0; fine && at < c.dim; at += each) {
            unsigned n = c.dim - at < each ? c.dim - at : each;
            const float *bias = c.bias == nullptr ? nullptr : c.bias + at;
            fine = packets_piece<op_sum>(g, p, x + first + at, n,
                residual_sink<T>{residual + first + at, kept + at, bias, c.scale});
        }
        if (fine)
            norm_row(c, kept, scale, out + first);
    }
    pad_end(g, p);
}

template <class T>
__global__ void __launch_bounds__(norm_threads, 1)
    alone_kernel(const T *x, float *residual, T *out, const norm_call c)
{
    PHX_SHARED_DYNAMIC(float, kept);
    PHX_SHARED(float, scale);
    for (unsigned row = blockIdx.x; row < c.rows; row += gridDim.x) {
        size_t first = (size_t)row * c.dim;
        residual_sink<T> sink = {residual + first, kept, c.bias, c.scale};
        for (unsigned i = threadIdx.x; i < c.dim; i += blockDim.x) {
            float sum = phx_float(x[first + i]);
            sink.template take<1>(i, &sum, 1);
        }
        __syncthreads();
        norm_row(c, kept, scale, out + first);
    }
}

template <class T> struct buffers {
    const T *x;
    float *residual;
    T *out;
};

template <class T> buffers<T> buffers_of(const coll_device_norm_args *a)
{
    return {static_cast<const T *>(a->x), a->residual, static_cast<T *>(a->out)};
}

template <class K> cudaError_t allow_bytes(K kernel, size_t bytes)
{
    return bytes <= 48 * 1024 ? cudaSuccess
                              : cudaFuncSetAttribute(kernel,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

template <class T>
cudaError_t start(const coll_device_group *d, const pad_group &g, const coll_device_norm_args *a,
    const norm_call &c)
{
    const buffers<T> b = buffers_of<T>(a);
    size_t bytes = (size_t)c.dim * sizeof(float);
    cudaError_t e = allow_bytes(norm_kernel<T>, bytes);
    if (e != cudaSuccess)
        return e;
    return phx_launch(device_launch(d, device_blocks(d, c.rows), bytes, a->stream), norm_kernel<T>,
        g, b.x, b.residual, b.out, c);
}

template <class T> cudaError_t start_alone(const coll_device_norm_args *a, const norm_call &c)
{
    const buffers<T> b = buffers_of<T>(a);
    phx_launch_config l = {};
    l.dynamic_bytes = (size_t)c.dim * sizeof(float);
    l.grid = dim3(c.rows < 65535 ? c.rows : 65535);
    l.block = dim3(c.dim >= 4096 ? norm_threads : c.dim >= 1024 ? 128 : 32);
    l.stream = (cudaStream_t)a->stream;
    cudaError_t e = allow_bytes(alone_kernel<T>, l.dynamic_bytes);
    return e != cudaSuccess ? e : phx_launch(l, alone_kernel<T>, b.x, b.residual, b.out, c);
}

enum status check_args(const coll_device_norm_args *a, norm_call *c, struct error *err)
{
    *c = {a->bias, a->weight, a->rows, a->dim, device_type(a->weight_dtype), a->scale, a->offset,
        a->eps};
    if (device_type(a->dtype) > 2)
        return device_wrong_type("all_reduce with norm", a->dtype, err);
    if (a->weight != NULL && c->weight_type > 2)
        return device_wrong_type("all_reduce with norm", a->weight_dtype, err);
    if (a->dim == 0 || a->dim > COLL_DEVICE_DIM_MAX)
        return status_fail(err, STATUS_UNSUPPORTED,
            "all_reduce with norm of rows of %u elements: at most %d fit into a block",
            (unsigned)a->dim, (int)COLL_DEVICE_DIM_MAX);
    return STATUS_OK;
}

} // namespace

enum status coll_device_norm(
    struct coll_device_group *d, const struct coll_device_norm_args *a, struct error *err)
{
    unsigned type = device_type(a->dtype);
    norm_call c;
    TRY(check_args(a, &c, err));
    TRY(device_begin(d, a->stream, err));
    pad_group g = device_call(d, DEVICE_NORM, a->rows, a->dim, type);
    cudaError_t e = type == 0   ? start<float>(d, g, a, c)
                    : type == 1 ? start<phx_f16>(d, g, a, c)
                                : start<phx_bf16>(d, g, a, c);
    return device_end(d, a->stream, e, "all_reduce with norm", err);
}

enum status coll_device_norm_alone(const struct coll_device_norm_args *a, struct error *err)
{
    unsigned type = device_type(a->dtype);
    norm_call c;
    TRY(check_args(a, &c, err));
    if (a->rows == 0)
        return STATUS_OK;
    cudaError_t e = type == 0   ? start_alone<float>(a, c)
                    : type == 1 ? start_alone<phx_f16>(a, c)
                                : start_alone<phx_bf16>(a, c);
    return device_started(e, "norm", err);
}
