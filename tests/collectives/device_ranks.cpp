// SPDX-License-Identifier: Apache-2.0
#include "tests/collectives/device_ranks.hpp"

#include <cstdlib>
#include <cstring>
#include <thread>

device_ranks::device_ranks(
    uint32_t n, uint32_t blocks, uint32_t threads, uint32_t timeout_ms, size_t heap)
    : size(n), heap_bytes(heap)
{
    size_t bytes = coll_device_pad_bytes(n, blocks);
    for (uint32_t r = 0; r < n; r++) {
        void *pad = nullptr, *h = nullptr;
        assert_int_equal(cudaMalloc(&pad, bytes), cudaSuccess);
        assert_int_equal(cudaMalloc(&h, heap), cudaSuccess);
        std::memset(pad, 0, bytes);
        pads.push_back(pad);
        heaps.push_back(h);
    }
    for (uint32_t r = 0; r < n; r++) {
        device_rank m = {};
        coll_device_args a = {};
        a.rank = m.rank = r;
        a.size = m.size = n;
        a.blocks = blocks;
        a.threads = threads;
        a.pads = pads.data();
        a.heaps = heaps.data();
        a.heap_bytes = heap;
        a.timeout_ms = timeout_ms;
        m.heap = static_cast<uint8_t *>(heaps[r]);
        assert_int_equal(coll_device_open(&a, &m.group, &m.err), STATUS_OK);
        assert_int_equal(cudaStreamCreateWithFlags(&m.stream, cudaStreamNonBlocking), cudaSuccess);
        member.push_back(m);
    }
}

device_ranks::~device_ranks()
{
    for (device_rank &m : member) {
        cudaStreamDestroy(m.stream);
        coll_device_close(m.group);
    }
    for (uint32_t r = 0; r < size; r++) {
        cudaFree(pads[r]);
        cudaFree(heaps[r]);
    }
}

enum status device_ranks::all(const std::function<enum status(device_rank &)> &enqueue)
{
    enum status first = STATUS_OK;
    for (device_rank &m : member) {
        enum status s = enqueue(m);
        first = first == STATUS_OK ? s : first;
    }
    if (cudaDeviceSynchronize() != cudaSuccess)
        fail_msg("%s", emu_sentence());
    for (device_rank &m : member) {
        enum status s = coll_device_poll(m.group, &m.err);
        first = first == STATUS_OK ? s : first;
    }
    return first;
}

enum status device_ranks::threads(const std::function<enum status(device_rank &)> &enqueue)
{
    std::vector<std::thread> running;
    std::vector<enum status> result(size, STATUS_OK);
    for (uint32_t r = 0; r < size; r++)
        running.emplace_back([this, r, &enqueue, &result] {
            device_rank m = member[r]; // with a stream of this thread
            emu_seed(r + 1);
            cudaStreamCreateWithFlags(&m.stream, cudaStreamNonBlocking);
            result[r] = enqueue(m);
            if (cudaStreamDestroy(m.stream) != cudaSuccess)
                result[r] = STATUS_DEVICE_FAILED;
            if (result[r] == STATUS_OK)
                result[r] = coll_device_poll(m.group, &m.err);
        });
    for (std::thread &t : running)
        t.join();
    for (enum status s : result)
        if (s != STATUS_OK)
            return s;
    return STATUS_OK;
}

void device_ranks::set_epoch(uint32_t epoch)
{
    for (void *p : pads)
        coll_device_set_epoch(p, epoch);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

void device_fill(void *to, size_t count, enum dtype t, uint64_t seed, uint32_t rank)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t r = mix(seed * 0x9e3779b97f4a7c15ull + rank * 0x10001ull + i);
        float f = static_cast<float>(static_cast<int32_t>(r)) * 0x1p-29f;
        if (t == DTYPE_F32)
            static_cast<float *>(to)[i] = f;
        else
            static_cast<uint16_t *>(to)[i] =
                t == DTYPE_F16 ? dtype_f16_from_f32(f) : dtype_bf16_from_f32(f);
    }
}

void device_expect(void *to, size_t count, enum dtype t, bool max, uint64_t seed, uint32_t size)
{
    size_t bytes = count * dtype_bytes(t);
    std::vector<std::vector<uint8_t>> room(size, std::vector<uint8_t>(bytes + 1));
    std::vector<const void *> from;
    for (uint32_t r = 0; r < size; r++) {
        device_fill(room[r].data(), count, t, seed, r);
        from.push_back(room[r].data());
    }
    reduce_find(reduce_named("plain"), max ? 1 : 0, t)(&to, 1, from.data(), size, count);
}
