// SPDX-License-Identifier: Apache-2.0
// Element types of tensors, and the conversions between the 16-bit formats and float.
#ifndef PHALANX_BASE_DTYPE_H
#define PHALANX_BASE_DTYPE_H

#include <stdint.h>
#include <string.h>

enum dtype {
#define X(NAME, name, bytes, safetensors) DTYPE_##NAME,
#include "base/dtype.def"
#undef X
    DTYPE_COUNT
};

static inline uint32_t dtype_bytes(enum dtype t)
{
    static const uint8_t table[] = {
#define X(NAME, name, bytes, safetensors) bytes,
#include "base/dtype.def"
#undef X
    };
    return (unsigned)t < DTYPE_COUNT ? table[t] : 0;
}

static inline const char *dtype_name(enum dtype t)
{
    static const char *const table[] = {
#define X(NAME, name, bytes, safetensors) #name,
#include "base/dtype.def"
#undef X
    };
    return (unsigned)t < DTYPE_COUNT ? table[t] : "unknown";
}

// Finds a type by its name in the safetensors format; DTYPE_COUNT if there is none.
static inline enum dtype dtype_from_safetensors(const char *name)
{
    static const char *const table[] = {
#define X(NAME, name, bytes, safetensors) safetensors,
#include "base/dtype.def"
#undef X
    };
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (strcmp(table[i], name) == 0)
            return (enum dtype)i;
    return DTYPE_COUNT;
}

static inline float dtype_f32_from_bf16(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

// Rounds to nearest, ties to even; NaN stays a NaN.
static inline uint16_t dtype_bf16_from_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

// IEEE 754 binary16, exact.
static inline float dtype_f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = h >> 10 & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    float f;
    uint32_t u;
    if (exponent == 0) {
        f = (float)mantissa * 0x1.0p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    } else if (exponent == 31) {
        u = sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0);
    } else {
        u = sign | (exponent + 112) << 23 | mantissa << 13;
    }
    memcpy(&f, &u, 4);
    return f;
}

// Rounds to nearest, ties to even; overflow becomes infinity, as vcvtps2ph does.
static inline uint16_t dtype_f16_from_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (u >> 13 & 0x3ffu));
    if (u >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u);
    if (u < 0x38800000u) {
        float a;
        memcpy(&a, &u, 4);
        a = a * 0x1.0p24f + 0x1.0p23f;
        a -= 0x1.0p23f;
        return (uint16_t)(sign | (uint16_t)a);
    }
    u += 0xfffu + (u >> 13 & 1u);
    return (uint16_t)(sign | (u - 0x38000000u) >> 13);
}

#endif
