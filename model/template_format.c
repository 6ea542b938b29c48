// SPDX-License-Identifier: Apache-2.0
// "%s has %d items" % (x, n), and "{} has {n:>4} items".format(x, n=n): the conversions of texts
// and numbers that both have in common. What Python has beyond them is refused.
#include "model/template_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct spec {
    char fill[5];
    char align; // '<', '>', '^', '=', or 0
    bool plus, space, alternate, comma;
    int64_t width, precision; // precision -1: none
    char type;                // 0: none
};

enum { WIDTH_MAX = 10000, PRECISION_MAX = 100 };

static enum status bad(struct template_run *r, const char *what)
{
    return status_fail(r->err, STATUS_INVALID, "in the template a format %s", what);
}

// ---- one value by its specification ------------------------------------------------------------

static enum status put_padded(struct template_run *r, struct template_builder *b,
    const struct spec *s, struct template_text sign, struct template_text body)
{
    int64_t n = (int64_t)(template_text_chars(body) + sign.n);
    int64_t pad = s->width > n ? s->width - n : 0;
    char align = s->align ? s->align : '<';
    int64_t left = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    struct template_text fill = {.data = (const uint8_t *)(s->fill[0] ? s->fill : " "),
        .n = s->fill[0] ? strlen(s->fill) : 1};
    for (int64_t i = 0; i < left; i++)
        TRY(template_put(r, b, fill));
    TRY(template_put(r, b, sign));
    for (int64_t i = 0; align == '=' && i < pad; i++)
        TRY(template_put(r, b, fill));
    TRY(template_put(r, b, body));
    for (int64_t i = left; align != '=' && i < pad; i++)
        TRY(template_put(r, b, fill));
    return STATUS_OK;
}

static void add_commas(char *text, size_t room)
{
    size_t n = strlen(text), whole = strcspn(text, ".e");
    for (size_t at = whole; at > 3 && n + 2 < room; n++) {
        at -= 3;
        memmove(text + at + 1, text + at, n - at + 1);
        text[at] = ',';
    }
}

static enum status put_digits(
    struct template_run *r, struct template_builder *b, struct spec *s, bool negative, char *digits)
{
    const char *sign = negative ? "-" : s->plus ? "+" : s->space ? " " : "";
    if (!s->align)
        s->align = '>';
    return put_padded(r, b, s,
        (struct template_text){.data = (const uint8_t *)sign, .n = strlen(sign)},
        (struct template_text){.data = (const uint8_t *)digits, .n = strlen(digits)});
}

static enum status put_int(
    struct template_run *r, struct template_builder *b, struct spec *s, int64_t i)
{
    char digits[128];
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    int precision = s->precision > 0 ? (int)s->precision : 1;
    if (s->type == 'x')
        snprintf(digits, sizeof digits, "%s%.*llx", s->alternate ? "0x" : "", precision,
            (unsigned long long)u);
    else if (s->type == 'X')
        snprintf(digits, sizeof digits, "%s%.*llX", s->alternate ? "0X" : "", precision,
            (unsigned long long)u);
    else if (s->type == 'o')
        snprintf(digits, sizeof digits, "%s%.*llo", s->alternate ? "0o" : "", precision,
            (unsigned long long)u);
    else
        snprintf(digits, sizeof digits, "%.*llu", precision, (unsigned long long)u);
    if (s->comma)
        add_commas(digits, sizeof digits);
    return put_digits(r, b, s, i < 0, digits);
}

static enum status put_float(
    struct template_run *r, struct template_builder *b, struct spec *s, double f)
{
    char digits[512];
    double x = fabs(f);
    int precision = s->precision < 0 ? 6 : (int)s->precision;
    bool percent = s->type == '%';
    if (!s->type && s->precision < 0)
        template_float_repr(x, digits);
    else if (s->type == 'e')
        snprintf(digits, sizeof digits, "%.*e", precision, x);
    else if (s->type == 'E')
        snprintf(digits, sizeof digits, "%.*E", precision, x);
    else if (s->type == 'g' || !s->type)
        snprintf(digits, sizeof digits, "%.*g", precision, x);
    else if (s->type == 'G')
        snprintf(digits, sizeof digits, "%.*G", precision, x);
    else
        snprintf(
            digits, sizeof digits, "%.*f%s", precision, percent ? x * 100 : x, percent ? "%" : "");
    if (s->comma)
        add_commas(digits, sizeof digits);
    return put_digits(r, b, s, signbit(f), digits);
}

static enum status put_text(struct template_run *r, struct template_builder *b,
    const struct spec *s, struct template_text text)
{
    if (s->precision >= 0)
        text = template_cut(text, 0, template_text_offset(text, (size_t)s->precision));
    return put_padded(r, b, s, TEMPLATE_LITERAL(""), text);
}

// ---- % -----------------------------------------------------------------------------------------

struct percent {
    struct template_text format;
    size_t at;
    const struct template_value *args;
    size_t next;
    bool used_mapping;
};

static enum status next_arg(
    struct template_run *r, struct percent *p, const struct template_value **out)
{
    bool tuple = p->args->kind == TEMPLATE_LIST && p->args->list->form == TEMPLATE_FORM_TUPLE;
    size_t n = tuple ? p->args->list->n : 1;
    if (p->next >= n)
        return bad(r, "has more places than there are values");
    *out = tuple ? &p->args->list->items[p->next] : p->args;
    p->next++;
    return STATUS_OK;
}

static char peek(const struct percent *p)
{
    return p->at < p->format.n ? (char)p->format.data[p->at] : '\0';
}

static enum status read_number(
    struct template_run *r, struct percent *p, int64_t most, int64_t *out)
{
    const struct template_value *arg = NULL;
    *out = 0;
    if (peek(p) == '*') {
        p->at++;
        TRY(next_arg(r, p, &arg));
        if (!template_as_int(arg, out))
            return bad(r, "has a * that is no integer");
    }
    while (peek(p) >= '0' && peek(p) <= '9' && *out <= most)
        *out = *out * 10 + (peek(p) - '0'), p->at++;
    return *out > most || *out < -most ? bad(r, "is too wide") : STATUS_OK;
}

static enum status read_spec(struct template_run *r, struct percent *p, struct spec *s)
{
    *s = (struct spec){.align = '>', .precision = -1};
    for (;; p->at++) {
        char c = peek(p);
        if (c == '-')
            s->align = '<';
        else if (c == '+')
            s->plus = true;
        else if (c == ' ')
            s->space = true;
        else if (c == '#')
            s->alternate = true;
        else if (c == '0')
            s->fill[0] = '0';
        else
            break;
    }
    TRY(read_number(r, p, WIDTH_MAX, &s->width));
    if (s->width < 0) {
        s->align = '<';
        s->width = -s->width;
    }
    if (peek(p) == '.') {
        p->at++;
        TRY(read_number(r, p, PRECISION_MAX, &s->precision));
        if (s->precision < 0)
            s->precision = 0;
    }
    while (peek(p) == 'l' || peek(p) == 'h' || peek(p) == 'L')
        p->at++;
    s->type = peek(p);
    p->at++;
    if (s->align == '<')
        s->fill[0] = '\0';
    else if (s->fill[0])
        s->align = '=';
    return STATUS_OK;
}

static enum status put_percent(struct template_run *r, struct template_builder *b, struct spec *s,
    const struct template_value *arg)
{
    struct template_text text;
    struct template_builder quoted = {0};
    int64_t i;
    double f;
    if (s->type == 's' || s->type == 'r' || s->type == 'a') {
        s->fill[0] = '\0';
        s->align = s->align == '=' ? '>' : s->align;
        if (s->type == 's') {
            TRY(template_str(r, arg, &text));
            return put_text(r, b, s, text);
        }
        TRY(template_put_repr(r, &quoted, arg));
        return put_text(r, b, s, template_built(&quoted));
    }
    if (s->type == 'c' && arg->kind == TEMPLATE_TEXT && template_text_chars(*arg->text) == 1)
        return put_text(r, b, s, *arg->text);
    if (s->type && strchr("dixXou", s->type)) {
        bool whole = template_as_int(arg, &i);
        if (!whole && arg->kind == TEMPLATE_FLOAT && fabs(arg->f) < 9e18 &&
            strchr("diu", s->type)) {
            i = (int64_t)arg->f;
            whole = true;
        }
        return whole ? put_int(r, b, s, i) : bad(r, "needs an integer");
    }
    if (s->type && strchr("eEfFgG", s->type))
        return template_as_float(arg, &f) ? put_float(r, b, s, f) : bad(r, "needs a number");
    return bad(r, "has a conversion that is not supported");
}

// "(name)": the field of a mapping.
static enum status read_key(
    struct template_run *r, struct percent *p, const struct template_value **out)
{
    size_t begin = ++p->at;
    while (p->at < p->format.n && peek(p) != ')')
        p->at++;
    if (p->at >= p->format.n)
        return bad(r, "has a name that does not end");
    struct template_text name = template_cut(p->format, begin, p->at++);
    struct template_value key = {.kind = TEMPLATE_TEXT, .text = &name};
    if (p->args->kind != TEMPLATE_DICT)
        return bad(r, "needs a mapping");
    p->used_mapping = true;
    TRY(template_dict_find(r, p->args->dict, &key, out));
    return *out ? STATUS_OK : bad(r, "names a value that there is not");
}

enum status template_format_percent(struct template_run *r, struct template_text format,
    const struct template_value *args, struct template_value *out)
{
    struct percent p = {
        .format = format, .args = args, .used_mapping = args->kind == TEMPLATE_DICT};
    struct template_builder b = {0};
    TRY(template_use_undefined(r, args));
    while (p.at < format.n) {
        size_t percent = template_text_find(format, TEMPLATE_LITERAL("%"), p.at);
        TRY(template_put(r, &b, template_cut(format, p.at, percent)));
        if (percent == SIZE_MAX)
            break;
        p.at = percent + 1;
        const struct template_value *arg = NULL;
        struct spec s;
        if (peek(&p) == '(')
            TRY(read_key(r, &p, &arg));
        TRY(read_spec(r, &p, &s));
        TRY(template_step(r, 1));
        if (s.type == '%') {
            TRY(template_put_bytes(r, &b, "%", 1));
            continue;
        }
        if (!arg)
            TRY(next_arg(r, &p, &arg));
        TRY(put_percent(r, &b, &s, arg));
    }
    bool tuple = args->kind == TEMPLATE_LIST && args->list->form == TEMPLATE_FORM_TUPLE;
    size_t n = tuple ? args->list->n : args->kind == TEMPLATE_LIST || p.used_mapping ? 0 : 1;
    if (p.next < n)
        return bad(r, "has fewer places than there are values");
    return template_make_built(r, &b, out);
}

// ---- {} ----------------------------------------------------------------------------------------

struct braces {
    const struct template_call *call;
    size_t next;
};

// "0.name[key]": where the value of a field is.
static enum status find_field(
    struct template_run *r, struct braces *f, struct template_text path, struct template_value *out)
{
    size_t n = 0;
    while (n < path.n && path.data[n] != '.' && path.data[n] != '[')
        n++;
    struct template_text name = template_cut(path, 0, n), part;
    int64_t index = (int64_t)f->next;
    const struct template_value *found = NULL;
    if (n == 0)
        f->next++;
    if (n == 0 || template_parse_int(name, 10, &index)) {
        if (index >= 0 && (uint64_t)index < f->call->n_args)
            found = &f->call->args[index];
    } else {
        for (size_t i = 0; i < f->call->n_keywords; i++)
            if (template_text_equal(f->call->keywords[i].name, name))
                found = &f->call->keywords[i].value;
    }
    if (!found)
        return bad(r, "names a value that there is not");
    *out = *found;
    for (size_t at = n; at < path.n;) {
        bool bracket = path.data[at] == '[';
        size_t end = at + 1;
        while (end < path.n &&
               (bracket ? path.data[end] != ']' : path.data[end] != '.' && path.data[end] != '['))
            end++;
        if ((bracket && end >= path.n) || end == at + 1)
            return bad(r, "has a field that does not end");
        part = template_cut(path, at + 1, end);
        struct template_value of = *out, key = {.kind = TEMPLATE_TEXT, .text = &part};
        if (bracket && template_parse_int(part, 10, &index))
            key = template_int(index);
        TRY(bracket ? template_get_item(r, &of, &key, out) : template_get_attr(r, &of, part, out));
        TRY(template_use_undefined(r, out));
        at = end + bracket;
    }
    return STATUS_OK;
}

// "[[fill]align][sign][#][0][width][,][.precision][type]"
static enum status parse_spec(struct template_run *r, struct template_text text, struct spec *s)
{
    struct percent p = {.format = text};
    *s = (struct spec){.precision = -1};
    size_t first = text.n ? template_text_offset(text, 1) : 0;
    if (first < text.n && text.data[first] && strchr("<>^=", text.data[first])) {
        memcpy(s->fill, text.data, first);
        p.at = first;
    }
    if (peek(&p) && strchr("<>^=", peek(&p)))
        s->align = peek(&p), p.at++;
    if (peek(&p) == '+' || peek(&p) == ' ' || peek(&p) == '-') {
        s->plus = peek(&p) == '+';
        s->space = peek(&p) == ' ';
        p.at++;
    }
    if (peek(&p) == '#')
        s->alternate = true, p.at++;
    if (peek(&p) == '0' && !s->align) {
        s->fill[0] = '0';
        s->align = '=';
    }
    if (peek(&p) != '*')
        TRY(read_number(r, &p, WIDTH_MAX, &s->width));
    if (peek(&p) == ',')
        s->comma = true, p.at++;
    if (peek(&p) == '.') {
        p.at++;
        if (peek(&p) != '*')
            TRY(read_number(r, &p, PRECISION_MAX, &s->precision));
    }
    s->type = peek(&p);
    p.at += s->type != '\0';
    return p.at == text.n ? STATUS_OK : bad(r, "has a specification that is not supported");
}

static enum status put_field(struct template_run *r, struct template_builder *b,
    const struct template_value *value, struct template_text spec)
{
    struct spec s;
    struct template_text text;
    int64_t i;
    double f;
    TRY(parse_spec(r, spec, &s));
    bool number = template_as_int(value, &i) && (value->kind == TEMPLATE_INT || s.type);
    if (number && (!s.type || strchr("dxXon", s.type)))
        return put_int(r, b, &s, i);
    if (template_as_float(value, &f) &&
        ((s.type && strchr("eEfFgG%", s.type)) || (!s.type && value->kind == TEMPLATE_FLOAT)))
        return put_float(r, b, &s, f);
    if (s.type && s.type != 's')
        return bad(r, "has a type that does not fit the value");
    if (s.align == '=' && s.fill[0] != '0')
        return bad(r, "aligns a text as a number");
    if (s.align == '=')
        s.align = '<';
    TRY(template_str(r, value, &text));
    return put_text(r, b, &s, text);
}

// One "{...}" without its braces.
static enum status put_braces(struct template_run *r, struct template_builder *b, struct braces *f,
    struct template_text field)
{
    size_t colon = template_text_find(field, TEMPLATE_LITERAL(":"), 0);
    struct template_text spec =
        colon == SIZE_MAX ? TEMPLATE_LITERAL("") : template_cut(field, colon + 1, field.n);
    struct template_text path = template_cut(field, 0, colon);
    bool quoted = path.n >= 2 && path.data[path.n - 2] == '!';
    char conversion = quoted ? (char)path.data[path.n - 1] : 's';
    if (quoted)
        path = template_cut(path, 0, path.n - 2);
    struct template_value value;
    TRY(find_field(r, f, path, &value));
    if (conversion != 's' && conversion != 'r')
        return bad(r, "has a conversion that is not supported");
    if (quoted) {
        struct template_builder text = {0};
        TRY(conversion == 'r' ? template_put_repr(r, &text, &value)
                              : template_put_str(r, &text, &value));
        TRY(template_make_built(r, &text, &value));
    }
    return put_field(r, b, &value, spec);
}

enum status template_format_braces(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_text format = *call->self.text;
    struct template_builder b = {0};
    struct braces f = {.call = call};
    for (size_t at = 0; at < format.n;) {
        uint8_t c = format.data[at];
        if (c != '{' && c != '}') {
            size_t end = at;
            while (end < format.n && format.data[end] != '{' && format.data[end] != '}')
                end++;
            TRY(template_put(r, &b, template_cut(format, at, end)));
            at = end;
            continue;
        }
        if (at + 1 < format.n && format.data[at + 1] == c) {
            TRY(template_put(r, &b, template_cut(format, at, at + 1)));
            at += 2;
            continue;
        }
        size_t end = template_text_find(format, TEMPLATE_LITERAL("}"), at);
        if (c == '}' || end == SIZE_MAX)
            return bad(r, "has a single brace");
        struct template_text field = template_cut(format, at + 1, end);
        if (template_text_find(field, TEMPLATE_LITERAL("{"), 0) != SIZE_MAX)
            return bad(r, "has a field in a field, which is not supported");
        TRY(template_step(r, 1));
        TRY(put_braces(r, &b, &f, field));
        at = end + 1;
    }
    return template_make_built(r, &b, out);
}
