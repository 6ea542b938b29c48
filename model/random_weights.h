// SPDX-License-Identifier: Apache-2.0
// Weights out of nothing, for benches and tests: an element depends on the seed, its tensor's name
// and its place in the whole tensor only, so that ranks make their own parts of one model.
#ifndef PHALANX_MODEL_RANDOM_WEIGHTS_H
#define PHALANX_MODEL_RANDOM_WEIGHTS_H

#include "base/dtype.h"

struct random_weights_args {
    uint64_t seed;
    const char *name;
    enum dtype dtype; // f32, f16 or bf16
    // The part to make: rows and columns of the whole tensor.
    uint32_t row_begin, n_rows;
    uint32_t column_begin, n_columns;
    float center, spread; // elements lie evenly in [center - spread, center + spread)
    void *out;            // [n_rows, n_columns] of dtype
};

// What stands for a tensor's name in base/draw.h.
uint64_t random_weights_key(uint64_t seed, const char *name);

void random_weights_fill(const struct random_weights_args *a);

#endif
