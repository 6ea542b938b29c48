// SPDX-License-Identifier: Apache-2.0
// The tokens that a text begins with: a trie over bytes, kept as a hash table of its edges. Built
// once in an arena, only read afterwards.
#ifndef PHALANX_MODEL_TOKENIZER_PREFIX_H
#define PHALANX_MODEL_TOKENIZER_PREFIX_H

#include "model/tokenizer_table.h"

#define TOKENIZER_PREFIX_ROOT 0u

struct tokenizer_prefixes {
    // From node `a` by byte `b` to node `id`; `rank` is the token that ends there, or UINT32_MAX.
    struct tokenizer_pairs edges;
    struct tokenizer_merge root[256]; // the first byte's, without hashing
    bool any;                         // there are tokens
};

// One token of `n` bytes (n > 0) and its id; of equal texts the last one counts.
struct tokenizer_prefix_token {
    const uint8_t *text;
    size_t n;
    uint32_t id;
};
// False without memory.
bool tokenizer_prefix_init(struct tokenizer_prefixes *p, struct arena *a, struct hash_key key,
    const struct tokenizer_prefix_token *tokens, size_t n_tokens);

// The edge from `node` by `byte`, or NULL.
static inline const struct tokenizer_merge *tokenizer_prefix_step(
    const struct tokenizer_prefixes *p, uint32_t node, uint8_t byte)
{
    if (node != TOKENIZER_PREFIX_ROOT)
        return tokenizer_table_pairs_get(&p->edges, node, byte);
    const struct tokenizer_merge *e = &p->root[byte];
    return e->id == UINT32_MAX ? NULL : e;
}

// The longest token at the start of `text` from `node` on, or UINT32_MAX; *length is its size.
uint32_t tokenizer_prefix_longest(const struct tokenizer_prefixes *p, uint32_t node,
    const uint8_t *text, size_t n, size_t *length);

#endif
