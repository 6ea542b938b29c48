// SPDX-License-Identifier: Apache-2.0
// Residual add and norm of whole rows: a block per row. Sums are taken of the residual as it is
// stored, in f32 and in an order that depends on the dimension and the residual's type alone.
//
// A: activations, R: the residual, O: what is written. (A, f32, A) is a block's input, (A, f32,
// f32) a norm of the stream itself, (A, A, A) one of a block's output.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/ptx.cuh"

namespace
{

struct norm_call {
    uint32_t dim;
    bool layer, copy;
    float eps, weight_offset, x_scale;
    const float *x_bias;
    const void *weight, *bias;
    enum dtype weight_type, bias_type;
};

enum { NORM_KEPT = 4 }; // packs of a row that a thread keeps in registers

// residual += (x + bias) * scale, and what was stored.
template <class A, class R, int V>
__device__ __forceinline__ void norm_add(
    const norm_call &c, const A *x, R *residual, unsigned at, float (&r)[V])
{
    phx_load<R, V>(residual + at, r);
    if (x == nullptr)
        return;
    float v[V];
    phx_load<A, V>(x + at, v);
#pragma unroll
    for (int i = 0; i < V; i++) {
        float sum = c.x_bias != nullptr ? v[i] + c.x_bias[at + i] : v[i];
        r[i] = phx_float(phx_round<R>(fmaf(sum, c.x_scale, r[i])));
    }
    phx_store<R, V>(residual + at, r);
}

template <class O, int V>
__device__ __forceinline__ void norm_write(
    const norm_call &c, const float (&r)[V], float mean, float scale, unsigned at, O *out)
{
    float y[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        float w = 1.0f;
        if (c.weight != nullptr)
            w = c.weight_offset + phx_load_any(c.weight, c.weight_type, at + i);
        float b = c.bias != nullptr ? phx_load_any(c.bias, c.bias_type, at + i) : 0.0f;
        y[i] = norm_element(r[i], mean, scale, w, c.bias != nullptr, b);
    }
    phx_store<O, V>(out + at, y);
}

// Packs of a row as a thread has them: pack p begins at element (threadIdx.x + p * blockDim.x) * V.
// The first NORM_KEPT stay in registers, later ones are read again: by the thread that wrote them.
template <class A, class R, int V> struct norm_packs {
    const norm_call &c;
    R *residual;
    float kept[NORM_KEPT][V];
    unsigned first, step;

    __device__ __forceinline__ norm_packs(const norm_call &call, R *row)
        : c(call), residual(row), first(threadIdx.x * V), step(blockDim.x * V)
    {
    }

    // Adds x, and calls f(what was stored, where).
    template <class F> __device__ __forceinline__ void add(const A *x, F f)
    {
        float again[V];
#pragma unroll
        for (int p = 0; p < NORM_KEPT; p++)
            if (first + p * step < c.dim) {
                norm_add<A, R, V>(c, x, residual, first + p * step, kept[p]);
                f(kept[p], first + p * step);
            }
        for (unsigned at = first + NORM_KEPT * step; at < c.dim; at += step) {
            norm_add<A, R, V>(c, x, residual, at, again);
            f(again, at);
        }
    }

    // Calls f(what is stored, where).
    template <class F> __device__ __forceinline__ void each(F f)
    {
        float again[V];
#pragma unroll
        for (int p = 0; p < NORM_KEPT; p++)
            if (first + p * step < c.dim)
                f(kept[p], first + p * step);
        for (unsigned at = first + NORM_KEPT * step; at < c.dim; at += step) {
            phx_load<R, V>(residual + at, again);
            f(again, at);
        }
    }
};

template <class A, class R, class O, int V>
__global__ void __launch_bounds__(512)
    norm_kernel(const norm_call c, const A *x, R *residual, O *out)
{
    PHX_SHARED(float[32], room);
    phx_grid_wait();
    phx_grid_release();
    size_t row = (size_t)blockIdx.x * c.dim;
    float sum = 0, square = 0, mean = 0, scale = 1;
    norm_packs<A, R, V> packs(c, residual + row);
    packs.add(x != nullptr ? x + row : nullptr, [&](const float(&r)[V], unsigned) {
#pragma unroll
        for (int i = 0; i < V; i++)
            sum += r[i];
    });
    if (out == nullptr)
        return;
    if (c.layer)
        mean = phx_block_sum(sum, room) / (float)c.dim;
    if (!c.copy) {
        packs.each([&](const float(&r)[V], unsigned) {
#pragma unroll
            for (int i = 0; i < V; i++)
                square = fmaf(r[i] - mean, r[i] - mean, square);
        });
        scale = 1.0f / sqrtf(phx_block_sum(square, room) / (float)c.dim + c.eps);
    }
    packs.each([&](const float(&r)[V], unsigned at) {
        norm_write<O, V>(c, r, mean, scale, at, out + row);
    });
}

template <class A, class R, class O, int V>
void start(struct device *d, const struct norm_args *a, const norm_call &c)
{
    unsigned threads = norm_threads(a->dim, V);
    device_keep(d,
        phx_launch(device_launch_waiting(d, dim3(a->n_rows), dim3(threads)),
            norm_kernel<A, R, O, V>, c, static_cast<const A *>(a->x), static_cast<R *>(a->residual),
            static_cast<O *>(a->out)),
        "norm");
}

template <class A, class R, class O>
void start_packs(struct device *d, const struct norm_args *a, const norm_call &c)
{
    constexpr int V = 16 / sizeof(R); // R is the widest, or all are of one width
    if (phx_packs<A, V>(a->dim, a->x) && phx_packs<R, V>(a->dim, a->residual) &&
        phx_packs<O, V>(a->dim, a->out))
        start<A, R, O, V>(d, a, c);
    else
        start<A, R, O, 1>(d, a, c);
}

} // namespace

void cuda_norm(struct device *d, const struct norm_args *a)
{
    check(a->dim > 0 && (a->x == NULL || a->out != a->residual));
    check(!a->copy || (a->weight == NULL && a->bias == NULL));
    check(!a->copy || a->out == NULL || a->out != a->residual);
    norm_call c = {a->dim, a->layer && !a->copy, a->copy, a->eps, a->weight_offset, a->x_scale,
        a->x_bias, nullptr, nullptr, DTYPE_F32, DTYPE_F32};
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
        using A = decltype(type);
        bool stream = a->residual_type == DTYPE_F32, wide = a->out_type == DTYPE_F32;
        check(stream || a->residual_type == d->activation);
        check(wide ? stream : a->out_type == d->activation);
        if (!stream)
            start_packs<A, A, A>(d, a, c);
        else if (!wide)
            start_packs<A, float, A>(d, a, c);
        else
            start_packs<A, float, float>(d, a, c);
    });
}
