// SPDX-License-Identifier: Apache-2.0
// Pre-tokenizers: each stage cuts a piece into smaller ones or rewrites it, and hands what comes
// out to the next stage at once; behind the last stage, pieces are words for the model.
#include "base/check.h"
#include "model/tokenizer_internal.h"
#include "model/unicode.h"

#include <string.h>

// ---- ByteLevel's characters ----------------------------------------------------------------

// Printable characters of Latin-1 stand for themselves; the other 68 bytes, in order, for U+0100
// and what follows.
static bool stands_for_itself(uint32_t byte)
{
    return (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte <= 0xff && byte != 0xad);
}

uint32_t tokenizer_split_byte_char(uint8_t byte)
{
    if (stands_for_itself(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte == 0xad)
        return 0x143;
    return 0x121u + (byte - 0x7fu); // 0x7f..0xa0
}

int tokenizer_split_char_byte(uint32_t c)
{
    if (c < 0x100)
        return stands_for_itself(c) ? (int)c : -1;
    if (c <= 0x120)
        return (int)(c - 0x100);
    if (c <= 0x142)
        return (int)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}

// Appends ByteLevel's characters for `n` bytes.
static void map_bytes(struct buf *out, const uint8_t *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t c[4];
        buf_append(out, c, unicode_encode(tokenizer_split_byte_char(text[i]), c));
    }
}

// ---- splitting -----------------------------------------------------------------------------

// One cut of a piece into matches and what lies between them. The behaviours differ only in which
// neighbours are joined, so it is enough to hold back one range.
struct cut {
    struct tokenizer_work *work;
    const struct tokenizer_stage *stage;
    size_t next; // stage
    const uint8_t *text;
    bool at_start;
    bool holds;
    bool last_match; // the flag of the last range seen
    size_t start, end;
};

static enum status cut_emit(struct cut *c)
{
    c->holds = false;
    if (c->end == c->start)
        return STATUS_OK;
    return tokenizer_split(
        c->work, c->next, c->text + c->start, c->end - c->start, c->at_start && c->start == 0);
}

// Takes the next range from left to right.
static enum status cut_range(struct cut *c, size_t start, size_t end, bool is_match)
{
    is_match ^= c->stage->invert;
    bool join = false;
    switch (c->stage->behavior) {
    case TOKENIZER_REMOVED:
        if (is_match)
            return STATUS_OK;
        break;
    case TOKENIZER_ISOLATED:
        break;
    case TOKENIZER_CONTIGUOUS:
        join = c->holds && is_match == c->last_match;
        break;
    case TOKENIZER_MERGED_WITH_PREVIOUS:
        join = c->holds && is_match && !c->last_match;
        break;
    case TOKENIZER_MERGED_WITH_NEXT:
        join = c->holds && !is_match && c->last_match;
        break;
    }
    c->last_match = is_match;
    if (join) {
        c->end = end;
        return STATUS_OK;
    }
    if (c->holds)
        TRY(cut_emit(c));
    c->start = start;
    c->end = end;
    c->holds = true;
    // These two join nothing, so nothing needs to be held back.
    if (c->stage->behavior == TOKENIZER_REMOVED || c->stage->behavior == TOKENIZER_ISOLATED)
        return cut_emit(c);
    return STATUS_OK;
}

static enum status run_cut(
    struct tokenizer_work *w, size_t i, const uint8_t *text, size_t n, bool at_start)
{
    const struct tokenizer_stage *s = &w->t->stages[i];
    struct tokenizer_scan scan = tokenizer_pattern_scan(&s->pattern, &w->matcher, text, n);
    struct cut c = {.work = w, .stage = s, .next = i + 1, .text = text, .at_start = at_start};
    size_t done = 0;
    for (;;) {
        bool found;
        size_t start = 0, end = 0;
        TRY(tokenizer_pattern_next(&scan, &found, &start, &end, w->err));
        if (!found)
            break;
        if (start < done) // \K or a lookbehind reaching back
            return status_fail(w->err, STATUS_INVALID,
                "a regular expression of the tokenizer gives matches that overlap");
        if (start != done)
            TRY(cut_range(&c, done, start, false));
        TRY(cut_range(&c, start, end, true));
        done = end;
    }
    if (done != n)
        TRY(cut_range(&c, done, n, false));
    return c.holds ? cut_emit(&c) : STATUS_OK;
}

// ---- rewriting -----------------------------------------------------------------------------

static enum status rewritten(struct tokenizer_work *w, size_t i, bool at_start)
{
    struct buf *b = &w->stage[i];
    if (buf_failed(b))
        return status_fail(w->err, STATUS_TOO_LARGE,
            "the pre-tokenized text is over the limit of %zu bytes", b->size_max);
    return tokenizer_split(w, i + 1, b->data, b->size, at_start);
}

static void replace_spaces(
    struct buf *out, const uint8_t *text, size_t n, struct tokenizer_bytes by)
{
    size_t i = 0;
    while (i < n) {
        const uint8_t *space = memchr(text + i, ' ', n - i);
        size_t k = space ? (size_t)(space - text) : n;
        buf_append(out, text + i, k - i);
        if (space)
            buf_append(out, by.data, by.n);
        i = k + 1;
    }
}

static enum status run_meta(
    struct tokenizer_work *w, size_t i, const uint8_t *text, size_t n, bool at_start)
{
    const struct tokenizer_stage *s = &w->t->stages[i];
    struct buf *b = &w->stage[i];
    bool has_prefix =
        text[0] == ' ' || (n >= s->content.n && memcmp(text, s->content.data, s->content.n) == 0);
    buf_clear(b);
    if (!has_prefix &&
        (s->prepend == TOKENIZER_ALWAYS || (s->prepend == TOKENIZER_FIRST && at_start)))
        buf_append(b, s->content.data, s->content.n);
    replace_spaces(b, text, n, s->content);
    return rewritten(w, i, at_start);
}

static enum status run_prefix_space(
    struct tokenizer_work *w, size_t i, const uint8_t *text, size_t n, bool at_start)
{
    if (text[0] == ' ')
        return tokenizer_split(w, i + 1, text, n, at_start);
    struct buf *b = &w->stage[i];
    buf_clear(b);
    buf_append(b, " ", 1);
    buf_append(b, text, n);
    return rewritten(w, i, at_start);
}

// ---- words ---------------------------------------------------------------------------------

static enum status encode_word(struct tokenizer_work *w, const uint8_t *text, size_t n)
{
    if (n == 0)
        return STATUS_OK;
    switch (w->t->model) {
    case TOKENIZER_BPE:
        return tokenizer_bpe_encode(w, text, n);
    case TOKENIZER_UNIGRAM:
        return tokenizer_unigram_encode(w, text, n);
    case TOKENIZER_WORD_PIECE:
    case TOKENIZER_WORD_LEVEL:
        break;
    }
    return tokenizer_words_encode(w, text, n);
}

// A word with tokens in it that the model must not see.
static enum status encode_frozen(struct tokenizer_work *w, const uint8_t *text, size_t n)
{
    size_t done = 0, i = 0;
    while (i < n) {
        size_t k = 0;
        uint32_t id =
            tokenizer_prefix_longest(&w->t->frozen, TOKENIZER_PREFIX_ROOT, text + i, n - i, &k);
        if (id == TOKENIZER_NONE) {
            unicode_decode(text + i, n - i, &k);
            i += k;
            continue;
        }
        TRY(encode_word(w, text + done, i - done));
        TRY(tokenizer_work_emit(w, id));
        done = i += k;
    }
    return encode_word(w, text + done, n - done);
}

enum status tokenizer_split(
    struct tokenizer_work *w, size_t i, const uint8_t *text, size_t n, bool at_start)
{
    if (i == w->t->n_stages) {
        bool frozen = w->t->frozen.any && w->t->model == TOKENIZER_BPE;
        return frozen ? encode_frozen(w, text, n) : encode_word(w, text, n);
    }
    switch (w->t->stages[i].kind) {
    case TOKENIZER_STAGE_SPLIT:
        return run_cut(w, i, text, n, at_start);
    case TOKENIZER_STAGE_PREFIX_SPACE:
        return run_prefix_space(w, i, text, n, at_start);
    case TOKENIZER_STAGE_META:
        return run_meta(w, i, text, n, at_start);
    case TOKENIZER_STAGE_BYTES:
        buf_clear(&w->stage[i]);
        map_bytes(&w->stage[i], text, n);
        return rewritten(w, i, at_start);
    }
    check(w->t->stages[i].kind == TOKENIZER_STAGE_BYTES); // all kinds have their case
    return STATUS_INVALID;
}
