// SPDX-License-Identifier: Apache-2.0
#include "base/philox.h"

static void round_once(uint32_t c[4], const uint32_t k[2])
{
    uint64_t p0 = (uint64_t)0xD2511F53u * c[0];
    uint64_t p1 = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t next[4] = {
        (uint32_t)(p1 >> 32) ^ c[1] ^ k[0],
        (uint32_t)p1,
        (uint32_t)(p0 >> 32) ^ c[3] ^ k[1],
        (uint32_t)p0,
    };
    for (int i = 0; i < 4; i++)
        c[i] = next[i];
}

void philox_block(uint64_t key, const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    for (int i = 0; i < 4; i++)
        out[i] = counter[i];
    for (int r = 0; r < 10; r++) {
        round_once(out, k);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
}

double philox_uniform(
    uint64_t seed, uint32_t sample_index, uint32_t position, enum philox_purpose purpose)
{
    uint32_t counter[4] = {sample_index, position, (uint32_t)purpose, 0};
    uint32_t out[4];
    philox_block(seed, counter, out);
    uint64_t bits = (uint64_t)out[0] << 32 | out[1];
    return (double)(bits >> 11) * 0x1.0p-53;
}
