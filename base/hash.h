// SPDX-License-Identifier: Apache-2.0
// SipHash (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012): keyed hashes for tables
// whose keys come from outside, and 128 bits for the prefix cache's chain keys.
#ifndef PHALANX_BASE_HASH_H
#define PHALANX_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash_key {
    uint64_t k0, k1;
};

struct hash128 {
    uint64_t lo, hi;
};

// SipHash-2-4 with a 64-bit result.
uint64_t hash_64(struct hash_key key, const void *data, size_t n);
// SipHash-2-4 with a 128-bit result.
struct hash128 hash_128(struct hash_key key, const void *data, size_t n);

#endif
