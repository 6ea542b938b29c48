// SPDX-License-Identifier: Apache-2.0
// Models that look words up: WordPiece, longest token first, and WordLevel, whole words only.
#include "model/tokenizer_internal.h"
#include "model/unicode.h"

enum status tokenizer_words_unknown(struct tokenizer_work *w)
{
    if (w->t->unk == TOKENIZER_NONE)
        return status_fail(w->err, STATUS_INVALID,
            "the text has something that the tokenizer does not know, and its unknown token is "
            "not in its vocabulary");
    return tokenizer_work_emit(w, w->t->unk);
}

static bool too_many_chars(const uint8_t *text, size_t n, size_t max)
{
    size_t count = 0;
    if (n <= max)
        return false;
    for (size_t i = 0; i < n; i++)
        count += (text[i] & 0xc0) != 0x80;
    return count > max;
}

// One piece that cannot be found makes the whole word unknown.
static enum status encode_pieces(struct tokenizer_work *w, const uint8_t *text, size_t n)
{
    const struct tokenizer_words *m = &w->t->words;
    size_t begin = w->ids->count, length = 0;
    uint32_t node = TOKENIZER_PREFIX_ROOT;
    for (size_t i = 0; i < n; i += length) {
        uint32_t id = TOKENIZER_NONE;
        if (i == 0 || node != TOKENIZER_NONE)
            id = tokenizer_prefix_longest(&m->pieces, node, text + i, n - i, &length);
        if (id == TOKENIZER_NONE) {
            w->ids->count = begin;
            return tokenizer_words_unknown(w);
        }
        TRY(tokenizer_work_emit(w, id));
        node = m->continued;
    }
    return STATUS_OK;
}

enum status tokenizer_words_encode(struct tokenizer_work *w, const uint8_t *text, size_t n)
{
    const struct tokenizer *t = w->t;
    if (t->model == TOKENIZER_WORD_LEVEL) {
        uint32_t id =
            n <= UINT16_MAX ? tokenizer_table_texts_get(&t->vocab, text, n) : TOKENIZER_NONE;
        return id != TOKENIZER_NONE ? tokenizer_work_emit(w, id) : tokenizer_words_unknown(w);
    }
    if (too_many_chars(text, n, t->words.chars_max))
        return tokenizer_words_unknown(w);
    return encode_pieces(w, text, n);
}
