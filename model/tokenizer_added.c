// SPDX-License-Identifier: Apache-2.0
// Finding added tokens: of those that begin leftmost, the longest. Each position is tried against
// a trie; a table of first bytes skips over nearly all of them.
#include "model/tokenizer_internal.h"
#include "model/unicode.h"

#include <string.h>

struct tokenizer_trie_node {
    uint32_t child;   // the first one; 0: none
    uint32_t sibling; // 0: none
    uint32_t item;    // the added token that ends here; UINT32_MAX: none
    uint8_t byte;
};

// ---- building ------------------------------------------------------------------------------

static uint32_t node_add(struct tokenizer_trie *trie, uint8_t byte)
{
    uint32_t i = (uint32_t)trie->n_nodes++;
    trie->nodes[i] = (struct tokenizer_trie_node){.item = UINT32_MAX, .byte = byte};
    return i;
}

static uint32_t child_of(const struct tokenizer_trie *trie, uint32_t node, uint8_t byte)
{
    if (node == 0)
        return trie->root[byte];
    uint32_t i = trie->nodes[node].child;
    while (i != 0 && trie->nodes[i].byte != byte)
        i = trie->nodes[i].sibling;
    return i;
}

static void trie_put(struct tokenizer_trie *trie, struct tokenizer_bytes text, uint32_t item)
{
    uint32_t node = 0;
    for (size_t i = 0; i < text.n; i++) {
        uint32_t next = child_of(trie, node, text.data[i]);
        if (next == 0) {
            next = node_add(trie, text.data[i]);
            if (node == 0) {
                trie->root[text.data[i]] = next;
            } else {
                trie->nodes[next].sibling = trie->nodes[node].child;
                trie->nodes[node].child = next;
            }
        }
        node = next;
    }
    if (trie->nodes[node].item == UINT32_MAX)
        trie->nodes[node].item = item;
}

static bool trie_init(struct tokenizer_trie *trie, struct arena *a, size_t n_bytes)
{
    trie->nodes = arena_array(a, n_bytes + 1, sizeof *trie->nodes);
    if (!trie->nodes)
        return false;
    node_add(trie, 0);
    return true;
}

// One of the two tries; specials come first, as in the reference.
static enum status trie_build(struct tokenizer *t, struct tokenizer_work *w, bool normalized)
{
    struct tokenizer_trie *trie = normalized ? &t->added.normalized : &t->added.raw;
    struct tokenizer_added_set *set = &t->added;
    struct buf texts; // what is looked for, one after the other
    buf_init(&texts, TOKENIZER_FILE_BYTES_MAX);
    enum status st = STATUS_OK;
    size_t *ends = arena_array(&t->arena, set->n_items + 1, sizeof *ends);
    for (size_t i = 0; i < set->n_items && ends && st == STATUS_OK; i++) {
        struct tokenizer_bytes text = {0};
        if (set->items[i].normalized == normalized)
            text = set->items[i].content;
        if (normalized && text.n > 0)
            st = tokenizer_normalize(w, text, &text);
        if (st == STATUS_OK && text.n > 0)
            buf_append(&texts, text.data, text.n);
        ends[i] = texts.size;
    }
    if (st == STATUS_OK && (!ends || buf_failed(&texts) || !trie_init(trie, &t->arena, texts.size)))
        st = status_fail(w->err, STATUS_NO_MEMORY, "out of memory for the added tokens");
    for (int special = 1; special >= 0 && st == STATUS_OK; special--) {
        for (size_t i = 0; i < set->n_items; i++) {
            size_t begin = i > 0 ? ends[i - 1] : 0;
            if (set->items[i].special == (special != 0) && ends[i] > begin)
                trie_put(trie, (struct tokenizer_bytes){texts.data + begin, ends[i] - begin},
                    (uint32_t)i);
        }
    }
    buf_deinit(&texts);
    return st;
}

enum status tokenizer_added_build(struct tokenizer *t, struct tokenizer_work *w)
{
    TRY(trie_build(t, w, false));
    return trie_build(t, w, true);
}

// ---- finding -------------------------------------------------------------------------------

// The longest added token at `text`, or NULL. A special one has at most `special_max` bytes.
static const struct tokenizer_added *match_at(const struct tokenizer *t,
    const struct tokenizer_trie *trie, struct tokenizer_bytes in, size_t special_max,
    size_t *length)
{
    const struct tokenizer_added *best = NULL;
    uint32_t node = 0;
    for (size_t i = 0; i < in.n; i++) {
        node = child_of(trie, node, in.data[i]);
        if (node == 0)
            break;
        uint32_t item = trie->nodes[node].item;
        if (item != UINT32_MAX && (!t->added.items[item].special || i < special_max)) {
            best = &t->added.items[item];
            *length = i + 1;
        }
    }
    return best;
}

// Where the last character before `end` begins (end > 0).
static size_t char_before(const uint8_t *text, size_t end)
{
    size_t i = end - 1;
    while (i > 0 && (text[i] & 0xc0) == 0x80)
        i--;
    return i;
}

static bool is_word_at(const uint8_t *text, size_t n, size_t i)
{
    size_t k;
    return unicode_is_word(unicode_decode(text + i, n - i, &k));
}

static bool stands_alone(const uint8_t *text, size_t n, size_t start, size_t end)
{
    return (start == 0 || !is_word_at(text, start, char_before(text, start))) &&
           (end == n || !is_word_at(text, n, end));
}

static size_t spaces_before(const uint8_t *text, size_t start)
{
    while (start > 0) {
        size_t k, i = char_before(text, start);
        if (!unicode_is_space(unicode_decode(text + i, start - i, &k)))
            break;
        start = i;
    }
    return start;
}

static size_t spaces_after(const uint8_t *text, size_t n, size_t end)
{
    while (end < n) {
        size_t k;
        if (!unicode_is_space(unicode_decode(text + end, n - end, &k)))
            break;
        end += k;
    }
    return end;
}

bool tokenizer_added_next(const struct tokenizer_work *w, bool normalized, const uint8_t *text,
    size_t n, size_t *at, struct tokenizer_found *found)
{
    const struct tokenizer *t = w->t;
    const struct tokenizer_trie *trie = normalized ? &t->added.normalized : &t->added.raw;
    size_t i = *at;
    while (i < n) {
        if (trie->root[text[i]] == 0) {
            i++;
            continue;
        }
        size_t length = 0;
        size_t special_max = w->n_plain && !normalized ? tokenizer_spans_room(w, text + i) : n;
        const struct tokenizer_added *a =
            match_at(t, trie, (struct tokenizer_bytes){text + i, n - i}, special_max, &length);
        if (!a) {
            i++;
            continue;
        }
        size_t start = i, end = i + length;
        i = end;
        if (a->special && !w->parse_special)
            continue;
        if (a->single_word && !stands_alone(text, n, start, end))
            continue;
        *found = (struct tokenizer_found){
            .start = a->lstrip ? spaces_before(text, start) : start,
            .end = a->rstrip ? spaces_after(text, n, end) : end,
            .id = a->id,
            .lstrip = a->lstrip,
        };
        *at = i;
        return true;
    }
    *at = n;
    return false;
}
