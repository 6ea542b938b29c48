// SPDX-License-Identifier: Apache-2.0
#include "worker/alibi.h"

#include <math.h>

// Slope `i` of `n`, a power of two: a geometric sequence that ends at 2^-most.
static double step(double most, uint32_t i, uint32_t n)
{
    return exp2(-most * (i + 1) / n);
}

float alibi_slope(const struct model_config *m, uint32_t head)
{
    uint32_t n = m->n_heads, below = 1;
    double most = (double)m->alibi_bias_max, slope;
    while (below * 2 <= n)
        below *= 2;
    uint32_t above = below == n ? n : 2 * below, odd = above / 2;
    if (below == n)
        slope = step(most, head, n);
    else if (m->alibi_rule == ALIBI_DEAL)
        slope = step(most, head < odd ? 2 * head + 1 : 2 * (head - odd), above);
    else
        slope = head < below ? step(most, head, below) : step(most, 2 * (head - below), above);
    float f = (float)slope;
    if (m->alibi_bf16)
        f = dtype_f32_from_bf16(dtype_bf16_from_f32(f));
    return f * m->alibi_scale;
}
