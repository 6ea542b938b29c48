// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pack.cuh"

namespace
{

struct embed_call {
    const uint32_t *counts, *token_ids, *positions, *kept;
    const void *table, *learned;
    enum dtype table_type, learned_type;
    uint32_t dim, vocab_begin, vocab_count, table_stride, learned_stride, position_offset;
    float scale;
};

// A block per row.
template <class T> __global__ void __launch_bounds__(256) embed_kernel(embed_call c, T *out)
{
    unsigned row = blockIdx.x;
    if (row >= c.counts[DEVICE_COUNT_ROWS])
        return;
    uint32_t token = c.token_ids[row];
    if (token & KERNELS_TOKEN_KEPT)
        token = c.kept[token & ~KERNELS_TOKEN_KEPT];
    uint32_t id = c.table != nullptr ? token - c.vocab_begin : 0; // wraps if below
    bool here = c.table == nullptr || id < c.vocab_count;
    size_t from = (size_t)id * c.table_stride;
    size_t learned = (size_t)(c.positions[row] + c.position_offset) * c.learned_stride;
    for (unsigned i = threadIdx.x; i < c.dim; i += blockDim.x) {
        float v = 0;
        if (here) {
            v = c.table != nullptr ? phx_load_any(c.table, c.table_type, from + i) * c.scale
                                   : phx_float(out[(size_t)row * c.dim + i]);
            if (c.learned != nullptr)
                v += phx_load_any(c.learned, c.learned_type, learned + i);
        }
        out[(size_t)row * c.dim + i] = phx_round<T>(v);
    }
}

} // namespace

void cuda_embed(struct device *d, const struct embed_args *a)
{
    check(a->batch == d->host_batch);
    check(a->table != NULL || a->positions != NULL);
    embed_call c = {};
    c.counts = d->batch.counts;
    c.token_ids = d->batch.token_ids;
    c.positions = d->batch.positions;
    c.kept = d->batch.kept;
    c.dim = a->table != NULL ? a->table->k : a->positions->k;
    c.vocab_begin = a->vocab_begin;
    c.position_offset = a->position_offset;
    c.scale = a->scale;
    if (a->table != NULL) {
        c.table = a->table->data;
        c.table_type = a->table->dtype;
        c.table_stride = a->table->stride;
        c.vocab_count = a->table->n;
    }
    if (a->positions != NULL) {
        check(a->positions->k == c.dim);
        check(d->recording || d->batch.n_keys + a->position_offset <= a->positions->n);
        c.learned = a->positions->data;
        c.learned_type = a->positions->dtype;
        c.learned_stride = a->positions->stride;
    }
    if (d->batch.n_rows == 0)
        return;
    check(a->out_type == DTYPE_F32 || a->out_type == d->activation);
    phx_dispatch(a->out_type, [&](auto type) {
        using T = decltype(type);
        device_keep(d,
            phx_launch(device_launch(d, dim3(d->batch.n_rows), dim3(c.dim < 128 ? 32 : 256)),
                embed_kernel<T>, c, static_cast<T *>(a->out)),
            "embed");
    });
}
