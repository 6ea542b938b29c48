// SPDX-License-Identifier: Apache-2.0
#include "collectives/reduce.h"

#include "base/check.h"
#include "collectives/collectives.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define V float
#define LANES 1
#define TABLE reduce_plain
#define NAME "plain"
#define v_add one_add
#define v_max one_max
#define v_mul one_mul
#define v_fma fmaf
#define v_set1 one_set1
#define v_load_f32 one_load_f32
#define v_load_f16 one_load_f16
#define v_load_bf16 one_load_bf16
#define v_store_f32 one_store_f32
#define v_store_f16 one_store_f16
#define v_store_bf16 one_store_bf16

extern const struct reduce_table reduce_plain;

static inline float one_mul(float a, float b)
{
    return a * b;
}

static inline float one_set1(float f)
{
    return f;
}

#include "collectives/reduce_body.inc"

#if defined(__x86_64__)
// CPUID leaf 1, ECX bit 29; clang's __builtin_cpu_supports does not know the name.
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1u) != 0;
}
#endif

const struct reduce_table *reduce_named(const char *name)
{
#if defined(__x86_64__)
    if (strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma"))
        return &reduce_avx512;
    if (strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma") && has_f16c())
        return &reduce_avx2;
#endif
    return strcmp(name, "plain") == 0 ? &reduce_plain : NULL;
}

const struct reduce_table *reduce_best(void)
{
    const struct reduce_table *t = reduce_named("avx512");
    if (t == NULL)
        t = reduce_named("avx2");
    return t != NULL ? t : &reduce_plain;
}

// Column of the table, or REDUCE_TYPES.
static uint32_t type_of(enum dtype t)
{
    return t == DTYPE_F32 ? 0 : t == DTYPE_F16 ? 1 : t == DTYPE_BF16 ? 2 : REDUCE_TYPES;
}

reduce_fn *reduce_find(const struct reduce_table *t, uint32_t op, enum dtype dtype)
{
    uint32_t type = type_of(dtype);
    return op < REDUCE_OPS && type < REDUCE_TYPES ? t->fn[op][type] : NULL;
}

void reduce_norm_rows(const struct reduce_table *t, const struct coll_all_reduce_norm_args *a,
    size_t begin, size_t end)
{
    size_t row = a->dim * dtype_bytes(a->dtype);
    check(type_of(a->dtype) < REDUCE_TYPES);
    for (size_t i = begin; i < end && a->dim > 0; i++)
        t->norm[type_of(a->dtype)](&(struct reduce_norm_row){.x = (const char *)a->x + i * row,
            .bias = a->bias,
            .scale = a->residual_scale,
            .residual = a->residual + i * a->dim,
            .weight = a->weight,
            .weight_dtype = a->weight_dtype,
            .weight_offset = a->weight_offset,
            .eps = a->eps,
            .out = (char *)a->out + i * row,
            .dim = a->dim});
}
