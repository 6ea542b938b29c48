// SPDX-License-Identifier: Apache-2.0
// Norms of queries and keys that rope_kv does not do, and the clipping before them: a block per
// row and head, or per row and all heads of its q or k where they are normed together.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/pack.cuh"

namespace
{

enum { QK_THREADS = 128 };

// Of q or of k.
struct qk_side {
    const void *weight, *bias;
    enum dtype weight_type, bias_type;
    bool shared_weight, shared_bias; // one for all heads
    float mean;
};

struct qk_call {
    qk_side side[2];
    uint32_t n_heads, n_kv_heads, head_dim;
    float eps, weight_offset;
    float *squares;
};

template <class T> __device__ __forceinline__ T *row_of(const qk_call &c, T *qkv)
{
    return qkv + (size_t)blockIdx.x * (c.n_heads + 2 * c.n_kv_heads) * c.head_dim;
}

// LayerNorm of head blockIdx.y; those of k come behind those of q.
template <class T> __global__ void __launch_bounds__(32) heads_kernel(const qk_call c, T *qkv)
{
    unsigned head = blockIdx.y, dim = c.head_dim;
    bool k = head >= c.n_heads;
    const qk_side s = c.side[k];
    unsigned own = (k ? head - c.n_heads : head) * dim;
    T *x = row_of(c, qkv) + (size_t)head * dim;
    float sum = 0, square = 0;
    for (unsigned i = threadIdx.x; i < dim; i += 32)
        sum += phx_float(x[i]);
    float mean = phx_warp_sum(sum) / (float)dim;
    for (unsigned i = threadIdx.x; i < dim; i += 32)
        square = fmaf(phx_float(x[i]) - mean, phx_float(x[i]) - mean, square);
    float scale = 1.0f / sqrtf(phx_warp_sum(square) / (float)dim + c.eps);
    for (unsigned i = threadIdx.x; i < dim; i += 32) {
        float w =
            c.weight_offset + phx_load_any(s.weight, s.weight_type, s.shared_weight ? i : own + i);
        float b = 0.0f;
        if (s.bias != nullptr)
            b = phx_load_any(s.bias, s.bias_type, s.shared_bias ? i : own + i);
        x[i] = phx_round<T>(norm_element(phx_float(x[i]), mean, scale, w, s.bias != nullptr, b));
    }
}

// blockIdx.y: q or k, all heads together.
template <class T>
__global__ void __launch_bounds__(QK_THREADS) squares_kernel(const qk_call c, const T *qkv)
{
    PHX_SHARED(float[32], room);
    unsigned k = blockIdx.y, n = (k ? c.n_kv_heads : c.n_heads) * c.head_dim;
    const T *x = row_of(c, qkv) + (k ? (size_t)c.n_heads * c.head_dim : 0);
    float square = 0;
    for (unsigned i = threadIdx.x; i < n; i += QK_THREADS)
        square = fmaf(phx_float(x[i]), phx_float(x[i]), square);
    square = phx_block_sum(square, room);
    if (threadIdx.x == 0)
        c.squares[2 * (size_t)blockIdx.x + k] = square;
}

template <class T>
__global__ void __launch_bounds__(QK_THREADS) scale_kernel(const qk_call c, T *qkv)
{
    unsigned k = blockIdx.y, n = (k ? c.n_kv_heads : c.n_heads) * c.head_dim;
    const qk_side s = c.side[k];
    T *x = row_of(c, qkv) + (k ? (size_t)c.n_heads * c.head_dim : 0);
    float scale = 1.0f / sqrtf(c.squares[2 * (size_t)blockIdx.x + k] * s.mean + c.eps);
    for (unsigned i = threadIdx.x; i < n; i += QK_THREADS)
        x[i] = phx_round<T>(
            phx_float(x[i]) * scale * (c.weight_offset + phx_load_any(s.weight, s.weight_type, i)));
}

template <class T>
__global__ void __launch_bounds__(QK_THREADS) clip_kernel(T *x, size_t n, float limit)
{
    size_t i = (size_t)blockIdx.x * QK_THREADS + threadIdx.x;
    if (i >= n)
        return;
    float f = phx_float(x[i]); // a NaN compares false and stays
    x[i] = f > limit ? phx_round<T>(limit) : f < -limit ? phx_round<T>(-limit) : x[i];
}

qk_side side_of(const struct weight *w, const struct weight *bias, uint32_t dim, float mean)
{
    qk_side s = {};
    s.mean = mean;
    if (w != NULL) {
        s.weight = w->data;
        s.weight_type = w->dtype;
        s.shared_weight = w->k == dim;
    }
    if (bias != NULL) {
        s.bias = bias->data;
        s.bias_type = bias->dtype;
        s.shared_bias = bias->k == dim;
    }
    return s;
}

bool fits(const struct qk_norm_args *a, const struct weight *w, uint32_t n_heads)
{
    bool shared = w->k == a->head_dim && a->squares == NULL;
    return w->n == 1 && (shared || w->k == n_heads * a->head_dim);
}

template <class T> cudaError_t start(struct device *d, const struct qk_norm_args *a, qk_call c)
{
    T *qkv = static_cast<T *>(a->qkv);
    dim3 both(a->n_rows, 2);
    if (a->squares == NULL)
        return phx_launch(device_launch(d, dim3(a->n_rows, a->n_heads + a->n_kv_heads), dim3(32)),
            heads_kernel<T>, c, qkv);
    if (a->sum_only)
        return phx_launch(device_launch(d, both, dim3(QK_THREADS)), squares_kernel<T>, c,
            static_cast<const T *>(qkv));
    return phx_launch(device_launch(d, both, dim3(QK_THREADS)), scale_kernel<T>, c, qkv);
}

} // namespace

void cuda_qk_norm(struct device *d, const struct qk_norm_args *a)
{
    check(a->head_dim > 0 && a->n_heads > 0 && a->n_kv_heads > 0);
    check(a->sum_only || (fits(a, a->q_norm, a->n_heads) && fits(a, a->k_norm, a->n_kv_heads)));
    check(a->q_bias == NULL || fits(a, a->q_bias, a->n_heads));
    check(a->k_bias == NULL || fits(a, a->k_bias, a->n_kv_heads));
    qk_call c = {{side_of(a->q_norm, a->q_bias, a->head_dim, a->q_mean),
                     side_of(a->k_norm, a->k_bias, a->head_dim, a->k_mean)},
        a->n_heads, a->n_kv_heads, a->head_dim, a->eps, a->weight_offset, a->squares};
    if (a->n_rows > 0)
        phx_dispatch(d->activation, [&](auto type) {
            device_keep(d, start<decltype(type)>(d, a, c), "the norm of queries and keys");
        });
}

void cuda_clip(struct device *d, const struct clip_args *a)
{
    check(a->dim > 0 && a->limit > 0);
    size_t n = (size_t)a->n_rows * a->dim;
    if (n > 0)
        phx_dispatch(d->activation, [&](auto type) {
            using T = decltype(type);
            device_keep(d,
                phx_launch(device_launch(d, dim3(device_grid(n, QK_THREADS)), dim3(QK_THREADS)),
                    clip_kernel<T>, static_cast<T *>(a->x), n, a->limit),
                "clip");
        });
}
