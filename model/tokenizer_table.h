// SPDX-License-Identifier: Apache-2.0
// The two hash tables of a tokenizer: byte strings to ids, and pairs of ids to merges. Open
// addressing, at most half full, built once and only read afterwards; memory from an arena.
#ifndef PHALANX_MODEL_TOKENIZER_TABLE_H
#define PHALANX_MODEL_TOKENIZER_TABLE_H

#include "base/arena.h"
#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer_table_key {
    const uint8_t *text; // borrowed; NULL: the slot is free
    uint16_t n;
    uint16_t tag; // 16 more bits of the hash, to compare before the text
    uint32_t id;
};

struct tokenizer_texts {
    struct tokenizer_table_key *slots;
    size_t mask;
    struct hash_key key;
};

// Texts come from files, so the key of their table must not be one that a file's author can know:
// a fresh random key, or zero where the system has no randomness yet.
struct hash_key tokenizer_table_random_key(void);

// False without memory. `n_keys` is the most that will be put.
bool tokenizer_table_texts_init(
    struct tokenizer_texts *t, struct arena *a, struct hash_key key, size_t n_keys);
// Keeps `text` (n below 65536), which must outlive the table; false if it is there already.
bool tokenizer_table_texts_put(
    struct tokenizer_texts *t, const uint8_t *text, size_t n, uint32_t id);
// TOKENIZER_NONE (UINT32_MAX) if it is not there.
uint32_t tokenizer_table_texts_get(const struct tokenizer_texts *t, const void *text, size_t n);

// Two neighbouring tokens `a`, `b` may become `id`; the lowest rank goes first.
struct tokenizer_merge {
    uint32_t a, b;
    uint32_t rank;
    uint32_t id; // UINT32_MAX: the slot is free
};

struct tokenizer_pairs {
    struct tokenizer_merge *slots;
    unsigned shift;
    size_t mask;
    uint64_t factor;
};

bool tokenizer_table_pairs_init(
    struct tokenizer_pairs *t, struct arena *a, struct hash_key key, size_t n_pairs);
// A pair that is there already gets the new rank.
void tokenizer_table_pairs_put(struct tokenizer_pairs *t, const struct tokenizer_merge *merge);

// The merge of (a, b), or NULL.
static inline const struct tokenizer_merge *tokenizer_table_pairs_get(
    const struct tokenizer_pairs *t, uint32_t a, uint32_t b)
{
    size_t i = (size_t)((((uint64_t)a << 32 | b) * t->factor) >> t->shift);
    for (;; i = (i + 1) & t->mask) {
        const struct tokenizer_merge *m = &t->slots[i];
        if (m->a == a && m->b == b && m->id != UINT32_MAX)
            return m;
        if (m->id == UINT32_MAX)
            return NULL;
    }
}

#endif
