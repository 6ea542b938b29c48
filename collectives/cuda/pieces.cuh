// SPDX-License-Identifier: Apache-2.0
// Pieces: what one block moves and sums between two steps of its counters. An operation is a list
// of pieces that its blocks take in turn; sums are handed, still in f32, to a function of the
// caller.
#ifndef PHALANX_COLLECTIVES_CUDA_PIECES_CUH
#define PHALANX_COLLECTIVES_CUDA_PIECES_CUH

#include "collectives/cuda/pad.cuh"

struct op_sum {
    static __device__ __forceinline__ float of(float a, float b)
    {
        return a + b;
    }
};

// A later equal value wins, and a NaN of any rank makes a NaN, as on the host.
struct op_max {
    static __device__ __forceinline__ float of(float a, float b)
    {
        return a != a || a > b ? a : b;
    }
};

template <class T, unsigned N> struct alignas(N * sizeof(T)) pack {
    T e[N];
};

template <class T, unsigned N>
__device__ __forceinline__ pack<T, N> pack_load(const T *p, unsigned valid)
{
    if (valid >= N && (reinterpret_cast<size_t>(p) & (N * sizeof(T) - 1)) == 0)
        return *reinterpret_cast<const pack<T, N> *>(p);
    pack<T, N> v = {};
#pragma unroll
    for (unsigned i = 0; i < N; i++)
        if (i < valid)
            v.e[i] = p[i];
    return v;
}

template <class T, unsigned N>
__device__ __forceinline__ void pack_store(T *p, const pack<T, N> &v, unsigned valid)
{
    if (valid >= N && (reinterpret_cast<size_t>(p) & (N * sizeof(T) - 1)) == 0) {
        *reinterpret_cast<pack<T, N> *>(p) = v;
        return;
    }
#pragma unroll
    for (unsigned i = 0; i < N; i++)
        if (i < valid)
            p[i] = v.e[i];
}

template <class T, unsigned N> __device__ __forceinline__ pack<T, N> pack_round(const float *f)
{
    pack<T, N> v;
#pragma unroll
    for (unsigned i = 0; i < N; i++)
        v.e[i] = phx_round<T>(f[i]);
    return v;
}

template <class OP, class T, unsigned N>
__device__ __forceinline__ void pack_add(float *sum, const pack<T, N> &v, bool first)
{
#pragma unroll
    for (unsigned i = 0; i < N; i++)
        sum[i] = first ? phx_float(v.e[i]) : OP::of(sum[i], phx_float(v.e[i]));
}

// What the caller does with sums: writes them to a buffer.
template <class T> struct store_sink {
    T *to;

    template <unsigned N>
    __device__ __forceinline__ void take(unsigned at, const float *sum, unsigned valid) const
    {
        pack_store<T, N>(to + at, pack_round<T, N>(sum), valid);
    }
};

// The block copies bytes, 16 at a time where both ends are aligned.
__device__ inline void piece_copy(void *to, const void *from, size_t bytes)
{
    uint8_t *t = static_cast<uint8_t *>(to);
    const uint8_t *f = static_cast<const uint8_t *>(from);
    size_t whole = 0;
    if (((reinterpret_cast<size_t>(t) | reinterpret_cast<size_t>(f)) & 15) == 0)
        whole = bytes / 16 * 16;
    for (size_t i = (size_t)threadIdx.x * 16; i < whole; i += (size_t)blockDim.x * 16)
        *reinterpret_cast<uint4 *>(t + i) = *reinterpret_cast<const uint4 *>(f + i);
    for (size_t i = whole + threadIdx.x; i < bytes; i += blockDim.x)
        t[i] = f[i];
}

// The peers of a rank in the order in which it writes to them: all begin elsewhere.
__device__ __forceinline__ unsigned piece_peer(const pad_group &g, unsigned step)
{
    unsigned r = g.rank + step;
    return r < g.size ? r : r - g.size;
}

// Packets. A word of 64 bits is {data, turn}: seeing the turn is seeing the data, so no meeting is
// needed, but where old turns are forgotten: nobody may push before all have.
__device__ inline bool packets_begin(const pad_group &g, const pad_place &p)
{
    return !pad_forgets_packets(p) || pad_meet(g, p, PAD_CLEAR);
}

template <class T>
__device__ __forceinline__ phx_pair packet_of(const pack<T, 8 / sizeof(T)> &v, unsigned turn)
{
    const uint2 d = *reinterpret_cast<const uint2 *>(&v);
    phx_u64 flag = (phx_u64)turn << 32;
    return {flag | d.x, flag | d.y};
}

template <class T> __device__ __forceinline__ pack<T, 8 / sizeof(T)> packet_data(const phx_pair &v)
{
    const uint2 d = {(unsigned)v.a, (unsigned)v.b};
    return *reinterpret_cast<const pack<T, 8 / sizeof(T)> *>(&d);
}

// Packet i of all ranks, polled together. The own one comes from the buffer.
__device__ __forceinline__ bool packets_take(
    const pad_group &g, const pad_place &p, unsigned i, phx_pair *v)
{
    for (unsigned polls = 1;; polls++) {
        unsigned missing = PAD_RANKS;
#pragma unroll
        for (unsigned r = 0; r < PAD_RANKS; r++)
            if (r < g.size && r != g.rank) {
                v[r] = phx_load_pair_sys(pad_packets(g, g.rank, p.parity(), r) + i);
                if ((unsigned)(v[r].a >> 32) != p.turn || (unsigned)(v[r].b >> 32) != p.turn)
                    missing = r;
            }
        if (missing == PAD_RANKS)
            return true;
        // The flag that is looked at is the one that the peer raises with its packets.
        if (polls % PAD_LOOKS == 0) {
            const phx_u64 *flag = pad_flag(g, p, g.rank, PAD_START, missing);
            if (!pad_look(g, p, flag, missing, PAD_START))
                return false;
            phx_u64 got = phx_load_acquire_sys(flag);
            if ((unsigned)got == p.epoch && got != pad_word(g, p))
                return pad_raise(g, p, PAD_MISMATCH, missing, PAD_START);
        }
    }
}

// count * sizeof(T) <= PAD_PACKETS * 8. A thread reads and writes the same elements, so the sink
// may write to `in`.
template <class OP, class T, class SINK>
__device__ inline bool packets_piece(
    const pad_group &g, pad_place &p, const T *in, unsigned count, const SINK &sink)
{
    constexpr unsigned N = 8 / sizeof(T);
    unsigned n = (count + N - 1) / N, peer = threadIdx.x;
    bool fine = true;
    pad_next(g, p, true);
    if (!packets_begin(g, p))
        return false;
    if (peer < g.size && peer != g.rank)
        phx_store_relaxed_sys(pad_flag(g, p, peer, PAD_START, g.rank), pad_word(g, p));
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
        phx_pair v = packet_of<T>(pack_load<T, N>(in + i * N, count - i * N), p.turn);
        for (unsigned s = 1; s < g.size; s++) {
            unsigned r = piece_peer(g, s);
            phx_store_pair_sys(pad_packets(g, r, p.parity(), g.rank) + i, v);
        }
    }
    for (unsigned i = threadIdx.x; i < n && fine; i += blockDim.x) {
        phx_pair v[PAD_RANKS];
        float sum[N] = {};
        pack<T, N> own = pack_load<T, N>(in + i * N, count - i * N);
        fine = packets_take(g, p, i, v);
#pragma unroll
        for (unsigned r = 0; r < PAD_RANKS; r++)
            if (r < g.size)
                pack_add<OP>(sum, r == g.rank ? own : packet_data<T>(v[r]), r == 0);
        if (fine)
            sink.template take<N>(i * N, sum, count - i * N);
    }
    // Ranks whose calls differ may both find what they wait for; the flags tell.
    if (fine && peer < g.size && peer != g.rank)
        fine = pad_await(g, p, pad_flag(g, p, g.rank, PAD_START, peer), peer, PAD_START);
    return __syncthreads_and(fine) != 0;
}

// Sums `count` elements that lie in this rank's parts of stage 0 and, its own, in `own`.
template <class OP, class T, class SINK>
__device__ inline void parts_sum(
    const pad_group &g, const pad_place &p, const T *own, unsigned count, const SINK &sink)
{
    constexpr unsigned N = 16 / sizeof(T);
    for (unsigned i = threadIdx.x * N; i < count; i += blockDim.x * N) {
        float sum[N] = {};
#pragma unroll
        for (unsigned r = 0; r < PAD_RANKS; r++)
            if (r < g.size) {
                const T *from = r == g.rank ? own
                                            : reinterpret_cast<const T *>(
                                                  pad_part(g, g.rank, p.parity(), 0, r));
                pack_add<OP>(sum, pack_load<T, N>(from + i, count - i), r == 0);
            }
        sink.template take<N>(i, sum, count - i);
    }
}

// count * sizeof(T) <= PAD_PART_BYTES: everything to everybody, one meeting.
template <class OP, class T, class SINK>
__device__ inline bool one_shot_piece(
    const pad_group &g, pad_place &p, const T *in, unsigned count, const SINK &sink)
{
    pad_next(g, p, true);
    for (unsigned s = 1; s < g.size; s++)
        piece_copy(pad_part(g, piece_peer(g, s), p.parity(), 0, g.rank), in, count * sizeof(T));
    if (!pad_meet(g, p, PAD_START))
        return false;
    parts_sum<OP>(g, p, in, count, sink);
    return true;
}

// Slice r of a piece of n elements, in units of `unit` elements.
struct piece_slice {
    unsigned begin, count;
};

__host__ __device__ inline piece_slice slice_of(
    unsigned n, unsigned unit, unsigned size, unsigned r)
{
    unsigned units = (n + unit - 1) / unit, each = units / size, more = units % size;
    unsigned begin = (r * each + (r < more ? r : more)) * unit;
    unsigned end = begin + (each + (r < more)) * unit;
    begin = begin < n ? begin : n;
    return {begin, (end < n ? end : n) - begin};
}

// A sink that also tells all others.
template <class T> struct spread_sink {
    const pad_group &g;
    const pad_place &p;
    T *to;

    template <unsigned N>
    __device__ __forceinline__ void take(unsigned at, const float *sum, unsigned valid) const
    {
        pack<T, N> v = pack_round<T, N>(sum);
        pack_store<T, N>(to + at, v, valid);
        for (unsigned s = 1; s < g.size; s++) {
            uint8_t *part = pad_part(g, piece_peer(g, s), p.parity(), 1, g.rank);
            pack_store<T, N>(reinterpret_cast<T *>(part) + at, v, valid);
        }
    }
};

// count * sizeof(T) <= size * PAD_PART_BYTES: each rank sums one slice and pushes it to all.
template <class OP, class T>
__device__ inline bool two_shot_piece(
    const pad_group &g, pad_place &p, const T *in, T *out, unsigned count)
{
    constexpr unsigned N = 16 / sizeof(T);
    pad_next(g, p, true);
    for (unsigned s = 1; s < g.size; s++) {
        unsigned r = piece_peer(g, s);
        piece_slice cut = slice_of(count, N, g.size, r);
        piece_copy(pad_part(g, r, p.parity(), 0, g.rank), in + cut.begin, cut.count * sizeof(T));
    }
    if (!pad_meet(g, p, PAD_START))
        return false;
    piece_slice own = slice_of(count, N, g.size, g.rank);
    parts_sum<OP>(g, p, in + own.begin, own.count, spread_sink<T>{g, p, out + own.begin});
    if (!pad_meet(g, p, PAD_MIDDLE))
        return false;
    for (unsigned s = 1; s < g.size; s++) {
        unsigned r = piece_peer(g, s);
        piece_slice cut = slice_of(count, N, g.size, r);
        piece_copy(out + cut.begin, pad_part(g, g.rank, p.parity(), 1, r), cut.count * sizeof(T));
    }
    return true;
}

#endif
