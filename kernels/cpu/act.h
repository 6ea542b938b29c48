// SPDX-License-Identifier: Apache-2.0
// Versions of the elementwise ops; see canon_act.h for what they compute.
#ifndef PHALANX_KERNELS_CPU_ACT_H
#define PHALANX_KERNELS_CPU_ACT_H

#include "kernels/kernels.h"

// out[i] = act(x[i]), times up[i] unless up is NULL.
void act_plain_run(enum act_kind kind, const float *x, const float *up, float *out, uint32_t n);
void act_avx2_run(enum act_kind kind, const float *x, const float *up, float *out, uint32_t n);
void act_avx512_run(enum act_kind kind, const float *x, const float *up, float *out, uint32_t n);

// x[i] = canon_softcap(x[i] * scale, softcap).
void act_plain_scale(float *x, uint32_t n, float scale, float softcap);
void act_avx2_scale(float *x, uint32_t n, float scale, float softcap);
void act_avx512_scale(float *x, uint32_t n, float scale, float softcap);

#endif
