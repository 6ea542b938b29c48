// SPDX-License-Identifier: Apache-2.0
// What emulated devices move: reduce-scatter, all-gather, broadcast, barrier, partial exchange; and
// the sum with residual and norm, which has to have the bits of its parts.
#include "tests/collectives/device_ranks.hpp"

extern "C" {
#include "collectives/collectives.h"
}

#include <cmath>
#include <cstring>

namespace
{

constexpr enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

void parts_are_scattered(void **)
{
    uint64_t seed = 0;
    for (uint32_t n : {2u, 4u, 8u}) {
        device_ranks g(n, 2);
        for (size_t count : {size_t{0}, size_t{1}, size_t{7}, size_t{301}, size_t{20011}}) {
            enum dtype t = types[++seed % 3];
            size_t e = dtype_bytes(t);
            std::vector<std::vector<uint8_t>> in, out;
            std::vector<uint8_t> want(count * e + 1);
            device_expect(want.data(), count, t, false, seed, n);
            for (uint32_t r = 0; r < n; r++) {
                in.emplace_back(count * e + 1);
                out.emplace_back(count * e + 1);
                device_fill(in[r].data(), count, t, seed, r);
            }
            emu_seed(seed);
            enum status s = g.all([&](device_rank &m) {
                coll_device_reduce_args a = {};
                a.in = in[m.rank].data();
                a.out = out[m.rank].data();
                a.count = count;
                a.dtype = t;
                a.stream = m.stream;
                return coll_device_reduce_scatter(m.group, &a, &m.err);
            });
            assert_int_equal(s, STATUS_OK);
            for (uint32_t r = 0; r < n; r++) {
                size_t begin, length;
                coll_slice(count, n, r, &begin, &length);
                assert_memory_equal(out[r].data(), want.data() + begin * e, length * e + 0);
            }
        }
    }
}

void bytes_are_gathered(void **)
{
    for (uint32_t n : {2u, 4u, 8u}) {
        device_ranks g(n, 2);
        for (size_t bytes : {size_t{0}, size_t{1}, size_t{33}, size_t{4096}, size_t{20003}}) {
            std::vector<std::vector<uint8_t>> out;
            std::vector<uint8_t> want(n * bytes + 1);
            for (uint32_t r = 0; r < n; r++)
                std::memset(want.data() + r * bytes, static_cast<int>(r + 1), bytes);
            for (uint32_t r = 0; r < n; r++) {
                out.emplace_back(n * bytes + 1);
                std::memset(out[r].data() + r * bytes, static_cast<int>(r + 1), bytes);
            }
            emu_seed(bytes + n);
            enum status s = g.all([&](device_rank &m) {
                uint8_t *o = out[m.rank].data();
                return coll_device_all_gather(
                    m.group, o + m.rank * bytes, o, bytes, m.stream, &m.err);
            });
            assert_int_equal(s, STATUS_OK);
            for (uint32_t r = 0; r < n; r++)
                assert_true(out[r] == want);
        }
    }
}

void a_root_broadcasts(void **)
{
    device_ranks g(4, 2);
    for (uint32_t root = 0; root < 4; root++)
        for (size_t bytes : {size_t{3}, size_t{30011}}) {
            std::vector<std::vector<uint8_t>> b;
            for (uint32_t r = 0; r < 4; r++)
                b.emplace_back(bytes, static_cast<uint8_t>(r + 1));
            enum status s = g.all([&](device_rank &m) {
                enum status first = coll_device_barrier(m.group, m.stream, &m.err);
                return first != STATUS_OK ? first
                                          : coll_device_broadcast(m.group, b[m.rank].data(), bytes,
                                                root, m.stream, &m.err);
            });
            assert_int_equal(s, STATUS_OK);
            for (uint32_t r = 0; r < 4; r++)
                assert_true(b[r] == b[root]);
        }
}

// Which ranks exchange: a symmetric relation, some with themselves, some with nobody.
uint64_t peers_of(uint32_t rank, uint32_t size, unsigned kind)
{
    uint64_t peers = 0;
    for (uint32_t q = 0; q < size; q++) {
        uint32_t low = rank < q ? rank : q, high = rank < q ? q : rank;
        bool pair =
            kind == 0 || (kind == 1 ? high - low == 1 : (low * 5 + high * 3 + kind) % 3 == 0);
        peers |= (pair ? 1ull : 0) << q;
    }
    return peers;
}

size_t block_bytes(uint32_t from, uint32_t to, uint64_t seed, size_t slot)
{
    return static_cast<size_t>((from * 131 + to * 977 + seed * 7919) % (slot + 1));
}

enum class counts { fixed, bounded, device };

void exchange_once(device_ranks &g, counts how, unsigned kind, uint64_t seed, bool threads)
{
    const size_t slot = seed % 2 != 0 ? 4096 : 1000;
    const uint32_t n = g.size;
    std::vector<std::vector<uint8_t>> out(n * n);
    std::vector<std::vector<uint32_t>> sizes(n, std::vector<uint32_t>(n)), came = sizes;
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t q = 0; q < n; q++) {
            sizes[r][q] = static_cast<uint32_t>(block_bytes(r, q, seed, slot));
            out[r * n + q].assign(sizes[r][q] + 1, static_cast<uint8_t>(r * 16 + q));
        }
    std::vector<std::vector<uint8_t>> seen(n, std::vector<uint8_t>(n * slot));
    for (device_rank &m : g.member)
        std::memset(m.heap, 0xee, n * slot);
    emu_seed(seed);
    auto call = [&](device_rank &m) {
        coll_device_exchange_args a = {};
        a.peers = peers_of(m.rank, n, kind);
        a.fixed = how == counts::fixed;
        a.device_counts = how == counts::device ? sizes[m.rank].data() : nullptr;
        for (uint32_t q = 0; q < n; q++) {
            a.send[q] = out[m.rank * n + q].data();
            a.send_bytes[q] = how == counts::device ? 0 : sizes[m.rank][q];
            a.receive_bytes[q] = sizes[q][m.rank];
        }
        a.received = came[m.rank].data();
        a.receive = m.heap;
        a.slot_bytes = slot;
        a.stream = m.stream;
        enum status s = coll_device_exchange(m.group, &a, &m.err);
        // What follows in the stream finds everything there.
        cudaMemcpyAsync(seen[m.rank].data(), m.heap, n * slot, cudaMemcpyDeviceToDevice, m.stream);
        return s;
    };
    assert_int_equal(threads ? g.threads(call) : g.all(call), STATUS_OK);
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t q = 0; q < n; q++) {
            const uint8_t *got = seen[r].data() + q * slot;
            bool pair = (peers_of(r, n, kind) >> q & 1) != 0;
            size_t length = pair ? sizes[q][r] : 0;
            if (pair)
                assert_int_equal(came[r][q], length);
            assert_memory_equal(got, out[q * n + r].data(), length + 0);
            for (size_t i = length; i < slot; i++)
                assert_int_equal(got[i], 0xee);
        }
}

void pairs_exchange(void **)
{
    uint64_t seed = 0;
    for (uint32_t n : {2u, 4u, 8u}) {
        device_ranks g(n, 2);
        for (unsigned kind = 0; kind < 4; kind++)
            for (counts how : {counts::fixed, counts::bounded, counts::device})
                exchange_once(g, how, kind, ++seed, false);
    }
}

// Ranks that exchange with nobody run ahead; sums after that must still find their buffers free.
void exchanges_and_sums_alternate(void **)
{
    device_ranks g(4, 2);
    for (uint64_t i = 0; i < 10; i++) {
        std::vector<std::vector<float>> b(4, std::vector<float>(600));
        std::vector<float> want(600);
        device_expect(want.data(), 600, DTYPE_F32, false, i, 4);
        for (uint32_t r = 0; r < 4; r++)
            device_fill(b[r].data(), 600, DTYPE_F32, i, r);
        exchange_once(g, counts::bounded, 2 + static_cast<unsigned>(i % 3), i, false);
        emu_seed(i);
        assert_int_equal(g.all([&](device_rank &m) {
            enum status s = STATUS_OK;
            for (int k = 0; k < 3 && s == STATUS_OK; k++) {
                coll_device_exchange_args e = {};
                e.peers = m.rank < 2 ? 3u : 0; // ranks 0 and 1 only
                e.receive = m.heap;
                e.slot_bytes = 64;
                for (const void *&p : e.send)
                    p = m.heap;
                e.stream = m.stream;
                s = coll_device_exchange(m.group, &e, &m.err);
            }
            coll_device_reduce_args a = {};
            a.in = a.out = b[m.rank].data();
            a.count = 600;
            a.dtype = DTYPE_F32;
            a.algorithm = i % 2 ? COLL_DEVICE_PACKETS : COLL_DEVICE_TWO_SHOT;
            a.stream = m.stream;
            return s != STATUS_OK ? s : coll_device_all_reduce(m.group, &a, &m.err);
        }),
            STATUS_OK);
        for (uint32_t r = 0; r < 4; r++)
            assert_true(b[r] == want);
    }
}

void ranks_are_threads(void **)
{
    device_ranks g(4, 2);
    for (uint64_t i = 0; i < 4; i++)
        exchange_once(g, counts::device, static_cast<unsigned>(i), i, true);
}

void narrow(void *p, enum dtype t, size_t i, float f)
{
    uint16_t *h = static_cast<uint16_t *>(p);
    if (t == DTYPE_F32)
        static_cast<float *>(p)[i] = f;
    else
        h[i] = t == DTYPE_F16 ? dtype_f16_from_f32(f) : dtype_bf16_from_f32(f);
}

float widen(const void *p, enum dtype t, size_t i)
{
    const uint16_t *h = static_cast<const uint16_t *>(p);
    return t == DTYPE_F32   ? static_cast<const float *>(p)[i]
           : t == DTYPE_F16 ? dtype_f32_from_f16(h[i])
                            : dtype_f32_from_bf16(h[i]);
}

// The definition in device.h, one element at a time; x holds the sum.
void norm_row(const coll_device_norm_args &a, const void *x, float *residual, void *out, size_t at)
{
    float lane[16] = {};
    for (uint32_t i = 0; i < a.dim; i++) {
        float v = widen(x, a.dtype, at + i);
        v = a.bias != nullptr ? v + a.bias[i] : v;
        float r = fmaf(v, a.scale, residual[at + i]);
        residual[at + i] = r;
        lane[i % 16] = fmaf(r, r, lane[i % 16]);
    }
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = lane[i] + lane[i + half];
    float s = 1.0f / sqrtf(lane[0] / static_cast<float>(a.dim) + a.eps);
    for (uint32_t i = 0; i < a.dim; i++) {
        float w = a.weight != nullptr ? a.offset + widen(a.weight, a.weight_dtype, i) : 1.0f;
        narrow(out, a.dtype, at + i, residual[at + i] * s * w);
    }
}

// With ranks: the sum, the residual and the norm in one. `alone`: of what has been summed.
void norm_once(device_ranks &g, uint32_t dim, uint64_t seed, bool alone)
{
    const uint32_t rows = 3;
    const size_t count = rows * dim;
    const enum dtype t = types[seed % 3];
    std::vector<std::vector<uint8_t>> x(g.size, std::vector<uint8_t>(count * 4));
    std::vector<uint8_t> want(count * 4), sum(count * 4), w(dim * 4);
    std::vector<float> start(count), bias(dim);
    coll_device_norm_args a = {};
    a.dtype = t;
    a.weight_dtype = types[seed / 3 % 3];
    device_fill(start.data(), count, DTYPE_F32, seed + 1, 77);
    device_fill(w.data(), dim, a.weight_dtype, seed + 2, 78);
    device_fill(bias.data(), dim, DTYPE_F32, seed + 3, 79);
    device_expect(sum.data(), count, t, false, seed, g.size);
    a.bias = seed % 4 == 1 ? bias.data() : nullptr;
    a.weight = seed % 5 == 2 ? nullptr : w.data();
    a.rows = rows;
    a.dim = dim;
    a.scale = seed % 2 != 0 ? 1.0f : 0.3f;
    a.offset = seed % 3 == 1 ? 1.0f : 0.0f;
    a.eps = 1e-5f;
    std::vector<std::vector<float>> residual(g.size, start);
    std::vector<std::vector<uint8_t>> out = x;
    for (uint32_t r = 0; r < rows; r++)
        norm_row(a, sum.data(), start.data(), want.data(), r * dim);
    for (uint32_t r = 0; r < g.size; r++)
        device_fill(x[r].data(), count, t, seed, r);
    emu_seed(seed);
    assert_int_equal(g.all([&](device_rank &m) {
        coll_device_norm_args b = a;
        b.x = alone ? sum.data() : x[m.rank].data();
        b.residual = residual[m.rank].data();
        b.out = out[m.rank].data();
        b.stream = m.stream;
        return alone ? coll_device_norm_alone(&b, &m.err) : coll_device_norm(m.group, &b, &m.err);
    }),
        STATUS_OK);
    for (uint32_t r = 0; r < g.size; r++) {
        assert_memory_equal(residual[r].data(), start.data(), count * sizeof(float));
        assert_memory_equal(out[r].data(), want.data(), count * dtype_bytes(t));
    }
}

void norm_has_the_bits_of_its_parts(void **)
{
    uint64_t seed = 100;
    for (uint32_t n : {1u, 2u, 4u, 8u})
        for (uint32_t dim : {1u, 5u, 64u, 300u, 2053u}) {
            device_ranks g(n, 2);
            norm_once(g, dim, ++seed, false);
            if (n <= 2)
                norm_once(g, dim, ++seed, true);
        }
}

void sums_of_reachable_memory(void **)
{
    for (uint64_t i = 0; i < 24; i++) {
        const size_t count = i * i * 11, at = i % 3;
        const enum dtype t = types[i % 3];
        const uint32_t n = 1 + static_cast<uint32_t>(i % 5);
        std::vector<std::vector<uint8_t>> in(n, std::vector<uint8_t>((count + at) * 4 + 1));
        std::vector<uint8_t> out[2], want((count + at) * 4 + 1, 0x5a);
        std::vector<const void *> src;
        std::vector<void *> dst;
        for (uint32_t r = 0; r < n; r++) {
            src.push_back(in[r].data() + at * dtype_bytes(t));
            device_fill(in[r].data() + at * dtype_bytes(t), count, t, i, r);
        }
        for (std::vector<uint8_t> &o : out) {
            o = want;
            dst.push_back(o.data());
        }
        device_expect(want.data(), count, t, i % 2 != 0, i, n);
        coll_device_sum_args a = {};
        a.dst = dst.data();
        a.src = src.data();
        a.n_dst = 2;
        a.n_src = n;
        a.count = count;
        a.dtype = t;
        a.max = i % 2 != 0;
        struct error err;
        assert_int_equal(coll_device_sum(&a, &err), STATUS_OK);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        assert_true(out[0] == want && out[1] == want);
    }
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_are_scattered),
        cmocka_unit_test(bytes_are_gathered),
        cmocka_unit_test(a_root_broadcasts),
        cmocka_unit_test(pairs_exchange),
        cmocka_unit_test(exchanges_and_sums_alternate),
        cmocka_unit_test(ranks_are_threads),
        cmocka_unit_test(norm_has_the_bits_of_its_parts),
        cmocka_unit_test(sums_of_reachable_memory),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
