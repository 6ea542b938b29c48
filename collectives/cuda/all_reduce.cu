// SPDX-License-Identifier: Apache-2.0
// All-reduce and reduce-scatter.
#include "collectives/cuda/device.cuh"

namespace
{

template <class OP, class T>
__global__ void __launch_bounds__(512, 1)
    packets_kernel(const __grid_constant__ pad_group g, const T *in, T *out, size_t count)
{
    constexpr unsigned each = PAD_PACKETS * 8 / sizeof(T);
    pad_place p;
    bool fine = pad_begin(g, p);
    for (size_t at = (size_t)blockIdx.x * each; fine && at < count;
         at += (size_t)gridDim.x * each) {
        unsigned n = (unsigned)(count - at < each ? count - at : each);
        fine = packets_piece<OP>(g, p, in + at, n, store_sink<T>{out + at});
    }
    pad_end(g, p);
}

template <class OP, class T>
__global__ void __launch_bounds__(512, 1)
    one_shot_kernel(const __grid_constant__ pad_group g, const T *in, T *out, size_t count)
{
    constexpr unsigned each = PAD_PART_BYTES / sizeof(T);
    pad_place p;
    bool fine = pad_begin(g, p);
    for (size_t at = (size_t)blockIdx.x * each; fine && at < count;
         at += (size_t)gridDim.x * each) {
        unsigned n = (unsigned)(count - at < each ? count - at : each);
        fine = one_shot_piece<OP>(g, p, in + at, n, store_sink<T>{out + at});
    }
    pad_end(g, p);
}

template <class OP, class T>
__global__ void __launch_bounds__(512, 1)
    two_shot_kernel(const __grid_constant__ pad_group g, const T *in, T *out, size_t count)
{
    const unsigned each = g.size * (unsigned)(PAD_PART_BYTES / sizeof(T));
    pad_place p;
    bool fine = pad_begin(g, p);
    for (size_t at = (size_t)blockIdx.x * each; fine && at < count;
         at += (size_t)gridDim.x * each) {
        unsigned n = (unsigned)(count - at < each ? count - at : each);
        fine = two_shot_piece<OP>(g, p, in + at, out + at, n);
    }
    pad_end(g, p);
}

// In the heaps, without a copy: each rank reads its slice of all buffers and writes the sum to all.
template <class OP, class T>
__global__ void __launch_bounds__(512, 1)
    symmetric_kernel(const __grid_constant__ pad_group g, size_t offset, size_t count)
{
    constexpr unsigned N = 16 / sizeof(T);
    pad_place p;
    bool fine = pad_begin(g, p);
    pad_next(g, p, true);
    fine = fine && pad_meet(g, p, PAD_START);
    size_t units = (count + N - 1) / N;
    size_t begin = units * g.rank / g.size, end = units * (g.rank + 1) / g.size;
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t u = begin + blockIdx.x * blockDim.x + threadIdx.x; fine && u < end; u += step) {
        float sum[N] = {};
        size_t at = u * N;
        unsigned valid = (unsigned)(count - at < N ? count - at : N);
#pragma unroll
        for (unsigned r = 0; r < PAD_RANKS; r++)
            if (r < g.size) {
                const T *from = reinterpret_cast<const T *>(g.heaps[r] + offset) + at;
                pack_add<OP>(sum, pack_load<T, N>(from, valid), r == 0);
            }
        pack<T, N> v = pack_round<T, N>(sum);
        for (unsigned s = 0; s < g.size; s++)
            pack_store<T, N>(
                reinterpret_cast<T *>(g.heaps[piece_peer(g, s)] + offset) + at, v, valid);
    }
    if (fine)
        pad_meet(g, p, PAD_END);
    pad_end(g, p);
}

// The parts that coll_slice deals, in pieces; all ranks have as many pieces as the longest part.
template <class OP, class T>
__global__ void __launch_bounds__(512, 1)
    scatter_kernel(const __grid_constant__ pad_group g, const T *in, T *out, size_t count)
{
    constexpr unsigned each = PAD_PART_BYTES / sizeof(T);
    const size_t base = count / g.size, more = count % g.size, longest = base + (more != 0);
    pad_place p;
    bool fine = pad_begin(g, p);
    for (size_t at = (size_t)blockIdx.x * each; fine && at < longest;
         at += (size_t)gridDim.x * each) {
        unsigned n = 0;
        const T *own = in;
        pad_next(g, p, true);
        for (unsigned s = 1; s <= g.size; s++) {
            unsigned r = s < g.size ? piece_peer(g, s) : g.rank;
            size_t begin = r * base + (r < more ? r : more), length = base + (r < more);
            n = (unsigned)(at >= length ? 0 : length - at < each ? length - at : each);
            own = in + begin + at;
            if (r != g.rank)
                piece_copy(pad_part(g, r, p.parity(), 0, g.rank), own, n * sizeof(T));
        }
        fine = pad_meet(g, p, PAD_START);
        if (fine)
            parts_sum<OP>(g, p, own, n, store_sink<T>{out + at});
    }
    pad_end(g, p);
}

struct job {
    const coll_device_group *d;
    const coll_device_reduce_args *a;
    pad_group g;
    size_t bytes, offset;
};

size_t pieces(size_t bytes, size_t each)
{
    return (bytes + each - 1) / each;
}

template <class OP, class T> cudaError_t start(const job &j, enum coll_device_algorithm algorithm)
{
    const coll_device_group *d = j.d;
    const T *in = static_cast<const T *>(j.a->in);
    T *out = static_cast<T *>(j.a->out);
    size_t count = j.a->count;
    auto config = [&](size_t each) {
        return device_launch(d, device_blocks(d, pieces(j.bytes, each)), 0, j.a->stream);
    };
    if (j.a->symmetric && algorithm == COLL_DEVICE_TWO_SHOT)
        return phx_launch(config((size_t)d->threads * 16 * j.g.size), symmetric_kernel<OP, T>, j.g,
            j.offset, count);
    if (algorithm == COLL_DEVICE_PACKETS)
        return phx_launch(config(PAD_PACKETS * 8), packets_kernel<OP, T>, j.g, in, out, count);
    if (algorithm == COLL_DEVICE_ONE_SHOT)
        return phx_launch(config(PAD_PART_BYTES), one_shot_kernel<OP, T>, j.g, in, out, count);
    return phx_launch(
        config((size_t)PAD_PART_BYTES * j.g.size), two_shot_kernel<OP, T>, j.g, in, out, count);
}

template <class OP, class T> cudaError_t start_scatter(const job &j, enum coll_device_algorithm)
{
    const coll_device_reduce_args *a = j.a;
    size_t n = pieces(j.bytes, (size_t)PAD_PART_BYTES * j.g.size);
    return phx_launch(device_launch(j.d, device_blocks(j.d, n), 0, a->stream),
        scatter_kernel<OP, T>, j.g, static_cast<const T *>(a->in), static_cast<T *>(a->out),
        a->count);
}

typedef cudaError_t start_fn(const job &j, enum coll_device_algorithm algorithm);

start_fn *const reduces[2][3] = {
    {start<op_sum, float>, start<op_sum, phx_f16>, start<op_sum, phx_bf16>},
    {start<op_max, float>, start<op_max, phx_f16>, start<op_max, phx_bf16>}};
start_fn *const scatters[2][3] = {
    {start_scatter<op_sum, float>, start_scatter<op_sum, phx_f16>, start_scatter<op_sum, phx_bf16>},
    {start_scatter<op_max, float>, start_scatter<op_max, phx_f16>,
        start_scatter<op_max, phx_bf16>}};

} // namespace

enum status device_multicast(
    coll_device_group *d, const coll_device_reduce_args *a, size_t offset, struct error *err);

enum status coll_device_all_reduce(
    struct coll_device_group *d, const struct coll_device_reduce_args *a, struct error *err)
{
    unsigned type = device_type(a->dtype);
    job j = {d, a, {}, 0, 0};
    if (type > 2)
        return device_wrong_type("all_reduce", a->dtype, err);
    if (__builtin_mul_overflow(a->count, (size_t)dtype_bytes(a->dtype), &j.bytes))
        return status_fail(err, STATUS_TOO_LARGE, "all_reduce of %zu elements", a->count);
    if (a->symmetric) {
        j.offset = device_heap_offset(d, a->out, j.bytes);
        if (j.offset == SIZE_MAX || a->in != a->out)
            return status_fail(err, STATUS_INVALID,
                "all_reduce: a symmetric buffer of %zu bytes must lie in the heap, in place",
                j.bytes);
    }
    if (a->algorithm == COLL_DEVICE_MULTICAST)
        return device_multicast(d, a, j.offset, err);
    enum coll_device_algorithm algorithm = a->algorithm;
    if (d->group.size == 1 && a->in == a->out)
        return coll_device_poll(d, err);
    TRY(device_begin(d, a->stream, err));
    j.g = device_call(d, DEVICE_ALL_REDUCE, a->count,
        (uint64_t)type | (uint64_t)a->max << 8 | (uint64_t)a->symmetric << 16, (uint64_t)algorithm,
        j.offset);
    return device_end(d, a->stream, reduces[a->max][type](j, algorithm), "all_reduce", err);
}

enum status coll_device_reduce_scatter(
    struct coll_device_group *d, const struct coll_device_reduce_args *a, struct error *err)
{
    unsigned type = device_type(a->dtype);
    job j = {d, a, {}, 0, 0};
    if (type > 2)
        return device_wrong_type("reduce_scatter", a->dtype, err);
    if (__builtin_mul_overflow(a->count, (size_t)dtype_bytes(a->dtype), &j.bytes))
        return status_fail(err, STATUS_TOO_LARGE, "reduce_scatter of %zu elements", a->count);
    TRY(device_begin(d, a->stream, err));
    j.g = device_call(d, DEVICE_REDUCE_SCATTER, a->count, (uint64_t)type | (uint64_t)a->max << 8);
    return device_end(d, a->stream, scatters[a->max][type](j, a->algorithm), "reduce_scatter", err);
}
