// SPDX-License-Identifier: Apache-2.0
// All-reduce, residual and RMSNorm in one kernel; a block does whole rows, each in pieces of
// packets. The sum of squares runs in the sixteen lanes of kernels/cpu/canon.h, so a half warp does
// it.
#include "collectives/cuda/device.cuh"

namespace
{

struct norm_call {
    float *residual;
    const void *weight;
    void *out;
    unsigned rows, dim, weight_type, out_type; // device_type
    float scale, offset, eps;
};

// Adds the sums, rounded to the type that the all-reduce would have stored, to the residual.
template <class T> struct residual_sink {
    float *residual, *kept;
    float scale;

    template <unsigned N>
    __device__ __forceinline__ void take(unsigned at, const float *sum, unsigned valid) const
    {
#pragma unroll
        for (unsigned i = 0; i < N; i++)
            if (i < valid) {
                float x = phx_float(phx_round<T>(sum[i]));
                float r = fmaf(x, scale, residual[at + i]);
                residual[at + i] = kept[at + i] = r;
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

__device__ __forceinline__ void store_any(void *p, unsigned type, size_t i, float f)
{
    if (type == 0)
        static_cast<float *>(p)[i] = f;
    else if (type == 1)
        static_cast<phx_f16 *>(p)[i] = phx_round<phx_f16>(f);
    else
        static_cast<phx_bf16 *>(p)[i] = phx_round<phx_bf16>(f);
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

template <class T>
__global__ void __launch_bounds__(512, 1)
    norm_kernel(const __grid_constant__ pad_group g, const T *x, const norm_call c)
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
            fine = packets_piece<op_sum>(g, p, x + first + at, n,
                residual_sink<T>{c.residual + first + at, kept + at, c.scale});
        }
        if (!fine)
            break;
        if (threadIdx.x < 16) {
            float squares = canon_squares(kept, c.dim);
            if (threadIdx.x == 0)
                scale = 1.0f / sqrtf(squares / (float)c.dim + c.eps);
        }
        __syncthreads();
        for (unsigned i = threadIdx.x; i < c.dim; i += blockDim.x) {
            float w = c.weight == nullptr ? 1.0f : c.offset + load_any(c.weight, c.weight_type, i);
            store_any(c.out, c.out_type, first + i, kept[i] * scale * w);
        }
        __syncthreads();
    }
    pad_end(g, p);
}

template <class T>
cudaError_t start(
    const coll_device *d, const pad_group &g, const coll_device_norm_args *a, const norm_call &c)
{
    size_t bytes = (size_t)c.dim * sizeof(float);
    if (bytes > 48 * 1024) {
        cudaError_t e = cudaFuncSetAttribute(
            norm_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
        if (e != cudaSuccess)
            return e;
    }
    return phx_launch(device_launch(d, device_blocks(d, c.rows), bytes, a->stream), norm_kernel<T>,
        g, static_cast<const T *>(a->x), c);
}

} // namespace

enum status coll_device_norm(
    struct coll_device *d, const struct coll_device_norm_args *a, struct error *err)
{
    unsigned type = device_type(a->dtype);
    norm_call c = {a->residual, a->weight, a->out, a->rows, a->dim, device_type(a->weight_dtype),
        device_type(a->out_dtype), a->scale, a->offset, a->eps};
    if (type > 2 || c.out_type > 2 || (a->weight != NULL && c.weight_type > 2))
        return device_wrong_type("all_reduce with norm", type > 2 ? a->dtype : a->out_dtype, err);
    if (a->dim == 0 || a->dim > COLL_DEVICE_DIM_MAX)
        return status_fail(err, STATUS_UNSUPPORTED,
            "all_reduce with norm of rows of %u elements: at most %d fit into a block",
            (unsigned)a->dim, (int)COLL_DEVICE_DIM_MAX);
    TRY(coll_device_poll(d, err));
    pad_group g = device_call(d, DEVICE_NORM, a->rows, a->dim, type);
    cudaError_t e = type == 0   ? start<float>(d, g, a, c)
                    : type == 1 ? start<phx_f16>(d, g, a, c)
                                : start<phx_bf16>(d, g, a, c);
    return device_started(e, "all_reduce with norm", err);
}
