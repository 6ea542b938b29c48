// SPDX-License-Identifier: Apache-2.0
// What a decoder makes of each token alone, found out once, when the tokenizer is loaded.
#include "model/tokenizer_internal.h"
#include "model/unicode.h"

#include <string.h>

// "<0x0A>" -> 10; -1 for anything else. The reference takes two hexadecimal digits of any case,
// or a plus sign and one.
static int byte_of(struct tokenizer_bytes b)
{
    if (b.n != 6 || memcmp(b.data, "<0x", 3) != 0 || b.data[5] != '>')
        return -1;
    int value = 0;
    for (size_t i = 3; i < 5; i++) {
        uint8_t c = b.data[i], lower = c | 0x20;
        if (c == '+' && i == 3)
            continue;
        if (c >= '0' && c <= '9')
            value = value * 16 + c - '0';
        else if (lower >= 'a' && lower <= 'f')
            value = value * 16 + lower - 'a' + 10;
        else
            return -1;
    }
    return value;
}

// ByteLevel: the bytes behind the characters, or the content itself where a character is none of
// the 256.
static void unmap_bytes(struct tokenizer_bytes in, struct buf *out)
{
    for (size_t i = 0, k; i < in.n; i += k) {
        int byte = tokenizer_split_char_byte(unicode_decode(in.data + i, in.n - i, &k));
        if (byte < 0) {
            buf_clear(out);
            buf_append(out, in.data, in.n);
            return;
        }
        uint8_t b = (uint8_t)byte;
        buf_append(out, &b, 1);
    }
}

// Sets *bytes to what `out` has; kept in the arena unless that is what *bytes has already.
static enum status keep(
    struct tokenizer *t, const struct buf *out, struct tokenizer_bytes *bytes, struct error *err)
{
    if (buf_failed(out))
        return status_fail(
            err, STATUS_TOO_LARGE, "a token's text is over the limit of %zu bytes", out->size_max);
    if (out->size == bytes->n && (out->size == 0 || memcmp(out->data, bytes->data, bytes->n) == 0))
        return STATUS_OK;
    const char *copy = arena_text(&t->arena, (const char *)out->data, out->size);
    if (!copy)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    *bytes = (struct tokenizer_bytes){(const uint8_t *)copy, out->size};
    return STATUS_OK;
}

// What the decoder makes of a token's content alone.
static enum status make_piece(struct tokenizer *t, struct tokenizer_token *token,
    const struct tokenizer_step *replace, size_t n_replace, struct buf *out, struct error *err)
{
    struct tokenizer_matcher matcher = {0};
    enum status st = STATUS_OK;
    token->piece = token->content;
    for (size_t i = 0; i < n_replace && st == STATUS_OK; i++) {
        struct tokenizer_scan scan = tokenizer_pattern_scan(
            &replace[i].pattern, &matcher, token->piece.data, token->piece.n);
        if (token->piece.n == 0)
            break;
        buf_clear(out);
        st = tokenizer_pattern_replace(
            &scan, replace[i].content.data, replace[i].content.n, out, err);
        if (st == STATUS_OK)
            st = keep(t, out, &token->piece, err);
    }
    tokenizer_pattern_matcher_deinit(&matcher);
    if (st != STATUS_OK || !t->decoder.bytes)
        return st;
    buf_clear(out);
    unmap_bytes(token->piece, out);
    return keep(t, out, &token->piece, err);
}

// ---- decoders that join words --------------------------------------------------------------

// Appends `in` with each `from` (n > 0) replaced.
static void append_replaced(
    struct buf *out, struct tokenizer_bytes in, struct tokenizer_bytes from, const char *to)
{
    for (size_t i = 0; i < in.n;) {
        const uint8_t *hit = memmem(in.data + i, in.n - i, from.data, from.n);
        size_t end = hit ? (size_t)(hit - in.data) : in.n;
        buf_append(out, in.data + i, end - i);
        if (hit)
            buf_append(out, to, strlen(to));
        i = hit ? end + from.n : end;
    }
}

// The same within `out`.
static enum status replace_within(
    struct buf *out, struct tokenizer_bytes from, const char *to, struct error *err)
{
    struct buf copy;
    if (from.n == 0 || out->size == 0 || !memmem(out->data, out->size, from.data, from.n))
        return STATUS_OK;
    buf_init(&copy, out->size_max);
    append_replaced(&copy, (struct tokenizer_bytes){out->data, out->size}, from, to);
    bool failed = buf_failed(&copy);
    buf_clear(out);
    failed |= !buf_append(out, copy.data, copy.size);
    buf_deinit(&copy);
    return failed ? status_fail(err, STATUS_TOO_LARGE, "a token's text is too long") : STATUS_OK;
}

// The white space that English does not have.
static enum status cleanup(struct buf *out, struct error *err)
{
    static const char *const PAIRS[][2] = {{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","},
        {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"},
        {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof PAIRS / sizeof PAIRS[0]; i++) {
        struct tokenizer_bytes from = {(const uint8_t *)PAIRS[i][0], strlen(PAIRS[i][0])};
        TRY(replace_within(out, from, PAIRS[i][1], err));
    }
    return STATUS_OK;
}

// WordPiece: behind the first token, a space goes before what does not continue a word.
static enum status make_word(
    struct tokenizer *t, struct tokenizer_token *token, struct buf *out, struct error *err)
{
    struct tokenizer_bytes prefix = t->decoder.prefix, in = token->piece;
    bool continues = in.n >= prefix.n && (prefix.n == 0 || !memcmp(in.data, prefix.data, prefix.n));
    for (int first = 0; first < 2; first++) {
        size_t skip = !first && continues ? prefix.n : 0;
        buf_clear(out);
        buf_append(out, " ", !first && !continues);
        buf_append(out, in.data + skip, in.n - skip);
        if (t->decoder.cleanup)
            TRY(cleanup(out, err));
        TRY(keep(t, out, first ? &token->piece : &token->bytes, err));
    }
    return STATUS_OK;
}

static enum status make_suffixed(
    struct tokenizer *t, struct tokenizer_token *token, struct buf *out, struct error *err)
{
    struct tokenizer_bytes in = token->piece, suffix = t->decoder.suffix;
    const uint8_t *hit = memmem(in.data, in.n, suffix.data, suffix.n);
    token->head = (uint32_t)(hit ? (size_t)(hit - in.data) : in.n);
    buf_clear(out);
    append_replaced(out, in, suffix, " ");
    return keep(t, out, &token->bytes, err);
}

// CTC: `piece` stays what neighbours are compared by.
static enum status make_ctc(
    struct tokenizer *t, struct tokenizer_token *token, struct buf *out, struct error *err)
{
    buf_clear(out);
    buf_append(out, token->piece.data, token->piece.n);
    TRY(replace_within(out, t->decoder.pad, "", err));
    if (t->decoder.cleanup) {
        TRY(cleanup(out, err));
        TRY(replace_within(out, t->decoder.delimiter, " ", err));
    }
    return keep(t, out, &token->bytes, err);
}

static enum status make_bytes(
    struct tokenizer *t, struct tokenizer_token *token, struct buf *out, struct error *err)
{
    token->byte = -1;
    token->bytes = token->piece;
    if (t->decoder.words)
        return make_word(t, token, out, err);
    if (t->decoder.suffix.n > 0)
        return make_suffixed(t, token, out, err);
    if (t->decoder.ctc)
        return make_ctc(t, token, out, err);
    if (t->decoder.byte_fallback)
        token->byte = (int16_t)byte_of(token->piece);
    if (token->byte < 0 && (t->decoder.bytes || t->decoder.n_maps == 0))
        return STATUS_OK;
    buf_clear(out);
    if (token->byte >= 0) {
        uint8_t byte = (uint8_t)token->byte;
        buf_append(out, &byte, 1);
    } else {
        tokenizer_decode_mapped(&t->decoder, token->piece, out);
    }
    return keep(t, out, &token->bytes, err);
}

// SentencePiece: what the token is in front of all other text.
static void make_first(struct tokenizer *t, struct tokenizer_token *token, uint32_t id)
{
    if (id == t->unk)
        token->bytes = t->decoder.unknown;
    token->piece = token->bytes;
    if (t->decoder.drops_space && id != t->unk && token->piece.n > 0 &&
        token->piece.data[0] == ' ') {
        token->piece.data++;
        token->piece.n--;
    }
}

enum status tokenizer_decode_prepare(
    struct tokenizer *t, const struct tokenizer_step *replace, size_t n_replace, struct error *err)
{
    struct buf out;
    buf_init(&out, TOKENIZER_TOKEN_BYTES_MAX * TOKENIZER_MAP_BYTES_MAX);
    enum status st = STATUS_OK;
    for (uint32_t id = 0; id < t->n_ids && st == STATUS_OK; id++) {
        struct tokenizer_token *token = &t->tokens[id];
        token->byte = -1;
        if (!token->content.data)
            continue;
        st = make_piece(t, token, replace, n_replace, &out, err);
        if (st == STATUS_OK)
            st = make_bytes(t, token, &out, err);
        if (st == STATUS_OK && t->decoder.sentencepiece)
            make_first(t, token, id);
    }
    buf_deinit(&out);
    return st;
}
