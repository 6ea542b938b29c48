// SPDX-License-Identifier: Apache-2.0
// Two registers hold the sixteen lanes of one output (dot form); one holds eight rows of x (panel
// form). bf16 is widened by interleaving with zeros, one operation for eight elements, which gives
// elements 0-3 and 8-11, then 4-7 and 12-15: dot_prepare puts x in that order for bf16, and the
// tree takes the lanes from there.
#include "kernels/cpu/linear_simd.h"

enum { NR = 4, DOT_ROWS = 6, TILE_VECTORS = 2, TILE_ROWS = 6 };

struct pair {
    __m256 a, b; // lanes 0-7 and 8-15, or for bf16 lanes 0-3, 8-11 and 4-7, 12-15
};

LINEAR_INLINE struct pair load16(const void *row, uint64_t k, enum dtype t)
{
    if (t == DTYPE_F32) {
        const char *p = (const char *)row + 4 * k;
        return (struct pair){
            _mm256_loadu_ps((const float *)p), _mm256_loadu_ps((const float *)(p + 32))};
    }
    const char *p = (const char *)row + 2 * k;
    if (t == DTYPE_F16)
        return (struct pair){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16)))};
    __m256i h = _mm256_loadu_si256((const __m256i *)p), zero = _mm256_setzero_si256();
    return (struct pair){_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, h)),
        _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, h))};
}

// Lanes 0-3, 8-11 and 4-7, 12-15 from and to lanes 0-7 and 8-15.
LINEAR_INLINE struct pair swap_middle(struct pair v)
{
    return (struct pair){
        _mm256_permute2f128_ps(v.a, v.b, 0x20), _mm256_permute2f128_ps(v.a, v.b, 0x31)};
}

// ---- dot form ----------------------------------------------------------------------------------

static void dot_prepare(float *to, const float *x, uint32_t k, enum dtype t)
{
    memcpy(to, x, (size_t)k * sizeof *to);
    uint32_t padded = (k + 15) / 16 * 16;
    for (uint32_t i = k; i < padded; i++)
        to[i] = 0.0f;
    for (uint32_t i = 0; t == DTYPE_BF16 && i < padded; i += 16) {
        struct pair v =
            swap_middle((struct pair){_mm256_load_ps(to + i), _mm256_load_ps(to + i + 8)});
        _mm256_store_ps(to + i, v.a);
        _mm256_store_ps(to + i + 8, v.b);
    }
}

// Sixteen elements of nr rows of w, from `at`, times mr rows of x.
LINEAR_INLINE void dot_step(struct pair acc[NR][DOT_ROWS], const void *const row[NR], uint64_t at,
    const float *x, uint64_t stride, const int nr, const int mr, const enum dtype t)
{
    LINEAR_UNROLL
    for (int r = 0; r < nr; r++) {
        struct pair w = load16(row[r], at, t);
        LINEAR_UNROLL
        for (int i = 0; i < mr; i++) {
            const float *v = x + (uint64_t)i * stride;
            acc[r][i].a = _mm256_fmadd_ps(_mm256_load_ps(v), w.a, acc[r][i].a);
            acc[r][i].b = _mm256_fmadd_ps(_mm256_load_ps(v + 8), w.b, acc[r][i].b);
        }
    }
}

LINEAR_INLINE __m256 fold16(struct pair v, const enum dtype t)
{
    v = t == DTYPE_BF16 ? swap_middle(v) : v;
    return _mm256_add_ps(v.a, v.b);
}

// Elements begin .. end - 1 (multiples of 16).
LINEAR_INLINE void dot_span(struct pair acc[NR][DOT_ROWS], const void *const row[NR],
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
LINEAR_INLINE void dot_rest(struct pair acc[NR][DOT_ROWS], const void *const row[NR],
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
    struct pair acc[NR][DOT_ROWS];
    const void *row[NR];
    LINEAR_UNROLL
    for (int r = 0; r < nr; r++) {
        row[r] = weight_row(a->w, a->n + j + (uint32_t)r * step);
        LINEAR_UNROLL
        for (int i = 0; i < mr; i++)
            acc[r][i] = (struct pair){_mm256_setzero_ps(), _mm256_setzero_ps()};
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
            _mm_storeu_ps(v, linear_tree8x4(fold16(acc[0][i], t), fold16(acc[1][i], t),
                                 fold16(acc[2][i], t), fold16(acc[3][i], t)));
            for (uint32_t r = 0; r < 4; r++)
                out[r * step] = v[r];
        } else
            for (int r = 0; r < nr; r++)
                out[(uint32_t)r * step] = linear_tree8(fold16(acc[r][i], t));
    }
}

// At most twelve of the sixteen registers are accumulators: 4 x 1, 2 x 2, 2 x 3, 1 x 4 .. 1 x 6.
LINEAR_INLINE void dot_rows(const struct linear_dot *a, const int mr, const enum dtype t)
{
    const uint32_t nr = mr == 1 ? 4 : mr <= 3 ? 2 : 1, step = a->n_rows / nr;
    for (uint32_t j = 0; j < step; j++)
        dot_tile(a, j, step, (int)nr, mr, t);
    for (uint32_t j = step * nr; j < a->n_rows; j++)
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

LINEAR_INLINE void widen16(float *to, const void *row, uint64_t k, const enum dtype t)
{
    struct pair v = load16(row, k, t);
    v = t == DTYPE_BF16 ? swap_middle(v) : v;
    _mm256_store_ps(to, v.a);
    _mm256_store_ps(to + 8, v.b);
}

LINEAR_INLINE void widen_as(float *to, const void *row, uint32_t k, const enum dtype t)
{
    uint32_t whole = k / 16 * 16;
    for (uint32_t i = 0; i < whole; i += 16)
        widen16(to + i, row, i, t);
    if (whole < k) {
        uint8_t tail[64];
        linear_tail(tail, row, k, t);
        widen16(to + whole, tail, 0, t);
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

LINEAR_INLINE void tile_step(__m256 acc[TILE_ROWS][TILE_VECTORS], const float *x, const float *w,
    const int rows, const int nv)
{
    __m256 b[TILE_VECTORS];
    LINEAR_UNROLL
    for (int v = 0; v < nv; v++)
        b[v] = _mm256_load_ps(x + 8 * v);
    LINEAR_UNROLL
    for (int r = 0; r < rows; r++) {
        __m256 s = _mm256_set1_ps(w[r * LINEAR_KC_STRIDE]);
        LINEAR_UNROLL
        for (int v = 0; v < nv; v++)
            acc[r][v] = _mm256_fmadd_ps(s, b[v], acc[r][v]);
    }
}

// One lane: rows x (8 * nv) accumulators; both are constants where this is inlined.
LINEAR_INLINE void tile_lane(const struct linear_tile *a, const float *x, const float *w,
    float *partial, const int rows, const int nv)
{
    __m256 acc[TILE_ROWS][TILE_VECTORS];
    LINEAR_UNROLL
    for (int r = 0; r < rows; r++) {
        LINEAR_UNROLL
        for (int v = 0; v < nv; v++)
            acc[r][v] = a->first ? _mm256_setzero_ps() : _mm256_load_ps(partial + (r * nv + v) * 8);
    }
    uint32_t j = a->n_steps;
    for (; j >= 4; j -= 4, x += 4 * 8 * nv, w += 4 * 16) {
        tile_step(acc, x, w, rows, nv);
        tile_step(acc, x + 8 * nv, w + 16, rows, nv);
        tile_step(acc, x + 2 * 8 * nv, w + 32, rows, nv);
        tile_step(acc, x + 3 * 8 * nv, w + 48, rows, nv);
    }
    for (; j > 0; j--, x += 8 * nv, w += 16)
        tile_step(acc, x, w, rows, nv);
    LINEAR_UNROLL
    for (int r = 0; r < rows; r++) {
        LINEAR_UNROLL
        for (int v = 0; v < nv; v++)
            _mm256_store_ps(partial + (r * nv + v) * 8, acc[r][v]);
    }
}

LINEAR_INLINE void tile_of(const struct linear_tile *a, uint32_t r, const int rows, const int nv)
{
    const float *x = a->x, *w = a->w + r * LINEAR_KC_STRIDE;
    float *partial = a->partial + (uint64_t)r * 8 * (uint32_t)nv;
    for (uint32_t lane = 0; lane < CANON_LANES; lane++) {
        if (r == 0)
            linear_prefetch(a, lane);
        tile_lane(a, x, w + lane, partial, rows, nv);
        x += a->lane_stride;
        partial += a->rows * 8 * (uint32_t)nv;
    }
}

LINEAR_INLINE void tile_rows(const struct linear_tile *a, const int nv)
{
    uint32_t r = 0;
#define TILE(n)                                                                                    \
    for (; r + (n) <= a->rows; r += (n))                                                           \
        tile_of(a, r, n, nv);
    TILE(6)
    TILE(4)
    TILE(1)
#undef TILE
}

static void tile(const struct linear_tile *a)
{
    if (a->p == 16)
        tile_rows(a, 2);
    else
        tile_rows(a, 1);
}

static void tree(float *out, const float *partial, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        __m256 v[CANON_LANES];
        LINEAR_UNROLL
        for (uint32_t l = 0; l < CANON_LANES / 2; l++)
            v[l] = _mm256_add_ps(_mm256_load_ps(partial + (uint64_t)l * n + i),
                _mm256_load_ps(partial + (uint64_t)(l + 8) * n + i));
        LINEAR_UNROLL
        for (uint32_t half = CANON_LANES / 4; half > 0; half /= 2) {
            LINEAR_UNROLL
            for (uint32_t l = 0; l < half; l++)
                v[l] = _mm256_add_ps(v[l], v[l + half]);
        }
        _mm256_store_ps(out + i, v[0]);
    }
}

const struct linear_isa linear_avx2 = {
    .dot_rows = DOT_ROWS,
    .panel_from = 7,
    .panel_rows = 16,
    .panel_rows_min = 8,
    .tile_rows = TILE_ROWS,
    .dot_prepare = dot_prepare,
    .dot = dot,
    .widen = widen,
    .pack = pack,
    .tile = tile,
    .tree = tree,
};
