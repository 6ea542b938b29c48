// SPDX-License-Identifier: Apache-2.0
// One register holds the sixteen lanes of one output (dot form) or sixteen rows of x (panel form).
#include "kernels/cpu/linear_simd.h"

enum { NR = 4, DOT_ROWS = 6, TILE_VECTORS = 2, TILE_ROWS = 12 };

LINEAR_INLINE __m512 load16(const void *row, uint64_t k, enum dtype t)
{
    if (t == DTYPE_F32)
        return _mm512_loadu_ps((const char *)row + 4 * k);
    __m256i h = _mm256_loadu_si256((const __m256i *)((const char *)row + 2 * k));
    if (t == DTYPE_F16)
        return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

LINEAR_INLINE __m256 fold16(__m512 a)
{
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

// ---- dot form ----------------------------------------------------------------------------------

static void dot_prepare(float *to, const float *x, uint32_t k, enum dtype t)
{
    (void)t;
    memcpy(to, x, (size_t)k * sizeof *to);
    for (uint32_t i = k; i % 16 != 0; i++)
        to[i] = 0.0f;
}

// Sixteen elements of nr rows of w, from `at`, times mr rows of x.
LINEAR_INLINE void dot_step(__m512 acc[NR][DOT_ROWS], const void *const row[NR], uint64_t at,
    const float *x, uint64_t stride, const int nr, const int mr, const enum dtype t)
{
    __m512 w[NR];
    LINEAR_UNROLL
    for (int r = 0; r < nr; r++)
        w[r] = load16(row[r], at, t);
    LINEAR_UNROLL
    for (int i = 0; i < mr; i++) {
        __m512 v = _mm512_load_ps(x + (uint64_t)i * stride);
        LINEAR_UNROLL
        for (int r = 0; r < nr; r++)
            acc[r][i] = _mm512_fmadd_ps(v, w[r], acc[r][i]);
    }
}

// Elements begin .. end - 1 (multiples of 16).
LINEAR_INLINE void dot_span(__m512 acc[NR][DOT_ROWS], const void *const row[NR],
    const char *const ahead[NR], const struct linear_dot *a, uint32_t begin, uint32_t end,
    const int nr, const int mr, const enum dtype t)
{
    uint64_t at = begin;
    const float *x = a->x;
    for (; at + 32 <= end; at += 32) {
        linear_ask(ahead, at, nr, t);
        dot_step(acc, row, at, x + at, a->x_stride, nr, mr, t);
        dot_step(acc, row, at + 16, x + at + 16, a->x_stride, nr, mr, t);
    }
    if (at < end)
        dot_step(acc, row, at, x + at, a->x_stride, nr, mr, t);
}

// The last k % 16 elements.
LINEAR_INLINE void dot_rest(__m512 acc[NR][DOT_ROWS], const void *const row[NR],
    const struct linear_dot *a, const int nr, const int mr, const enum dtype t)
{
    uint8_t tail[NR][64];
    const void *last[NR];
    uint32_t k = a->w->k;
    for (int r = 0; r < nr; r++) {
        linear_tail(tail[r], row[r], k, t);
        last[r] = tail[r];
    }
    dot_step(acc, last, 0, a->x + k / 16 * 16, a->x_stride, nr, mr, t);
}

// Rows j, j + step .. of w (nr of them) times mr rows of x; nr and mr are constants where this is
// inlined.
LINEAR_INLINE void dot_tile(const struct linear_dot *a, uint32_t j, uint32_t step, const int nr,
    const int mr, const enum dtype t)
{
    __m512 acc[NR][DOT_ROWS];
    const void *row[NR];
    LINEAR_UNROLL
    for (int r = 0; r < nr; r++) {
        row[r] = weight_row(a->w, a->n + j + (uint32_t)r * step);
        LINEAR_UNROLL
        for (int i = 0; i < mr; i++)
            acc[r][i] = _mm512_setzero_ps();
    }
    uint32_t k = a->w->k, whole = k / 16 * 16;
    struct linear_ahead h = linear_look_ahead(a, j, step, nr, t);
    dot_span(acc, row, h.row, a, 0, h.turn, nr, mr, t);
    dot_span(acc, row, h.next, a, h.turn, whole, nr, mr, t);
    if (whole < k)
        dot_rest(acc, row, a, nr, mr, t);
    LINEAR_UNROLL
    for (int i = 0; i < mr; i++) {
        float *out = a->out + (uint64_t)i * a->out_stride + j;
        if (nr == 4) {
            float v[4];
            _mm_storeu_ps(v, linear_tree8x4(fold16(acc[0][i]), fold16(acc[1][i]), fold16(acc[2][i]),
                                 fold16(acc[3][i])));
            for (uint32_t r = 0; r < 4; r++)
                out[r * step] = v[r];
        } else
            for (int r = 0; r < nr; r++)
                out[(uint32_t)r * step] = linear_tree8(fold16(acc[r][i]));
    }
}

LINEAR_INLINE void dot_rows(const struct linear_dot *a, const int mr, const enum dtype t)
{
    uint32_t step = a->n_rows / NR;
    for (uint32_t j = 0; j < step; j++)
        dot_tile(a, j, step, NR, mr, t);
    for (uint32_t j = step * NR; j < a->n_rows; j++)
        dot_tile(a, j, 0, 1, mr, t);
}

#define DOT(t)                                                                                     \
    switch (a->m) {                                                                                \
    case 1:                                                                                        \
        dot_rows(a, 1, t);                                                                         \
        return;                                                                                    \
    case 2:                                                                                        \
        dot_rows(a, 2, t);                                                                         \
        return;                                                                                    \
    case 3:                                                                                        \
        dot_rows(a, 3, t);                                                                         \
        return;                                                                                    \
    case 4:                                                                                        \
        dot_rows(a, 4, t);                                                                         \
        return;                                                                                    \
    case 5:                                                                                        \
        dot_rows(a, 5, t);                                                                         \
        return;                                                                                    \
    case 6:                                                                                        \
        dot_rows(a, 6, t);                                                                         \
        return;                                                                                    \
    }

static void dot_f32(const struct linear_dot *a)
{
    DOT(DTYPE_F32)
}

static void dot_f16(const struct linear_dot *a)
{
    DOT(DTYPE_F16)
}

static void dot_bf16(const struct linear_dot *a)
{
    DOT(DTYPE_BF16)
}

static void dot(const struct linear_dot *a)
{
    if (a->w->dtype == DTYPE_F32)
        dot_f32(a);
    else if (a->w->dtype == DTYPE_F16)
        dot_f16(a);
    else
        dot_bf16(a);
}

// ---- panel form --------------------------------------------------------------------------------

LINEAR_INLINE void widen_as(float *to, const void *row, uint32_t k, const enum dtype t)
{
    uint32_t whole = k / 16 * 16;
    for (uint32_t i = 0; i < whole; i += 16)
        _mm512_store_ps(to + i, load16(row, i, t));
    if (whole < k) {
        uint8_t tail[64];
        linear_tail(tail, row, k, t);
        _mm512_store_ps(to + whole, load16(tail, 0, t));
    }
}

static void widen(float *to, const void *row, uint32_t k, enum dtype t)
{
    if (t == DTYPE_F32)
        widen_as(to, row, k, DTYPE_F32);
    else if (t == DTYPE_F16)
        widen_as(to, row, k, DTYPE_F16);
    else
        widen_as(to, row, k, DTYPE_BF16);
}

static void pack(float *to, uint64_t lane_stride, const float *const *rows, uint32_t p, uint32_t k,
    uint32_t n_steps)
{
    linear_pack8(to, lane_stride, rows, p, k, n_steps);
}

LINEAR_INLINE void tile_step(__m512 acc[TILE_ROWS][TILE_VECTORS], const float *x, const float *w,
    const int rows, const int nv)
{
    __m512 b[TILE_VECTORS];
    LINEAR_UNROLL
    for (int v = 0; v < nv; v++)
        b[v] = _mm512_load_ps(x + 16 * v);
    LINEAR_UNROLL
    for (int r = 0; r < rows; r++) {
        __m512 s = _mm512_set1_ps(w[r * LINEAR_KC_STRIDE]);
        LINEAR_UNROLL
        for (int v = 0; v < nv; v++)
            acc[r][v] = _mm512_fmadd_ps(s, b[v], acc[r][v]);
    }
}

// One lane: rows x (16 * nv) accumulators; both are constants where this is inlined.
LINEAR_INLINE void tile_lane(const struct linear_tile *a, const float *x, const float *w,
    float *partial, const int rows, const int nv)
{
    __m512 acc[TILE_ROWS][TILE_VECTORS];
    LINEAR_UNROLL
    for (int r = 0; r < rows; r++) {
        LINEAR_UNROLL
        for (int v = 0; v < nv; v++)
            acc[r][v] =
                a->first ? _mm512_setzero_ps() : _mm512_load_ps(partial + (r * nv + v) * 16);
    }
    uint32_t j = a->n_steps;
    for (; j >= 4; j -= 4, x += 4 * 16 * nv, w += 4 * 16) {
        tile_step(acc, x, w, rows, nv);
        tile_step(acc, x + 16 * nv, w + 16, rows, nv);
        tile_step(acc, x + 2 * 16 * nv, w + 32, rows, nv);
        tile_step(acc, x + 3 * 16 * nv, w + 48, rows, nv);
    }
    for (; j > 0; j--, x += 16 * nv, w += 16)
        tile_step(acc, x, w, rows, nv);
    LINEAR_UNROLL
    for (int r = 0; r < rows; r++) {
        LINEAR_UNROLL
        for (int v = 0; v < nv; v++)
            _mm512_store_ps(partial + (r * nv + v) * 16, acc[r][v]);
    }
}

LINEAR_INLINE void tile_of(const struct linear_tile *a, uint32_t r, const int rows, const int nv)
{
    const float *x = a->x, *w = a->w + r * LINEAR_KC_STRIDE;
    float *partial = a->partial + (uint64_t)r * 16 * (uint32_t)nv;
    for (uint32_t lane = 0; lane < CANON_LANES; lane++) {
        if (r == 0)
            linear_prefetch(a, lane);
        tile_lane(a, x, w + lane, partial, rows, nv);
        x += a->lane_stride;
        partial += a->rows * 16 * (uint32_t)nv;
    }
}

LINEAR_INLINE void tile_rows(const struct linear_tile *a, const int nv)
{
    uint32_t r = 0;
#define TILE(n)                                                                                    \
    for (; r + (n) <= a->rows; r += (n))                                                           \
        tile_of(a, r, n, nv);
    TILE(12)
    TILE(8)
    TILE(4)
    TILE(1)
#undef TILE
}

static void tile(const struct linear_tile *a)
{
    if (a->p == 32)
        tile_rows(a, 2);
    else
        tile_rows(a, 1);
}

static void tree(float *out, const float *partial, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 v[CANON_LANES];
        LINEAR_UNROLL
        for (uint32_t l = 0; l < CANON_LANES; l++)
            v[l] = _mm512_load_ps(partial + (uint64_t)l * n + i);
        LINEAR_UNROLL
        for (uint32_t half = CANON_LANES / 2; half > 0; half /= 2) {
            LINEAR_UNROLL
            for (uint32_t l = 0; l < half; l++)
                v[l] = _mm512_add_ps(v[l], v[l + half]);
        }
        _mm512_store_ps(out + i, v[0]);
    }
}

const struct linear_isa linear_avx512 = {
    .dot_rows = DOT_ROWS,
    .panel_from = 13,
    .panel_rows = 32,
    .panel_rows_min = 16,
    .tile_rows = TILE_ROWS,
    .dot_prepare = dot_prepare,
    .dot = dot,
    .widen = widen,
    .pack = pack,
    .tile = tile,
    .tree = tree,
};
