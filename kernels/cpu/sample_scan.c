// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/canon.h"
#include "kernels/cpu/sample.h"

static float plain_max(const float *x, uint32_t n)
{
    float most = -INFINITY;
    bool nan = false;
    for (uint32_t i = 0; i < n; i++) {
        most = x[i] > most ? x[i] : most;
        nan |= x[i] != x[i];
    }
    return nan ? NAN : most;
}

static void plain_weights(
    const float *x, float *w, float *sums, uint32_t n, float max, float temperature)
{
    for (uint32_t begin = 0; begin < n; begin += SAMPLE_CHUNK) {
        uint32_t end = n - begin < SAMPLE_CHUNK ? n : begin + SAMPLE_CHUNK;
        float chunk[SAMPLE_CHUNK];
        for (uint32_t i = begin; i < end; i++)
            chunk[i - begin] = canon_exp((x[i] - max) / temperature);
        if (w != NULL)
            memcpy(w + begin, chunk, sizeof *w * (end - begin));
        sums[begin / SAMPLE_CHUNK] = canon_sum(chunk, end - begin);
    }
}

static uint32_t plain_count_greater(const float *x, uint32_t n, float than)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += x[i] > than;
    return count;
}

double sample_total(const float *sums, uint32_t n)
{
    double total = 0;
    for (uint32_t i = 0; i < (n + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK; i++)
        total += (double)sums[i];
    return total;
}

const struct sample_isa sample_plain_isa = {
    .max = plain_max,
    .weights = plain_weights,
    .count_greater = plain_count_greater,
};
