// SPDX-License-Identifier: Apache-2.0
#include "collectives/reduce.h"

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
#define v_load_f32 one_load_f32
#define v_load_f16 one_load_f16
#define v_load_bf16 one_load_bf16
#define v_store_f32 one_store_f32
#define v_store_f16 one_store_f16
#define v_store_bf16 one_store_bf16

extern const struct reduce_table reduce_plain;

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
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return &reduce_avx512;
    if (strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && has_f16c())
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

reduce_fn *reduce_find(const struct reduce_table *t, uint32_t op, enum dtype dtype)
{
    if (op >= REDUCE_OPS)
        return NULL;
    switch (dtype) {
    case DTYPE_F32:
        return t->fn[op][0];
    case DTYPE_F16:
        return t->fn[op][1];
    case DTYPE_BF16:
        return t->fn[op][2];
    default:
        return NULL;
    }
}
