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

LINEAR_INLINE __m256 fold16(__m512 a, enum dtype t)
{
    (void)t;
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

// Rows j, j + step .. of w (nr of them) times rows i .. i + mr - 1 of x.
struct strip {
    const struct linear_dot *a;
    uint32_t j, step, i;
};

// Elements begin .. end - 1 (multiples of 16).
LINEAR_INLINE void dot_span(__m512 acc[NR][DOT_ROWS], const void *const row[NR],
    const char *const ahead[NR], const float *x, uint64_t stride, uint32_t begin, uint32_t end,
    const int nr, const int mr, const enum dtype t)
{
    uint64_t at = begin;
    for (; at + 32 <= end; at += 32) {
        linear_ask(ahead, at, nr, t);
        dot_step(acc, row, at, x + at, stride, nr, mr, t);
        dot_step(acc, row, at + 16, x + at + 16, stride, nr, mr, t);
    }
    if (at < end)
        dot_step(acc, row, at, x + at, stride, nr, mr, t);
}

// The last k % 16 elements.
LINEAR_INLINE void dot_rest(__m512 acc[NR][DOT_ROWS], const void *const row[NR], uint32_t k,
    const float *x, uint64_t stride, const int nr, const int mr, const enum dtype t)
{
    uint8_t tail[NR][64];
    const void *last[NR];
    for (int r = 0; r < nr; r++) {
        linear_tail(tail[r], row[r], k, t);
        last[r] = tail[r];
    }
    dot_step(acc, last, 0, x + k / 16 * 16, stride, nr, mr, t);
}

LINEAR_INLINE void dot_store(
    const struct strip *s, __m512 acc[NR][DOT_ROWS], const int nr, const int mr, const enum dtype t)
{
    LINEAR_UNROLL
    for (int i = 0; i < mr; i++) {
        float *out = s->a->out + (s->i + (uint32_t)i) * s->a->out_stride + s->j;
        if (nr == 4) {
            float v[4];
            _mm_storeu_ps(v, linear_tree8x4(fold16(acc[0][i], t), fold16(acc[1][i], t),
                                 fold16(acc[2][i], t), fold16(acc[3][i], t)));
            for (uint32_t r = 0; r < 4; r++)
                out[r * s->step] = v[r];
        } else
            for (int r = 0; r < nr; r++)
                out[(uint32_t)r * s->step] = linear_tree8(fold16(acc[r][i], t));
    }
}

// nr and mr are constants where this is inlined.
LINEAR_INLINE void dot_tile(const struct strip *s, const int nr, const int mr, const enum dtype t)
{
    __m512 acc[NR][DOT_ROWS];
    const void *row[NR];
    const struct linear_dot *a = s->a;
    LINEAR_UNROLL
    for (int r = 0; r < nr; r++) {
        row[r] = weight_row(a->w, a->n + s->j + (uint32_t)r * s->step);
        LINEAR_UNROLL
        for (int i = 0; i < mr; i++)
            acc[r][i] = _mm512_setzero_ps();
    }
    uint32_t k = a->w->k, whole = k / 16 * 16;
    uint64_t stride = a->x_stride;
    const float *x = a->x + s->i * stride;
    struct linear_ahead h = linear_look_ahead(a, s->j, s->step, nr, t);
    dot_span(acc, row, h.row, x, stride, 0, h.turn, nr, mr, t);
    dot_span(acc, row, h.next, x, stride, h.turn, whole, nr, mr, t);
    if (whole < k)
        dot_rest(acc, row, k, x, stride, nr, mr, t);
    dot_store(s, acc, nr, mr, t);
}

// tile_T_M: the strip's rows of w against M rows of x; with step 0 one row of w.
#define TILE(t, T, nr, mr)                                                                         \
    static void tile_##t##_##mr(const struct strip *s)                                             \
    {                                                                                              \
        if (s->step > 0)                                                                           \
            dot_tile(s, nr, mr, T);                                                                \
        else                                                                                       \
            dot_tile(s, 1, mr, T);                                                                 \
    }
#define TILES(t, T)                                                                                \
    TILE(t, T, 4, 1)                                                                               \
    TILE(t, T, 4, 2)                                                                               \
    TILE(t, T, 4, 3)                                                                               \
    TILE(t, T, 4, 4)                                                                               \
    TILE(t, T, 4, 5)                                                                               \
    TILE(t, T, 4, 6)
TILES(f32, DTYPE_F32)
TILES(f16, DTYPE_F16)
TILES(bf16, DTYPE_BF16)

typedef void tile_fn(const struct strip *s);
static tile_fn *const dot_tiles[3][DOT_ROWS] = {
    {tile_f32_1, tile_f32_2, tile_f32_3, tile_f32_4, tile_f32_5, tile_f32_6},
    {tile_f16_1, tile_f16_2, tile_f16_3, tile_f16_4, tile_f16_5, tile_f16_6},
    {tile_bf16_1, tile_bf16_2, tile_bf16_3, tile_bf16_4, tile_bf16_5, tile_bf16_6},
};

static void dot(const struct linear_dot *a)
{
    enum dtype t = a->w->dtype;
    tile_fn *const *tiles = dot_tiles[t == DTYPE_F32 ? 0 : t == DTYPE_F16 ? 1 : 2];
    uint32_t nr = NR, step = a->n_rows / nr;
    uint32_t rows = linear_div_up(a->m, linear_div_up(a->m, DOT_ROWS));
    for (uint32_t j = 0; j < a->n_rows; j = j + 1 == step ? step * nr : j + 1)
        for (uint32_t i = 0; i < a->m; i += rows) {
            struct strip s = {a, j, j < step ? step : 0, i};
            tiles[linear_min(rows, a->m - i) - 1](&s);
        }
}

// ---- panel form --------------------------------------------------------------------------------

LINEAR_INLINE void widen16(float *to, const char *from, uint64_t k, const enum dtype t)
{
    _mm512_store_ps(to, load16(from, k, t));
}

LINEAR_INLINE void widen_as(const struct linear_block *b, uint32_t slice, const enum dtype t)
{
    uint32_t steps = linear_div_up(b->k, CANON_LANES), whole = b->k / CANON_LANES;
    uint32_t begin = steps * slice / CANON_LANES, end = steps * (slice + 1) / CANON_LANES;
    for (uint32_t r = 0; r < b->rows; r++) {
        float *to = b->wide + (uint64_t)r * LINEAR_KC_STRIDE;
        for (uint32_t j = begin; j < linear_min(end, whole); j++)
            widen16(to + 16 * j, b->from[r], 16 * j, t);
        if (begin < end && end > whole) {
            uint8_t tail[64];
            linear_tail(tail, b->from[r], b->k, t);
            widen16(to + 16 * whole, (const char *)tail, 0, t);
        }
    }
}

static void widen(const struct linear_block *b, uint32_t slice)
{
    if (b->dtype == DTYPE_F32)
        widen_as(b, slice, DTYPE_F32);
    else if (b->dtype == DTYPE_F16)
        widen_as(b, slice, DTYPE_F16);
    else
        widen_as(b, slice, DTYPE_BF16);
}

static void pack(float *to, const float *const *rows, uint32_t p, uint32_t k, uint32_t n_steps)
{
    linear_pack8(to, rows, p, k, n_steps);
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
    uint32_t n_steps, float *partial, const int rows, const int nv)
{
    __m512 acc[TILE_ROWS][TILE_VECTORS];
    LINEAR_UNROLL
    for (int r = 0; r < rows; r++) {
        LINEAR_UNROLL
        for (int v = 0; v < nv; v++)
            acc[r][v] =
                a->first ? _mm512_setzero_ps() : _mm512_load_ps(partial + (r * nv + v) * 16);
    }
    uint32_t j = n_steps;
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
    uint32_t n_steps = linear_div_up(a->w->k, CANON_LANES), width = 16 * (uint32_t)nv;
    const float *x = a->x, *w = a->w->wide + r * LINEAR_KC_STRIDE;
    float *partial = a->partial + (uint64_t)r * width;
    for (uint32_t lane = 0; lane < CANON_LANES; lane++) {
        if (r == 0 && a->after != NULL)
            linear_ask_block(a->after, lane);
        if (r == 0 && a->next != NULL)
            widen(a->next, lane);
        tile_lane(a, x, w + lane, n_steps, partial, rows, nv);
        x += (uint64_t)n_steps * width;
        partial += (uint64_t)a->w->rows * width;
    }
}

LINEAR_INLINE void tile_rows(const struct linear_tile *a, const int nv)
{
    uint32_t r = 0;
#define TILE_OF(n)                                                                                 \
    for (; r + (n) <= a->w->rows; r += (n))                                                        \
        tile_of(a, r, n, nv);
    TILE_OF(12)
    TILE_OF(8)
    TILE_OF(4)
    TILE_OF(1)
#undef TILE_OF
}

static void tile(const struct linear_tile *a)
{
    if (a->p == 32)
        tile_rows(a, 2);
    else
        tile_rows(a, 1);
}

// The tree over the sixteen lanes of n = rows * p sums.
static void tree(float *sum, const float *partial, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 v[CANON_LANES / 2];
        LINEAR_UNROLL
        for (uint32_t l = 0; l < CANON_LANES / 2; l++)
            v[l] = _mm512_add_ps(_mm512_load_ps(partial + (uint64_t)l * n + i),
                _mm512_load_ps(partial + (uint64_t)(l + 8) * n + i));
        LINEAR_UNROLL
        for (uint32_t half = CANON_LANES / 4; half > 0; half /= 2) {
            LINEAR_UNROLL
            for (uint32_t l = 0; l < half; l++)
                v[l] = _mm512_add_ps(v[l], v[l + half]);
        }
        _mm512_store_ps(sum + i, v[0]);
    }
}

static void finish(const float *partial, float *sum, uint32_t rows, uint32_t p, uint32_t m,
    float *out, uint64_t out_stride)
{
    tree(sum, partial, rows * p);
    linear_spread(sum, rows, p, m, out, out_stride);
}

const struct linear_isa linear_avx512 = {
    .panel_from = 13,
    .panel_rows = 32,
    .panel_rows_min = 16,
    .tile_rows = TILE_ROWS,
    .dot_prepare = dot_prepare,
    .dot = dot,
    .pack = pack,
    .widen = widen,
    .tile = tile,
    .finish = finish,
};
