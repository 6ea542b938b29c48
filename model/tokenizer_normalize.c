// SPDX-License-Identifier: Apache-2.0
// Normalizers: each step reads one buffer and writes the other, or leaves the text where it is.
#include "model/tokenizer_internal.h"
#include "model/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static enum status full(struct tokenizer_work *w)
{
    return status_fail(w->err, STATUS_TOO_LARGE,
        "the normalized text is over the limit of %zu bytes", w->normal[0].size_max);
}

// True if all characters are below `c` (0x80 or 0x300).
static bool all_below(struct tokenizer_bytes in, uint32_t c)
{
    uint8_t lead = c == 0x80 ? 0x80 : 0xcc; // U+0300 is CC 80
    for (size_t i = 0; i < in.n; i++) {
        if (in.data[i] >= lead)
            return false;
    }
    return true;
}

// Decomposes all of `in` to UTF-32; *out is owned.
static enum status decompose(struct tokenizer_work *w, struct tokenizer_bytes in,
    utf8proc_option_t options, utf8proc_int32_t **out, utf8proc_ssize_t *n_out)
{
    utf8proc_ssize_t n = utf8proc_decompose(in.data, (utf8proc_ssize_t)in.n, NULL, 0, options);
    if (n < 0)
        return status_fail(
            w->err, STATUS_INVALID, "the text cannot be normalized: %s", utf8proc_errmsg(n));
    // One more, as utf8proc_normalize_utf32 asks for.
    utf8proc_int32_t *p = malloc(((size_t)n + 1) * sizeof *p);
    if (!p)
        return status_fail(w->err, STATUS_NO_MEMORY, "out of memory for normalizing");
    *n_out = utf8proc_decompose(in.data, (utf8proc_ssize_t)in.n, p, n, options);
    *out = p;
    return STATUS_OK;
}

// Composes what is decomposed. libutf8proc up to 2.8 takes U+11A7 for the first of the letters that
// end a Hangul syllable, which is the next one, and swallows it; so each composition begins there.
static utf8proc_ssize_t compose(utf8proc_int32_t *text, utf8proc_ssize_t n)
{
    utf8proc_ssize_t end, done = 0;
    for (utf8proc_ssize_t begin = 0; begin < n; begin = end) {
        for (end = begin + 1; end < n && text[end] != 0x11a7;)
            end++;
        utf8proc_ssize_t k =
            utf8proc_normalize_utf32(text + begin, end - begin, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        memmove(text + done, text + begin, (size_t)k * sizeof *text);
        done += k;
    }
    return done;
}

static enum status run_form(struct tokenizer_work *w, enum tokenizer_step_kind kind,
    struct tokenizer_bytes in, struct buf *out)
{
    bool composed = kind == TOKENIZER_STEP_NFC || kind == TOKENIZER_STEP_NFKC;
    bool compat = kind == TOKENIZER_STEP_NFKC || kind == TOKENIZER_STEP_NFKD;
    utf8proc_option_t options = compat ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE;
    utf8proc_int32_t *text = NULL;
    utf8proc_ssize_t n = 0;
    TRY(decompose(w, in, options, &text, &n));
    if (composed)
        n = compose(text, n);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        uint8_t c[4];
        buf_append(out, c, unicode_encode((uint32_t)text[i], c));
    }
    free(text);
    return STATUS_OK;
}

static void run_lowercase(struct tokenizer_bytes in, struct buf *out)
{
    for (size_t i = 0, k; i < in.n; i += k) {
        uint32_t c = unicode_decode(in.data + i, in.n - i, &k);
        uint8_t lower[4];
        if (c == 0x130) // the only character whose lower case is two characters
            buf_append(out, "i\xcc\x87", 3);
        else
            buf_append(
                out, lower, unicode_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)c), lower));
    }
}

// ---- steps that drop or change single characters -------------------------------------------

// The machine-translation rules of SentencePiece: what is dropped, and what is a space.
static bool nmt_drops(uint32_t c)
{
    return (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
           c == 0x9f;
}

static bool nmt_spaces(uint32_t c)
{
    return c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
           (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
           c == 0xfeff || c == 0xfffd;
}

static bool is_tab_or_line_end(uint32_t c)
{
    return c == '\t' || c == '\n' || c == '\r';
}

static bool keeps(enum tokenizer_step_kind kind, uint32_t c)
{
    switch (kind) {
    case TOKENIZER_STEP_STRIP_ACCENTS:
        return !unicode_is_mark(c);
    case TOKENIZER_STEP_STRIP_NONSPACING:
        return !unicode_is_nonspacing(c);
    case TOKENIZER_STEP_NMT:
        return !nmt_drops(c);
    case TOKENIZER_STEP_BERT_CLEAN:
        return c != 0 && c != 0xfffd && (is_tab_or_line_end(c) || !unicode_is_other(c));
    default:
        return true;
    }
}

static bool becomes_space(enum tokenizer_step_kind kind, uint32_t c)
{
    return kind == TOKENIZER_STEP_NMT ? nmt_spaces(c)
                                      : kind == TOKENIZER_STEP_BERT_CLEAN && unicode_is_space(c);
}

static void run_filter(enum tokenizer_step_kind kind, struct tokenizer_bytes in, struct buf *out)
{
    for (size_t i = 0, k; i < in.n; i += k) {
        uint32_t c = unicode_decode(in.data + i, in.n - i, &k);
        if (!keeps(kind, c))
            continue;
        bool space = becomes_space(kind, c);
        buf_append(out, space ? (const uint8_t *)" " : in.data + i, space ? 1 : k);
    }
}

// The blocks that BERT puts spaces around.
static bool is_chinese(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static void run_chinese(struct tokenizer_bytes in, struct buf *out)
{
    for (size_t i = 0, k; i < in.n; i += k) {
        bool apart = is_chinese(unicode_decode(in.data + i, in.n - i, &k));
        buf_append(out, " ", apart);
        buf_append(out, in.data + i, k);
        buf_append(out, " ", apart);
    }
}

static void run_bytes(struct tokenizer_bytes in, struct buf *out)
{
    for (size_t i = 0; i < in.n; i++) {
        uint8_t c[4];
        buf_append(out, c, unicode_encode(tokenizer_split_byte_char(in.data[i]), c));
    }
}

static struct tokenizer_bytes strip(const struct tokenizer_step *s, struct tokenizer_bytes in)
{
    size_t k;
    while (s->left && in.n > 0 && unicode_is_space(unicode_decode(in.data, in.n, &k))) {
        in.data += k;
        in.n -= k;
    }
    while (s->right && in.n > 0) {
        size_t i = in.n - 1;
        while (i > 0 && (in.data[i] & 0xc0) == 0x80)
            i--;
        if (!unicode_is_space(unicode_decode(in.data + i, in.n - i, &k)))
            break;
        in.n = i;
    }
    return in;
}

// Metaspace's "first" asks where a piece began in the original text. The beginning is gone when
// it was stripped, or replaced by nothing; or, as the reference counts, when more than one
// character was replaced there.
static bool removes_start(
    const struct tokenizer_step *s, struct tokenizer_bytes in, size_t first_end)
{
    size_t k;
    uint32_t c = unicode_decode(in.data, in.n, &k);
    if (s->kind != TOKENIZER_STEP_REPLACE)
        return !keeps(s->kind, c);
    return first_end > 0 && (s->content.n == 0 || first_end > k);
}

// True if the step leaves `in` as it is.
static bool has_no_effect(const struct tokenizer_step *s, struct tokenizer_bytes in)
{
    switch (s->kind) {
    case TOKENIZER_STEP_NFC:
        return all_below(in, 0x300);
    case TOKENIZER_STEP_NFD:
    case TOKENIZER_STEP_NFKC:
    case TOKENIZER_STEP_NFKD:
    case TOKENIZER_STEP_BERT_CHINESE:
        return all_below(in, 0x80);
    case TOKENIZER_STEP_STRIP_ACCENTS:
    case TOKENIZER_STEP_STRIP_NONSPACING:
        return all_below(in, 0x300);
    case TOKENIZER_STEP_PRECOMPILED:
        return s->map.n_units == 0 || in.n == 0;
    default:
        return in.n == 0;
    }
}

static enum status run_replace(struct tokenizer_work *w, const struct tokenizer_step *s,
    struct tokenizer_bytes in, struct buf *out)
{
    struct tokenizer_scan scan = tokenizer_pattern_scan(&s->pattern, &w->matcher, in.data, in.n);
    TRY(tokenizer_pattern_replace(&scan, s->content.data, s->content.n, out, w->err));
    w->start_gone |= removes_start(s, in, scan.first_end);
    return STATUS_OK;
}

static enum status run_step(struct tokenizer_work *w, const struct tokenizer_step *s,
    struct tokenizer_bytes in, struct buf *out)
{
    switch (s->kind) {
    case TOKENIZER_STEP_PREPEND:
        buf_append(out, s->content.data, s->content.n);
        buf_append(out, in.data, in.n);
        return STATUS_OK;
    case TOKENIZER_STEP_REPLACE:
        return run_replace(w, s, in, out);
    case TOKENIZER_STEP_LOWERCASE:
        run_lowercase(in, out);
        return STATUS_OK;
    case TOKENIZER_STEP_STRIP_ACCENTS:
    case TOKENIZER_STEP_STRIP_NONSPACING:
    case TOKENIZER_STEP_BERT_CLEAN:
    case TOKENIZER_STEP_NMT:
        w->start_gone |= removes_start(s, in, 0);
        run_filter(s->kind, in, out);
        return STATUS_OK;
    case TOKENIZER_STEP_BERT_CHINESE:
        run_chinese(in, out);
        return STATUS_OK;
    case TOKENIZER_STEP_BYTES:
        run_bytes(in, out);
        return STATUS_OK;
    case TOKENIZER_STEP_PRECOMPILED:
        tokenizer_charsmap_run(s, in, out);
        return STATUS_OK;
    case TOKENIZER_STEP_SENTENCEPIECE:
        tokenizer_sentencepiece_run(w, s, in, out);
        return STATUS_OK;
    default:
        return run_form(w, s->kind, in, out);
    }
}

enum status tokenizer_normalize(
    struct tokenizer_work *w, struct tokenizer_bytes in, struct tokenizer_bytes *out)
{
    unsigned to = 0;
    w->start_gone = false;
    for (size_t i = 0; i < w->t->n_steps; i++) {
        const struct tokenizer_step *s = &w->t->steps[i];
        if (s->kind == TOKENIZER_STEP_STRIP) {
            const uint8_t *start = in.data;
            in = strip(s, in);
            w->start_gone |= in.data != start;
            continue;
        }
        if (has_no_effect(s, in))
            continue;
        struct buf *b = &w->normal[to];
        buf_clear(b);
        TRY(run_step(w, s, in, b));
        if (buf_failed(b))
            return full(w);
        in = (struct tokenizer_bytes){b->data, b->size};
        to ^= 1;
    }
    *out = in;
    return STATUS_OK;
}
