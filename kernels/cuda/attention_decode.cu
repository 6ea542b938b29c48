// SPDX-License-Identifier: Apache-2.0
// Attention of few rows on tensor cores: a block has one tile of up to 16 (row, head) pairs, the
// rows of one m16n8k16. Its four warps share every tile of keys (16 each) and of values (every
// fourth eight columns of the output); scores go through shared memory.
#include "kernels/cuda/attention_tiles.cuh"

namespace
{

constexpr unsigned pairs = attention_decode_pairs, warps = attention_threads / 32;
constexpr unsigned score_row = attention_chunk + 8, weight_row = attention_chunk + 8;
constexpr unsigned lanes_per_row = attention_threads / pairs;
static_assert(warps == tile_keys / 16 && lanes_per_row == 8, "as the softmax shares its work");

template <unsigned D> constexpr unsigned decode_stages = D >= 128 ? 3 : 4;

template <unsigned D> struct decode_memory {
    static constexpr size_t ring = decode_stages<D> * tile_elements<D> * sizeof(uint16_t);
    static constexpr size_t scores = ring, weights = scores + pairs * score_row * sizeof(float);
    static constexpr size_t bytes = weights + pairs * weight_row * sizeof(uint16_t);
};

// The block's work in progress, as one thread sees it. `row` counts 16-bit rows of a fragment:
// lane / 4 and that plus eight.
template <class T, unsigned D> struct decode_block {
    static constexpr unsigned columns = D / 8, mine = (columns + warps - 1) / warps;

    const attention_call &c;
    const attention_tile &t;
    tile_ring<D, decode_stages<D>> ring;
    float *score;     // [pairs][score_row]
    uint16_t *weight; // [pairs][weight_row]
    float *stats;     // [2][pairs]: m and l of the chunk
    unsigned q[D / 16][4];
    unsigned warp, lane, low[2], position[2];
    float slope[2];
    attention_fold fold[2];
    float o[mine][4], total[mine][4];

    __device__ __forceinline__ decode_block(const attention_call &call, const attention_tile &tile,
        unsigned char *memory, float *block_stats)
        : c(call), t(tile), score(reinterpret_cast<float *>(memory + decode_memory<D>::scores)),
          weight(reinterpret_cast<uint16_t *>(memory + decode_memory<D>::weights)),
          stats(block_stats), warp(threadIdx.x / 32), lane(threadIdx.x % 32)
    {
        ring.begin(c, t, reinterpret_cast<uint16_t *>(memory));
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            attention_pair p = attention_pair_of(c, t, min(lane / 4 + 8 * i, t.n_pairs - 1));
            position[i] = p.position;
            low[i] = attention_low(c.window, p.position);
            slope[i] = attention_slope(c, p.head);
            fold[i] = {-INFINITY, 0};
        }
#pragma unroll
        for (unsigned k = 0; k < D / 16; k++)
#pragma unroll
            for (unsigned r = 0; r < 4; r++)
                q[k][r] =
                    tile_query<T>(c, t, lane / 4 + r % 2 * 8, k * 16 + r / 2 * 8 + lane % 4 * 2);
#pragma unroll
        for (unsigned n = 0; n < mine; n++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++)
                total[n][e] = 0;
    }

    // This warp's 16 keys of a tile, scored, to shared memory.
    __device__ __forceinline__ void score_keys(unsigned chunk, unsigned tile)
    {
        const uint16_t *k = ring.take(c, t);
        float s[2][4] = {};
        const uint16_t *row = k + (warp * 16 + lane / 16 * 8 + lane % 8) * tile_row<D>;
#pragma unroll
        for (unsigned d = 0; d < D / 16; d++) {
            unsigned b[4];
            phx_matrix_load<4>(b, row + d * 16 + lane / 8 % 2 * 8);
            phx_multiply_16x8x16<T>(s[0], q[d], b);
            phx_multiply_16x8x16<T>(s[1], q[d], b + 2);
        }
        unsigned at = tile * tile_keys + warp * 16 + lane % 4 * 2;
#pragma unroll
        for (unsigned n = 0; n < 2; n++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++) {
                unsigned i = e / 2, column = at + n * 8 + e % 2;
                unsigned j = chunk * attention_chunk + column;
                bool seen = j >= low[i] && j <= position[i];
                score[(lane / 4 + i * 8) * score_row + column] =
                    seen ? attention_score(c, s[n][e], slope[i], position[i], j) : -INFINITY;
            }
    }

    // e, m and l of the chunk by eight threads a row: each has two tiles of one lane's columns.
    __device__ __forceinline__ void softmax(unsigned begin, unsigned end)
    {
        unsigned row = threadIdx.x / lanes_per_row, u = threadIdx.x % lanes_per_row;
        float m = -INFINITY, sum[2];
        const float *s = score + row * score_row + u % 4 * 2;
        unsigned *w = reinterpret_cast<unsigned *>(weight + row * weight_row + u % 4 * 2);
#pragma unroll
        for (unsigned h = 0; h < 2; h++)
            for (unsigned n = 0, tile = u / 4 + h * 2; n < 8 && tile >= begin && tile < end; n++) {
                float2 x = *reinterpret_cast<const float2 *>(s + tile * tile_keys + n * 8);
                m = fmaxf(m, fmaxf(x.x, x.y));
            }
        for (int d = 1; d < (int)lanes_per_row; d *= 2)
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, d));
        float from = tile_reference(m);
#pragma unroll
        for (unsigned h = 0; h < 2; h++) {
            sum[h] = 0;
            for (unsigned n = 0, tile = u / 4 + h * 2; n < 8 && tile >= begin && tile < end; n++) {
                float2 x = *reinterpret_cast<const float2 *>(s + tile * tile_keys + n * 8);
                x.x = exp2f(x.x - from);
                x.y = exp2f(x.y - from);
                sum[h] += x.x;
                sum[h] += x.y;
                w[(tile * tile_keys + n * 8) / 2] = tile_pack<T>(x.x, x.y);
            }
            sum[h] = tile_quad_sum(sum[h]);
        }
        // Threads 0 to 3 of a row have tiles 0 and 2, the others 1 and 3.
        float other[2];
        for (unsigned h = 0; h < 2; h++)
            other[h] = __shfl_xor_sync(0xffffffffu, sum[h], 4);
        if (u == 0) {
            stats[row] = m;
            stats[pairs + row] = ((sum[0] + other[0]) + sum[1]) + other[1];
        }
    }

    // A tile of values into this warp's columns of o.
    __device__ __forceinline__ void add_values(unsigned tile)
    {
        const uint16_t *v = ring.take(c, t);
        const uint16_t *w = weight + (lane % 16) * weight_row + tile * tile_keys + lane / 16 * 8;
        unsigned a[4][4];
#pragma unroll
        for (unsigned k = 0; k < 4; k++)
            phx_matrix_load<4>(a[k], w + k * 16);
#pragma unroll
        for (unsigned n = 0; n < mine; n++) {
            unsigned column = warp + n * warps;
            if (column >= columns)
                break;
#pragma unroll
            for (unsigned k = 0; k < 4; k += 2) {
                unsigned b[4]; // keys 16 k to 16 k + 31 of eight columns
                phx_matrix_load<4, true>(b, v + (k * 16 + lane) * tile_row<D> + column * 8);
                phx_multiply_16x8x16<T>(o[n], a[k], b);
                phx_multiply_16x8x16<T>(o[n], a[k + 1], b + 2);
            }
        }
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (unsigned n = 0; n < mine; n++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++)
                o[n][e] = 0;
    }

    __device__ __forceinline__ void fold_chunk(const float *m, const float *l)
    {
        float old[2], fresh[2];
#pragma unroll
        for (unsigned i = 0; i < 2; i++)
            fold[i].take(m[i], l[i], old[i], fresh[i]);
#pragma unroll
        for (unsigned n = 0; n < mine; n++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++)
                total[n][e] = attention_add(total[n][e], old[e / 2], o[n][e], fresh[e / 2]);
    }

    __device__ __forceinline__ void store_chunk(unsigned chunk, const float *m, const float *l)
    {
        float *stored = attention_stored(c, t, chunk);
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            unsigned row = lane / 4 + i * 8;
            if (row >= t.n_pairs)
                continue;
            if (warp == 0 && lane % 4 == 0) {
                stored[2 * row] = m[i];
                stored[2 * row + 1] = l[i];
            }
#pragma unroll
            for (unsigned n = 0; n < mine; n++) {
                unsigned column = warp + n * warps;
                if (column < columns)
                    *reinterpret_cast<float2 *>(stored + 2 * c.pairs_stride + row * D + column * 8 +
                                                lane % 4 * 2) = {o[n][i * 2], o[n][i * 2 + 1]};
            }
        }
    }

    __device__ __forceinline__ void write()
    {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            unsigned row = lane / 4 + i * 8;
            if (row >= t.n_pairs)
                continue;
            attention_pair p = attention_pair_of(c, t, row);
            T *out = static_cast<T *>(c.out) + ((size_t)p.row * c.n_heads + p.head) * D;
            float factor = 1.0f / fold[i].l;
#pragma unroll
            for (unsigned n = 0; n < mine; n++) {
                unsigned column = warp + n * warps;
                if (column < columns)
                    *reinterpret_cast<unsigned *>(out + column * 8 + lane % 4 * 2) =
                        tile_pack<T>(total[n][i * 2] * factor, total[n][i * 2 + 1] * factor);
            }
        }
    }

    __device__ __forceinline__ void run()
    {
        for (unsigned chunk = t.chunk; chunk < t.chunk + t.n_chunks; chunk++) {
            unsigned begin = tile_begin(t, chunk), end = tile_end(t, chunk);
            for (unsigned tile = begin; tile < end; tile++)
                score_keys(chunk, tile);
            __syncthreads();
            softmax(begin, end);
            clear();
            for (unsigned tile = begin; tile < end; tile++)
                add_values(tile);
            // Since the first of these tiles all threads see the softmax; it is computed anew only
            // after another barrier.
            float m[2] = {stats[lane / 4], stats[lane / 4 + 8]};
            float l[2] = {stats[pairs + lane / 4], stats[pairs + lane / 4 + 8]};
            if (t.sharers > 1)
                store_chunk(chunk, m, l);
            else
                fold_chunk(m, l);
        }
    }
};

template <class T, unsigned D>
__global__ void __launch_bounds__(attention_threads) decode_kernel(const attention_call c)
{
    PHX_SHARED_DYNAMIC(unsigned char, memory);
    PHX_SHARED(unsigned[2], found);
    PHX_SHARED(float[2 * pairs], stats);
    attention_tile t;
    phx_grid_wait();
    phx_grid_release();
    if (!attention_begin(c, pairs, found, t))
        return;
    decode_block<T, D> b(c, t, memory, stats);
    b.run();
    if (t.sharers == 1)
        b.write();
    else if (attention_is_last(c, t, found))
        attention_finish<T>(c, t);
}

template <class T, unsigned D> cudaError_t start(const attention_plan &p, const attention_call &c)
{
    return attention_launch(decode_kernel<T, D>, decode_memory<D>::bytes, p, c);
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

bool attention_decode_has(const struct device *d, enum dtype t, enum dtype kv, unsigned head_dim)
{
    bool wide = head_dim == 256 &&
                decode_memory<256>::bytes + attention_static_bytes <= d->block_shared_max;
    bool dim = head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || wide;
    return dim && t == kv && t != DTYPE_F32;
}

cudaError_t attention_decode_start(const attention_plan &p, const attention_call &c, enum dtype t)
{
    return t == DTYPE_F16 ? start_dim<phx_f16>(p, c) : start_dim<phx_bf16>(p, c);
}
