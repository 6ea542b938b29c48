// SPDX-License-Identifier: Apache-2.0
// What the tests of the CUDA back end share: the emulated table beside the CPU's, inputs that both
// get, batches with random tables, comparisons. PHALANX_TEST_DEVICE=cuda PHALANX_PLUGIN_DIR=...
// runs them on a GPU instead.
//
// Inputs are drawn as floats, rounded to the type of the activations, and given to the CPU widened:
// both see the same numbers, and only the rounding of what the device stores is between them.
#ifndef PHALANX_TESTS_CUDA_SUPPORT_HPP
#define PHALANX_TESTS_CUDA_SUPPORT_HPP

extern "C" {
#include "tests/kernels/ops_support.h"
}
#include "kernels/plugin.h"

#include <cstdint>
#include <memory>
#include <vector>

extern "C" const struct plugin *phalanx_plugin(void);
void emu_seed(std::uint64_t seed);

using floats = std::vector<float>;

// A device of each back end; activations of `type` on the emulated one.
struct sides {
    const struct kernels *cpu, *emu;
    struct device *cpu_device, *emu_device;
    enum dtype type;

    explicit sides(enum dtype activation, enum determinism d = DETERMINISM_BATCH);
    ~sides();
    sides(const sides &) = delete;
    void sync() const; // fails the test with the device's sentence
};

// Memory of the emulated device, given back at the end. It begins as NaNs where nothing is given.
struct on_device {
    const sides *s;
    void *p;
    size_t bytes;

    on_device(const sides &sides_, size_t n_bytes);
    // Numbers rounded to `t`.
    on_device(const sides &sides_, const floats &from, enum dtype t);
    ~on_device();
    on_device(const on_device &) = delete;
    floats read(enum dtype t) const; // waits for the stream
    std::vector<uint8_t> bytes_read() const;
};

// Numbers as type `t` holds them, widened to float again.
floats rounded(const floats &x, enum dtype t);
// `n` normal numbers, as numbers of type `t` widened to float.
floats draw(struct random *r, size_t n, float scale, enum dtype t);

// A weight of both tables with the same numbers, in one part or several.
struct both_weights {
    const sides *s;
    std::vector<uint8_t> data;
    struct weight *cpu, *emu;
    enum dtype type;

    both_weights(const sides &sides_, const floats &from, uint32_t n, uint32_t k, enum dtype t,
        uint32_t n_parts = 1);
    ~both_weights();
    both_weights(const both_weights &) = delete;
};

// A batch with `n_seqs` sequences of random lengths and positions, and tables of pages that no two
// sequences share. Some sequences may have no rows.
struct test_batch {
    struct batch b;
    std::vector<batch_seq> seq;
    std::vector<uint32_t> ids, positions, logit_rows;
    std::vector<std::vector<uint32_t>> tables; // [n_seqs * KERNELS_KV_GROUPS_MAX]
    uint32_t n_pages;                          // of each group

    struct shape {
        uint32_t n_seqs, rows_most, position_most, block_tokens, vocab_size;
        bool empty_ones; // sequences without rows may come
    };
    test_batch(struct random *r, const shape &want);
    test_batch(const test_batch &) = delete;
};

// |got - expected| <= tolerance of the type: f32 1e-5, f16 and bf16 2 units in the last place,
// relative to |expected| + scale.
void assert_close(
    const char *what, const floats &expected, const floats &got, enum dtype t, double scale = 1);
void assert_equal(const char *what, const floats &expected, const floats &got);

#endif
