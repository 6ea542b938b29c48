// SPDX-License-Identifier: Apache-2.0
// Versions of the norm. Definition of one row, after the residual has been added:
//   residual[i] = fma(x[i] + x_bias[i], x_scale, residual[i])
//   RMS     s = 1 / sqrt(dot(r, r) / dim + eps);           n[i] = r[i] * s
//   LAYER   m = sum(r) / dim, c[i] = r[i] - m,
//           s = 1 / sqrt(dot(c, c) / dim + eps);           n[i] = c[i] * s
//   out[i] = n[i] * (offset + w[i]), and for a bias fma(n[i], offset + w[i], b[i])
// with dot and sum of canon.h.
#ifndef PHALANX_KERNELS_CPU_NORM_H
#define PHALANX_KERNELS_CPU_NORM_H

#include "kernels/kernels.h"

struct norm_row {
    uint32_t dim;
    bool layer;
    float eps, weight_offset;
    const float *x, *x_bias; // NULL: absent
    float x_scale;
    float *residual;
    const void *weight, *bias; // rows of a struct weight, or NULL
    enum dtype weight_dtype, bias_dtype;
    float *out; // NULL: only add
};

typedef void norm_row_fn(const struct norm_row *a);
norm_row_fn norm_plain_row, norm_avx2_row, norm_avx512_row;

#endif
