// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/canon_act.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/ptx.cuh"

namespace
{

enum { ACT_THREADS = 256 };

template <class T, int V>
__global__ void __launch_bounds__(ACT_THREADS)
    act_kernel(enum act_kind kind, bool gated, unsigned dim, size_t n_packs, const T *x, T *out)
{
    phx_grid_wait();
    phx_grid_release();
    size_t p = (size_t)blockIdx.x * ACT_THREADS + threadIdx.x;
    if (p >= n_packs)
        return;
    size_t row = p / (dim / V), at = p % (dim / V) * V;
    const T *from = x + row * (gated ? 2 : 1) * dim + at;
    float v[V], up[V] = {};
    phx_load<T, V>(from, v);
    if (gated)
        phx_load<T, V>(from + dim, up);
#pragma unroll
    for (int i = 0; i < V; i++) {
        v[i] = canon_act(kind, v[i]);
        if (gated)
            v[i] = v[i] * up[i];
    }
    phx_store<T, V>(out + row * dim + at, v);
}

template <class T, int V> void start(struct device *d, const struct act_args *a)
{
    size_t n = (size_t)a->n_rows * (a->dim / V);
    device_keep(d,
        phx_launch(device_launch_waiting(d, dim3(device_grid(n, ACT_THREADS)), dim3(ACT_THREADS)),
            act_kernel<T, V>, a->kind, a->gated, a->dim, n, static_cast<const T *>(a->x),
            static_cast<T *>(a->out)),
        "act");
}

__global__ void __launch_bounds__(ACT_THREADS)
    logit_scale_kernel(float *logits, size_t n, float scale, float softcap)
{
    size_t i = (size_t)blockIdx.x * ACT_THREADS + threadIdx.x;
    if (i < n)
        logits[i] = canon_softcap(logits[i] * scale, softcap);
}

} // namespace

void cuda_act(struct device *d, const struct act_args *a)
{
    check((unsigned)a->kind < ACT_COUNT && a->dim > 0);
    if (a->n_rows == 0)
        return;
    phx_dispatch(d->activation, [&](auto type) {
        using T = decltype(type);
        constexpr int V = 16 / sizeof(T);
        if (phx_packs<T, V>(a->dim, a->x, a->out))
            start<T, V>(d, a);
        else
            start<T, 1>(d, a);
    });
}

void cuda_logit_scale(struct device *d, const struct logit_scale_args *a)
{
    size_t n = (size_t)a->n_rows * a->n;
    if ((a->scale == 1.0f && a->softcap == 0.0f) || n == 0)
        return;
    device_keep(d,
        phx_launch(device_launch(d, dim3(device_grid(n, ACT_THREADS)), dim3(ACT_THREADS)),
            logit_scale_kernel, a->logits, n, a->scale, a->softcap),
        "logit_scale");
}
