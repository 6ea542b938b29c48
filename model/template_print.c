// SPDX-License-Identifier: Apache-2.0
// str() and repr() of values, as Python prints them.
#include "model/template_internal.h"
#include "model/unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

// ---- numbers -----------------------------------------------------------------------------------

// The fewest digits that read back as `f`: d.ddd with the exponent apart.
static int shortest(double f, char digits[32], int *exponent)
{
    char text[40];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, f);
        if (strtod(text, NULL) == f)
            break;
    }
    char *e = strchr(text, 'e');
    *exponent = (int)strtol(e + 1, NULL, 10);
    int n = 0;
    for (char *p = text; p < e; p++)
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = '\0';
    return n;
}

size_t template_float_repr(double f, char out[TEMPLATE_FLOAT_CHARS])
{
    if (isnan(f))
        return (size_t)snprintf(out, TEMPLATE_FLOAT_CHARS, "nan");
    if (isinf(f))
        return (size_t)snprintf(out, TEMPLATE_FLOAT_CHARS, "%s", f < 0 ? "-inf" : "inf");
    char digits[32];
    int exponent, n = shortest(fabs(f), digits, &exponent);
    const char *sign = signbit(f) ? "-" : "";
    if (exponent < -4 || exponent >= 16)
        return (size_t)snprintf(out, TEMPLATE_FLOAT_CHARS, "%s%c%s%se%c%02d", sign, digits[0],
            n > 1 ? "." : "", digits + 1, exponent < 0 ? '-' : '+', abs(exponent));
    if (exponent < 0)
        return (size_t)snprintf(
            out, TEMPLATE_FLOAT_CHARS, "%s0.%.*s%s", sign, -exponent - 1, "0000", digits);
    if (n > exponent + 1)
        return (size_t)snprintf(out, TEMPLATE_FLOAT_CHARS, "%s%.*s.%s", sign, exponent + 1, digits,
            digits + exponent + 1);
    return (size_t)snprintf(out, TEMPLATE_FLOAT_CHARS, "%s%s%.*s.0", sign, digits, exponent + 1 - n,
        "0000000000000000");
}

static enum status put_number(
    struct template_run *r, struct template_builder *b, const struct template_value *v)
{
    char text[TEMPLATE_FLOAT_CHARS];
    size_t n = v->kind == TEMPLATE_FLOAT
                   ? template_float_repr(v->f, text)
                   : (size_t)snprintf(text, sizeof text, "%lld", (long long)v->i);
    return template_put_bytes(r, b, text, n);
}

// ---- texts -------------------------------------------------------------------------------------

static bool is_printable(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return c == ' ';
    default:
        return true;
    }
}

// What stands for a character in a quoted text; 0: itself.
static int quoted(uint32_t c, char quote, char out[12])
{
    static const char from[] = "\n\r\t", to[] = "nrt";
    const char *simple = c && c < 128 ? strchr(from, (int)c) : NULL;
    if (simple)
        return snprintf(out, 12, "\\%c", to[simple - from]);
    if (c == '\\' || c == (uint32_t)quote)
        return snprintf(out, 12, "\\%c", (int)c);
    if (is_printable(c))
        return 0;
    return c < 0x100     ? snprintf(out, 12, "\\x%02x", c)
           : c < 0x10000 ? snprintf(out, 12, "\\u%04x", c)
                         : snprintf(out, 12, "\\U%08x", c);
}

static enum status put_quoted(
    struct template_run *r, struct template_builder *b, struct template_text text)
{
    bool single = template_text_find(text, TEMPLATE_LITERAL("'"), 0) != SIZE_MAX;
    bool both = template_text_find(text, TEMPLATE_LITERAL("\""), 0) != SIZE_MAX;
    char quote = single && !both ? '"' : '\'', escape[12];
    TRY(template_put_bytes(r, b, &quote, 1));
    for (size_t i = 0, k; i < text.n; i += k) {
        uint32_t c = unicode_decode(text.data + i, text.n - i, &k);
        int n = quoted(c, quote, escape);
        if (n)
            TRY(template_put_bytes(r, b, escape, (size_t)n));
        else
            TRY(template_put(r, b, template_cut(text, i, i + k)));
    }
    return template_put_bytes(r, b, &quote, 1);
}

// ---- lists and dicts ---------------------------------------------------------------------------

static enum status put(struct template_run *r, struct template_builder *b, const char *text)
{
    return template_put_bytes(r, b, text, strlen(text));
}

static enum status put_range(
    struct template_run *r, struct template_builder *b, const struct template_list *list)
{
    int64_t begin = list->n ? list->items[0].i : 0, end = list->stop;
    int64_t step = list->n > 1 ? list->items[1].i - begin : 1;

    char text[80];
    if (step == 1)
        snprintf(text, sizeof text, "range(%lld, %lld)", (long long)begin, (long long)end);
    else
        snprintf(text, sizeof text, "range(%lld, %lld, %lld)", (long long)begin, (long long)end,
            (long long)step);
    return put(r, b, text);
}

static enum status put_list(
    struct template_run *r, struct template_builder *b, const struct template_list *list)
{
    static const char *const open[] = {
        "[", "(", "", "dict_keys([", "dict_values([", "dict_items([", "<generator object ["};
    static const char *const shut[] = {"]", ")", "", "])", "])", "])", "]>"};
    if (list->form == TEMPLATE_FORM_RANGE)
        return put_range(r, b, list);
    TRY(put(r, b, open[list->form]));
    for (size_t i = 0; i < list->n; i++) {
        if (i)
            TRY(put(r, b, ", "));
        TRY(template_put_repr(r, b, &list->items[i]));
    }
    if (list->form == TEMPLATE_FORM_TUPLE && list->n == 1)
        TRY(put(r, b, ","));
    return put(r, b, shut[list->form]);
}

static enum status put_dict(
    struct template_run *r, struct template_builder *b, const struct template_dict *dict)
{
    TRY(put(r, b, "{"));
    for (size_t i = 0; i < dict->n; i++) {
        if (i)
            TRY(put(r, b, ", "));
        TRY(template_put_repr(r, b, &dict->pairs[i].key));
        TRY(put(r, b, ": "));
        TRY(template_put_repr(r, b, &dict->pairs[i].value));
    }
    return put(r, b, "}");
}

static enum status put_other(
    struct template_run *r, struct template_builder *b, const struct template_value *v)
{
    char text[96];
    if (v->kind == TEMPLATE_MACRO) {
        TRY(put(r, b, "<Macro '"));
        TRY(template_put(r, b, v->macro->node->name->text));
        return put(r, b, "'>");
    }
    snprintf(text, sizeof text, "<%s>", template_type_name(v));
    return put(r, b, text);
}

enum status template_put_repr(
    struct template_run *r, struct template_builder *b, const struct template_value *v)
{
    TRY(template_enter(r));
    TRY(template_step(r, 1));
    enum status st;
    switch (v->kind) {
    case TEMPLATE_UNDEFINED:
        st = put(r, b, "Undefined");
        break;
    case TEMPLATE_NONE:
        st = put(r, b, "None");
        break;
    case TEMPLATE_BOOL:
        st = put(r, b, v->truth ? "True" : "False");
        break;
    case TEMPLATE_INT:
    case TEMPLATE_FLOAT:
        st = put_number(r, b, v);
        break;
    case TEMPLATE_TEXT:
        st = put_quoted(r, b, *v->text);
        break;
    case TEMPLATE_LIST:
        st = put_list(r, b, v->list);
        break;
    case TEMPLATE_NAMESPACE:
        st = put(r, b, "<Namespace ");
        if (st == STATUS_OK)
            st = put_dict(r, b, v->dict);
        if (st == STATUS_OK)
            st = put(r, b, ">");
        break;
    case TEMPLATE_DICT:
        st = put_dict(r, b, v->dict);
        break;
    default:
        st = put_other(r, b, v);
        break;
    }
    template_leave(r);
    return st;
}

enum status template_put_str(
    struct template_run *r, struct template_builder *b, const struct template_value *v)
{
    if (v->kind == TEMPLATE_TEXT)
        return template_put(r, b, *v->text);
    if (v->kind == TEMPLATE_UNDEFINED)
        return STATUS_OK;
    return template_put_repr(r, b, v);
}

enum status template_str(
    struct template_run *r, const struct template_value *v, struct template_text *out)
{
    if (v->kind == TEMPLATE_TEXT) {
        *out = *v->text;
        return STATUS_OK;
    }
    struct template_builder b = {0};
    TRY(template_put_str(r, &b, v));
    *out = template_built(&b);
    return STATUS_OK;
}
