// SPDX-License-Identifier: Apache-2.0
// One product for a device: random x, w and bias, strides that leave gaps, and what must come out.
#ifndef PHALANX_TESTS_CUDA_LINEAR_CASES_HPP
#define PHALANX_TESTS_CUDA_LINEAR_CASES_HPP

extern "C" {
#include "tests/test_support.h"
}
#include "kernels/cuda/device.cuh"

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

// Memory whose first byte beyond the end the address sanitizer knows.
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

struct linear_case {
    enum dtype activation, weights;
    uint32_t m, n, k, x_stride, out_stride;
    bool out_f32, has_bias;
    linear_buffer x, w, bias, out;
    struct device *device;
    struct weight *w_handle, *bias_handle;

    linear_case(enum dtype activation_type, enum dtype weight_type, uint32_t rows, uint32_t columns,
        uint32_t length, uint64_t seed);
    ~linear_case();
    linear_case(const linear_case &) = delete;
    linear_case &operator=(const linear_case &) = delete;

    // Instead of what the seed says.
    void set_out(bool f32, bool bias_too);
    struct linear_args args(uint32_t first, uint32_t rows, linear_buffer &to) const;
    // All rows into `out`, threads in the order of the seed.
    void run(uint64_t seed);
    // Against fp64, and the CPU's op.
    void check_values() const;
    // `rows` rows from `first` on give the bits that they have in `out`.
    void check_rows(uint32_t first, uint32_t rows, uint64_t seed);
    // linear_act gives the bits of linear and act, one after the other.
    void check_act(bool gated, enum act_kind kind, uint64_t seed);

  private:
    void finish(uint64_t seed, const char *what) const;
    void check_cpu(const std::vector<double> &size) const;
    struct weight *make(const linear_buffer &from, uint32_t rows, uint32_t columns) const;
};

#endif
