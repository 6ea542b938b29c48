// SPDX-License-Identifier: Apache-2.0
// Products by cuBLASLt, which is loaded where it is found. Which algorithm of its many is the best
// for a shape is measured once and kept; later calls only enqueue. One thread; one stream.
//
// Without the library, or built without its header, blas_open says so and callers use our kernels.
#ifndef PHALANX_KERNELS_CUDA_BLAS_H
#define PHALANX_KERNELS_CUDA_BLAS_H

#include "base/dtype.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct blas;

enum { BLAS_WORKSPACE_BYTES = 32 << 20, BLAS_CANDIDATES = 8 };

// out[m, n] = sum_k x[m, k] w[n, k] + bias[n], floats inside. All memory is the device's; rows are
// multiples of 16 bytes apart.
struct blas_product {
    enum dtype type, out_type; // of x and w; of out and bias
    uint32_t m, n, k;
    uint64_t x_stride, w_stride, out_stride; // elements
    const void *x, *w, *bias;                // bias may be NULL
    void *out;
    void *workspace; // BLAS_WORKSPACE_BYTES
    void *stream;
};

// The device's time between two moments of the stream. end_ms waits for it; below 0 after a
// failure.
struct blas_clock {
    void (*begin)(void *context);
    float (*end_ms)(void *context);
    void *context;
};

// Loads the library: `file`, or NULL for the search of library.h.
enum status blas_open(const char *file, struct blas **out, struct error *err);
void blas_close(struct blas *b);

// Enqueues the product. The first one of its kind (types, N, K, strides and about as many rows)
// tries some algorithms, each several times, if there is a clock; without one it takes cuBLASLt's
// first. STATUS_UNSUPPORTED where cuBLASLt has no algorithm; nothing is then enqueued.
enum status blas_multiply(struct blas *b, const struct blas_product *p,
    const struct blas_clock *clock, struct error *err);

#ifdef __cplusplus
}
#endif

#endif
