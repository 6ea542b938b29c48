// SPDX-License-Identifier: Apache-2.0
// Normalization by a table of SentencePiece's: as Hugging Face's library applies it (to whole
// grapheme clusters), and as SentencePiece does, with its rules for white space.
#include "model/tokenizer_internal.h"
#include "model/unicode.h"

#include <string.h>
#include <utf8proc.h>

// A cluster that is longer than this is looked up character by character only.
enum { CLUSTER_BYTES_MAX = 5 };

// The size of the grapheme cluster at the start of `text`.
static size_t cluster_length(const uint8_t *text, size_t n)
{
    if (n > 1 && text[0] < 0x80 && text[1] < 0x80 && text[0] != '\r')
        return 1;
    utf8proc_int32_t state = 0;
    size_t k;
    uint32_t c = unicode_decode(text, n, &k);
    for (size_t i = k; i < n; i += k) {
        uint32_t next = unicode_decode(text + i, n - i, &k);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)c, (utf8proc_int32_t)next, &state))
            return i;
        c = next;
    }
    return n;
}

void tokenizer_charsmap_run(
    const struct tokenizer_step *s, struct tokenizer_bytes in, struct buf *out)
{
    const uint8_t *by;
    size_t n_by, length;
    for (size_t i = 0; i < in.n; i += length) {
        length = cluster_length(in.data + i, in.n - i);
        // The shortest key at its start replaces the whole cluster, as in the reference.
        if (length <= CLUSTER_BYTES_MAX &&
            tokenizer_charsmap_find(&s->map, in.data + i, length, false, &by, &n_by)) {
            buf_append(out, by, n_by);
            continue;
        }
        for (size_t at = i, k; at < i + length; at += k) {
            unicode_decode(in.data + at, in.n - at, &k);
            if (tokenizer_charsmap_find(&s->map, in.data + at, k, false, &by, &n_by))
                buf_append(out, by, n_by);
            else
                buf_append(out, in.data + at, k);
        }
    }
}

// What the text begins with, and what it becomes: a user-defined piece stays as it is, then comes
// the table, then a single character. Returns its size.
static size_t normal_prefix(const struct tokenizer *t, const struct tokenizer_step *s,
    const uint8_t *text, size_t n, struct tokenizer_bytes *by)
{
    size_t k = 0;
    *by = (struct tokenizer_bytes){text, 0};
    if (!t->frozen.any ||
        tokenizer_prefix_longest(&t->frozen, TOKENIZER_PREFIX_ROOT, text, n, &k) == TOKENIZER_NONE)
        k = 0;
    if (k == 0) {
        k = tokenizer_charsmap_find(&s->map, text, n, true, &by->data, &by->n);
        if (k > 0)
            return k;
        unicode_decode(text, n, &k);
    }
    by->n = k;
    return k;
}

static bool is_one_space(struct tokenizer_bytes b)
{
    return b.n == 1 && b.data[0] == ' ';
}

static void put(struct buf *out, struct tokenizer_bytes b, const struct tokenizer_bytes *space)
{
    for (size_t i = 0; i < b.n; i++) {
        if (b.data[i] == ' ')
            buf_append(out, space->data, space->n);
        else
            buf_append(out, b.data + i, 1);
    }
}

static bool ends_with(const struct buf *out, const struct tokenizer_bytes *space)
{
    return out->size >= space->n &&
           memcmp(out->data + out->size - space->n, space->data, space->n) == 0;
}

void tokenizer_sentencepiece_run(struct tokenizer_work *w, const struct tokenizer_step *s,
    struct tokenizer_bytes in, struct buf *out)
{
    static const struct tokenizer_bytes PLAIN = {(const uint8_t *)" ", 1},
                                        META = {(const uint8_t *)TOKENIZER_META, 3};
    const struct tokenizer_sentencepiece *how = &s->white;
    const struct tokenizer_bytes *space = how->escape_whitespaces ? &META : &PLAIN;
    bool extra = !how->remove_extra_whitespaces;
    bool prefix = how->add_dummy_prefix && (!how->prefix_once || w->at_start);
    struct tokenizer_bytes by;
    size_t i = 0, k;
    while (!extra && i < in.n) {
        k = normal_prefix(w->t, s, in.data + i, in.n - i, &by);
        if (!is_one_space(by))
            break;
        i += k;
    }
    if (i == in.n)
        return;
    if (prefix && !how->space_is_suffix)
        buf_append(out, space->data, space->n);
    for (bool after_space = !extra; i < in.n; i += k) {
        k = normal_prefix(w->t, s, in.data + i, in.n - i, &by);
        while (after_space && by.n > 0 && by.data[0] == ' ') {
            by.data++;
            by.n--;
        }
        if (by.n > 0) {
            put(out, by, space);
            after_space = !extra && by.data[by.n - 1] == ' ';
        }
    }
    while (!extra && ends_with(out, space))
        out->size -= space->n;
    if (prefix && how->space_is_suffix)
        buf_append(out, space->data, space->n);
}
