// SPDX-License-Identifier: Apache-2.0
#include "worker/alibi.h"

#include <math.h>

// Slope `i` of `n`, a power of two: a geometric sequence that ends at 2^-most.
static double step(double most, uint32_t i, uint32_t n)
{
    return exp2(-most * (i + 1) / n);
}

// Where the number of heads is no power of two, the heads beyond the power below it take every
// second step of the power above.
float alibi_slope(const struct model_config *m, uint32_t head)
{
    uint32_t below = 1;
    double most = (double)m->alibi_bias_max;
    while (below * 2 <= m->n_heads)
        below *= 2;
    double slope =
        head < below ? step(most, head, below) : step(most, 2 * (head - below), 2 * below);
    float f = (float)slope;
    if (m->alibi_bf16)
        f = dtype_f32_from_bf16(dtype_bf16_from_f32(f));
    return f * m->alibi_scale;
}
