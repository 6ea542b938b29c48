// SPDX-License-Identifier: Apache-2.0
// Virtual ranks of a group of devices on the emulator: every rank has a pad, a heap and a stream.
// All ranks may belong to one operating-system thread, where everything is reproducible from the
// seed, or each to its own, where flags really travel between threads.
#ifndef PHALANX_TESTS_DEVICE_RANKS_HPP
#define PHALANX_TESTS_DEVICE_RANKS_HPP

extern "C" {
#include "tests/test_support.h"

#include "collectives/reduce.h"
}
#include "collectives/cuda/device.h"
#include "kernels/emu/runtime.hpp"

#include <functional>
#include <vector>

struct device_rank {
    uint32_t rank, size;
    coll_device_group *group;
    cudaStream_t stream;
    uint8_t *heap;
    struct error err;
};

struct device_ranks {
    uint32_t size;
    size_t heap_bytes;
    std::vector<void *> pads, heaps;
    std::vector<device_rank> member;

    explicit device_ranks(uint32_t n, uint32_t blocks = 3, uint32_t threads = 32,
        uint32_t timeout_ms = 60000, size_t heap = 1 << 16);
    ~device_ranks();
    device_ranks(const device_ranks &) = delete;
    device_ranks &operator=(const device_ranks &) = delete;

    // Calls `enqueue` for each rank and waits for all; the first status that is not OK, of the
    // calls or of the group after them.
    enum status all(const std::function<enum status(device_rank &)> &enqueue);
    // The same with a thread for each rank.
    enum status threads(const std::function<enum status(device_rank &)> &enqueue);
    void set_epoch(uint32_t epoch);
};

// Element i of rank `rank`: a small random number, or an integer that all types add exactly.
void device_fill(void *to, size_t count, enum dtype t, uint64_t seed, uint32_t rank);
// What summing (or the maximum) of `size` ranks' device_fill has to give, by the host's kernel.
void device_expect(void *to, size_t count, enum dtype t, bool max, uint64_t seed, uint32_t size);

#endif
