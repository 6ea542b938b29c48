// SPDX-License-Identifier: Apache-2.0
// Whole rows and whole pages from one place to another.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pack.cuh"

namespace
{

enum { COPY_THREADS = 256, COPY_BLOCKS = 8 };

// `bytes` by the threads of all blocks along x, 16 at a time where everything is aligned.
__device__ __forceinline__ void copy_bytes(uint8_t *to, const uint8_t *from, size_t bytes)
{
    size_t first = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    size_t step = (size_t)gridDim.x * blockDim.x;
    if ((bytes | (size_t)to | (size_t)from) % 16 == 0)
        for (size_t i = first; i < bytes / 16; i += step)
            reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(from)[i];
    else
        for (size_t i = first; i < bytes / 2; i += step)
            reinterpret_cast<uint16_t *>(to)[i] = reinterpret_cast<const uint16_t *>(from)[i];
}

__global__ void __launch_bounds__(COPY_THREADS)
    gather_kernel(const uint32_t *rows, const uint8_t *in, uint8_t *out, size_t bytes)
{
    copy_bytes(out + blockIdx.y * bytes, in + rows[blockIdx.y] * bytes, bytes);
}

constexpr uint32_t PAIRS_AT_ONCE = 256, PLANES_AT_ONCE = 2 * 512;

struct page_pair {
    uint32_t src, dst;
};

// What one launch does: the pairs in the pages of every plane (K or V of a layer).
struct copy_job {
    uint8_t *plane[PLANES_AT_ONCE];
    page_pair pair[PAIRS_AT_ONCE];
};

// Pairs along y, planes along z.
__global__ void __launch_bounds__(COPY_THREADS) block_copy_kernel(const copy_job *job, size_t bytes)
{
    uint8_t *base = job->plane[blockIdx.z];
    page_pair p = job->pair[blockIdx.y];
    if (p.src != p.dst)
        copy_bytes(base + p.dst * bytes, base + p.src * bytes, bytes);
}

// How many pairs from `begin` on may be copied at once: none reads or writes what an earlier one
// has written, or writes what an earlier one reads.
uint32_t independent(const struct block_copy_args *a, uint32_t begin, uint32_t most)
{
    for (uint32_t n = 1; n < most; n++)
        for (uint32_t i = begin; i < begin + n; i++)
            if (a->src[begin + n] == a->dst[i] || a->dst[begin + n] == a->dst[i] ||
                a->dst[begin + n] == a->src[i])
                return n;
    return most;
}

// All pairs in the pages of the job's planes, `bytes` each.
void copy_pairs(struct device *d, const struct block_copy_args *a, copy_job *job, uint32_t n_planes,
    size_t bytes)
{
    for (uint32_t i = 0; i < a->n_pairs && d->failed == STATUS_OK;) {
        uint32_t left = a->n_pairs - i;
        uint32_t n = independent(a, i, left < PAIRS_AT_ONCE ? left : PAIRS_AT_ONCE);
        for (uint32_t k = 0; k < n; k++)
            job->pair[k] = {a->src[i + k], a->dst[i + k]};
        const copy_job *there = (const copy_job *)device_upload(d, job, sizeof *job);
        if (there == NULL)
            return;
        device_keep(d,
            phx_launch(device_launch(d, dim3(COPY_BLOCKS, n, n_planes), dim3(COPY_THREADS)),
                block_copy_kernel, there, bytes),
            "block_copy");
        i += n;
    }
}

size_t page_bytes(const struct kv_layer *l)
{
    return (size_t)l->n_kv_heads * l->block_tokens * l->head_dim * dtype_bytes(l->dtype);
}

} // namespace

void cuda_gather(struct device *d, const struct gather_args *a)
{
    const uint32_t *rows = d->batch.logit_rows;
    size_t bytes = (size_t)a->dim * dtype_bytes(a->type);
    if (a->n_rows == 0)
        return;
    if (a->row_ids != NULL)
        rows = (const uint32_t *)device_upload(d, a->row_ids, a->n_rows * sizeof *rows);
    else
        check(a->batch == d->host_batch && a->n_rows <= d->batch.n_logit_rows);
    if (rows == NULL)
        return;
    unsigned blocks = device_grid(bytes / 16, COPY_THREADS);
    // The y of a grid ends at 65535.
    for (uint32_t i = 0; i < a->n_rows; i += 32768) {
        unsigned n = a->n_rows - i < 32768 ? a->n_rows - i : 32768;
        device_keep(d,
            phx_launch(device_launch(d, dim3(blocks < 8 ? blocks : 8, n), dim3(COPY_THREADS)),
                gather_kernel, rows + i, static_cast<const uint8_t *>(a->in),
                static_cast<uint8_t *>(a->out) + i * bytes, bytes),
            "gather");
    }
}

void cuda_place(struct device *d, const struct place_args *a)
{
    size_t row = (size_t)a->n * sizeof(float);
    if (a->n_rows > 0 && a->n > 0)
        device_keep(d,
            cudaMemcpy2DAsync(a->out, a->out_stride * sizeof(float), a->in, row, row, a->n_rows,
                cudaMemcpyDefault, d->stream),
            "place");
}

// Layers are copied together as long as their pages have one size.
void cuda_block_copy(struct device *d, const struct block_copy_args *a)
{
    check(a->group < KERNELS_KV_GROUPS_MAX);
    copy_job job;
    uint32_t n = 0;
    size_t bytes = 0;
    for (uint32_t i = 0; i < a->n_layers && a->n_pairs > 0; i++) {
        const struct kv_layer *l = &a->layers[i];
        if (l->group != a->group)
            continue;
        if (n > 0 && (n == PLANES_AT_ONCE || page_bytes(l) != bytes)) {
            copy_pairs(d, a, &job, n, bytes);
            n = 0;
        }
        bytes = page_bytes(l);
        job.plane[n++] = (uint8_t *)l->k;
        job.plane[n++] = (uint8_t *)l->v;
    }
    if (n > 0)
        copy_pairs(d, a, &job, n, bytes);
}
