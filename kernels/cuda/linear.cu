// SPDX-License-Identifier: Apache-2.0
// The ops of linear, alone and with their neighbours: which kernel multiplies, and what it needs on
// the way.
#include "kernels/cuda/linear.cuh"

#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/rope.cuh"

namespace
{

constexpr unsigned pack_threads = 256, pack_elements = 8;

// Rows of x, unaligned or of any length, as rows of whole chunks of eight elements; zeros at the
// end.
__global__ void __launch_bounds__(pack_threads)
    pack_kernel(const uint16_t *x, uint64_t x_stride, uint4 *out, unsigned m, unsigned k)
{
    phx_grid_wait();
    phx_grid_release();
    unsigned chunks = (k + pack_elements - 1) / pack_elements;
    uint64_t n = (uint64_t)m * chunks;
    for (uint64_t i = blockIdx.x * (uint64_t)pack_threads + threadIdx.x; i < n;
         i += (uint64_t)gridDim.x * pack_threads) {
        const uint16_t *from = x + i / chunks * x_stride;
        unsigned at = (unsigned)(i % chunks) * pack_elements;
        unsigned v[pack_elements];
#pragma unroll
        for (unsigned e = 0; e < pack_elements; e++)
            v[e] = at + e < k ? from[at + e] : 0u;
        out[i] =
            make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16);
    }
}

// The product as the kernels are told of it, before its memory is found.
struct job {
    linear_call call;
    linear_shape shape;
    linear_plan plan;
    bool packs, by_blas;
    size_t x_bytes, partial_bytes; // of the workspace
};

job plan_job(const struct device *d, const struct linear_args *a)
{
    job j = {};
    linear_call &c = j.call;
    c.x = a->x;
    c.x_stride = a->x_stride;
    c.x_type = d->activation;
    c.w = a->w->data;
    c.w_stride = a->w->stride;
    c.w_type = a->w->dtype;
    c.out = a->out;
    c.out_stride = a->out_stride;
    c.out_type = a->out_f32 ? DTYPE_F32 : d->activation;
    c.act_type = d->activation;
    c.m = a->n_rows;
    c.n = a->w->n;
    c.k = a->w->k;
    if (a->bias != NULL) {
        check(a->bias->k == c.n);
        c.bias = a->bias->data;
        c.bias_type = a->bias->dtype;
    }
    j.shape.m = c.m;
    j.shape.n = c.n;
    j.shape.k = c.k;
    j.shape.half = c.x_type == c.w_type && c.x_type != DTYPE_F32;
    j.shape.n_sms = d->n_sms;
    c.x_aligned = linear_aligned(c.x, c.x_stride * dtype_bytes(c.x_type));
    j.packs = j.shape.half && linear_must_pack(c.x, c.x_stride, c.k);
    if (j.packs)
        j.x_bytes = device_whole((size_t)c.m * linear_packed_k(c.k) * sizeof(uint16_t));
    return j;
}

// What the product needs of the workspace; cuBLASLt's part is there for ours where it gives up.
size_t job_bytes(const job &j)
{
    size_t own = j.x_bytes + j.partial_bytes, theirs = j.by_blas ? BLAS_WORKSPACE_BYTES : 0;
    return own > theirs ? own : theirs;
}

// Of N and K alone: the plan's segments do not see that a packed row is a little longer.
void plan_kernel(job &j)
{
    j.plan = linear_plan_make(&j.shape);
    j.call.segment = j.plan.segment;
    j.call.n_segments = j.plan.n_segments;
    j.partial_bytes = device_whole(linear_plan_partials(&j.plan, &j.shape) * sizeof(float));
}

// Runs the product, which may write its part of the workspace.
void run(struct device *d, job &j, uint8_t *memory)
{
    if (j.by_blas && linear_blas_run(d, j.call, memory))
        return;
    j.call.tickets = device_tickets(d);
    if (j.call.tickets == NULL)
        return;
    if (j.packs) {
        linear_pack(d, j.call.x, j.call.x_stride, j.call.m, j.call.k, memory);
        j.call.x = memory;
        j.call.x_stride = j.call.k = linear_packed_k(j.call.k);
    }
    j.call.partials = reinterpret_cast<float *>(memory + j.x_bytes);
    static_assert((int)LINEAR_TICKETS_MAX <= (int)DEVICE_TICKETS, "a block has a ticket");
    check(linear_plan_tickets(&j.plan) <= LINEAR_TICKETS_MAX);
    if (!j.shape.half)
        device_keep(d, linear_ffma(j.call, j.plan, d), "linear");
    else if (j.plan.kernel < LINEAR_TILE_64x64)
        device_keep(d, linear_rows(j.call, j.plan, d), "linear");
    else
        device_keep(d, linear_tile(j.call, j.plan, d), "linear");
}

// A norm as the kernels are told of it.
linear_norm norm_of(const struct norm_args *a)
{
    linear_norm n = {};
    n.residual = a->residual;
    n.residual_type = a->residual_type;
    n.pack = 16 / (unsigned)dtype_bytes(n.residual_type);
    n.threads = norm_threads(a->dim, n.pack);
    n.layer = a->layer;
    n.eps = a->eps;
    n.weight_offset = a->weight_offset;
    if (a->weight != NULL) {
        n.weight = a->weight->data;
        n.weight_type = a->weight->dtype;
    }
    if (a->bias != NULL) {
        n.bias = a->bias->data;
        n.bias_type = a->bias->dtype;
    }
    return n;
}

// Whether linear and its neighbours are one launch.
bool is_fused(const job &j, const struct norm_args *n, const struct rope_kv_args *r)
{
    unsigned heads = r != NULL ? r->n_heads + 2 * r->kv.n_kv_heads : 0;
    bool aligned = n == NULL || (linear_aligned(n->residual, 0) && linear_aligned(n->out, 0));
    return j.shape.half && !j.packs && j.shape.m <= KERNELS_FUSED_ROWS && aligned &&
           linear_plan_tickets(&j.plan) + heads <= LINEAR_TICKETS_MAX;
}

void run_fused(struct device *d, job &j, const struct norm_args *n, const struct rope_kv_args *r)
{
    j.call.tickets = device_tickets(d);
    if (j.partial_bytes > 0)
        j.call.partials = static_cast<float *>(device_workspace(d, j.partial_bytes));
    if (j.call.tickets == NULL || (j.partial_bytes > 0 && j.call.partials == NULL))
        return;
    linear_norm norm = n != NULL ? norm_of(n) : linear_norm();
    rope_call rope = r != NULL ? rope_make_call(d, r) : rope_call();
    device_keep(d,
        linear_fused(j.call, n != NULL ? &norm : nullptr, r != NULL ? &rope : nullptr, j.plan, d),
        "linear with its neighbours");
}

void check_norm(const struct norm_args *n, const struct linear_args *a)
{
    check(n->x == NULL && n->out == a->x && n->dim == a->w->k && n->dim == a->x_stride &&
          n->n_rows == a->n_rows && n->residual != n->out && !n->copy);
}

} // namespace

bool linear_aligned(const void *x, uint64_t stride_bytes)
{
    return reinterpret_cast<uintptr_t>(x) % 16 == 0 && stride_bytes % 16 == 0;
}

bool linear_must_pack(const void *x, uint64_t x_stride, uint32_t k)
{
    return k % pack_elements != 0 || !linear_aligned(x, x_stride * sizeof(uint16_t));
}

uint32_t linear_packed_k(uint32_t k)
{
    return (k + pack_elements - 1) / pack_elements * pack_elements;
}

void linear_pack(
    struct device *d, const void *x, uint64_t x_stride, uint32_t m, uint32_t k, void *to)
{
    phx_launch_config l = device_launch_waiting(d,
        device_grid((uint64_t)m * linear_packed_k(k) / pack_elements, pack_threads), pack_threads);
    device_keep(d,
        phx_launch(l, pack_kernel, static_cast<const uint16_t *>(x), x_stride,
            static_cast<uint4 *>(to), m, k),
        "linear: pack");
}

void cuda_norm_linear_rope(struct device *d, const struct norm_args *n, const struct linear_args *a,
    const struct rope_kv_args *r)
{
    check(a->row_ids == NULL && a->out == r->qkv && a->out_stride == a->w->n && !a->out_f32);
    check(a->w->n == (r->n_heads + 2 * r->kv.n_kv_heads) * r->kv.head_dim);
    if (n != NULL)
        check_norm(n, a);
    if (a->n_rows == 0)
        return;
    job j = plan_job(d, a);
    plan_kernel(j);
    if (is_fused(j, n, r)) {
        run_fused(d, j, n, r);
        return;
    }
    if (n != NULL)
        cuda_norm(d, n);
    cuda_linear(d, a);
    cuda_rope_kv(d, r);
}

void cuda_norm_linear_act(struct device *d, const struct norm_args *n, const struct linear_args *a,
    const struct act_args *act)
{
    check_norm(n, a);
    check(a->row_ids == NULL && a->w->n == act->dim * (act->gated ? 2 : 1));
    if (a->n_rows == 0)
        return;
    job j = plan_job(d, a);
    j.shape.gated = act->gated && j.shape.half && a->n_rows <= KERNELS_FUSED_ROWS;
    plan_kernel(j);
    if (!is_fused(j, n, NULL)) {
        cuda_norm(d, n);
        cuda_linear_act(d, a, act);
        return;
    }
    j.call.has_act = true;
    j.call.gated = act->gated;
    j.call.act = act->kind;
    j.call.out = act->out;
    j.call.out_stride = act->dim;
    run_fused(d, j, n, NULL);
}

void cuda_linear_add(struct device *d, const struct linear_args *a, const struct norm_args *n)
{
    check(a->row_ids == NULL && !a->out_f32 && n->out == NULL && n->x == a->out &&
          n->dim == a->w->n && a->out_stride == n->dim && n->n_rows == a->n_rows);
    if (a->n_rows == 0)
        return;
    job j = plan_job(d, a);
    if (linear_blas_wants(d, j.call)) {
        cuda_linear(d, a);
        cuda_norm(d, n);
        return;
    }
    plan_kernel(j);
    j.call.residual = n->residual;
    j.call.residual_type = n->residual_type;
    j.call.add_bias = n->x_bias;
    j.call.add_scale = n->x_scale;
    size_t bytes = job_bytes(j);
    uint8_t *memory = static_cast<uint8_t *>(bytes > 0 ? device_workspace(d, bytes) : NULL);
    if (memory != NULL || bytes == 0)
        run(d, j, memory);
}

void cuda_linear(struct device *d, const struct linear_args *a)
{
    check(a->row_ids == NULL);
    if (a->n_rows == 0)
        return;
    job j = plan_job(d, a);
    plan_kernel(j);
    j.by_blas = linear_blas_wants(d, j.call);
    size_t bytes = job_bytes(j);
    uint8_t *memory = static_cast<uint8_t *>(bytes > 0 ? device_workspace(d, bytes) : NULL);
    if (memory != NULL || bytes == 0)
        run(d, j, memory);
}

// The activation is part of the product wherever that is ours, on tensor cores also where gate and
// up meet. The rest is the two ops, one after the other.
void cuda_linear_act(struct device *d, const struct linear_args *a, const struct act_args *act)
{
    check(a->row_ids == NULL && a->w->n == act->dim * (act->gated ? 2 : 1));
    if (a->n_rows == 0)
        return;
    job j = plan_job(d, a);
    size_t between = device_whole((size_t)a->n_rows * a->w->n * dtype_bytes(d->activation));
    j.call.out = NULL; // of the workspace, which is aligned
    j.call.out_stride = a->w->n;
    j.call.out_type = d->activation;
    j.by_blas = linear_blas_wants(d, j.call);
    bool fused = !j.by_blas && (j.shape.half || !act->gated);
    j.shape.gated = fused && act->gated;
    plan_kernel(j);
    between = fused ? 0 : between;
    size_t bytes = between + job_bytes(j);
    uint8_t *memory = static_cast<uint8_t *>(bytes > 0 ? device_workspace(d, bytes) : NULL);
    if (memory == NULL && bytes > 0)
        return;
    j.call.has_act = fused;
    j.call.gated = j.shape.gated;
    j.call.act = act->kind;
    j.call.out = fused ? act->out : memory;
    j.call.out_stride = fused ? act->dim : a->w->n;
    run(d, j, memory + between);
    if (fused)
        return;
    struct act_args rest = *act;
    rest.x = memory;
    cuda_act(d, &rest);
}
