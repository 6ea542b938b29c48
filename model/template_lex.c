// SPDX-License-Identifier: Apache-2.0
// Source to tokens, after Jinja's lexer (jinja2/lexer.py): trim_blocks takes the newline behind a
// block, lstrip_blocks the white space between the beginning of a line and a block; "-" takes all
// white space on its side, "+" switches both rules off. Newlines of any kind become "\n", and one
// at the end of the source is left out.
#include "base/utf8.h"
#include "model/template_internal.h"
#include "model/unicode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 1 << 20, BRACKETS_MAX = 256, DIGITS_MAX = 64 };

struct lexer {
    const uint8_t *s;
    size_t n, at;
    uint32_t line;
    size_t counted;     // bytes whose newlines are in `line`
    bool line_starting; // what was read last ended with a newline
    struct arena *arena;
    struct template_token *tokens;
    size_t n_tokens, capacity;
    char bracket[BRACKETS_MAX];
    unsigned n_brackets;
    struct error *err;
};

static uint32_t line_here(struct lexer *l)
{
    while (l->counted < l->at)
        l->line += l->s[l->counted++] == '\n';
    return l->line;
}

static enum status fail(struct lexer *l, const char *what)
{
    return status_fail(l->err, STATUS_INVALID, "template line %u: %s", line_here(l), what);
}

static enum status emit(struct lexer *l, struct template_token token)
{
    if (l->n_tokens == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 256;
        struct template_token *more =
            capacity <= TOKENS_MAX ? arena_array(l->arena, capacity, sizeof *more) : NULL;
        if (!more)
            return status_fail(l->err, STATUS_TOO_LARGE, "the template is too large");
        if (l->n_tokens)
            memcpy(more, l->tokens, l->n_tokens * sizeof *more);
        l->tokens = more;
        l->capacity = capacity;
    }
    token.line = line_here(l);
    l->tokens[l->n_tokens++] = token;
    return STATUS_OK;
}

// Python's \s.
static bool is_space(uint32_t c)
{
    return unicode_is_space(c) || (c >= 0x1c && c <= 0x1f);
}

static size_t skip_space(const struct lexer *l, size_t at)
{
    while (at < l->n) {
        size_t k;
        if (!is_space(unicode_decode(l->s + at, l->n - at, &k)))
            break;
        at += k;
    }
    return at;
}

// ---- text between the tags ---------------------------------------------------------------------

static size_t strip_right(const struct lexer *l, size_t begin, size_t end)
{
    while (end > begin) {
        size_t k, i = end - 1;
        while (i > begin && (l->s[i] & 0xc0) == 0x80)
            i--;
        if (!is_space(unicode_decode(l->s + i, end - i, &k)))
            break;
        end = i;
    }
    return end;
}

// Where the text before a tag ends: `sign` is what follows the tag's opening.
static size_t text_end(const struct lexer *l, size_t begin, size_t end, uint8_t sign, bool output)
{
    if (sign == '-')
        return strip_right(l, begin, end);
    if (sign == '+' || output)
        return end;
    size_t line = end;
    while (line > begin && l->s[line - 1] != '\n')
        line--;
    bool at_line_start = line > begin || l->line_starting;
    return at_line_start && skip_space(l, line) >= end ? line : end;
}

static enum status emit_data(struct lexer *l, size_t begin, size_t end)
{
    if (begin >= end)
        return STATUS_OK;
    return emit(
        l, (struct template_token){.kind = TOKEN_DATA, .data = l->s + begin, .n = end - begin});
}

static uint8_t sign_at(const struct lexer *l, size_t at)
{
    return at < l->n && (l->s[at] == '-' || l->s[at] == '+') ? l->s[at] : 0;
}

// A closing "%}", "#}" or "}}" at `at`, with its sign and the white space that it takes; 0: none.
static size_t closing(const struct lexer *l, size_t at, const char *mark, bool output)
{
    uint8_t sign = sign_at(l, at);
    size_t end = at + (sign != 0);
    if (end + 2 > l->n || memcmp(l->s + end, mark, 2) != 0 || (output && sign == '+'))
        return 0;
    end += 2;
    if (sign == '-')
        return skip_space(l, end);
    if (sign == 0 && !output && end < l->n && l->s[end] == '\n')
        end++;
    return end;
}

static void move_to(struct lexer *l, size_t at)
{
    l->line_starting = at > 0 && l->s[at - 1] == '\n';
    l->at = at;
}

// l->at is behind "{#" and its sign.
static enum status comment(struct lexer *l)
{
    for (size_t i = l->at; i < l->n; i++) {
        size_t end = closing(l, i, "#}", false);
        if (end) {
            move_to(l, end);
            return STATUS_OK;
        }
    }
    // At the very end Jinja does not notice.
    return l->at == l->n ? STATUS_OK : fail(l, "a comment does not end, expected \"#}\"");
}

// At a "{%": where the tag with only this word in it ends, or 0. `trims`: "%}" takes a newline.
static size_t word_tag(const struct lexer *l, size_t at, const char *word, bool trims)
{
    size_t n = strlen(word), i = at + 2;
    i = skip_space(l, i + (sign_at(l, i) != 0));
    if (i + n > l->n || memcmp(l->s + i, word, n) != 0)
        return 0;
    i = skip_space(l, i + n);
    return closing(l, i, "%}", !trims);
}

// l->at is behind "{% raw %}".
static enum status raw(struct lexer *l)
{
    for (size_t i = l->at; i + 1 < l->n; i++) {
        if (l->s[i] != '{' || l->s[i + 1] != '%')
            continue;
        size_t end = word_tag(l, i, "endraw", true);
        if (!end)
            continue;
        TRY(emit_data(l, l->at, text_end(l, l->at, i, sign_at(l, i + 2), false)));
        move_to(l, end);
        return STATUS_OK;
    }
    return l->at == l->n ? STATUS_OK
                         : fail(l, "a raw block does not end, expected \"{% endraw %}\"");
}

// ---- expressions -------------------------------------------------------------------------------

static bool is_digit(uint8_t c, int base)
{
    uint8_t lower = c | 0x20;
    int d = c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : 99;
    return d < base;
}

// Digits with single '_' between them.
static size_t digits(const struct lexer *l, size_t at, int base)
{
    while (at < l->n) {
        bool joint = l->s[at] == '_' && at + 1 < l->n && is_digit(l->s[at + 1], base);
        if (!joint && !is_digit(l->s[at], base))
            break;
        at++;
    }
    return at;
}

static bool digit_at(const struct lexer *l, size_t at)
{
    return at < l->n && l->s[at] >= '0' && l->s[at] <= '9';
}

// Where the number at l->at ends; *real is whether it has a point or an exponent.
static size_t number_end(const struct lexer *l, bool *real, int *base)
{
    size_t i = l->at;
    *base = 10;
    *real = false;
    if (l->s[i] == '0' && i + 2 < l->n) {
        uint8_t c = l->s[i + 1] | 0x20;
        int b = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        size_t end = b ? digits(l, i + 2, b) : 0;
        if (b && end > i + 2) {
            *base = b;
            return end;
        }
    }
    size_t end = digits(l, i, 10);
    bool after_dot = i > 0 && l->s[i - 1] == '.';
    size_t e = end;
    if (!after_dot && e < l->n && l->s[e] == '.' && digit_at(l, e + 1))
        e = digits(l, e + 1, 10), *real = true;
    if (!after_dot && e < l->n && (l->s[e] | 0x20) == 'e') {
        size_t x = e + 1;
        x += x < l->n && (l->s[x] == '+' || l->s[x] == '-');
        if (digit_at(l, x))
            e = digits(l, x, 10), *real = true;
    }
    if (*real)
        return e;
    if (l->s[i] == '0') // as Jinja reads 007: zeros, then another number
        for (end = i; end < l->n && l->s[end] == '0';)
            end++;
    return end;
}

static enum status number(struct lexer *l)
{
    bool real;
    int base;
    size_t end = number_end(l, &real, &base);
    char text[DIGITS_MAX];
    size_t n = 0;
    for (size_t i = l->at + (base != 10 ? 2 : 0); i < end; i++) {
        if (n + 1 == sizeof text)
            return fail(l, "a number has too many digits");
        if (l->s[i] != '_')
            text[n++] = (char)l->s[i];
    }
    text[n] = '\0';
    struct template_token token = {.kind = real ? TOKEN_FLOAT : TOKEN_INT};
    errno = 0;
    if (real)
        token.f = strtod(text, NULL);
    else
        token.i = strtoll(text, NULL, base);
    if (errno && !real)
        return fail(l, "a number is larger than 63 bits");
    l->at = end;
    return emit(l, token);
}

// Reads `count` digits of an escape.
static bool escape_digits(const uint8_t *s, size_t n, size_t count, unsigned base, uint32_t *out)
{
    uint32_t c = 0;
    if (n < count)
        return false;
    for (size_t i = 0; i < count; i++) {
        unsigned c1 = s[i], d = c1 >= '0' && c1 <= '9' ? c1 - '0' : (c1 | 0x20) - 'a' + 10;
        if (d >= base || (c1 > '9' && (c1 | 0x20) < 'a'))
            return false;
        c = c * base + d;
    }
    *out = c;
    return true;
}

// The escape behind a backslash at s[0..n): bytes it takes, what it means. 0: no such escape, the
// backslash stays. -1: an error.
static int escape(const uint8_t *s, size_t n, uint32_t *c)
{
    static const char names[] = "\\'\"abfnrtv", means[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = s[0] ? strchr(names, s[0]) : NULL;
    if (simple) {
        *c = (uint8_t)means[simple - names];
        return 1;
    }
    if (s[0] >= '0' && s[0] <= '7') {
        size_t k = 1;
        while (k < 3 && k < n && s[k] >= '0' && s[k] <= '7')
            k++;
        return escape_digits(s, n, k, 8, c) ? (int)k : -1;
    }
    size_t count = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    if (count == 0)
        return s[0] == 'N' ? -1 : 0;
    bool ok = escape_digits(s + 1, n - 1, count, 16, c);
    return ok && *c < 0x110000 && (*c < 0xd800 || *c > 0xdfff) ? (int)count + 1 : -1;
}

static enum status string(struct lexer *l)
{
    uint8_t quote = l->s[l->at];
    size_t end = l->at + 1;
    while (end < l->n && l->s[end] != quote)
        end += l->s[end] == '\\' ? 2 : 1;
    if (end >= l->n)
        return fail(l, "a string does not end");
    uint8_t *to = arena_take(l->arena, end - l->at + 1);
    if (!to)
        return status_fail(l->err, STATUS_TOO_LARGE, "the template is too large");
    size_t n = 0;
    for (size_t i = l->at + 1; i < end;) {
        uint32_t c = 0;
        if (l->s[i] != '\\') {
            to[n++] = l->s[i++];
            continue;
        }
        i++;
        if (l->s[i] == '\n') { // a line that goes on
            i++;
            continue;
        }
        int k = escape(l->s + i, end - i, &c);
        if (k < 0)
            return fail(l, "a string has an escape that is not understood");
        if (k == 0)
            to[n++] = '\\';
        else
            n += unicode_encode(c, to + n);
        i += (size_t)k;
    }
    l->at = end + 1;
    return emit(l, (struct template_token){.kind = TOKEN_STRING, .data = to, .n = n});
}

static enum status operator_(struct lexer *l)
{
    static const char *const pairs[] = {"**", "//", "==", "!=", ">=", "<="};
    const uint8_t *s = l->s + l->at;
    struct template_token token = {.kind = TOKEN_OP, .op = s[0]};
    for (size_t i = 0; i < COUNT_OF(pairs); i++)
        if (l->at + 1 < l->n && memcmp(s, pairs[i], 2) == 0)
            token.op = TEMPLATE_OP2(pairs[i][0], pairs[i][1]);
    if (s[0] == '\0' || !strchr("+-*/%~[](){}><=.:|,;", s[0])) {
        if (token.op < 256)
            return fail(l, "a character is not part of the language");
    }
    static const char open[] = "([{", shut[] = ")]}";
    const char *o = token.op < 256 ? strchr(open, (int)token.op) : NULL;
    const char *c = token.op < 256 ? strchr(shut, (int)token.op) : NULL;
    if (o) {
        if (l->n_brackets == BRACKETS_MAX)
            return fail(l, "brackets are nested too deep");
        l->bracket[l->n_brackets++] = shut[o - open];
    } else if (c) {
        if (l->n_brackets == 0 || l->bracket[--l->n_brackets] != *c)
            return fail(l, "a bracket closes what was not opened");
    }
    TRY(emit(l, token));
    l->at += token.op < 256 ? 1 : 2;
    return STATUS_OK;
}

static enum status name(struct lexer *l)
{
    size_t end = l->at;
    while (end < l->n) {
        size_t k;
        uint32_t c = unicode_decode(l->s + end, l->n - end, &k);
        if (!(c == '_' || unicode_is_word(c)))
            break;
        end += k;
    }
    if (end == l->at)
        return operator_(l);
    struct template_token token = {.kind = TOKEN_NAME, .data = l->s + l->at, .n = end - l->at};
    TRY(emit(l, token));
    l->at = end;
    return STATUS_OK;
}

// Tokens up to the closing mark.
static enum status expression(struct lexer *l, bool output)
{
    l->n_brackets = 0;
    for (;;) {
        l->at = skip_space(l, l->at);
        if (l->at >= l->n)
            return fail(l, output ? "the template ends in an expression, expected \"}}\""
                                  : "the template ends in a tag, expected \"%}\"");
        size_t end = l->n_brackets == 0 ? closing(l, l->at, output ? "}}" : "%}", output) : 0;
        if (end) {
            TRY(emit(
                l, (struct template_token){.kind = output ? TOKEN_OUTPUT_END : TOKEN_BLOCK_END}));
            move_to(l, end);
            return STATUS_OK;
        }
        uint8_t c = l->s[l->at];
        if (c >= '0' && c <= '9')
            TRY(number(l));
        else if (c == '\'' || c == '"')
            TRY(string(l));
        else
            TRY(name(l));
    }
}

// ---- the whole source --------------------------------------------------------------------------

// A "{{", "{%" or "{#" at `at`, the text before it from l->at on.
static enum status tag(struct lexer *l, size_t at)
{
    uint8_t kind = l->s[at + 1], sign = sign_at(l, at + 2);
    TRY(emit_data(l, l->at, text_end(l, l->at, at, sign, kind == '{')));
    size_t raw_end = kind == '%' ? word_tag(l, at, "raw", false) : 0;
    if (raw_end) {
        move_to(l, raw_end);
        return raw(l);
    }
    move_to(l, at + 2 + (sign != 0));
    if (kind == '#')
        return comment(l);
    TRY(emit(
        l, (struct template_token){.kind = kind == '{' ? TOKEN_OUTPUT_BEGIN : TOKEN_BLOCK_BEGIN}));
    return expression(l, kind == '{');
}

static size_t find_tag(const struct lexer *l)
{
    for (size_t i = l->at; i + 1 < l->n; i++) {
        const uint8_t *brace = memchr(l->s + i, '{', l->n - i - 1);
        if (!brace)
            break;
        i = (size_t)(brace - l->s);
        if (brace[1] == '{' || brace[1] == '%' || brace[1] == '#')
            return i;
    }
    return l->n;
}

// "\r\n" and "\r" become "\n"; the last newline goes.
static uint8_t *normalize(struct arena *arena, const uint8_t *source, size_t *n)
{
    uint8_t *to = arena_take(arena, *n + 1);
    size_t k = 0;
    for (size_t i = 0; to && i < *n; i++) {
        if (source[i] == '\r' && i + 1 < *n && source[i + 1] == '\n')
            continue;
        to[k++] = source[i] == '\r' ? '\n' : source[i];
    }
    *n = k > 0 && to[k - 1] == '\n' ? k - 1 : k;
    return to;
}

enum status template_lex(struct arena *arena, const uint8_t *source, size_t n,
    struct template_token **out, struct error *err)
{
    if (!utf8_valid(source, n))
        return status_fail(err, STATUS_INVALID, "the template is not valid UTF-8");
    struct lexer l = {.line = 1, .line_starting = true, .arena = arena, .err = err, .n = n};
    l.s = normalize(arena, source, &l.n);
    if (!l.s)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the template");
    while (l.at < l.n) {
        size_t next = find_tag(&l);
        if (next == l.n) {
            TRY(emit_data(&l, l.at, l.n));
            break;
        }
        TRY(tag(&l, next));
    }
    TRY(emit(&l, (struct template_token){.kind = TOKEN_END}));
    *out = l.tokens;
    return STATUS_OK;
}
