// SPDX-License-Identifier: Apache-2.0
// Residual add and norm of whole rows: a block per row. Sums are taken of the residual as it is
// stored, in f32 and in an order that depends on the dimension alone.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/ptx.cuh"

namespace
{

struct norm_call {
    uint32_t dim;
    bool layer;
    float eps, weight_offset, x_scale;
    const float *x_bias;
    const void *weight, *bias;
    enum dtype weight_type, bias_type;
};

enum { NORM_KEPT = 4 }; // packs of a row that a thread keeps in registers

// residual += (x + bias) * scale, and what was stored.
template <class T, int V>
__device__ __forceinline__ void norm_add(
    const norm_call &c, const T *x, T *residual, unsigned at, float (&r)[V])
{
    phx_load<T, V>(residual + at, r);
    if (x == nullptr)
        return;
    float v[V];
    phx_load<T, V>(x + at, v);
#pragma unroll
    for (int i = 0; i < V; i++) {
        float sum = c.x_bias != nullptr ? v[i] + c.x_bias[at + i] : v[i];
        r[i] = phx_float(phx_round<T>(fmaf(sum, c.x_scale, r[i])));
    }
    phx_store<T, V>(residual + at, r);
}

template <class T, int V>
__device__ __forceinline__ void norm_write(
    const norm_call &c, const float (&r)[V], float mean, float scale, unsigned at, T *out)
{
    float y[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        float w = 1.0f;
        if (c.weight != nullptr)
            w = c.weight_offset + phx_load_any(c.weight, c.weight_type, at + i);
        y[i] = (r[i] - mean) * scale;
        y[i] =
            c.bias != nullptr ? fmaf(y[i], w, phx_load_any(c.bias, c.bias_type, at + i)) : y[i] * w;
    }
    phx_store<T, V>(out + at, y);
}

// Pack p of this thread begins at element (threadIdx.x + p * blockDim.x) * V. The first NORM_KEPT
// stay in registers, later ones are read again: by the thread that wrote them.
template <class T, int V>
__global__ void __launch_bounds__(512)
    norm_kernel(const norm_call c, const T *x, T *residual, T *out)
{
    PHX_SHARED(float[32], room);
    phx_grid_wait();
    phx_grid_release();
    size_t row = (size_t)blockIdx.x * c.dim;
    if (x != nullptr)
        x += row;
    residual += row;
    float kept[NORM_KEPT][V], again[V], sum = 0, square = 0;
    unsigned step = blockDim.x * V, first = threadIdx.x * V;
#pragma unroll
    for (int p = 0; p < NORM_KEPT; p++)
        if (first + p * step < c.dim) {
            norm_add<T, V>(c, x, residual, first + p * step, kept[p]);
#pragma unroll
            for (int i = 0; i < V; i++)
                sum += kept[p][i];
        }
    for (unsigned at = first + NORM_KEPT * step; at < c.dim; at += step) {
        norm_add<T, V>(c, x, residual, at, again);
#pragma unroll
        for (int i = 0; i < V; i++)
            sum += again[i];
    }
    if (out == nullptr)
        return;
    out += row;
    float mean = c.layer ? phx_block_sum(sum, room) / (float)c.dim : 0.0f;
#pragma unroll
    for (int p = 0; p < NORM_KEPT; p++)
        if (first + p * step < c.dim) {
#pragma unroll
            for (int i = 0; i < V; i++)
                square = fmaf(kept[p][i] - mean, kept[p][i] - mean, square);
        }
    for (unsigned at = first + NORM_KEPT * step; at < c.dim; at += step) {
        phx_load<T, V>(residual + at, again);
#pragma unroll
        for (int i = 0; i < V; i++)
            square = fmaf(again[i] - mean, again[i] - mean, square);
    }
    square = phx_block_sum(square, room);
    float scale = 1.0f / sqrtf(square / (float)c.dim + c.eps);
#pragma unroll
    for (int p = 0; p < NORM_KEPT; p++)
        if (first + p * step < c.dim)
            norm_write<T, V>(c, kept[p], mean, scale, first + p * step, out);
    for (unsigned at = first + NORM_KEPT * step; at < c.dim; at += step) {
        phx_load<T, V>(residual + at, again);
        norm_write<T, V>(c, again, mean, scale, at, out);
    }
}

template <class T, int V>
void start(struct device *d, const struct norm_args *a, const norm_call &c)
{
    unsigned packs = (a->dim + V - 1) / V;
    unsigned threads = packs >= 512 ? 512 : (packs + 31) / 32 * 32;
    device_keep(d,
        phx_launch(device_launch_waiting(d, dim3(a->n_rows), dim3(threads)), norm_kernel<T, V>, c,
            static_cast<const T *>(a->x), static_cast<T *>(a->residual), static_cast<T *>(a->out)),
        "norm");
}

} // namespace

void cuda_norm(struct device *d, const struct norm_args *a)
{
    check(a->dim > 0 && (a->x == NULL || a->out != a->residual));
    norm_call c = {a->dim, a->layer, a->eps, a->weight_offset, a->x_scale, a->x_bias, nullptr,
        nullptr, DTYPE_F32, DTYPE_F32};
    if (a->weight != NULL) {
        check(a->weight->k == a->dim);
        c.weight = a->weight->data;
        c.weight_type = a->weight->dtype;
    }
    if (a->bias != NULL) {
        check(a->bias->k == a->dim);
        c.bias = a->bias->data;
        c.bias_type = a->bias->dtype;
    }
    if (a->n_rows == 0 || (a->x == NULL && a->out == NULL))
        return;
    phx_dispatch(d->activation, [&](auto type) {
        using T = decltype(type);
        constexpr int V = 16 / sizeof(T);
        if (phx_packs<T, V>(a->dim, a->x, a->residual, a->out))
            start<T, V>(d, a, c);
        else
            start<T, 1>(d, a, c);
    });
}
