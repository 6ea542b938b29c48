// SPDX-License-Identifier: Apache-2.0
// Copies of parts of tensors into another order: for weights that are not computed with where they
// lie. Pure functions on memory.
#ifndef PHALANX_MODEL_WEIGHTS_COPY_H
#define PHALANX_MODEL_WEIGHTS_COPY_H

#include "base/dtype.h"
#include "model/shard.h"

// A tensor [rows, columns] as a file has it; turned: the file has [columns, rows] of it.
struct weights_copy_source {
    const uint8_t *data;
    enum dtype dtype;
    uint32_t rows, columns;
    bool turned;
};

// out [rows.count, columns.count] = that block of the tensor.
void weights_copy_block(const struct weights_copy_source *from, struct shard_range rows,
    struct shard_range columns, uint8_t *out);

// out [n] = row [n] / its length, both of `dtype`.
void weights_copy_unit(enum dtype dtype, const uint8_t *row, uint32_t n, uint8_t *out);

#endif
