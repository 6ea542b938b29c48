// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_prefix.h"

#include <string.h>

// Follows or makes the edge; *n_nodes counts the nodes made so far, the root included.
static struct tokenizer_merge *edge_put(
    struct tokenizer_prefixes *p, uint32_t node, uint8_t byte, uint32_t *n_nodes)
{
    const struct tokenizer_merge *e = tokenizer_prefix_step(p, node, byte);
    if (!e) {
        struct tokenizer_merge made = {.a = node, .b = byte, .rank = UINT32_MAX, .id = *n_nodes};
        ++*n_nodes;
        if (node == TOKENIZER_PREFIX_ROOT) {
            p->root[byte] = made;
            return &p->root[byte];
        }
        tokenizer_table_pairs_put(&p->edges, &made);
        e = tokenizer_table_pairs_get(&p->edges, node, byte);
    }
    return node == TOKENIZER_PREFIX_ROOT ? &p->root[byte] : &p->edges.slots[e - p->edges.slots];
}

static bool fill(struct tokenizer_prefixes *p, struct arena *a, struct hash_key key,
    const struct tokenizer_prefix_token *tokens, size_t n_tokens, size_t n_edges, uint32_t *n_nodes)
{
    if (!tokenizer_table_pairs_init(&p->edges, a, key, n_edges))
        return false;
    memset(p->root, 0xff, sizeof p->root);
    *n_nodes = 1;
    for (size_t i = 0; i < n_tokens; i++) {
        uint32_t node = TOKENIZER_PREFIX_ROOT;
        struct tokenizer_merge *e = NULL;
        for (size_t k = 0; k < tokens[i].n; k++) {
            e = edge_put(p, node, tokens[i].text[k], n_nodes);
            node = e->id;
        }
        if (e)
            e->rank = tokens[i].id;
    }
    p->any = *n_nodes > 1;
    return true;
}

bool tokenizer_prefix_init(struct tokenizer_prefixes *p, struct arena *a, struct hash_key key,
    const struct tokenizer_prefix_token *tokens, size_t n_tokens)
{
    // Tokens share most of their nodes; a first table, as large as if they shared none, counts.
    size_t bytes = 0;
    for (size_t i = 0; i < n_tokens; i++)
        bytes += tokens[i].n;
    struct arena scratch;
    uint32_t n_nodes = 0;
    if (bytes > UINT32_MAX / 4)
        return false;
    arena_init(&scratch, a->limit_bytes);
    bool ok = fill(p, &scratch, key, tokens, n_tokens, bytes, &n_nodes);
    arena_reset(&scratch);
    return ok && fill(p, a, key, tokens, n_tokens, n_nodes, &n_nodes);
}

uint32_t tokenizer_prefix_longest(const struct tokenizer_prefixes *p, uint32_t node,
    const uint8_t *text, size_t n, size_t *length)
{
    uint32_t best = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        const struct tokenizer_merge *e = tokenizer_prefix_step(p, node, text[i]);
        if (!e)
            break;
        node = e->id;
        if (e->rank != UINT32_MAX) {
            best = e->rank;
            *length = i + 1;
        }
    }
    return best;
}
