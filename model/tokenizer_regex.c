// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_regex.h"

#include "base/check.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { REGEX_DEPTH_MAX = 100 };

struct translator {
    const char *text;
    size_t n;
    size_t i; // what is read next
    struct buf *out;
    size_t atom; // where in `out` the last thing that can be repeated begins
    struct {
        size_t begin;   // in `out`
        unsigned extra; // further parentheses to close with this one
    } open[REGEX_DEPTH_MAX];
    size_t depth; // open[0] is the whole expression
    const char *where;
    struct error *err;
};

static enum status refuse(const struct translator *t, const char *what)
{
    return status_fail(t->err, STATUS_UNSUPPORTED,
        "%s: the regular expression uses %s (near byte %zu of it), which is not supported",
        t->where, what, t->i);
}

static void put(struct translator *t, const char *s)
{
    buf_append(t->out, s, strlen(s));
}

static char peek(const struct translator *t, size_t ahead)
{
    return t->i + ahead < t->n ? t->text[t->i + ahead] : '\0';
}

// Copies the next `k` bytes, as far as there are any.
static void copy(struct translator *t, size_t k)
{
    if (k > t->n - t->i)
        k = t->n - t->i;
    buf_append(t->out, t->text + t->i, k);
    t->i += k;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool copy_braced(struct translator *t)
{
    const char *close = memchr(t->text + t->i, '}', t->n - t->i);
    if (!close)
        return false;
    copy(t, (size_t)(close - (t->text + t->i)) + 1);
    return true;
}

// What \w matches in a class, and outside of one: there, Oniguruma's table for Latin-1 adds the
// superscript digits and the fractions.
#define WORD_MEMBERS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD WORD_MEMBERS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

// Escapes that mean something else in PCRE2. `members` can stand in a class; an escape with a
// capital letter is the complement, which can stand there only if it is one property.
static const struct {
    char letter, complement;
    const char *outside, *members;
    const char *complement_members;
} CLASS_ESCAPES[] = {
    {'s', 'S', "\\p{White_Space}", "\\p{White_Space}", "\\P{White_Space}"},
    {'d', 'D', "\\p{Nd}", "\\p{Nd}", "\\P{Nd}"},
    {'w', 'W', WORD, WORD_MEMBERS, NULL},
    {'h', 'H', "0-9a-fA-F", "0-9a-fA-F", NULL},
};

// Names in \p{...} and [[:...:]] that PCRE2 does not have, or has with another meaning.
static const struct {
    const char *name; // lower case, without separators
    const char *members;
} PROPERTIES[] = {
    {"alpha", "\\p{Alphabetic}"},
    {"upper", "\\p{Uppercase}"},
    {"lower", "\\p{Lowercase}"},
    {"digit", "\\p{Nd}"},
    {"alnum", "\\p{Alphabetic}\\p{Nd}"},
    {"space", "\\p{White_Space}"},
    {"punct", "\\p{P}\\p{S}"},
    {"word", WORD_MEMBERS},
    {"xdigit", "0-9a-fA-F"},
    {"letter", "\\p{L}"},
    {"uppercaseletter", "\\p{Lu}"},
    {"lowercaseletter", "\\p{Ll}"},
    {"titlecaseletter", "\\p{Lt}"},
    {"modifierletter", "\\p{Lm}"},
    {"otherletter", "\\p{Lo}"},
    {"mark", "\\p{M}"},
    {"number", "\\p{N}"},
    {"decimalnumber", "\\p{Nd}"},
    {"punctuation", "\\p{P}"},
    {"symbol", "\\p{S}"},
    {"separator", "\\p{Z}"},
};

// The bare name of a property in lower case: "White_Space" -> "whitespace". Empty if too long.
static void bare_name(const char *name, size_t n, char out[32])
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        if (c == '_' || c == ' ' || c == '-')
            continue;
        if (k == 31) {
            out[0] = '\0';
            return;
        }
        out[k++] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
    }
    out[k] = '\0';
}

static void put_members(struct translator *t, const char *members, bool complement, bool in_class)
{
    if (!in_class)
        put(t, complement ? "[^" : "[");
    put(t, members);
    if (!in_class)
        put(t, "]");
}

// A name that is no short general category and no property of both dialects is that of a script;
// PCRE2 would take it for the wider Script_Extensions.
static bool is_script(const char *bare)
{
    static const char *const PROPERTIES_OF_BOTH[] = {"alphabetic", "whitespace", "lowercase",
        "uppercase", "any", "assigned", "ascii", "emoji", "emojipresentation", "emojimodifier",
        "emojimodifierbase", "emojicomponent", "extendedpictographic", "ideographic", "cased",
        "caseignorable", "idstart", "idcontinue", "xidstart", "xidcontinue", "math", "dash",
        "hexdigit", "asciihexdigit", "diacritic", "extender", "defaultignorablecodepoint",
        "variationselector", "joincontrol", "graphemeextend", "graphemebase", "quotationmark",
        "radical", "regionalindicator", "softdotted", "terminalpunctuation", "sentenceterminal",
        "unifiedideograph", "noncharactercodepoint", "bidicontrol", "patternwhitespace",
        "patternsyntax", "deprecated", "logicalorderexception", "idsbinaryoperator",
        "idstrinaryoperator", "changeswhenlowercased", "changeswhenuppercased",
        "changeswhentitlecased", "changeswhencasefolded", "changeswhencasemapped"};
    if (strlen(bare) <= 2 || strchr(bare, '&') || strchr(bare, ':') || strchr(bare, '='))
        return false;
    for (size_t i = 0; i < COUNT_OF(PROPERTIES_OF_BOTH); i++) {
        if (strcmp(bare, PROPERTIES_OF_BOTH[i]) == 0)
            return false;
    }
    return true;
}

// \p{name}, \P{name}, \p{^name} or [:name:]; the name lies at `name`.
static enum status property(
    struct translator *t, const char *name, size_t n, bool complement, bool in_class)
{
    char bare[32];
    bare_name(name, n, bare);
    for (size_t i = 0; i < COUNT_OF(PROPERTIES); i++) {
        const char *members = PROPERTIES[i].members;
        if (strcmp(bare, PROPERTIES[i].name) != 0)
            continue;
        if (in_class && complement && strncmp(members, "\\p{", 3) == 0 &&
            !strchr(members + 1, '\\')) {
            buf_printf(t->out, "\\P%s", members + 2);
            return STATUS_OK;
        }
        if (in_class && complement)
            return refuse(t, "the complement of several classes inside of a class");
        put_members(t, members, complement, in_class);
        return STATUS_OK;
    }
    buf_printf(
        t->out, "\\%c{%s%.*s}", complement ? 'P' : 'p', is_script(bare) ? "sc:" : "", (int)n, name);
    return STATUS_OK;
}

// At \p or \P.
static enum status property_escape(struct translator *t, bool in_class)
{
    bool complement = peek(t, 1) == 'P';
    const char *text = t->text + t->i;
    const char *close = peek(t, 2) == '{' ? memchr(text, '}', t->n - t->i) : NULL;
    if (!close || close - text > 64)
        return refuse(t, "\\p without a name in braces");
    const char *name = text + 3;
    if (*name == '^') {
        complement = !complement;
        name++;
    }
    t->i += (size_t)(close - text) + 1;
    return property(t, name, (size_t)(close - name), complement, in_class);
}

// At a backslash.
static enum status escape(struct translator *t, bool in_class)
{
    char c = peek(t, 1);
    for (size_t k = 0; k < COUNT_OF(CLASS_ESCAPES); k++) {
        bool complement = c == CLASS_ESCAPES[k].complement;
        if (c != CLASS_ESCAPES[k].letter && !complement)
            continue;
        const char *s = in_class ? CLASS_ESCAPES[k].members : CLASS_ESCAPES[k].outside;
        if (in_class && complement)
            s = CLASS_ESCAPES[k].complement_members;
        if (!s)
            return refuse(t, "\\W or \\H inside of a class");
        put_members(t, s, complement, in_class);
        t->i += 2;
        return STATUS_OK;
    }
    if (c == 'p' || c == 'P')
        return property_escape(t, in_class);
    if ((c == 'b' || c == 'B') && !in_class) {
        put(t, c == 'b' ? "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))"
                        : "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
        t->i += 2;
        return STATUS_OK;
    }
    if (c == 'u') {
        if (!is_hex(peek(t, 2)) || !is_hex(peek(t, 3)) || !is_hex(peek(t, 4)) ||
            !is_hex(peek(t, 5)))
            return refuse(t, "\\u without four hexadecimal digits");
        buf_printf(t->out, "\\x{%.4s}", t->text + t->i + 2);
        t->i += 6;
        return STATUS_OK;
    }
    if (c == 'O' || c == 'y' || c == 'Y' || c == 'Q')
        return refuse(t, "\\O, \\y, \\Y or \\Q");
    copy(t, 2);
    if ((c == 'x' || c == 'o') && peek(t, 0) == '{' && !copy_braced(t))
        return refuse(t, "an escape without its closing brace");
    return STATUS_OK;
}

// At [: inside of a class.
static enum status posix_class(struct translator *t)
{
    const char *text = t->text + t->i;
    const char *close = memmem(text, t->n - t->i, ":]", 2);
    bool complement = peek(t, 2) == '^';
    if (!close || close - text > 64)
        return refuse(t, "[: without :]");
    const char *name = text + (complement ? 3 : 2);
    char bare[32] = "";
    if (name < close)
        bare_name(name, (size_t)(close - name), bare);
    for (size_t i = 0; i < COUNT_OF(PROPERTIES); i++) {
        if (strcmp(bare, PROPERTIES[i].name) == 0) {
            t->i += (size_t)(close - text) + 2;
            return property(t, name, (size_t)(close - name), complement, true);
        }
    }
    copy(t, (size_t)(close - text) + 2);
    return STATUS_OK;
}

static enum status class_in(struct translator *t, size_t depth);

// The members of a class up to its `]` or to `&&`, without the brackets.
static enum status class_members(struct translator *t, size_t depth, bool *met_and)
{
    *met_and = false;
    for (bool first = true;; first = false) {
        char c = peek(t, 0);
        if (t->i >= t->n)
            return refuse(t, "a class without its closing bracket");
        if (c == ']' && !first)
            return STATUS_OK;
        if (c == '&' && peek(t, 1) == '&') {
            *met_and = true;
            return STATUS_OK;
        }
        if (c == '\\') {
            TRY(escape(t, true));
        } else if (c == '[' && peek(t, 1) == ':') {
            TRY(posix_class(t));
        } else if (c == '[') {
            // A nested class just adds its members, as long as it is no complement.
            bool inner_and = false;
            if (peek(t, 1) == '^' || depth >= REGEX_DEPTH_MAX)
                return refuse(t, "a nested complement of a class");
            t->i++;
            TRY(class_members(t, depth + 1, &inner_and));
            if (inner_and)
                return refuse(t, "&& in a nested class");
            t->i++;
        } else {
            copy(t, 1);
        }
    }
}

// One side of `&&`: a class of its own, in brackets or not.
static enum status class_operand(struct translator *t, size_t depth, bool *met_and)
{
    if (peek(t, 0) == '[' && peek(t, 1) != ':') {
        TRY(class_in(t, depth + 1));
        *met_and = peek(t, 0) == '&' && peek(t, 1) == '&';
        if (!*met_and && peek(t, 0) != ']')
            return refuse(t, "&& with more than one class on a side");
        return STATUS_OK;
    }
    put(t, "[");
    TRY(class_members(t, depth, met_and));
    put(t, "]");
    return STATUS_OK;
}

// Rewrites what was written since `begin`, a class, as the last of several that must all match.
static enum status class_intersection(
    struct translator *t, size_t depth, size_t begin, bool negated)
{
    struct buf first;
    buf_init(&first, t->out->size_max);
    bool more = true;
    enum status st = STATUS_OK;
    buf_append(&first, t->out->data + begin, t->out->size - begin);
    t->out->size = begin;
    put(t, negated ? "(?:(?!" : "(?:");
    while (more && st == STATUS_OK) {
        t->i += 2;
        put(t, "(?=");
        st = class_operand(t, depth, &more);
        put(t, ")");
    }
    buf_append(t->out, first.data, first.size);
    put(t, negated ? ")(?s:.))" : ")");
    buf_deinit(&first);
    return st;
}

// At the opening bracket of a class.
static enum status class_in(struct translator *t, size_t depth)
{
    if (depth >= REGEX_DEPTH_MAX)
        return refuse(t, "classes that are nested too deeply");
    size_t begin = t->out->size;
    t->i++;
    bool negated = peek(t, 0) == '^';
    if (negated)
        t->i++;
    bool met_and;
    put(t, negated ? "[^" : "[");
    TRY(class_members(t, depth, &met_and));
    put(t, "]");
    if (met_and) {
        if (negated && !buf_failed(t->out)) {
            // The complement is of the whole intersection, not of its first side.
            memmove(t->out->data + begin + 1, t->out->data + begin + 2, t->out->size - begin - 2);
            t->out->size--;
        }
        TRY(class_intersection(t, depth, begin, negated));
    }
    t->i++;
    return STATUS_OK;
}

// (?imx-imx) and (?imx-imx: : Oniguruma's m is PCRE2's s, and options without a colon reach to the
// end of the group, alternatives included.
static enum status options(struct translator *t)
{
    put(t, "(?");
    t->i += 2;
    for (; peek(t, 0) == 'i' || peek(t, 0) == 'm' || peek(t, 0) == '-'; t->i++)
        buf_append(t->out, peek(t, 0) == 'm' ? "s" : t->text + t->i, 1);
    char c = peek(t, 0);
    if (c != ':' && c != ')')
        return refuse(t, "an option other than i and m");
    t->i++;
    put(t, ":");
    if (c == ')') {
        t->open[t->depth].extra++;
        return STATUS_OK;
    }
    t->open[++t->depth].extra = 0;
    return STATUS_OK;
}

static enum status open_group(struct translator *t)
{
    if (t->depth + 1 >= REGEX_DEPTH_MAX)
        return refuse(t, "groups that are nested too deeply");
    if (peek(t, 1) == '*')
        return refuse(t, "(*");
    t->open[t->depth + 1].begin = t->out->size;
    char c = peek(t, 1) == '?' ? peek(t, 2) : '\0';
    if (c == 'i' || c == 'm' || c == '-' || c == 'x')
        return options(t);
    if (c == '#')
        return refuse(t, "a comment");
    t->open[++t->depth].extra = 0;
    copy(t, c ? 2 : 1);
    return STATUS_OK;
}

static void close_group(struct translator *t)
{
    copy(t, 1);
    if (t->depth == 0)
        return; // PCRE2 will complain
    for (unsigned k = t->open[t->depth].extra; k > 0; k--)
        put(t, ")");
    t->atom = t->open[t->depth--].begin;
}

// At an opening brace: {n}, {n,}, {,m}, {n,m} or just a brace. A plus behind it repeats the
// repetition, while PCRE2 would make it possessive.
static void braces(struct translator *t)
{
    size_t k = 1, digits = 0, commas = 0;
    for (; (peek(t, k) >= '0' && peek(t, k) <= '9') || (peek(t, k) == ',' && !commas); k++) {
        commas += peek(t, k) == ',';
        digits += peek(t, k) != ',';
    }
    if (peek(t, k) != '}' || !digits) {
        t->atom = t->out->size;
        copy(t, 1);
        return;
    }
    if (peek(t, 1) == ',') {
        put(t, "{0");
        t->i++;
        k--;
    }
    copy(t, k + 1);
    size_t atom = t->atom;
    if (peek(t, 0) != '+' || atom > t->out->size || !buf_extend(t->out, 3))
        return;
    t->i++;
    memmove(t->out->data + atom + 3, t->out->data + atom, t->out->size - atom - 3);
    memcpy(t->out->data + atom, "(?:", 3);
    put(t, ")+");
}

static enum status translate(struct translator *t)
{
    while (t->i < t->n && !buf_failed(t->out)) {
        char c = peek(t, 0);
        if (c == '(') {
            TRY(open_group(t));
        } else if (c == ')') {
            close_group(t);
        } else if (c == '{') {
            braces(t);
        } else if (c == '*' || c == '+' || c == '?') {
            copy(t, 1);
        } else {
            if (((uint8_t)c & 0xc0) != 0x80)
                t->atom = t->out->size;
            if (c == '[')
                TRY(class_in(t, 0));
            else if (c == '\\')
                TRY(escape(t, false));
            else
                copy(t, 1);
        }
    }
    for (unsigned k = t->open[0].extra; k > 0; k--)
        put(t, ")");
    return STATUS_OK;
}

enum status tokenizer_regex_translate(
    const char *regex, size_t n, const char *where, struct buf *out, struct error *err)
{
    struct translator t = {.text = regex, .n = n, .out = out, .where = where, .err = err};
    TRY(translate(&t));
    if (buf_failed(out))
        return status_fail(err, STATUS_TOO_LARGE, "%s: the regular expression is too long", where);
    return STATUS_OK;
}
