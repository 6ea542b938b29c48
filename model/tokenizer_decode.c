// SPDX-License-Identifier: Apache-2.0
// Ids to text, one at a time. What a decoder does to a single token is done once, at load; here
// remain the things that depend on neighbours:
//
//   piece -> joining of bytes to characters -> characters replaced (`maps`) -> ends stripped -> out
#include "base/utf8.h"
#include "model/tokenizer_internal.h"
#include "model/unicode.h"

#include <string.h>

_Static_assert(TOKENIZER_STREAM_HELD_MAX >= 8, "a cut character must fit");
_Static_assert(TOKENIZER_STREAM_HELD_MAX <= UINT8_MAX, "n_held is a byte");
_Static_assert(TOKENIZER_STRIP_MAX <= UINT8_MAX, "the strip counts are bytes");

static const uint8_t REPLACEMENT[3] = {0xef, 0xbf, 0xbd}; // U+FFFD

// What a push works with.
struct sink {
    const struct tokenizer_decoder *d;
    struct tokenizer_stream *s;
    struct buf *out;
};

// ---- stripping -----------------------------------------------------------------------------

static bool is_strip_char(const struct tokenizer_decoder *d, const uint8_t *text, size_t n)
{
    return n >= d->n_strip_char && memcmp(text, d->strip_char, d->n_strip_char) == 0;
}

static void emit_held_back(struct sink *k)
{
    for (; k->s->strip_right > 0; k->s->strip_right--)
        buf_append(k->out, k->d->strip_char, k->d->n_strip_char);
}

// Characters that may turn out to be the last ones are counted instead of written.
static void emit_strip_right(struct sink *k, const uint8_t *text, size_t n)
{
    for (size_t i = 0, length; i < n; i += length) {
        unicode_decode(text + i, n - i, &length);
        if (!is_strip_char(k->d, text + i, n - i)) {
            emit_held_back(k);
            buf_append(k->out, text + i, length);
        } else if (k->s->strip_right < k->d->strip_right) {
            k->s->strip_right++;
        } else {
            buf_append(k->out, text + i, length);
        }
    }
}

// Takes whole characters in their final form.
static void emit(struct sink *k, const uint8_t *text, size_t n)
{
    while (k->s->strip_left > 0 && n > 0) {
        if (!is_strip_char(k->d, text, n)) {
            k->s->strip_left = 0;
            break;
        }
        k->s->strip_left--;
        text += k->d->n_strip_char;
        n -= k->d->n_strip_char;
    }
    if (k->d->strip_right > 0)
        emit_strip_right(k, text, n);
    else
        buf_append(k->out, text, n);
}

// ---- replacing characters ------------------------------------------------------------------

static const struct tokenizer_map *map_at(
    const struct tokenizer_decoder *d, const uint8_t *text, size_t n)
{
    for (size_t i = 0; i < d->n_maps; i++) {
        const struct tokenizer_map *m = &d->maps[i];
        if (n >= m->n_from && memcmp(text, m->from, m->n_from) == 0)
            return m;
    }
    return NULL;
}

// Takes whole characters as they are before `maps`.
static void emit_mapped(struct sink *k, const uint8_t *text, size_t n)
{
    size_t done = 0;
    for (size_t i = 0; i < n && k->d->n_maps > 0;) {
        const struct tokenizer_map *m = map_at(k->d, text + i, n - i);
        if (!m) {
            i++;
            continue;
        }
        emit(k, text + done, i - done);
        if (!m->drop_in_first || k->s->begun)
            emit(k, m->to, m->n_to);
        i += m->n_from;
        done = i;
    }
    emit(k, text + done, n - done);
}

// ---- joining bytes -------------------------------------------------------------------------

// Writes the whole characters of `bytes` and U+FFFD for each part that can be none; returns how
// many bytes at the end may be the beginning of a character.
static size_t emit_lossy(struct sink *k, const uint8_t *bytes, size_t n)
{
    size_t i = 0, done = 0;
    while (i < n) {
        size_t bad = 0;
        int length = utf8_length(bytes + i, n - i, &bad);
        if (length > 0) {
            i += (size_t)length;
            continue;
        }
        emit_mapped(k, bytes + done, i - done);
        if (length == 0)
            return n - i;
        emit_mapped(k, REPLACEMENT, sizeof REPLACEMENT);
        i += bad;
        done = i;
    }
    emit_mapped(k, bytes + done, n - done);
    return 0;
}

// ByteLevel: the bytes of one token. A character begun before is completed byte by byte.
static void push_bytes(struct sink *k, const uint8_t *bytes, size_t n)
{
    struct tokenizer_stream *s = k->s;
    while (s->n_held > 0 && n > 0) {
        s->held[s->n_held++] = *bytes++;
        n--;
        size_t left = emit_lossy(k, s->held, s->n_held);
        memmove(s->held, s->held + s->n_held - left, left);
        s->n_held = (uint8_t)left;
    }
    if (n == 0)
        return;
    size_t left = emit_lossy(k, bytes, n);
    memcpy(s->held, bytes + n - left, left);
    s->n_held = (uint8_t)left;
}

static void emit_replacements(struct sink *k, size_t n)
{
    for (size_t i = 0; i < n; i++)
        emit_mapped(k, REPLACEMENT, sizeof REPLACEMENT);
}

// How many bytes of a run are whole characters; *bad if what follows cannot become one.
static size_t valid_prefix(const uint8_t *bytes, size_t n, bool *bad)
{
    size_t i = 0;
    int length = 1;
    while (i < n && (length = utf8_length(bytes + i, n - i, NULL)) > 0)
        i += (size_t)length;
    *bad = length < 0;
    return i;
}

// SentencePiece: whole characters come out, and U+FFFD for each byte that belongs to none; at the
// `end` of the run nothing is held back.
static void push_each_byte(struct sink *k, bool end)
{
    struct tokenizer_stream *s = k->s;
    size_t i = 0;
    while (i < s->n_held) {
        int length = utf8_length(s->held + i, s->n_held - i, NULL);
        if (length == 0 && !end)
            break;
        if (length > 0)
            emit_mapped(k, s->held + i, (size_t)length);
        else
            emit_mapped(k, REPLACEMENT, sizeof REPLACEMENT);
        i += length > 0 ? (size_t)length : 1;
    }
    memmove(s->held, s->held + i, s->n_held - i);
    s->n_held = (uint8_t)(s->n_held - i);
}

// ByteFallback: a byte token. In an invalid run each byte becomes U+FFFD, valid ones too.
static void push_run(struct sink *k, uint8_t byte)
{
    struct tokenizer_stream *s = k->s;
    s->in_run = true;
    if (s->bad_run) {
        emit_replacements(k, 1);
        return;
    }
    s->held[s->n_held++] = byte;
    if (k->d->each_byte) {
        push_each_byte(k, false);
        return;
    }
    if (s->n_held < TOKENIZER_STREAM_HELD_MAX)
        return;
    size_t n = valid_prefix(s->held, s->n_held, &s->bad_run);
    if (s->bad_run) {
        emit_replacements(k, s->n_held);
        s->n_held = 0;
        return;
    }
    emit_mapped(k, s->held, n);
    memmove(s->held, s->held + n, s->n_held - n);
    s->n_held = (uint8_t)(s->n_held - n);
}

static void end_run(struct sink *k)
{
    struct tokenizer_stream *s = k->s;
    if (!s->in_run)
        return;
    if (k->d->each_byte)
        push_each_byte(k, true);
    else if (utf8_valid(s->held, s->n_held))
        emit_mapped(k, s->held, s->n_held);
    else
        emit_replacements(k, s->n_held);
    s->n_held = 0;
    s->in_run = s->bad_run = false;
    s->begun = true;
}

void tokenizer_decode_mapped(
    const struct tokenizer_decoder *d, struct tokenizer_bytes in, struct buf *out)
{
    struct tokenizer_decoder maps = *d;
    maps.strip_right = 0;
    struct tokenizer_stream s = {.begun = true};
    struct sink k = {.d = &maps, .s = &s, .out = out};
    emit_mapped(&k, in.data, in.n);
}

// ---- tokens that depend on their neighbours ------------------------------------------------

// BPEDecoder: the suffix of the last token is nothing, that of any other a space; so what comes
// from the first suffix on waits for the next token.
static void push_suffixed(struct sink *k, const struct tokenizer_token *token, uint32_t id)
{
    emit(k, token->bytes.data, token->head);
    if (token->head < token->bytes.n)
        k->s->waiting = id;
}

static void end_waiting(const struct tokenizer *t, struct sink *k)
{
    uint32_t id = k->s->waiting;
    if (id == TOKENIZER_NONE || t->decoder.suffix.n == 0)
        return;
    const struct tokenizer_token *token = &t->tokens[id];
    k->s->waiting = TOKENIZER_NONE;
    emit(k, token->bytes.data + token->head, token->bytes.n - token->head);
}

// The same at the end of the text.
static void finish_waiting(const struct tokenizer *t, struct sink *k)
{
    struct tokenizer_bytes suffix = t->decoder.suffix;
    uint32_t id = k->s->waiting;
    if (id == TOKENIZER_NONE || suffix.n == 0)
        return;
    struct tokenizer_bytes rest = t->tokens[id].piece;
    size_t at = t->tokens[id].head;
    k->s->waiting = TOKENIZER_NONE;
    while (at < rest.n) {
        const uint8_t *next = memmem(rest.data + at, rest.n - at, suffix.data, suffix.n);
        size_t end = next ? (size_t)(next - rest.data) : rest.n;
        emit(k, rest.data + at, end - at);
        at = next ? end + suffix.n : end;
    }
}

// CTC: a token that says the same as the one before it is left out.
static void push_unless_equal(
    const struct tokenizer *t, struct sink *k, const struct tokenizer_token *token, uint32_t id)
{
    const struct tokenizer_token *last =
        k->s->waiting == TOKENIZER_NONE ? NULL : &t->tokens[k->s->waiting];
    k->s->waiting = id;
    if (!last || last->piece.n != token->piece.n ||
        memcmp(last->piece.data, token->piece.data, token->piece.n) != 0)
        emit(k, token->bytes.data, token->bytes.n);
}

// SentencePiece leaves out the space before the first text: one, or one of each token until there
// is text.
static void push_first(
    const struct tokenizer *t, struct sink *k, const struct tokenizer_token *token)
{
    emit(k, token->piece.data, token->piece.n);
    bool dropped = token->piece.n < token->bytes.n;
    k->s->begun = token->piece.n > 0 || (dropped && !t->decoder.all_spaces);
}

// ---- the stream ----------------------------------------------------------------------------

void tokenizer_stream_begin(
    const struct tokenizer *t, struct tokenizer_stream *s, bool skip_special, bool continued)
{
    *s = (struct tokenizer_stream){
        .skip_special = skip_special,
        .begun = continued,
        .strip_left = continued ? 0 : t->decoder.strip_left,
        .waiting = TOKENIZER_NONE,
    };
}

enum status tokenizer_stream_push(
    const struct tokenizer *t, struct tokenizer_stream *s, uint32_t id, struct buf *out)
{
    if (id >= t->n_ids || !t->tokens[id].content.data)
        return STATUS_OK;
    const struct tokenizer_token *token = &t->tokens[id];
    if (s->skip_special && token->special)
        return STATUS_OK;
    struct sink k = {.d = &t->decoder, .s = s, .out = out};
    if (token->byte >= 0) {
        push_run(&k, (uint8_t)token->byte);
        return buf_failed(out) ? STATUS_TOO_LARGE : STATUS_OK;
    }
    end_run(&k);
    end_waiting(t, &k);
    if (t->decoder.ctc) {
        push_unless_equal(t, &k, token, id);
        return buf_failed(out) ? STATUS_TOO_LARGE : STATUS_OK;
    }
    if (t->decoder.sentencepiece && !s->begun) {
        push_first(t, &k, token);
        return buf_failed(out) ? STATUS_TOO_LARGE : STATUS_OK;
    }
    if (t->decoder.bytes) {
        push_bytes(&k, token->piece.data, token->piece.n);
    } else if (!t->decoder.present) {
        buf_append(out, " ", s->begun);
        buf_append(out, token->piece.data, token->piece.n);
    } else if (t->decoder.suffix.n > 0) {
        push_suffixed(&k, token, id);
    } else if (s->begun) {
        emit(&k, token->bytes.data, token->bytes.n);
    } else {
        emit_mapped(&k, token->piece.data, token->piece.n);
    }
    s->begun = true;
    return buf_failed(out) ? STATUS_TOO_LARGE : STATUS_OK;
}

enum status tokenizer_stream_finish(
    const struct tokenizer *t, struct tokenizer_stream *s, struct buf *out)
{
    struct sink k = {.d = &t->decoder, .s = s, .out = out};
    end_run(&k);
    finish_waiting(t, &k);
    if (s->n_held > 0) // the beginning of a character that never came
        emit_mapped(&k, REPLACEMENT, sizeof REPLACEMENT);
    s->n_held = 0;
    s->strip_right = 0;
    return buf_failed(out) ? STATUS_TOO_LARGE : STATUS_OK;
}

enum status tokenizer_decode(
    const struct tokenizer *t, const uint32_t *ids, size_t n, bool skip_special, struct buf *out)
{
    struct tokenizer_stream s;
    tokenizer_stream_begin(t, &s, skip_special, false);
    for (size_t i = 0; i < n; i++)
        TRY(tokenizer_stream_push(t, &s, ids[i], out));
    return tokenizer_stream_finish(t, &s, out);
}
