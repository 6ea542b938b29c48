// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/linear_plan.h"

#include "base/check.h"

static const struct {
    const char *name;
    uint32_t n_tile, m_tile;
} kernels[] = {
#define LINEAR_KERNEL(NAME, n, m) {#NAME, n, m},
#include "kernels/cuda/linear.def"
#undef LINEAR_KERNEL
};

static const struct {
    uint32_t n_max, segments;
} segments[] = {
#define LINEAR_SEGMENTS(n_max, count) {n_max, count},
#include "kernels/cuda/linear.def"
#undef LINEAR_SEGMENTS
};

static const struct {
    bool half, gated;
    uint32_t m_max, tiles_min;
    enum linear_kernel kernel;
} choices[] = {
#define LINEAR_CHOICE(half, gated, m_max, tiles_min, NAME)                                         \
    {half, gated, m_max, tiles_min, LINEAR_##NAME},
#include "kernels/cuda/linear.def"
#undef LINEAR_CHOICE
};

static const struct {
    bool half;
    uint32_t rows_max;
    enum linear_kernel kernel[2]; // not gated, gated
} grouped[] = {
#define LINEAR_GROUPED(half, rows_max, GATED, PLAIN)                                               \
    {half, rows_max, {LINEAR_##PLAIN, LINEAR_##GATED}},
#include "kernels/cuda/linear.def"
#undef LINEAR_GROUPED
};

static uint32_t div_up(uint32_t a, uint32_t b)
{
    return a / b + (a % b != 0);
}

uint32_t linear_plan_n_tile(enum linear_kernel kernel)
{
    return kernels[kernel].n_tile;
}

uint32_t linear_plan_m_tile(enum linear_kernel kernel)
{
    return kernels[kernel].m_tile;
}

const char *linear_plan_name(enum linear_kernel kernel)
{
    return kernels[kernel].name;
}

// Of N and K alone.
static uint32_t segment_of(uint32_t n, uint32_t k)
{
    uint32_t i = 0;
    while (n > segments[i].n_max)
        i++;
    return div_up(div_up(k, segments[i].segments), LINEAR_SEGMENT_UNIT) * LINEAR_SEGMENT_UNIT;
}

static enum linear_kernel choose(const struct linear_shape *s)
{
    for (size_t i = 0; i < COUNT_OF(choices); i++) {
        enum linear_kernel k = choices[i].kernel;
        uint64_t tiles =
            (uint64_t)div_up(s->n, kernels[k].n_tile) * div_up(s->m, kernels[k].m_tile);
        if (choices[i].half == s->half && choices[i].gated == s->gated &&
            s->m <= choices[i].m_max && 2 * tiles >= (uint64_t)choices[i].tiles_min * s->n_sms)
            return k;
    }
    check(false);
    return LINEAR_KERNEL_COUNT;
}

// Blocks along K where there are fewer tiles than SMs, until there are about as many.
static uint32_t split_tiles(const struct linear_plan *p, const struct linear_shape *s)
{
    uint64_t tiles = (uint64_t)p->n_tiles * p->m_tiles;
    uint64_t partials = (uint64_t)p->n_segments * s->m * s->n;
    if (tiles >= s->n_sms || tiles > LINEAR_TICKETS_MAX || partials > LINEAR_PARTIALS_MAX)
        return 1;
    uint32_t splits = (uint32_t)(s->n_sms / tiles);
    splits = splits < LINEAR_SPLITS_MAX ? splits : LINEAR_SPLITS_MAX;
    return splits < p->n_segments ? splits : p->n_segments;
}

// A gated tile of ROWS has so many rows of gates and as many of ups; the others have halves.
static uint32_t count_n_tiles(const struct linear_plan *p, const struct linear_shape *s)
{
    bool pairs = s->gated && p->kernel <= LINEAR_ROWS_GATED_16;
    return div_up(pairs ? s->n / 2 : s->n, kernels[p->kernel].n_tile);
}

struct linear_plan linear_plan_make(const struct linear_shape *s)
{
    check(s->m > 0 && s->n > 0 && s->k > 0 && s->n_sms > 0);
    struct linear_plan p = {.kernel = choose(s), .segment = segment_of(s->n, s->k)};
    p.n_segments = div_up(s->k, p.segment);
    p.n_tiles = count_n_tiles(&p, s);
    p.m_tiles = div_up(s->m, kernels[p.kernel].m_tile);
    bool rows = p.kernel <= LINEAR_ROWS_GATED_16;
    p.splits = rows ? div_up(p.n_segments, LINEAR_WARPS) : split_tiles(&p, s);
    return p;
}

struct linear_plan linear_plan_grouped(const struct linear_shape *s, uint32_t n_groups)
{
    check(s->m > 0 && s->n > 0 && s->k > 0 && n_groups > 0);
    uint32_t rows = div_up(s->m, n_groups), i = 0;
    while (grouped[i].half != s->half || rows > grouped[i].rows_max)
        i++;
    struct linear_plan p = {.kernel = grouped[i].kernel[s->gated], .splits = 1};
    p.segment = div_up(div_up(s->k, LINEAR_WARPS), LINEAR_SEGMENT_UNIT) * LINEAR_SEGMENT_UNIT;
    p.n_segments = div_up(s->k, p.segment);
    p.n_tiles = count_n_tiles(&p, s);
    // Each group has at most one tile that is not full.
    p.m_tiles = s->m / kernels[p.kernel].m_tile + (n_groups < s->m ? n_groups : s->m);
    return p;
}

size_t linear_plan_partials(const struct linear_plan *p, const struct linear_shape *s)
{
    return p->splits > 1 ? (size_t)p->n_segments * s->m * s->n : 0;
}

uint32_t linear_plan_tickets(const struct linear_plan *p)
{
    return p->splits > 1 ? p->n_tiles * p->m_tiles : 0;
}
