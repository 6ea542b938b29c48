// SPDX-License-Identifier: Apache-2.0
// Paged attention on a device: what its three forms share. All of them compute, for one query row
// and one head, the same operations in the same order, so a row has the same bits in any of them:
//
//   attention_plain.cu    any types and head dimensions, fused multiply-adds; decode and prefill
//   attention_decode.cu   16-bit types on tensor cores: up to 16 (row, head) pairs share a block
//   attention_prefill.cu  the same for many rows: each warp has 16 pairs of its own
//
// The (row, head) pairs of one sequence that read one KV head are numbered row * heads + head and
// cut into tiles. Positions are cut into chunks at absolute multiples of KERNELS_ATTENTION_CHUNK.
// In base 2 (scores are multiplied by log2 e), for each chunk with a visible position:
//
//   m = max s,  e = exp2(s - m),  l = sum e,  o = sum e v   from zero, in the form's fixed order
//
// and chunks are folded in ascending order: the first is taken as it is, then n = max(M, m),
// L = L 2^(M-n) + l 2^(m-n), O likewise. A block folds all chunks of its tile, or stores what each
// one gave, and the last of the blocks that share a tile folds them: the same bits.
#ifndef PHALANX_KERNELS_CUDA_ATTENTION_CUH
#define PHALANX_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/types.cuh"

constexpr unsigned attention_chunk = KERNELS_ATTENTION_CHUNK;
constexpr unsigned attention_threads = 128;

// What a kernel is told. Sizes in elements.
struct attention_call {
    const uint32_t *counts; // device_batch.counts
    const device_seq *seq;
    const uint32_t *tables;
    unsigned kv_group;
    const void *q, *k, *v;
    void *out;
    size_t q_stride;
    unsigned n_heads, n_kv_heads, heads;                  // heads: query heads of one KV head
    unsigned head_dim, block_tokens, block_shift, window; // block_shift: 32 unless a power of two
    float scale, softcap; // log2 e is in `scale`, or in `softcap` where that is not 0: then scores
                          // are softcap * tanh(scale * dot)
    const float *slopes;
    // Sequences with pairs in (pairs_above, pairs_up_to] are this launch's. Where all of them have
    // as many tiles, tiles_each says how many; 0: a block looks for its tile.
    unsigned pairs_above, pairs_up_to, tiles_each;
    // Tiles that several blocks share: room for `capacity` chunks of each.
    float *partial;
    unsigned *arrived;
    unsigned capacity, pairs_stride, n_splits;
};

// A tile, as all threads of its block see it.
struct attention_tile {
    const uint32_t *table;
    unsigned first_row, first_position; // of the sequence
    unsigned pair, n_pairs;             // of the tile's first pair; how many
    unsigned kv_head;
    unsigned low, high;       // visible positions of any pair: [low, high]
    unsigned chunk, n_chunks; // that this block does
    unsigned first_chunk, all_chunks;
    unsigned unit, sharers; // sharers > 1: this block's chunks are stored and folded later
};

__device__ __forceinline__ unsigned attention_low(unsigned window, unsigned p)
{
    return window > 0 && p >= window ? p - window + 1 : 0;
}

// Finds the sequence of tile `at` among those of this launch: by the first warp, for all.
__device__ __forceinline__ void attention_find(
    const attention_call &c, unsigned at, unsigned tile_pairs, unsigned *found)
{
    if (threadIdx.x < 32) {
        unsigned before = 0, n_seqs = c.counts[DEVICE_COUNT_SEQS];
        if (threadIdx.x == 0)
            found[0] = 0xffffffffu;
        __syncwarp();
        for (unsigned base = 0; base < n_seqs; base += 32) {
            unsigned i = base + threadIdx.x, tiles = 0;
            if (i < n_seqs) {
                unsigned pairs = c.seq[i].n_rows * c.heads;
                if (pairs > c.pairs_above && pairs <= c.pairs_up_to)
                    tiles = (pairs + tile_pairs - 1) / tile_pairs;
            }
            unsigned sum = tiles;
            for (unsigned d = 1; d < 32; d *= 2) {
                unsigned up = __shfl_up_sync(0xffffffffu, sum, d);
                sum += threadIdx.x >= d ? up : 0;
            }
            if (tiles > 0 && at >= before + sum - tiles && at < before + sum) {
                found[0] = i;
                found[1] = at - (before + sum - tiles);
            }
            before += __shfl_sync(0xffffffffu, sum, 31);
        }
    }
    __syncthreads();
}

// The tile of this block, with grid (tiles, KV heads, splits); false where there is nothing to do.
__device__ __forceinline__ bool attention_begin(
    const attention_call &c, unsigned tile_pairs, unsigned *found, attention_tile &t)
{
    unsigned seq = blockIdx.x, tile = 0;
    if (c.tiles_each > 0) {
        tile = seq % c.tiles_each;
        seq /= c.tiles_each;
    } else {
        attention_find(c, blockIdx.x, tile_pairs, found);
        seq = found[0];
        tile = found[1];
    }
    if (seq >= c.counts[DEVICE_COUNT_SEQS])
        return false;
    const device_seq s = c.seq[seq];
    unsigned pairs = s.n_rows * c.heads;
    t.pair = tile * tile_pairs;
    if (t.pair >= pairs || pairs <= c.pairs_above || pairs > c.pairs_up_to)
        return false;
    t.table = c.tables + s.table[c.kv_group];
    t.first_row = s.first_row;
    t.first_position = s.first_position;
    t.n_pairs = min(pairs - t.pair, tile_pairs);
    t.kv_head = blockIdx.y;
    t.low = attention_low(c.window, s.first_position + t.pair / c.heads);
    t.high = s.first_position + (t.pair + t.n_pairs - 1) / c.heads;
    t.first_chunk = t.low / attention_chunk;
    t.all_chunks = t.high / attention_chunk + 1 - t.first_chunk;
    t.unit = blockIdx.x * c.n_kv_heads + blockIdx.y;
    unsigned splits = t.all_chunks <= c.capacity ? gridDim.z : 1;
    unsigned each = (t.all_chunks + splits - 1) / splits;
    t.sharers = (t.all_chunks + each - 1) / each;
    t.chunk = t.first_chunk + blockIdx.z * each;
    if (blockIdx.z >= t.sharers)
        return false;
    t.n_chunks = min(each, t.first_chunk + t.all_chunks - t.chunk);
    return true;
}

// Row of pair i of a tile among the rows of the batch, its head and its position.
struct attention_pair {
    unsigned row, head, position;
};

__device__ __forceinline__ attention_pair attention_pair_of(
    const attention_call &c, const attention_tile &t, unsigned i)
{
    unsigned p = t.pair + i, row = p / c.heads;
    return {t.first_row + row, t.kv_head * c.heads + p % c.heads, t.first_position + row};
}

// Element offset of position j in K or V pages.
__device__ __forceinline__ size_t attention_at(
    const attention_call &c, const attention_tile &t, unsigned j)
{
    unsigned block = c.block_shift < 32 ? j >> c.block_shift : j / c.block_tokens;
    size_t page = (size_t)t.table[block] * c.n_kv_heads + t.kv_head;
    return (page * c.block_tokens + (j - block * c.block_tokens)) * c.head_dim;
}

// A dot product to a score in base 2.
__device__ __forceinline__ float attention_score(
    const attention_call &c, float dot, float slope, unsigned position, unsigned j)
{
    float s = dot * c.scale;
    if (c.softcap > 0)
        s = c.softcap * tanhf(s);
    return c.slopes != nullptr ? fmaf(slope, (float)((int)j - (int)position), s) : s;
}

__device__ __forceinline__ float attention_slope(const attention_call &c, unsigned head)
{
    return c.slopes != nullptr ? c.slopes[head] * 1.4426950408889634f : 0.0f;
}

// ---- folding -----------------------------------------------------------------------------------

// M and L of one pair over the chunks so far; absent chunks have m = -infinity.
struct attention_fold {
    float m, l;

    // Takes a chunk and says by what the old and the new o are to be multiplied.
    __device__ __forceinline__ void take(float chunk_m, float chunk_l, float &old, float &fresh)
    {
        if (chunk_m == -INFINITY) {
            old = 1;
            fresh = 0;
        } else if (m == -INFINITY) {
            old = 0;
            fresh = 1;
            m = chunk_m;
            l = chunk_l;
        } else {
            float n = fmaxf(m, chunk_m);
            old = exp2f(m - n);
            fresh = exp2f(chunk_m - n);
            l = fmaf(l, old, chunk_l * fresh);
            m = n;
        }
    }
};

// o is zero where nothing was taken yet; so the first chunk is kept as it is, sign of zero aside.
__device__ __forceinline__ float attention_add(float o, float old, float chunk_o, float fresh)
{
    return fmaf(o, old, chunk_o * fresh);
}

// Where chunk `chunk` of a tile stores its m, l [pairs_stride][2] and o [pairs_stride][head_dim].
__device__ __forceinline__ float *attention_stored(
    const attention_call &c, const attention_tile &t, unsigned chunk)
{
    size_t each = (size_t)c.pairs_stride * (c.head_dim + 2);
    return c.partial + ((size_t)t.unit * c.capacity + (chunk - t.first_chunk)) * each;
}

// After a block of a shared tile has stored its chunks: true in the last one.
__device__ __forceinline__ bool attention_is_last(
    const attention_call &c, const attention_tile &t, unsigned *found)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned n = phx_add_acq_rel_gpu(&c.arrived[t.unit], 1u);
        found[0] = n + 1 == t.sharers;
        if (n + 1 == t.sharers)
            c.arrived[t.unit] = 0; // for the next launch
    }
    __syncthreads();
    return found[0] != 0;
}

// Folds the stored chunks of a tile and writes its rows.
template <class T>
__device__ __forceinline__ void attention_finish(const attention_call &c, const attention_tile &t)
{
    unsigned dim = c.head_dim;
    for (unsigned i = threadIdx.x; i < t.n_pairs * dim; i += blockDim.x) {
        unsigned pair = i / dim, d = i % dim;
        attention_fold f = {-INFINITY, 0};
        float o = 0;
#pragma unroll 4
        for (unsigned k = 0; k < t.all_chunks; k++) {
            const float *s = attention_stored(c, t, t.first_chunk + k);
            float old, fresh;
            f.take(s[2 * pair], s[2 * pair + 1], old, fresh);
            o = attention_add(o, old, s[2 * c.pairs_stride + pair * dim + d], fresh);
        }
        attention_pair p = attention_pair_of(c, t, pair);
        T *out = static_cast<T *>(c.out) + ((size_t)p.row * c.n_heads + p.head) * dim;
        out[d] = phx_round<T>(o * (1.0f / f.l));
    }
}

// ---- the forms ---------------------------------------------------------------------------------

// What the host knows of a launch beside the call.
struct attention_plan {
    unsigned tiles, splits;
    struct device *device;
};

// T: activations. False where the form does not have these types or this head dimension, or the
// device not the shared memory; prefill is asked for what decode has.
bool attention_decode_has(const struct device *d, enum dtype t, enum dtype kv, unsigned head_dim);
bool attention_prefill_has(const struct device *d, unsigned head_dim);
cudaError_t attention_decode_start(const attention_plan &p, const attention_call &c, enum dtype t);
cudaError_t attention_prefill_start(const attention_plan &p, const attention_call &c, enum dtype t);
cudaError_t attention_plain_start(
    const attention_plan &p, const attention_call &c, enum dtype t, enum dtype kv);

// Starts a form's kernel with `bytes` of dynamic shared memory.
inline cudaError_t attention_launch(
    void (*kernel)(attention_call), size_t bytes, const attention_plan &p, const attention_call &c)
{
    cudaError_t e = device_allow_shared(p.device, kernel, bytes);
    if (e != cudaSuccess)
        return e;
    phx_launch_config l = device_launch_waiting(
        p.device, dim3(p.tiles, c.n_kv_heads, p.splits), dim3(attention_threads), bytes);
    return phx_launch(l, kernel, c);
}

constexpr unsigned attention_decode_pairs = 16, attention_plain_pairs = 16;
constexpr unsigned attention_prefill_pairs = attention_threads / 2;
constexpr size_t attention_static_bytes = 1024; // of shared memory beside what is asked for

#endif
