// SPDX-License-Identifier: Apache-2.0
// Byte pair encoding: a word's characters become symbols, and the pair of neighbours with the
// lowest rank is merged, the leftmost first, until no pair has a merge.
#include "model/tokenizer_internal.h"
#include "model/unicode.h"

#include <stdlib.h>
#include <string.h>

enum {
    SHORT_WORD_SYMBOLS = 48, // up to here, looking at all pairs is faster than a heap
    WHOLE_UNKNOWN = 0,
    WHOLE_YES = 1,
    WHOLE_NO = 2,
};

// ---- characters to symbols -----------------------------------------------------------------

static bool symbols_reserve(struct tokenizer_work *w, size_t n)
{
    if (n <= w->n_symbols_max)
        return true;
    size_t more = n < 256 ? 256 : n + n / 2;
    struct tokenizer_symbol *p = realloc(w->symbols, more * sizeof *p);
    if (!p)
        return false;
    w->symbols = p;
    w->n_symbols_max = more;
    return true;
}

static bool heap_reserve(struct tokenizer_work *w, size_t n)
{
    if (n <= w->n_heap_max)
        return true;
    uint64_t *p = realloc(w->heap, n * sizeof *p);
    if (!p)
        return false;
    w->heap = p;
    w->n_heap_max = n;
    return true;
}

// The token of one character as the word has it, or TOKENIZER_NONE.
static uint32_t char_token(
    const struct tokenizer_bpe *b, const uint8_t *text, size_t n, size_t *length)
{
    if (b->raw_bytes) {
        *length = 1;
        return b->byte_id[text[0]];
    }
    uint32_t c = unicode_decode(text, n, length);
    return c < 0x10000 ? b->char_id[c] : tokenizer_table_texts_get(&b->words, text, *length);
}

// Appends the byte tokens of one character; false unless the vocabulary has all of them.
static bool fall_back(struct tokenizer_work *w, const uint8_t *text, size_t n, size_t *count)
{
    const struct tokenizer *t = w->t;
    uint8_t mapped[4];
    if (t->bpe.raw_bytes) {
        // The model would see ByteLevel's character for this byte.
        n = unicode_encode(tokenizer_split_byte_char(text[0]), mapped);
        text = mapped;
    }
    for (size_t i = 0; i < n; i++) {
        if (t->fallback_id[text[i]] == TOKENIZER_NONE)
            return false;
    }
    for (size_t i = 0; i < n; i++)
        w->symbols[(*count)++].id = t->fallback_id[text[i]];
    return true;
}

// The token of one character with what the model writes before or behind it in a word.
static uint32_t affixed_token(
    const struct tokenizer_bpe *b, const uint8_t *text, size_t length, bool first, bool last)
{
    uint8_t whole[2 * TOKENIZER_AFFIX_BYTES_MAX + 4];
    size_t n = 0;
    if (!first && b->prefix.n > 0)
        memcpy(whole, b->prefix.data, n = b->prefix.n);
    memcpy(whole + n, text, length);
    n += length;
    if (last && b->suffix.n > 0)
        memcpy(whole + n, b->suffix.data, b->suffix.n);
    n += last ? b->suffix.n : 0;
    return tokenizer_table_texts_get(&b->words, whole, n);
}

// Unknown characters are held back until a known one comes, so that a run of them can be fused.
// (Byte tokens do not count as known here; that is how the reference behaves.)
static enum status word_symbols(
    struct tokenizer_work *w, const uint8_t *text, size_t n, size_t *n_symbols)
{
    const struct tokenizer *t = w->t;
    const struct tokenizer_bpe *b = &t->bpe;
    bool affixed = b->prefix.n + b->suffix.n > 0;
    // In raw bytes, falling back gives up to two byte tokens for one byte.
    if (!symbols_reserve(w, 2 * n + 1))
        return status_fail(w->err, STATUS_NO_MEMORY, "out of memory for a word of %zu bytes", n);
    size_t count = 0;
    bool unknown = false;
    for (size_t i = 0, k; i < n; i += k) {
        uint32_t id = char_token(b, text + i, n - i, &k);
        if (affixed)
            id = affixed_token(b, text + i, k, i == 0, i + k == n);
        if (id != TOKENIZER_NONE) {
            if (unknown)
                w->symbols[count++].id = t->unk;
            unknown = false;
            w->symbols[count++].id = id;
            continue;
        }
        if (t->byte_fallback && fall_back(w, text + i, k, &count))
            continue;
        if (!t->unk_named)
            continue; // the character is lost, as in the reference
        if (t->unk == TOKENIZER_NONE)
            return tokenizer_words_unknown(w);
        if (unknown && !b->fuse_unk)
            w->symbols[count++].id = t->unk;
        unknown = true;
    }
    if (unknown)
        w->symbols[count++].id = t->unk;
    *n_symbols = count;
    return STATUS_OK;
}

// ---- merging -------------------------------------------------------------------------------

static void find_merge(const struct tokenizer_bpe *b, struct tokenizer_symbol *s, uint32_t next_id)
{
    const struct tokenizer_merge *m = tokenizer_table_pairs_get(&b->pairs, s->id, next_id);
    s->rank = m ? m->rank : UINT32_MAX;
    s->merged = m ? m->id : TOKENIZER_NONE;
}

// Merges n symbols in place by looking for the lowest rank each time; returns how many are left.
static size_t merge_short(const struct tokenizer_bpe *b, struct tokenizer_symbol *s, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++)
        find_merge(b, &s[i], s[i + 1].id);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (s[i].rank < s[best].rank)
                best = i;
        }
        if (s[best].rank == UINT32_MAX)
            break;
        s[best].id = s[best].merged;
        memmove(&s[best + 1], &s[best + 2], (n - best - 2) * sizeof *s);
        n--;
        if (best + 1 < n)
            find_merge(b, &s[best], s[best + 1].id);
        if (best > 0)
            find_merge(b, &s[best - 1], s[best].id);
    }
    return n;
}

static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t x = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (x <= heap[child])
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = x;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t x)
{
    size_t i = (*n)++;
    while (i > 0 && heap[(i - 1) / 2] > x) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = x;
}

static uint64_t heap_key(const struct tokenizer_symbol *s, uint32_t i)
{
    return (uint64_t)s[i].rank << 32 | i;
}

// The neighbours of merged symbol `i` get new merges, and entries in the heap.
static void merge_neighbours(const struct tokenizer_bpe *b, struct tokenizer_symbol *s, uint32_t i,
    uint64_t *heap, size_t *n_heap)
{
    uint32_t next = s[i].next, previous = s[i].previous;
    s[i].rank = UINT32_MAX;
    if (next != UINT32_MAX) {
        s[next].previous = i;
        find_merge(b, &s[i], s[next].id);
        if (s[i].rank != UINT32_MAX)
            heap_push(heap, n_heap, heap_key(s, i));
    }
    if (previous != UINT32_MAX) {
        find_merge(b, &s[previous], s[i].id);
        if (s[previous].rank != UINT32_MAX)
            heap_push(heap, n_heap, heap_key(s, previous));
    }
}

// The same with a heap of (rank, position); an entry is out of date unless its symbol still has
// that rank. Each merge takes one entry and adds at most two, so 2n entries are enough.
static size_t merge_long(
    const struct tokenizer_bpe *b, struct tokenizer_symbol *s, size_t n, uint64_t *heap)
{
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].previous = i > 0 ? (uint32_t)i - 1 : UINT32_MAX;
        s[i].next = i + 1 < n ? (uint32_t)i + 1 : UINT32_MAX;
        s[i].rank = UINT32_MAX;
        if (i + 1 < n)
            find_merge(b, &s[i], s[i + 1].id);
        if (s[i].rank != UINT32_MAX)
            heap[n_heap++] = heap_key(s, (uint32_t)i);
    }
    for (size_t i = n_heap / 2; i-- > 0;)
        sift_down(heap, n_heap, i);
    while (n_heap > 0) {
        uint64_t top = heap[0];
        heap[0] = heap[--n_heap];
        sift_down(heap, n_heap, 0);
        uint32_t i = (uint32_t)top;
        if (s[i].rank != top >> 32)
            continue;
        s[i].id = s[i].merged;
        uint32_t gone = s[i].next;
        s[i].next = s[gone].next;
        s[gone].rank = UINT32_MAX;
        merge_neighbours(b, s, i, heap, &n_heap);
    }
    size_t left = 0;
    for (uint32_t i = 0; i != UINT32_MAX; i = s[i].next)
        s[left++].id = s[i].id;
    return left;
}

// ---- words ---------------------------------------------------------------------------------

static enum status word_merge(
    struct tokenizer_work *w, const uint8_t *text, size_t n, size_t *n_symbols)
{
    const struct tokenizer_bpe *b = &w->t->bpe;
    size_t count = 0;
    TRY(word_symbols(w, text, n, &count));
    if (count <= SHORT_WORD_SYMBOLS) {
        *n_symbols = merge_short(b, w->symbols, count);
        return STATUS_OK;
    }
    if (!heap_reserve(w, 2 * count))
        return status_fail(w->err, STATUS_NO_MEMORY, "out of memory for a word of %zu bytes", n);
    *n_symbols = merge_long(b, w->symbols, count, w->heap);
    return STATUS_OK;
}

// `take` is whether a word that is in the vocabulary is taken as it is.
static enum status encode_word(struct tokenizer_work *w, const uint8_t *text, size_t n, bool take)
{
    const struct tokenizer_bpe *b = &w->t->bpe;
    uint32_t id = TOKENIZER_NONE;
    int whole = WHOLE_NO;
    if (n <= b->word_bytes_max)
        id = tokenizer_table_texts_get(&b->words, text, n);
    if (id != TOKENIZER_NONE) {
        whole = take ? WHOLE_YES : atomic_load_explicit(&b->whole[id], memory_order_relaxed);
        if (whole == WHOLE_YES)
            return tokenizer_work_emit(w, id);
    }
    size_t count = 0;
    TRY(word_merge(w, text, n, &count));
    if (id != TOKENIZER_NONE && whole == WHOLE_UNKNOWN) {
        whole = count == 1 && w->symbols[0].id == id ? WHOLE_YES : WHOLE_NO;
        atomic_store_explicit(&b->whole[id], (uint8_t)whole, memory_order_relaxed);
    }
    for (size_t i = 0; i < count; i++)
        TRY(tokenizer_work_emit(w, w->symbols[i].id));
    return STATUS_OK;
}

// The end of the first part of `text` that no merge reaches over: before a U+2581 that begins a
// run of them.
static size_t cut_before_meta(const struct tokenizer_bpe *b, const uint8_t *text, size_t n)
{
    static const uint8_t META[] = TOKENIZER_META;
    bool after_meta = n >= 3 && memcmp(text, META, 3) == 0;
    for (size_t i = after_meta ? 3 : 1; i + 3 <= n;) {
        if (text[i] != META[0] || memcmp(text + i, META, 3) != 0) {
            after_meta = false;
            i++;
            continue;
        }
        if (!after_meta && !b->glue[text[i - 1]])
            return i;
        after_meta = true;
        i += 3;
    }
    return n;
}

enum status tokenizer_bpe_encode(struct tokenizer_work *w, const uint8_t *text, size_t n)
{
    const struct tokenizer_bpe *b = &w->t->bpe;
    if (!b->cut_meta)
        return encode_word(w, text, n, b->ignore_merges);
    // What is cut is no word of its own: without merges, only the whole is looked up.
    if (b->ignore_merges && n <= b->word_bytes_max &&
        tokenizer_table_texts_get(&b->words, text, n) != TOKENIZER_NONE)
        return encode_word(w, text, n, true);
    while (n > 0) {
        size_t k = cut_before_meta(b, text, n);
        TRY(encode_word(w, text, k, false));
        text += k;
        n -= k;
    }
    return STATUS_OK;
}
