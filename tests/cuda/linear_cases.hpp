// SPDX-License-Identifier: Apache-2.0
// One product for a device: random x, w and bias, strides that leave gaps, and what must come out.
// The device is the emulator's, or a real one: PHALANX_TEST_DEVICE=cuda PHALANX_PLUGIN_DIR=...
#ifndef PHALANX_TESTS_CUDA_LINEAR_CASES_HPP
#define PHALANX_TESTS_CUDA_LINEAR_CASES_HPP

extern "C" {
#include "tests/test_support.h"
}
#include "kernels/cuda/device.cuh"
#include "kernels/plugin.h"

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

struct linear_random {
    std::uint64_t state;

    explicit linear_random(std::uint64_t seed) : state(seed * 0x9e3779b97f4a7c15ull + 1)
    {
    }
    std::uint32_t next();
    std::uint32_t below(std::uint32_t n);
    float value(); // in (-1, 1)
};

std::uint64_t test_seed(); // of the clock, printed

// Numbers of any type, in memory of the host.
struct linear_buffer {
    enum dtype type;
    size_t count;
    std::vector<std::uint8_t> bytes;

    linear_buffer(enum dtype t, size_t n);
    float at(size_t i) const;
    void put(size_t i, float v);
    void poison(); // NaNs that no sum has
    bool poisoned(size_t i) const;
};

// The same bytes on the device; given back at the end.
struct linear_memory {
    const struct kernels *table;
    struct device *device;
    void *p;
    size_t bytes;

    linear_memory(const struct kernels *k, struct device *d, size_t n);
    ~linear_memory();
    linear_memory(const linear_memory &) = delete;
    linear_memory &operator=(const linear_memory &) = delete;
};

struct linear_case {
    enum dtype activation, weights;
    uint32_t m, n, k, x_stride, out_stride;
    bool out_f32, has_bias;
    linear_buffer x, w, bias, out;
    const struct kernels *table;
    struct device *device;
    struct weight *w_handle, *bias_handle;
    void *x_there;

    linear_case(enum dtype activation_type, enum dtype weight_type, uint32_t rows, uint32_t columns,
        uint32_t length, uint64_t seed);
    ~linear_case();
    linear_case(const linear_case &) = delete;
    linear_case &operator=(const linear_case &) = delete;

    // Instead of what the seed says.
    void set_out(bool f32, bool bias_too);
    // The number of SMs that products are cut for; a real device keeps its own.
    void set_sms(uint32_t n_sms);
    struct linear_args args(uint32_t first, uint32_t rows, void *to) const;
    // All rows into `out`, threads in the order of the seed.
    void run(uint64_t seed);
    // Against fp64, and the CPU's op.
    void check_values() const;
    // `rows` rows from `first` on give the bits that they have in `out`.
    void check_rows(uint32_t first, uint32_t rows, uint64_t seed);
    // linear_act gives the bits of linear and act, one after the other.
    void check_act(bool gated, enum act_kind kind, uint64_t seed);
    // Waits; the device has then done everything and `to` has what lies at `from`.
    void finish(linear_buffer *to, const linear_memory &from, uint64_t seed) const;

  private:
    void multiply(uint32_t first, uint32_t rows, linear_buffer &to, uint64_t seed) const;
    void check_cpu(const std::vector<double> &size) const;
    struct weight *make(const linear_buffer &from, uint32_t rows, uint32_t columns) const;
};

#endif
