// SPDX-License-Identifier: Apache-2.0
#include "base/hash.h"

#include <string.h>

struct sip {
    uint64_t v0, v1, v2, v3;
};

static uint64_t rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static void sip_rounds(struct sip *s, int n)
{
    for (int i = 0; i < n; i++) {
        s->v0 += s->v1;
        s->v1 = rotl(s->v1, 13) ^ s->v0;
        s->v0 = rotl(s->v0, 32);
        s->v2 += s->v3;
        s->v3 = rotl(s->v3, 16) ^ s->v2;
        s->v0 += s->v3;
        s->v3 = rotl(s->v3, 21) ^ s->v0;
        s->v2 += s->v1;
        s->v1 = rotl(s->v1, 17) ^ s->v2;
        s->v2 = rotl(s->v2, 32);
    }
}

static struct sip sip_absorb(struct hash_key key, const uint8_t *p, size_t n, uint64_t tweak)
{
    struct sip s = {key.k0 ^ 0x736f6d6570736575u, key.k1 ^ 0x646f72616e646f6du ^ tweak,
        key.k0 ^ 0x6c7967656e657261u, key.k1 ^ 0x7465646279746573u};
    uint64_t last = (uint64_t)n << 56;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t m;
        memcpy(&m, p, 8); // little-endian hosts only, as everywhere in Phalanx
        s.v3 ^= m;
        sip_rounds(&s, 2);
        s.v0 ^= m;
    }
    for (size_t i = 0; i < n; i++)
        last |= (uint64_t)p[i] << (8 * i);
    s.v3 ^= last;
    sip_rounds(&s, 2);
    s.v0 ^= last;
    return s;
}

uint64_t hash_64(struct hash_key key, const void *data, size_t n)
{
    struct sip s = sip_absorb(key, data, n, 0);
    s.v2 ^= 0xff;
    sip_rounds(&s, 4);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

struct hash128 hash_128(struct hash_key key, const void *data, size_t n)
{
    struct sip s = sip_absorb(key, data, n, 0xee);
    s.v2 ^= 0xee;
    sip_rounds(&s, 4);
    struct hash128 h = {.lo = s.v0 ^ s.v1 ^ s.v2 ^ s.v3};
    s.v1 ^= 0xdd;
    sip_rounds(&s, 4);
    h.hi = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    return h;
}
