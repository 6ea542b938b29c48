// SPDX-License-Identifier: Apache-2.0
// Texts: bytes that know who wrote them, and what Python's str does with them.
#include "base/utf8.h"
#include "model/template_internal.h"
#include "model/unicode.h"

#include <string.h>
#include <utf8proc.h>

// ---- builder -----------------------------------------------------------------------------------

static enum status grow(struct template_run *r, struct template_builder *b, size_t n)
{
    size_t wanted = b->n + n;
    if (n > TEMPLATE_OUTPUT_BYTES_MAX || wanted > TEMPLATE_OUTPUT_BYTES_MAX)
        return status_fail(r->err, STATUS_TOO_LARGE,
            "the template makes a text of more than %zu bytes", TEMPLATE_OUTPUT_BYTES_MAX);
    TRY(template_step(r, n / 64));
    if (wanted <= b->capacity)
        return STATUS_OK;
    size_t capacity = b->capacity ? b->capacity * 2 : 64;
    if (capacity < wanted)
        capacity = wanted;
    uint8_t *data = arena_take(&r->arena, capacity);
    uint8_t *taint = b->taint ? arena_take(&r->arena, capacity) : NULL;
    if (!data || (b->taint && !taint))
        return template_no_memory(r);
    if (b->n)
        memcpy(data, b->data, b->n);
    if (b->n && taint)
        memcpy(taint, b->taint, b->n);
    b->data = data;
    b->taint = taint;
    b->capacity = capacity;
    return STATUS_OK;
}

enum status template_put(
    struct template_run *r, struct template_builder *b, struct template_text text)
{
    TRY(grow(r, b, text.n));
    if (text.n == 0)
        return STATUS_OK;
    if (text.taint && !b->taint) {
        b->taint = arena_take(&r->arena, b->capacity);
        if (!b->taint)
            return template_no_memory(r);
    }
    memcpy(b->data + b->n, text.data, text.n);
    if (text.taint)
        memcpy(b->taint + b->n, text.taint, text.n);
    else if (b->taint)
        memset(b->taint + b->n, 0, text.n);
    b->n += text.n;
    return STATUS_OK;
}

enum status template_put_bytes(
    struct template_run *r, struct template_builder *b, const void *data, size_t n)
{
    return template_put(r, b, (struct template_text){.data = data, .n = n});
}

static enum status put_char(
    struct template_run *r, struct template_builder *b, uint32_t c, bool taint)
{
    static const uint8_t ones[4] = {1, 1, 1, 1};
    uint8_t bytes[4];
    size_t n = unicode_encode(c, bytes);
    return template_put(
        r, b, (struct template_text){.data = bytes, .n = n, .taint = taint ? ones : NULL});
}

enum status template_put_repeat(
    struct template_run *r, struct template_builder *b, char c, int64_t count)
{
    if (count > 0)
        TRY(grow(r, b,
            (uint64_t)count > TEMPLATE_OUTPUT_BYTES_MAX ? TEMPLATE_OUTPUT_BYTES_MAX + 1
                                                        : (size_t)count));
    for (; count > 0; count--)
        TRY(template_put_bytes(r, b, &c, 1));
    return STATUS_OK;
}

struct template_text template_built(const struct template_builder *b)
{
    return (struct template_text){.data = b->data, .n = b->n, .taint = b->taint};
}

// ---- making and cutting ------------------------------------------------------------------------

struct template_text template_cut(struct template_text text, size_t begin, size_t end)
{
    if (end > text.n)
        end = text.n;
    if (begin > end)
        begin = end;
    if (text.n == 0)
        return text;
    return (struct template_text){.data = text.data + begin,
        .n = end - begin,
        .taint = text.taint ? text.taint + begin : NULL};
}

enum status template_make_text(
    struct template_run *r, struct template_text text, struct template_value *out)
{
    struct template_text *copy = arena_take(&r->arena, sizeof *copy);
    if (!copy)
        return template_no_memory(r);
    *copy = text;
    *out = (struct template_value){.kind = TEMPLATE_TEXT, .text = copy};
    return STATUS_OK;
}

enum status template_make_built(
    struct template_run *r, const struct template_builder *b, struct template_value *out)
{
    return template_make_text(r, template_built(b), out);
}

// ---- comparing and finding ---------------------------------------------------------------------

bool template_text_is(struct template_text text, const char *what)
{
    return text.n == strlen(what) && (text.n == 0 || memcmp(text.data, what, text.n) == 0);
}

bool template_text_equal(struct template_text a, struct template_text b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.data, b.data, a.n) == 0);
}

// UTF-8 sorts as its characters do.
int template_text_compare(struct template_text a, struct template_text b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int order = n ? memcmp(a.data, b.data, n) : 0;
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

size_t template_text_find(struct template_text in, struct template_text what, size_t from)
{
    if (from > in.n)
        return SIZE_MAX;
    if (what.n == 0)
        return from;
    if (what.n > in.n - from)
        return SIZE_MAX;
    const uint8_t *at = memmem(in.data + from, in.n - from, what.data, what.n);
    return at ? (size_t)(at - in.data) : SIZE_MAX;
}

size_t template_text_find_last(struct template_text in, struct template_text what)
{
    for (size_t i = in.n + 1; i-- > 0;)
        if (in.n - i >= what.n && (what.n == 0 || memcmp(in.data + i, what.data, what.n) == 0))
            return i;
    return SIZE_MAX;
}

size_t template_text_chars(struct template_text text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++)
        n += (text.data[i] & 0xc0) != 0x80;
    return n;
}

size_t template_text_offset(struct template_text text, size_t i)
{
    size_t at = 0;
    for (; at < text.n; at++)
        if ((text.data[at] & 0xc0) != 0x80 && i-- == 0)
            break;
    return at;
}

// ---- white space and lines ---------------------------------------------------------------------

bool template_text_is_space(uint32_t c)
{
    return unicode_is_space(c) || (c >= 0x1c && c <= 0x1f);
}

// The character `bytes` is one of `chars`, or white space where `chars` is NULL.
static bool is_one_of(struct template_text character, const struct template_text *chars)
{
    size_t k;
    if (!chars)
        return template_text_is_space(unicode_decode(character.data, character.n, &k));
    return template_text_find(*chars, character, 0) != SIZE_MAX;
}

struct template_text template_text_strip(
    struct template_text text, const struct template_text *chars, bool left, bool right)
{
    size_t begin = 0, end = text.n;
    while (left && begin < end) {
        size_t k;
        unicode_decode(text.data + begin, end - begin, &k);
        if (!is_one_of(template_cut(text, begin, begin + k), chars))
            break;
        begin += k;
    }
    while (right && end > begin) {
        size_t i = end - 1;
        while (i > begin && (text.data[i] & 0xc0) == 0x80)
            i--;
        if (!is_one_of(template_cut(text, i, end), chars))
            break;
        end = i;
    }
    return template_cut(text, begin, end);
}

static bool is_line_end(uint32_t c)
{
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

size_t template_text_line(struct template_text text, size_t at, size_t *next)
{
    while (at < text.n) {
        size_t k;
        uint32_t c = unicode_decode(text.data + at, text.n - at, &k);
        if (is_line_end(c)) {
            *next = at + k;
            if (c == '\r' && *next < text.n && text.data[*next] == '\n')
                ++*next;
            return at;
        }
        at += k;
    }
    *next = text.n;
    return text.n;
}

// ---- changing ----------------------------------------------------------------------------------

static bool is_cased(uint32_t c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

static uint32_t in_case(uint32_t c, enum template_case how)
{
    utf8proc_int32_t x = (utf8proc_int32_t)c;
    if (how == TEMPLATE_SWAP)
        how = utf8proc_category(x) == UTF8PROC_CATEGORY_LU ? TEMPLATE_LOWER : TEMPLATE_UPPER;
    return (uint32_t)(how == TEMPLATE_UPPER   ? utf8proc_toupper(x)
                      : how == TEMPLATE_TITLE ? utf8proc_totitle(x)
                                              : utf8proc_tolower(x));
}

enum status template_put_case(struct template_run *r, struct template_builder *b,
    struct template_text text, enum template_case how)
{
    bool inside = false; // of a word
    for (size_t i = 0; i < text.n;) {
        size_t k;
        uint32_t c = unicode_decode(text.data + i, text.n - i, &k);
        enum template_case here = how;
        if (how == TEMPLATE_TITLE || how == TEMPLATE_CAPITALIZE)
            here = inside ? TEMPLATE_LOWER : TEMPLATE_TITLE;
        inside = how == TEMPLATE_CAPITALIZE || is_cased(c);
        bool taint = text.taint && text.taint[i];
        if (c == 0xdf && here == TEMPLATE_UPPER) // the one letter of texts that grows
            TRY(put_char(r, b, 'S', taint));
        TRY(put_char(r, b, c == 0xdf && here == TEMPLATE_UPPER ? 'S' : in_case(c, here), taint));
        i += k;
    }
    return STATUS_OK;
}

enum status template_put_replaced(struct template_run *r, struct template_builder *b,
    struct template_text text, const struct template_text from_to[2], int64_t count)
{
    size_t done = 0;
    while (count != 0) {
        size_t at = template_text_find(text, from_to[0], done);
        if (from_to[0].n == 0 && done > 0 && at != SIZE_MAX) {
            size_t k = 1; // between characters, and at the end
            if (at >= text.n)
                break;
            unicode_decode(text.data + at, text.n - at, &k);
            at += k;
        }
        if (at == SIZE_MAX)
            break;
        TRY(template_put(r, b, template_cut(text, done, at)));
        TRY(template_put(r, b, from_to[1]));
        TRY(template_step(r, 1));
        done = at + from_to[0].n;
        if (from_to[0].n == 0 && done == 0 && text.n > 0) {
            size_t k;
            unicode_decode(text.data, text.n, &k);
            TRY(template_put(r, b, template_cut(text, 0, k)));
            done = k;
            if (count > 0)
                count--;
            if (count != 0) {
                TRY(template_put(r, b, from_to[1]));
            }
        } else if (from_to[0].n == 0 && text.n == 0) {
            break;
        }
        if (count > 0)
            count--;
    }
    return template_put(r, b, template_cut(text, done, text.n));
}

enum status template_put_escaped(
    struct template_run *r, struct template_builder *b, struct template_text text)
{
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    static const char from[] = "&<>\"'";
    size_t done = 0;
    for (size_t i = 0; i < text.n; i++) {
        const char *hit = text.data[i] ? strchr(from, text.data[i]) : NULL;
        if (!hit)
            continue;
        TRY(template_put(r, b, template_cut(text, done, i)));
        TRY(template_put_bytes(r, b, to[hit - from], strlen(to[hit - from])));
        done = i + 1;
    }
    return template_put(r, b, template_cut(text, done, text.n));
}
