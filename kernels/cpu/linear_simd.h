// SPDX-License-Identifier: Apache-2.0
// What the AVX2 and the AVX-512 loops of linear share. Include only from files compiled with
// AVX2, FMA and F16C.
#ifndef PHALANX_KERNELS_CPU_LINEAR_SIMD_H
#define PHALANX_KERNELS_CPU_LINEAR_SIMD_H

#include "kernels/cpu/linear_internal.h"

#include <immintrin.h>

#if defined(__clang__)
#define LINEAR_UNROLL _Pragma("unroll")
#else
#define LINEAR_UNROLL _Pragma("GCC unroll 32")
#endif
#define LINEAR_INLINE static inline __attribute__((always_inline))

// The last 3 levels of the tree for four outputs: each of a..d holds lanes i + (i + 8) of one.
LINEAR_INLINE __m128 linear_tree8x4(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 ab =
        _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    __m256 cd =
        _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    __m256 q = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    __m256 s = _mm256_add_ps(_mm256_shuffle_ps(q, q, 0x88), _mm256_shuffle_ps(q, q, 0xdd));
    return _mm_unpacklo_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

// The same for one output.
LINEAR_INLINE float linear_tree8(__m256 a)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 h = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

// The k % 16 last elements of a row, as 16 elements of its type padded with -0.
LINEAR_INLINE void linear_tail(uint8_t to[64], const void *row, uint32_t k, enum dtype t)
{
    static const uint32_t minus0_f32 = 0x80000000u;
    static const uint16_t minus0_16 = 0x8000u;
    uint32_t bytes = dtype_bytes(t), rest = k % 16;
    for (uint32_t i = rest; i < 16; i++)
        memcpy(to + i * bytes, t == DTYPE_F32 ? (const void *)&minus0_f32 : &minus0_16, bytes);
    memcpy(to, (const char *)row + (uint64_t)(k - rest) * bytes, (size_t)rest * bytes);
}

// Where to ask for memory ahead of each of nr streams of rows: bytes at + LINEAR_AHEAD / nr of the
// row, and beyond its end those of the stream's next row. `turn` is the first element, a multiple
// of 32, for which it is the next row.
struct linear_ahead {
    const char *row[4], *next[4];
    uint32_t turn;
};

LINEAR_INLINE struct linear_ahead linear_look_ahead(
    const struct linear_dot *a, uint32_t j, uint32_t step, const int nr, const enum dtype t)
{
    struct linear_ahead h;
    uint32_t bytes = a->w->k * dtype_bytes(t), ahead = LINEAR_AHEAD / (uint32_t)nr;
    for (int r = 0; r < nr; r++) {
        uint32_t n = a->n + j + (uint32_t)r * step;
        h.row[r] = (const char *)weight_row(a->w, n) + ahead;
        const char *next = n + 1 < a->w->n ? weight_row(a->w, n + 1) : h.row[r];
        h.next[r] = next + (int64_t)ahead - (int64_t)bytes;
    }
    h.turn = bytes > ahead ? (bytes - ahead) / dtype_bytes(t) / 32 * 32 : 0;
    return h;
}

// Asks for the lines that lie ahead of elements at .. at + 31.
LINEAR_INLINE void linear_ask(
    const char *const from[4], uint64_t at, const int nr, const enum dtype t)
{
    const uint64_t bytes = t == DTYPE_F32 ? 4 : 2;
    LINEAR_UNROLL
    for (int r = 0; r < nr; r++) {
        _mm_prefetch(from[r] + at * bytes, _MM_HINT_T0);
        if (t == DTYPE_F32)
            _mm_prefetch(from[r] + at * bytes + 64, _MM_HINT_T0);
    }
}

// Asks for the sixteenth `slice` of the lines of a block.
LINEAR_INLINE void linear_ask_block(const struct linear_block *b, uint32_t slice)
{
    uint32_t bytes = b->k * dtype_bytes(b->dtype);
    for (uint32_t at = slice * 64; at < bytes; at += CANON_LANES * 64)
        for (uint32_t r = 0; r < b->rows; r++)
            _mm_prefetch(b->from[r] + at, _MM_HINT_T1);
}

// Transposes 8 rows of 8 floats.
LINEAR_INLINE void linear_transpose8(__m256 r[8])
{
    __m256 t[8], u[8];
    LINEAR_UNROLL for (int i = 0; i < 4; i++)
    {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    LINEAR_UNROLL for (int i = 0; i < 2; i++)
    {
        u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    LINEAR_UNROLL for (int i = 0; i < 4; i++)
    {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

// `pack` of struct linear_isa: p is a multiple of 8.
LINEAR_INLINE void linear_pack8(
    float *to, const float *const *rows, uint32_t p, uint32_t k, uint32_t n_steps)
{
    uint64_t lane_stride = (uint64_t)n_steps * p;
    for (uint32_t i = 0; i < p; i += 8)
        for (uint32_t j = 0; j < n_steps; j++)
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t begin = 16 * j + 8 * half;
                uint32_t left = begin < k ? linear_min(k - begin, 8) : 0;
                __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)left), index);
                __m256 r[8];
                LINEAR_UNROLL
                for (uint32_t q = 0; q < 8; q++)
                    r[q] = _mm256_maskload_ps(rows[i + q] + begin, mask);
                linear_transpose8(r);
                float *at = to + 8 * half * lane_stride + (uint64_t)j * p + i;
                LINEAR_UNROLL
                for (uint32_t q = 0; q < 8; q++)
                    _mm256_store_ps(at + q * lane_stride, r[q]);
            }
}

// out[i * out_stride + r] = sum[r * p + i] for r < rows, i < m.
LINEAR_INLINE void linear_spread(
    const float *sum, uint32_t rows, uint32_t p, uint32_t m, float *out, uint64_t out_stride)
{
    uint32_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        uint32_t i = 0;
        const float *from = sum + (uint64_t)r * p;
        for (; i + 4 <= m; i += 4) {
            __m128 a = _mm_load_ps(from + i), b = _mm_load_ps(from + p + i);
            __m128 c = _mm_load_ps(from + 2 * p + i), d = _mm_load_ps(from + 3 * p + i);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps(out + (i + 0) * out_stride + r, a);
            _mm_storeu_ps(out + (i + 1) * out_stride + r, b);
            _mm_storeu_ps(out + (i + 2) * out_stride + r, c);
            _mm_storeu_ps(out + (i + 3) * out_stride + r, d);
        }
        for (; i < m; i++)
            for (uint32_t q = 0; q < 4; q++)
                out[i * out_stride + r + q] = from[q * p + i];
    }
    for (; r < rows; r++)
        for (uint32_t i = 0; i < m; i++)
            out[i * out_stride + r] = sum[(uint64_t)r * p + i];
}

#endif
