// SPDX-License-Identifier: Apache-2.0
// Strict UTF-8 (Unicode 15, table 3-7): no overlong forms, no surrogates, nothing over U+10FFFF.
#ifndef PHALANX_BASE_UTF8_H
#define PHALANX_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool utf8_valid(const void *text, size_t n);

// Looks at the start of `text`: returns the length 1..4 of a whole valid character; 0 if the bytes
// are a proper beginning of one that is cut short at `n`; -1 if no valid character can begin so.
// With -1, `*bad_bytes` (may be NULL) is how many bytes make one maximal invalid subpart, at least
// 1: what a decoder replaces by one U+FFFD.
int utf8_length(const uint8_t *text, size_t n, size_t *bad_bytes);

#endif
