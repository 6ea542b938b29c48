// SPDX-License-Identifier: Apache-2.0
// What the tests of the ops share: random numbers, one device for each instruction set that this
// CPU has, weights and pages made from floats.
#ifndef PHALANX_TESTS_KERNELS_OPS_SUPPORT_H
#define PHALANX_TESTS_KERNELS_OPS_SUPPORT_H

#include "tests/test_support.h"

#include "kernels/kernels.h"

struct random {
    uint64_t state;
};

uint32_t random_u32(struct random *r);
uint32_t random_below(struct random *r, uint32_t n);
float random_float(struct random *r, float low, float high);
float random_normal(struct random *r);
// `n` floats from calloc, filled with random_normal times `scale`.
float *random_floats(struct random *r, size_t n, float scale);

enum { OPS_DEVICES = 4 };

// Plain first; then every other instruction set of this CPU, with two threads.
struct ops {
    const struct kernels *k;
    struct device *d[OPS_DEVICES];
    const char *name[OPS_DEVICES];
    uint32_t n;
};

void ops_open(struct ops *o);
void ops_close(struct ops *o);

// A weight [n, k] of `t` rounded from floats; owned by the caller with its data.
struct ops_weight {
    struct weight *w;
    void *data;
    struct device *d;
    const struct kernels *k;
};

struct ops_weight ops_weight_make(
    const struct ops *o, const float *x, uint32_t n, uint32_t k, enum dtype t);
void ops_weight_free(struct ops_weight *w);
// The float that element i of a row of `t` holds.
double ops_element(const void *row, enum dtype t, size_t i);

// Fails with the first difference. NaN equals NaN.
void ops_assert_same(
    const char *what, const char *isa, const float *expected, const float *got, size_t n);
// |got - expected| <= relative * |expected| + absolute.
void ops_assert_near(const char *what, const double *expected, const float *got, size_t n,
    double relative, double absolute);

#endif
