// SPDX-License-Identifier: Apache-2.0
// Classes of characters as tokenizers need them, over utf8proc's tables. Pure functions.
#ifndef PHALANX_MODEL_UNICODE_H
#define PHALANX_MODEL_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The character at the start of valid UTF-8 (n > 0); *length is its size in bytes.
uint32_t unicode_decode(const uint8_t *p, size_t n, size_t *length);
// Writes 1..4 bytes; `c` must be a Unicode scalar value.
size_t unicode_encode(uint32_t c, uint8_t out[4]);

// White_Space, as in Unicode's PropList.
bool unicode_is_space(uint32_t c);
// General categories Nd, Nl, No.
bool unicode_is_numeric(uint32_t c);
// General categories P*, and ASCII's symbols.
bool unicode_is_punctuation(uint32_t c);
// General categories M*.
bool unicode_is_mark(uint32_t c);
// General category Mn.
bool unicode_is_nonspacing(uint32_t c);
// General categories Cc, Cf, Co, Cs: control, format, private use.
bool unicode_is_other(uint32_t c);
// What \w matches by UTS 18: alphabetic, marks, decimal digits, connectors, join controls.
bool unicode_is_word(uint32_t c);

#endif
