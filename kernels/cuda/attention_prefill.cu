// SPDX-License-Identifier: Apache-2.0
// Attention of many rows on tensor cores: each warp of a block has 16 (row, head) pairs of its own,
// all of them share the tiles of keys and values. The scores of a whole chunk stay in registers;
// the output over the chunks so far waits in shared memory meanwhile. A head of 256 comes in two
// parts, and the output of a chunk is summed part by part, so that registers and shared memory are
// enough: on devices with 151 KiB of it for a block. Sums are in the same order.
#include "kernels/cuda/attention_tiles.cuh"

namespace
{

constexpr unsigned warps = attention_threads / 32, pairs = attention_prefill_pairs;
static_assert(pairs == warps * 16, "a warp has the rows of one product");
constexpr unsigned score_columns = tile_keys / 8;

template <unsigned D> constexpr unsigned parts = D > 128 ? 2 : 1;
template <unsigned D> constexpr unsigned width = D / parts<D>; // of a part
template <unsigned D> constexpr unsigned stages = D > 128 ? 3 : 2;

// One pair, as its warp looks it up.
struct prefill_row {
    unsigned low, position;
    float slope;
};

template <unsigned D> struct prefill_memory {
    static constexpr size_t ring = stages<D> * tile_elements<width<D>> * sizeof(uint16_t);
    static constexpr size_t queries = ring,
                            total = queries + pairs * tile_row<D> * sizeof(uint16_t);
    static constexpr size_t folds = total + pairs * D * sizeof(float);
    static constexpr size_t rows = folds + warps * 32 * 2 * sizeof(attention_fold);
    static constexpr size_t bytes = rows + pairs * sizeof(prefill_row);
};

template <class T, unsigned D> struct prefill_warp {
    static constexpr unsigned columns = width<D> / 8; // of a part

    const attention_call &c;
    const attention_tile &t;
    tile_ring<width<D>, stages<D>, parts<D>> ring;
    const uint16_t *query; // this lane's row of the warp's queries, for ldmatrix
    float *total;          // [D / 8][4][32 lanes]: the fragments of this warp
    attention_fold *fold;  // [2][32 lanes], there as well
    prefill_row *rows;     // [16] of this warp
    unsigned warp, lane;

    __device__ __forceinline__ prefill_warp(
        const attention_call &call, const attention_tile &tile, unsigned char *memory)
        : c(call), t(tile), warp(threadIdx.x / 32), lane(threadIdx.x % 32)
    {
        ring.begin(c, t, reinterpret_cast<uint16_t *>(memory));
        auto *q = reinterpret_cast<uint16_t *>(memory + prefill_memory<D>::queries);
        query = q + (warp * 16 + lane % 16) * tile_row<D> + lane / 16 * 8;
        total = reinterpret_cast<float *>(memory + prefill_memory<D>::total) + warp * 16 * D + lane;
        fold = reinterpret_cast<attention_fold *>(memory + prefill_memory<D>::folds) + warp * 64 +
               lane;
        fold[0] = fold[32] = {-INFINITY, 0};
        rows = reinterpret_cast<prefill_row *>(memory + prefill_memory<D>::rows) + warp * 16;
        if (lane < 16) {
            attention_pair p = attention_pair_of(c, t, min(warp * 16 + lane, t.n_pairs - 1));
            rows[lane] = {
                attention_low(c.window, p.position), p.position, attention_slope(c, p.head)};
        }
        // The warp's own rows; it alone reads them.
        for (unsigned i = lane; i < 16 * D / 2; i += 32) {
            unsigned row = warp * 16 + i / (D / 2), d = i % (D / 2) * 2;
            *reinterpret_cast<unsigned *>(q + row * tile_row<D> + d) = tile_query<T>(c, t, row, d);
        }
        for (unsigned i = 0; i < D / 2; i++)
            total[i * 32] = 0;
    }

    // Whether a row of this warp sees anything of a tile. Rows ascend, and so do both borders.
    __device__ __forceinline__ bool sees(unsigned chunk, unsigned tile) const
    {
        unsigned first = chunk * attention_chunk + tile * tile_keys;
        return warp * 16 < t.n_pairs && first + tile_keys > rows[0].low &&
               first <= rows[15].position;
    }

    // A part of the keys of a tile.
    __device__ __forceinline__ void score_keys(
        const uint16_t *k, unsigned part, float (&s)[score_columns][4])
    {
        const uint16_t *q = query + part * width<D>;
        const uint16_t *row =
            k + (lane / 16 * 8 + lane % 8) * tile_row<width<D>> + lane / 8 % 2 * 8;
#pragma unroll
        for (unsigned d = 0; d < width<D> / 16; d++) {
            unsigned a[4];
            phx_matrix_load<4>(a, q + d * 16);
#pragma unroll
            for (unsigned n = 0; n < score_columns; n += 2) {
                unsigned b[4];
                phx_matrix_load<4>(b, row + n * 8 * tile_row<width<D>> + d * 16);
                phx_multiply_16x8x16<T>(s[n], a, b);
                phx_multiply_16x8x16<T>(s[n + 1], a, b + 2);
            }
        }
    }

    __device__ __forceinline__ void transform(
        unsigned chunk, unsigned tile, float (&s)[score_columns][4], float (&m)[2]) const
    {
        unsigned first = chunk * attention_chunk + tile * tile_keys + lane % 4 * 2;
        const prefill_row row[2] = {rows[lane / 4], rows[lane / 4 + 8]};
#pragma unroll
        for (unsigned n = 0; n < score_columns; n++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++) {
                unsigned i = e / 2, j = first + n * 8 + e % 2;
                bool seen = j >= row[i].low && j <= row[i].position;
                float x = attention_score(c, s[n][e], row[i].slope, row[i].position, j);
                s[n][e] = seen ? x : -INFINITY;
                m[i] = fmaxf(m[i], s[n][e]);
            }
    }

    // e of one tile, rounded and packed as the fragments of a product, and its sums.
    __device__ __forceinline__ void weigh(const float (&s)[score_columns][4], const float (&m)[2],
        unsigned (&w)[score_columns][2], float (&l)[2]) const
    {
        float sum[2] = {0, 0};
#pragma unroll
        for (unsigned n = 0; n < score_columns; n++)
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                float x = exp2f(s[n][2 * i] - m[i]), y = exp2f(s[n][2 * i + 1] - m[i]);
                sum[i] += x;
                sum[i] += y;
                w[n][i] = tile_pack<T>(x, y);
            }
#pragma unroll
        for (unsigned i = 0; i < 2; i++)
            l[i] += tile_quad_sum(sum[i]);
    }

    __device__ __forceinline__ void add_values(
        const uint16_t *v, const unsigned (&w)[score_columns][2], float (&o)[columns][4])
    {
        const uint16_t *row = v + (lane % 16) * tile_row<width<D>> + lane / 16 * 8;
#pragma unroll
        for (unsigned k = 0; k < tile_keys / 16; k++) {
            unsigned a[4] = {w[2 * k][0], w[2 * k][1], w[2 * k + 1][0], w[2 * k + 1][1]};
#pragma unroll
            for (unsigned n = 0; n < columns; n += 2) {
                unsigned b[4]; // 16 keys of 16 columns
                phx_matrix_load<4, true>(b, row + k * 16 * tile_row<width<D>> + n * 8);
                phx_multiply_16x8x16<T>(o[n], a, b);
                phx_multiply_16x8x16<T>(o[n + 1], a, b + 2);
            }
        }
    }

    // A part of the chunk's output joins the total by the factors of its rows, or is stored.
    __device__ __forceinline__ void keep(unsigned chunk, unsigned part,
        const float (&o)[columns][4], const float (&old)[2], const float (&fresh)[2])
    {
        if (t.sharers > 1) {
            store(attention_stored(c, t, chunk) + 2 * c.pairs_stride + part * width<D>, o);
            return;
        }
#pragma unroll
        for (unsigned n = 0; n < columns; n++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++) {
                float *at = total + ((part * columns + n) * 4 + e) * 32;
                *at = attention_add(*at, old[e / 2], o[n][e], fresh[e / 2]);
            }
    }

    // The chunk's m and l are known: what its output is folded with.
    __device__ __forceinline__ void take(unsigned chunk, const float (&m)[2], const float (&l)[2],
        float (&old)[2], float (&fresh)[2])
    {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            unsigned row = warp * 16 + lane / 4 + i * 8;
            if (t.sharers == 1) {
                fold[i * 32].take(m[i], l[i], old[i], fresh[i]);
            } else if (row < t.n_pairs && lane % 4 == 0) {
                float *to = attention_stored(c, t, chunk) + 2 * row;
                to[0] = m[i];
                to[1] = l[i];
            }
        }
    }

    __device__ __forceinline__ void store(float *to, const float (&o)[columns][4]) const
    {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            unsigned row = warp * 16 + lane / 4 + i * 8;
            if (row >= t.n_pairs)
                continue;
            float *at = to + (size_t)row * D + lane % 4 * 2;
#pragma unroll
            for (unsigned n = 0; n < columns; n++)
                *reinterpret_cast<float2 *>(at + n * 8) = {o[n][2 * i], o[n][2 * i + 1]};
        }
    }

    __device__ __forceinline__ void write() const
    {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            unsigned row = warp * 16 + lane / 4 + i * 8;
            if (row >= t.n_pairs)
                continue;
            attention_pair p = attention_pair_of(c, t, row);
            T *out = static_cast<T *>(c.out) + ((size_t)p.row * c.n_heads + p.head) * D;
            float factor = 1.0f / fold[i * 32].l;
#pragma unroll
            for (unsigned n = 0; n < D / 8; n++) {
                const float *at = total + (n * 4 + 2 * i) * 32;
                *reinterpret_cast<unsigned *>(out + n * 8 + lane % 4 * 2) =
                    tile_pack<T>(at[0] * factor, at[32] * factor);
            }
        }
    }

    __device__ __forceinline__ void run_chunk(unsigned chunk)
    {
        unsigned begin = tile_begin(t, chunk), end = tile_end(t, chunk);
        float s[tiles_per_chunk][score_columns][4] = {}, m[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (unsigned tile = 0; tile < tiles_per_chunk; tile++) {
            if (tile < begin || tile >= end)
                continue;
#pragma unroll
            for (unsigned part = 0; part < parts<D>; part++) {
                const uint16_t *k = ring.take(c, t);
                if (sees(chunk, tile))
                    score_keys(k, part, s[tile]);
            }
            if (sees(chunk, tile))
                transform(chunk, tile, s[tile], m);
        }
        float from[2], l[2] = {0, 0}, old[2], fresh[2];
        unsigned w[tiles_per_chunk][score_columns][2];
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            m[i] = fmaxf(m[i], __shfl_xor_sync(0xffffffffu, m[i], 1));
            m[i] = fmaxf(m[i], __shfl_xor_sync(0xffffffffu, m[i], 2));
            from[i] = tile_reference(m[i]);
        }
#pragma unroll
        for (unsigned tile = 0; tile < tiles_per_chunk; tile++)
            if (tile >= begin && tile < end && sees(chunk, tile))
                weigh(s[tile], from, w[tile], l);
        take(chunk, m, l, old, fresh);
        for (unsigned part = 0; part < parts<D>; part++) {
            float o[columns][4] = {};
#pragma unroll
            for (unsigned tile = 0; tile < tiles_per_chunk; tile++) {
                if (tile < begin || tile >= end)
                    continue;
                const uint16_t *v = ring.take(c, t);
                if (sees(chunk, tile))
                    add_values(v, w[tile], o);
            }
            keep(chunk, part, o, old, fresh);
        }
    }
};

template <class T, unsigned D>
__global__ void __launch_bounds__(attention_threads) prefill_kernel(const attention_call c)
{
    PHX_SHARED_DYNAMIC(unsigned char, memory);
    PHX_SHARED(unsigned[2], found);
    PHX_SHARED(attention_tile, t); // registers are for scores
    attention_tile mine;
    phx_grid_wait();
    phx_grid_release();
    if (!attention_begin(c, pairs, found, mine))
        return;
    if (threadIdx.x == 0)
        t = mine;
    __syncthreads();
    prefill_warp<T, D> b(c, t, memory);
    for (unsigned i = 0; i < t.n_chunks; i++)
        b.run_chunk(t.chunk + i);
    if (t.sharers == 1)
        b.write();
    else if (attention_is_last(c, t, found))
        attention_finish<T>(c, t);
}

template <class T, unsigned D> cudaError_t start(const attention_plan &p, const attention_call &c)
{
    return attention_launch(prefill_kernel<T, D>, prefill_memory<D>::bytes, p, c);
}

template <class T> cudaError_t start_dim(const attention_plan &p, const attention_call &c)
{
    switch (c.head_dim) {
    case 64:
        return start<T, 64>(p, c);
    case 80:
        return start<T, 80>(p, c);
    case 96:
        return start<T, 96>(p, c);
    case 128:
        return start<T, 128>(p, c);
    default:
        return start<T, 256>(p, c);
    }
}

} // namespace

bool attention_prefill_has(const struct device *d, unsigned head_dim)
{
    return head_dim <= 128 ||
           prefill_memory<256>::bytes + attention_static_bytes <= d->block_shared_max;
}

cudaError_t attention_prefill_start(const attention_plan &p, const attention_call &c, enum dtype t)
{
    return t == DTYPE_F16 ? start_dim<phx_f16>(p, c) : start_dim<phx_bf16>(p, c);
}
