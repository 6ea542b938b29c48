// SPDX-License-Identifier: Apache-2.0
// Norm of heads, rotation and append to the pages, in one launch: a warp does one head of one row.
#include "kernels/cuda/rope.cuh"

#include "kernels/cuda/ptx.cuh"

namespace
{

enum { ROPE_WARPS = 4 };

template <class T>
__global__ void __launch_bounds__(32 * ROPE_WARPS) rope_kernel(const rope_call c, T *qkv)
{
    phx_grid_wait();
    phx_grid_release();
    rope_row<T>(c, qkv, blockIdx.x, blockIdx.y * ROPE_WARPS + threadIdx.x / 32);
}

void check_shapes(const struct device *d, const struct rope_kv_args *a)
{
    check(a->batch == d->host_batch);
    check(a->kv.head_dim > 0 && a->rotary_dim % 2 == 0 && a->rotary_dim <= a->kv.head_dim);
    check(a->kv.dtype == DTYPE_F32 || a->kv.dtype == DTYPE_F16 || a->kv.dtype == DTYPE_BF16);
    check(a->kv.group < KERNELS_KV_GROUPS_MAX && a->kv.block_tokens > 0);
    check(a->q_norm == NULL || a->q_norm->k == a->kv.head_dim);
    check(a->k_norm == NULL || a->k_norm->k == a->kv.head_dim);
}

} // namespace

rope_call rope_make_call(const struct device *d, const struct rope_kv_args *a)
{
    check_shapes(d, a);
    rope_call c = {d->batch, a->kv, a->n_heads, a->rotary_dim, a->interleaved, a->inv_freq,
        a->attention_factor, a->norm_eps, a->norm_weight_offset, nullptr, nullptr, DTYPE_F32,
        DTYPE_F32};
    if (a->q_norm != NULL) {
        c.q_norm = a->q_norm->data;
        c.q_norm_type = a->q_norm->dtype;
    }
    if (a->k_norm != NULL) {
        c.k_norm = a->k_norm->data;
        c.k_norm_type = a->k_norm->dtype;
    }
    return c;
}

void cuda_rope_kv(struct device *d, const struct rope_kv_args *a)
{
    rope_call c = rope_make_call(d, a);
    unsigned heads = a->n_heads + 2 * a->kv.n_kv_heads;
    dim3 grid(d->batch.n_rows, (heads + ROPE_WARPS - 1) / ROPE_WARPS);
    if (d->batch.n_rows == 0)
        return;
    phx_dispatch(d->activation, [&](auto type) {
        using T = decltype(type);
        device_keep(d,
            phx_launch(device_launch_waiting(d, grid, dim3(32 * ROPE_WARPS)), rope_kernel<T>, c,
                static_cast<T *>(a->qkv)),
            "rope and KV append");
    });
}
