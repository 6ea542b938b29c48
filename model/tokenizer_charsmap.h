// SPDX-License-Identifier: Apache-2.0
// SentencePiece's precompiled_charsmap: what pieces of a text are replaced by. The file format is
// a little-endian size, a double-array trie of that many bytes (units of 32 bits, as
// darts-clone writes them), and texts, each ended by a zero byte; a key's value in the trie is
// where its text begins.
#ifndef PHALANX_MODEL_TOKENIZER_CHARSMAP_H
#define PHALANX_MODEL_TOKENIZER_CHARSMAP_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer_charsmap {
    const uint32_t *units;
    size_t n_units;       // 0: nothing is replaced
    const uint8_t *texts; // valid UTF-8, the last byte is zero
    size_t n_texts;
};

// Reads the bytes of a file; what is kept lies in the arena. INVALID or NO_MEMORY.
enum status tokenizer_charsmap_read(struct tokenizer_charsmap *m, struct arena *a,
    const uint8_t *data, size_t n, struct error *err);

// The key that `text` begins with, the longest or the shortest: returns its size, 0 if there is
// none, and what replaces it. Any trie is safe to walk: each step is checked.
size_t tokenizer_charsmap_find(const struct tokenizer_charsmap *m, const uint8_t *text, size_t n,
    bool longest, const uint8_t **by, size_t *n_by);

// Standard base64 with padding, appended at `out` (room for 3 bytes per 4 characters); false for
// anything else. *n_out is the number of bytes.
bool tokenizer_charsmap_base64(const char *text, size_t n, uint8_t *out, size_t *n_out);

#endif
