// SPDX-License-Identifier: Apache-2.0
#include "base/utf8.h"

static size_t lead_length(uint8_t b, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (b < 0x80)
        return 1;
    if (b >= 0xc2 && b <= 0xdf)
        return 2;
    if (b >= 0xe0 && b <= 0xef) {
        if (b == 0xe0)
            *low = 0xa0;
        if (b == 0xed)
            *high = 0x9f;
        return 3;
    }
    if (b >= 0xf0 && b <= 0xf4) {
        if (b == 0xf0)
            *low = 0x90;
        if (b == 0xf4)
            *high = 0x8f;
        return 4;
    }
    return 0;
}

int utf8_length(const uint8_t *text, size_t n, size_t *bad_bytes)
{
    if (n == 0)
        return 0;
    uint8_t low, high;
    size_t want = lead_length(text[0], &low, &high);
    size_t i = 1;
    while (i < want && i < n && text[i] >= low && text[i] <= high) {
        low = 0x80;
        high = 0xbf;
        i++;
    }
    if (want && i == want)
        return (int)want;
    if (want && i == n)
        return 0;
    if (bad_bytes)
        *bad_bytes = i;
    return -1;
}

bool utf8_valid(const void *text, size_t n)
{
    const uint8_t *p = text;
    while (n > 0) {
        int k = utf8_length(p, n, NULL);
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}
