// SPDX-License-Identifier: Apache-2.0
// The arithmetic of all sums across ranks. Element i of every destination becomes
//   round(((s0[i] + s1[i]) + s2[i]) + ...), each in f32, rounded once to the type (ties to even);
// or the maximum in the same order: a later equal value wins (so of -0 and +0 the later), and a NaN
// of any rank makes the result a NaN. All versions give the same bits (but for the payload of a
// NaN), whatever the alignment.
#ifndef PHALANX_COLLECTIVES_REDUCE_H
#define PHALANX_COLLECTIVES_REDUCE_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// n_src >= 1 sources, n_dst >= 1 destinations, `count` elements each. A destination may be equal to
// a source, but not overlap it otherwise.
typedef void reduce_fn(
    void *const *dst, uint32_t n_dst, const void *const *src, uint32_t n_src, size_t count);

// Copies with plain vector stores. The C library's memcpy may use string instructions or go past
// the caches, which is slow for memory that another core has just read or will read next.
typedef void reduce_copy_fn(void *dst, const void *src, size_t bytes);

// One row of coll_all_reduce_norm after the sum: residual = fma(x + bias, scale, residual) in f32;
// then out, rounded to the type of x, is
// (residual * s) * (weight_offset + weight) with s = 1 / sqrt(q / dim + eps). q is the sum of
// squares in sixteen f32 lanes: lane l takes elements l, l + 16, ... by fma, then lanes i and
// i + half are added for half = 8, 4, 2, 1. A dim of 0 is not allowed.
struct reduce_norm_row {
    const void *x;     // [dim]
    const float *bias; // [dim] or NULL
    float scale;
    float *residual;    // [dim]
    const void *weight; // [dim] of weight_dtype, or NULL
    enum dtype weight_dtype;
    float weight_offset, eps;
    void *out; // [dim]
    size_t dim;
};
typedef void reduce_norm_fn(const struct reduce_norm_row *a);

enum { REDUCE_OPS = 2, REDUCE_TYPES = 3 }; // enum coll_op; f32, f16, bf16

struct reduce_table {
    const char *name; // "plain", "avx2", "avx512"
    reduce_fn *fn[REDUCE_OPS][REDUCE_TYPES];
    reduce_copy_fn *copy;
    reduce_norm_fn *norm[REDUCE_TYPES];
};

// The best one for this CPU.
const struct reduce_table *reduce_best(void);
// By name, for tests and benches; NULL where this CPU or build has it not.
const struct reduce_table *reduce_named(const char *name);
// NULL if such elements cannot be reduced. `op` is an enum coll_op.
reduce_fn *reduce_find(const struct reduce_table *t, uint32_t op, enum dtype dtype);

struct coll_all_reduce_norm_args;
// Rows [begin, end) of the arguments; x holds the sum over ranks by now.
void reduce_norm_rows(const struct reduce_table *t, const struct coll_all_reduce_norm_args *a,
    size_t begin, size_t end);

#if defined(__x86_64__)
extern const struct reduce_table reduce_avx2;
extern const struct reduce_table reduce_avx512;
#endif

#endif
