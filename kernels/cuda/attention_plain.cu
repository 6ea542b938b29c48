// SPDX-License-Identifier: Apache-2.0
// Attention with fused multiply-adds: any types, any head dimension, sums in f32 throughout. A
// block has a tile of 16 pairs; each thread computes scores of four pairs with one key, and outputs
// of four pairs in one dimension:
//
//   s = sum over d ascending;  o = sum over keys ascending;  l = eight sums over keys 8 i + lane,
//   and a tree of them
#include "kernels/cuda/attention.cuh"

namespace
{

constexpr unsigned pairs = attention_plain_pairs, groups = pairs / 4;
constexpr unsigned threads = attention_threads, lanes_per_row = threads / pairs;

// Floats in dynamic shared memory; `keys` keys or values are there at a time.
struct plain_layout {
    unsigned dim, keys;

    __host__ __device__ explicit plain_layout(unsigned head_dim)
        : dim(head_dim), keys(head_dim > 256 ? 16 : 32)
    {
    }
    __host__ __device__ unsigned row() const // odd, so that threads with keys of their own
    {                                        // read from banks of their own
        return dim | 1;
    }
    __host__ __device__ unsigned scores() const
    {
        return dim * pairs;
    }
    __host__ __device__ unsigned sums() const
    {
        return scores() + attention_chunk * pairs;
    }
    __host__ __device__ unsigned total() const
    {
        return sums() + dim * pairs;
    }
    __host__ __device__ unsigned tile() const
    {
        return total() + dim * pairs;
    }
    __host__ __device__ size_t bytes() const
    {
        return (tile() + keys * row()) * sizeof(float);
    }
};

// What a thread knows of the pair whose softmax it shares.
struct plain_row {
    unsigned position, low;
    float slope;
};

// Keys or values of positions [begin, begin + keys) as floats; zeros where no pair looks.
template <class KV>
__device__ __forceinline__ void load_rows(const attention_call &c, const attention_tile &t,
    const plain_layout &l, const void *pages, unsigned begin, float *to)
{
    unsigned lane = threadIdx.x % 32;
    for (unsigned i = threadIdx.x / 32; i < l.keys; i += threads / 32) {
        unsigned j = begin + i;
        bool there = j >= t.low && j <= t.high;
        const KV *from = static_cast<const KV *>(pages) + (there ? attention_at(c, t, j) : 0);
        for (unsigned d = lane; d < l.dim; d += 32)
            to[i * l.row() + d] = there ? phx_float(from[d]) : 0.0f;
    }
}

template <class T>
__device__ __forceinline__ void load_queries(
    const attention_call &c, const attention_tile &t, const plain_layout &l, float *q)
{
    unsigned lane = threadIdx.x % 32;
    for (unsigned i = threadIdx.x / 32; i < pairs; i += threads / 32) {
        attention_pair p = attention_pair_of(c, t, min(i, t.n_pairs - 1));
        const T *from = static_cast<const T *>(c.q) + p.row * c.q_stride + (size_t)p.head * l.dim;
        for (unsigned d = lane; d < l.dim; d += 32)
            q[d * pairs + i] = phx_float(from[d]);
    }
}

// Dots of the keys at hand with all pairs, four by four.
__device__ __forceinline__ void multiply_keys(
    const attention_tile &t, const plain_layout &l, const float *q, const float *k, float *s)
{
    for (unsigned i = threadIdx.x; i < l.keys * groups; i += threads) {
        unsigned key = i % l.keys, g = i / l.keys;
        if (g * 4 >= t.n_pairs)
            continue;
        float4 a = {0, 0, 0, 0};
        const float *row = k + key * l.row();
#pragma unroll 8
        for (unsigned d = 0; d < l.dim; d++) {
            float4 x = *reinterpret_cast<const float4 *>(q + d * pairs + g * 4);
            float y = row[d];
            a.x = fmaf(x.x, y, a.x);
            a.y = fmaf(x.y, y, a.y);
            a.z = fmaf(x.z, y, a.z);
            a.w = fmaf(x.w, y, a.w);
        }
        *reinterpret_cast<float4 *>(s + key * pairs + g * 4) = a;
    }
}

__device__ __forceinline__ void multiply_values(
    const attention_tile &t, const plain_layout &l, const float *e, const float *v, float *o)
{
    for (unsigned i = threadIdx.x; i < l.dim * groups; i += threads) {
        unsigned d = i % l.dim, g = i / l.dim;
        if (g * 4 >= t.n_pairs)
            continue;
        float4 *at = reinterpret_cast<float4 *>(o + d * pairs + g * 4);
        float4 a = *at;
#pragma unroll 8
        for (unsigned key = 0; key < l.keys; key++) {
            float4 x = *reinterpret_cast<const float4 *>(e + key * pairs + g * 4);
            float y = v[key * l.row() + d];
            a.x = fmaf(x.x, y, a.x);
            a.y = fmaf(x.y, y, a.y);
            a.z = fmaf(x.z, y, a.z);
            a.w = fmaf(x.w, y, a.w);
        }
        *at = a;
    }
}

// Dots [begin, end) of the chunk at `first` to e, by the eight threads of a pair; all get m and l.
__device__ __forceinline__ void softmax(const attention_call &c, const plain_row &r, unsigned first,
    unsigned begin, unsigned end, float *s, float &m, float &l)
{
    unsigned pair = threadIdx.x / lanes_per_row, lane = threadIdx.x % lanes_per_row;
    m = -INFINITY;
    for (unsigned j = begin + lane; j < end; j += lanes_per_row) {
        unsigned p = first + j;
        bool seen = p >= r.low && p <= r.position;
        float x =
            seen ? attention_score(c, s[j * pairs + pair], r.slope, r.position, p) : -INFINITY;
        s[j * pairs + pair] = x;
        m = fmaxf(m, x);
    }
    for (int d = 1; d < (int)lanes_per_row; d *= 2)
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, d));
    float from = m == -INFINITY ? 0.0f : m;
    l = 0;
    for (unsigned j = begin + lane; j < end; j += lanes_per_row) {
        float e = exp2f(s[j * pairs + pair] - from);
        s[j * pairs + pair] = e;
        l += e;
    }
    for (int d = 1; d < (int)lanes_per_row; d *= 2)
        l += __shfl_xor_sync(0xffffffffu, l, d);
}

// One chunk into o [dim][pairs], m and l of this thread's pair.
template <class KV>
__device__ __forceinline__ void attend(const attention_call &c, const attention_tile &t,
    const plain_layout &l, const plain_row &r, unsigned chunk, float *memory, float &m, float &sum)
{
    float *s = memory + l.scores(), *o = memory + l.sums(), *tile = memory + l.tile();
    unsigned first = chunk * attention_chunk, last = min(first + attention_chunk - 1, t.high);
    unsigned begin = (max(first, t.low) - first) / l.keys * l.keys;
    unsigned end = (last - first) / l.keys * l.keys + l.keys;
    for (unsigned i = threadIdx.x; i < l.dim * pairs; i += threads)
        o[i] = 0;
    for (unsigned j = begin; j < end; j += l.keys) {
        load_rows<KV>(c, t, l, c.k, first + j, tile);
        __syncthreads();
        multiply_keys(t, l, memory, tile, s + j * pairs);
        __syncthreads();
    }
    softmax(c, r, first, begin, end, s, m, sum);
    for (unsigned j = begin; j < end; j += l.keys) {
        load_rows<KV>(c, t, l, c.v, first + j, tile);
        __syncthreads();
        multiply_values(t, l, s + j * pairs, tile, o);
        __syncthreads();
    }
}

// A chunk's result into the total, or to the place where the last block looks for it.
__device__ __forceinline__ void keep_chunk(const attention_call &c, const attention_tile &t,
    const plain_layout &l, unsigned chunk, const float *factor, float *memory)
{
    const float *o = memory + l.sums();
    float *total = memory + l.total();
    float *stored = t.sharers > 1 ? attention_stored(c, t, chunk) : nullptr;
    for (unsigned i = threadIdx.x; i < l.dim * pairs; i += threads) {
        unsigned pair = i % pairs, d = i / pairs;
        if (stored == nullptr)
            total[i] = attention_add(total[i], factor[2 * pair], o[i], factor[2 * pair + 1]);
        else if (pair < t.n_pairs)
            stored[2 * c.pairs_stride + pair * l.dim + d] = o[i];
    }
}

template <class T>
__device__ __forceinline__ void write_rows(const attention_call &c, const attention_tile &t,
    const plain_layout &l, const float *factor, const float *total)
{
    unsigned lane = threadIdx.x % 32;
    for (unsigned i = threadIdx.x / 32; i < t.n_pairs; i += threads / 32) {
        attention_pair p = attention_pair_of(c, t, i);
        T *out = static_cast<T *>(c.out) + ((size_t)p.row * c.n_heads + p.head) * l.dim;
        for (unsigned d = lane; d < l.dim; d += 32)
            out[d] = phx_round<T>(total[d * pairs + i] * factor[2 * i]);
    }
}

template <class T, class KV>
__global__ void __launch_bounds__(threads) plain_kernel(const attention_call c)
{
    PHX_SHARED_DYNAMIC(float, memory);
    PHX_SHARED(unsigned[2], found);
    PHX_SHARED(float[2 * pairs], factor);
    attention_tile t;
    phx_grid_wait();
    phx_grid_release();
    if (!attention_begin(c, pairs, found, t))
        return;
    plain_layout l(c.head_dim);
    unsigned pair = threadIdx.x / lanes_per_row;
    bool speaks = threadIdx.x % lanes_per_row == 0;
    attention_pair p = attention_pair_of(c, t, min(pair, t.n_pairs - 1));
    plain_row r = {p.position, attention_low(c.window, p.position), attention_slope(c, p.head)};
    attention_fold f = {-INFINITY, 0};
    load_queries<T>(c, t, l, memory);
    for (unsigned i = threadIdx.x; i < l.dim * pairs; i += threads)
        memory[l.total() + i] = 0;
    for (unsigned i = 0; i < t.n_chunks; i++) {
        float m, sum;
        attend<KV>(c, t, l, r, t.chunk + i, memory, m, sum);
        float old, fresh;
        f.take(m, sum, old, fresh);
        if (speaks) {
            factor[2 * pair] = old;
            factor[2 * pair + 1] = fresh;
            if (t.sharers > 1 && pair < t.n_pairs) {
                float *stored = attention_stored(c, t, t.chunk + i);
                stored[2 * pair] = m;
                stored[2 * pair + 1] = sum;
            }
        }
        __syncthreads();
        keep_chunk(c, t, l, t.chunk + i, factor, memory);
        __syncthreads();
    }
    if (t.sharers > 1) {
        if (attention_is_last(c, t, found))
            attention_finish<T>(c, t);
        return;
    }
    if (speaks)
        factor[2 * pair] = 1.0f / f.l;
    __syncthreads();
    write_rows<T>(c, t, l, factor, memory + l.total());
}

template <class T, class KV> cudaError_t start(const attention_plan &p, const attention_call &c)
{
    return attention_launch(plain_kernel<T, KV>, plain_layout(c.head_dim).bytes(), p, c);
}

template <class T>
cudaError_t start_kv(const attention_plan &p, const attention_call &c, enum dtype kv)
{
    return kv == DTYPE_F32   ? start<T, float>(p, c)
           : kv == DTYPE_F16 ? start<T, phx_f16>(p, c)
                             : start<T, phx_bf16>(p, c);
}

} // namespace

cudaError_t attention_plain_start(
    const attention_plan &p, const attention_call &c, enum dtype t, enum dtype kv)
{
    return t == DTYPE_F32   ? start_kv<float>(p, c, kv)
           : t == DTYPE_F16 ? start_kv<phx_f16>(p, c, kv)
                            : start_kv<phx_bf16>(p, c, kv);
}
