// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011). A number depends on its key and counter alone, so a
// sequence draws the same numbers however it is batched, preempted or resumed.
#ifndef PHALANX_BASE_PHILOX_H
#define PHALANX_BASE_PHILOX_H

#include <stdint.h>

// What a draw is for; part of the counter, so that draws for different purposes never coincide.
enum philox_purpose {
    PHILOX_SAMPLE = 0,  // choosing a token
    PHILOX_WEIGHTS = 1, // --random-weights
    PHILOX_TEST = 2,
};

// Ten rounds on (key, counter); writes four 32-bit words.
void philox_block(uint64_t key, const uint32_t counter[4], uint32_t out[4]);

// The draw for one token: key = the request's seed, counter = (sample index, position, purpose, 0).
// Uniform in [0, 1) with 53 random bits.
double philox_uniform(
    uint64_t seed, uint32_t sample_index, uint32_t position, enum philox_purpose purpose);

#endif
