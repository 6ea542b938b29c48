// SPDX-License-Identifier: Apache-2.0
// What the two tensor-core forms of attention share: tiles of 64 keys or values, which arrive in a
// ring of buffers by asynchronous copies, and the order of sums.
//
//   s = mma over head_dim in steps of 16, ascending, from zero
//   o = mma over the keys of the chunk in steps of 16, ascending, from zero; e is rounded to T
//   l = ((T0 + T1) + T2) + T3 over the chunk's four tiles; T = (S0 + S1) + (S2 + S3); S_i takes
//       keys 8 n + 2 i and 8 n + 2 i + 1, ascending: those that one lane holds
#ifndef PHALANX_KERNELS_CUDA_ATTENTION_TILES_CUH
#define PHALANX_KERNELS_CUDA_ATTENTION_TILES_CUH

#include "kernels/cuda/attention.cuh"

constexpr unsigned tile_keys = 64, tiles_per_chunk = attention_chunk / tile_keys;

// A buffer holds 64 rows of D elements of 16 bits: of a whole head, or of a part of it where a head
// is too wide. 16 bytes more per row, so that eight rows that
// ldmatrix reads at once lie in different banks.
template <unsigned D> constexpr unsigned tile_row = D + 8;
template <unsigned D> constexpr unsigned tile_elements = tile_keys *tile_row<D>;

// The buffers of a block in the order in which it uses them: of a chunk, the keys of each tile part
// by part, then the values of each part tile by tile.
struct tile_place {
    unsigned chunk, tile, part, left; // left: chunks, this one included; 0: the end
    bool values;
};

// Tiles of a chunk that hold a visible position: [begin, end).
__device__ __forceinline__ unsigned tile_begin(const attention_tile &t, unsigned chunk)
{
    unsigned first = chunk * attention_chunk;
    return t.low > first ? (t.low - first) / tile_keys : 0;
}

__device__ __forceinline__ unsigned tile_end(const attention_tile &t, unsigned chunk)
{
    unsigned first = chunk * attention_chunk;
    return min((t.high - first) / tile_keys + 1, tiles_per_chunk);
}

template <unsigned parts>
__device__ __forceinline__ void tile_next(const attention_tile &t, tile_place &p)
{
    if (parts > 1 && !p.values && ++p.part < parts)
        return;
    if (!p.values)
        p.part = 0;
    if (++p.tile < tile_end(t, p.chunk))
        return;
    if (p.values && ++p.part == parts) {
        p.part = 0;
        p.chunk++;
        p.left--;
        p.values = false;
    } else {
        p.values = true;
    }
    p.tile = p.left > 0 ? tile_begin(t, p.chunk) : 0;
}

// Asks for the tile at `p`, rows that no pair sees as zeros.
template <unsigned D>
__device__ __forceinline__ void tile_fetch(
    const attention_call &c, const attention_tile &t, const tile_place &p, uint16_t *to)
{
    constexpr unsigned pieces = D / 8; // of 16 bytes in a row
    const uint16_t *pages = static_cast<const uint16_t *>(p.values ? c.v : c.k);
    unsigned first = p.chunk * attention_chunk + p.tile * tile_keys;
    for (unsigned i = threadIdx.x; i < tile_keys * pieces; i += attention_threads) {
        unsigned row = i / pieces, piece = i % pieces, j = first + row;
        bool there = j >= t.low && j <= t.high;
        const uint16_t *from = pages + (there ? attention_at(c, t, j) + p.part * D + piece * 8 : 0);
        phx_copy_async_16_if(to + row * tile_row<D> + piece * 8, from, there);
    }
}

// A ring of buffers ahead of their use; a head has `parts` parts of D elements.
template <unsigned D, unsigned stages, unsigned parts = 1> struct tile_ring {
    uint16_t *memory;
    tile_place next;
    unsigned filled, used; // buffers, modulo stages

    __device__ __forceinline__ void fetch(const attention_call &c, const attention_tile &t)
    {
        if (next.left > 0) {
            tile_fetch<D>(c, t, next, memory + filled * tile_elements<D>);
            tile_next<parts>(t, next);
        }
        phx_copy_commit();
        filled = filled + 1 == stages ? 0 : filled + 1;
    }
    __device__ __forceinline__ void begin(
        const attention_call &c, const attention_tile &t, uint16_t *at)
    {
        memory = at;
        next = {t.chunk, tile_begin(t, t.chunk), 0, t.n_chunks, false};
        filled = used = 0;
        for (unsigned i = 0; i + 1 < stages; i++)
            fetch(c, t);
    }
    // The next tile, whole, for all threads; its predecessor's buffer is filled anew.
    __device__ __forceinline__ const uint16_t *take(
        const attention_call &c, const attention_tile &t)
    {
        phx_copy_wait<(int)stages - 2>();
        __syncthreads();
        fetch(c, t);
        const uint16_t *p = memory + used * tile_elements<D>;
        used = used + 1 == stages ? 0 : used + 1;
        return p;
    }
};

// Two floats, rounded, as a register of a fragment.
template <class T> __device__ __forceinline__ unsigned tile_pack(float a, float b)
{
    return (unsigned)phx_round<T>(a).bits | (unsigned)phx_round<T>(b).bits << 16;
}

// m as what e = exp2(s - m) subtracts: where nothing is visible all e are zero.
__device__ __forceinline__ float tile_reference(float m)
{
    return m == -INFINITY ? 0.0f : m;
}

// Sum over the four lanes that hold a row.
__device__ __forceinline__ float tile_quad_sum(float s)
{
    s += __shfl_xor_sync(0xffffffffu, s, 1);
    return s + __shfl_xor_sync(0xffffffffu, s, 2);
}

// 32 bits of a query row at element d, or zero.
template <class T>
__device__ __forceinline__ unsigned tile_query(
    const attention_call &c, const attention_tile &t, unsigned pair, unsigned d)
{
    if (pair >= t.n_pairs)
        return 0;
    attention_pair p = attention_pair_of(c, t, pair);
    const T *q = static_cast<const T *>(c.q) + p.row * c.q_stride + (size_t)p.head * c.head_dim + d;
    return *reinterpret_cast<const unsigned *>(q);
}

#endif
