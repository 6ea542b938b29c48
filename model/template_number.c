// SPDX-License-Identifier: Apache-2.0
// Arithmetic as Python does it, with integers of 64 bits: what does not fit is an error.
#include "model/template_internal.h"
#include "model/unicode.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum status overflow(struct template_run *r)
{
    return status_fail(
        r->err, STATUS_INVALID, "the template computes an integer of more than 63 bits");
}

static enum status by_zero(struct template_run *r)
{
    return status_fail(r->err, STATUS_INVALID, "the template divides by zero");
}

static const char *op_text(unsigned op, char text[3])
{
    text[0] = (char)(op > 255 ? op >> 8 : op);
    text[1] = (char)(op > 255 ? op & 255 : 0);
    text[2] = '\0';
    return text;
}

static enum status bad_operands(struct template_run *r, unsigned op, const struct template_value *a,
    const struct template_value *b)
{
    char text[3];
    TRY(template_use_undefined(r, a));
    TRY(template_use_undefined(r, b));
    return status_fail(r->err, STATUS_INVALID,
        "unsupported operand type(s) for %s in the template: '%s' and '%s'", op_text(op, text),
        template_type_name(a), template_type_name(b));
}

// ---- integers ----------------------------------------------------------------------------------

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static enum status int_power(
    struct template_run *r, int64_t a, int64_t b, struct template_value *out)
{
    if (b < 0) {
        if (a == 0)
            return by_zero(r);
        *out = template_float(pow((double)a, (double)b));
        return STATUS_OK;
    }
    int64_t x = 1;
    if (a >= -1 && a <= 1)
        x = b == 0 || a == 1 ? 1 : a == 0 ? 0 : b & 1 ? -1 : 1;
    else
        for (; b > 0; b--)
            if (__builtin_mul_overflow(x, a, &x))
                return overflow(r);
    *out = template_int(x);
    return STATUS_OK;
}

static enum status int_divide(
    struct template_run *r, unsigned op, int64_t a, int64_t b, struct template_value *out)
{
    if (b == 0)
        return by_zero(r);
    if (op == '/') {
        *out = template_float((double)a / (double)b);
        return STATUS_OK;
    }
    if (b == -1 && a == INT64_MIN) {
        *out = template_int(0);
        return op == '%' ? STATUS_OK : overflow(r);
    }
    *out = template_int(op == '%' ? a - floor_div(a, b) * b : floor_div(a, b));
    return STATUS_OK;
}

static enum status int_binary(
    struct template_run *r, unsigned op, int64_t a, int64_t b, struct template_value *out)
{
    int64_t x = 0;
    switch (op) {
    case '+':
        if (__builtin_add_overflow(a, b, &x))
            return overflow(r);
        break;
    case '-':
        if (__builtin_sub_overflow(a, b, &x))
            return overflow(r);
        break;
    case '*':
        if (__builtin_mul_overflow(a, b, &x))
            return overflow(r);
        break;
    case TEMPLATE_OP2('*', '*'):
        return int_power(r, a, b, out);
    default:
        return int_divide(r, op, a, b, out);
    }
    *out = template_int(x);
    return STATUS_OK;
}

// ---- floats ------------------------------------------------------------------------------------

static enum status float_binary(
    struct template_run *r, unsigned op, double a, double b, struct template_value *out)
{
    double x = 0;
    if (b == 0 && (op == '/' || op == '%' || op == TEMPLATE_OP2('/', '/')))
        return by_zero(r);
    switch (op) {
    case '+':
        x = a + b;
        break;
    case '-':
        x = a - b;
        break;
    case '*':
        x = a * b;
        break;
    case '/':
        x = a / b;
        break;
    case '%':
        x = fmod(a, b);
        if (x != 0 && (x < 0) != (b < 0))
            x += b;
        break;
    case TEMPLATE_OP2('/', '/'):
        x = floor(a / b);
        break;
    default:
        x = pow(a, b);
        if (isnan(x) && !isnan(a) && !isnan(b))
            return status_fail(r->err, STATUS_INVALID, "the template computes a complex number");
        break;
    }
    *out = template_float(x);
    return STATUS_OK;
}

// ---- texts and lists ---------------------------------------------------------------------------

static enum status join_texts(struct template_run *r, const struct template_text *a,
    const struct template_text *b, struct template_value *out)
{
    struct template_builder to = {0};
    bool safe = a->safe || b->safe;
    TRY(safe && !a->safe ? template_put_escaped(r, &to, *a) : template_put(r, &to, *a));
    TRY(safe && !b->safe ? template_put_escaped(r, &to, *b) : template_put(r, &to, *b));
    struct template_text text = template_built(&to);
    text.safe = safe;
    return template_make_text(r, text, out);
}

static enum status join_lists(struct template_run *r, const struct template_list *a,
    const struct template_list *b, struct template_value *out)
{
    TRY(template_step(r, a->n + b->n));
    TRY(template_make_list(r, a->n + b->n, a->form, out));
    if (a->n)
        memcpy(out->list->items, a->items, a->n * sizeof *a->items);
    if (b->n)
        memcpy(out->list->items + a->n, b->items, b->n * sizeof *b->items);
    return STATUS_OK;
}

static enum status repeat_text(
    struct template_run *r, struct template_text text, int64_t n, struct template_value *out)
{
    struct template_builder to = {0};
    if (text.n && n > (int64_t)(TEMPLATE_OUTPUT_BYTES_MAX / text.n) + 1)
        return status_fail(r->err, STATUS_TOO_LARGE,
            "the template makes a text of more than %zu bytes", TEMPLATE_OUTPUT_BYTES_MAX);
    for (; text.n && n > 0; n--)
        TRY(template_put(r, &to, text));
    return template_make_built(r, &to, out);
}

static enum status repeat_list(
    struct template_run *r, const struct template_list *list, int64_t n, struct template_value *out)
{
    size_t count = 0;
    if (n > 0 && list->n > 0) {
        if (__builtin_mul_overflow(list->n, (size_t)n, &count))
            count = SIZE_MAX;
        TRY(template_step(r, count));
    }
    TRY(template_make_list(r, count, list->form, out));
    for (size_t i = 0; i < count; i += list->n)
        memcpy(out->list->items + i, list->items, list->n * sizeof *list->items);
    return STATUS_OK;
}

static bool is_sequence(const struct template_value *v)
{
    return v->kind == TEMPLATE_LIST && v->list->form <= TEMPLATE_FORM_TUPLE;
}

static enum status repeat(
    struct template_run *r, const struct template_value *a, int64_t n, struct template_value *out)
{
    return a->kind == TEMPLATE_TEXT ? repeat_text(r, *a->text, n, out)
                                    : repeat_list(r, a->list, n, out);
}

static bool repeats(const struct template_value *v)
{
    return v->kind == TEMPLATE_TEXT || is_sequence(v);
}

enum status template_binary(struct template_run *r, unsigned op, const struct template_value *a,
    const struct template_value *b, struct template_value *out)
{
    int64_t i, k;
    double x, y;
    if (template_as_int(a, &i) && template_as_int(b, &k))
        return int_binary(r, op, i, k, out);
    if (template_as_float(a, &x) && template_as_float(b, &y))
        return float_binary(r, op, x, y, out);
    if (op == '%' && a->kind == TEMPLATE_TEXT)
        return template_format_percent(r, *a->text, b, out);
    if (op == '+' && a->kind == TEMPLATE_TEXT && b->kind == TEMPLATE_TEXT)
        return join_texts(r, a->text, b->text, out);
    if (op == '+' && is_sequence(a) && is_sequence(b) && a->list->form == b->list->form)
        return join_lists(r, a->list, b->list, out);
    if (op == '*' && repeats(a) && template_as_int(b, &k))
        return repeat(r, a, k, out);
    if (op == '*' && repeats(b) && template_as_int(a, &k))
        return repeat(r, b, k, out);
    return bad_operands(r, op, a, b);
}

enum status template_negate(
    struct template_run *r, const struct template_value *a, struct template_value *out)
{
    int64_t i;
    if (template_as_int(a, &i)) {
        struct template_value zero = template_int(0);
        return template_binary(r, '-', &zero, a, out);
    }
    if (a->kind == TEMPLATE_FLOAT) {
        *out = template_float(-a->f);
        return STATUS_OK;
    }
    TRY(template_use_undefined(r, a));
    return template_type_error(r, a, "cannot be negated");
}

// ---- reading -----------------------------------------------------------------------------------

// A copy without white space around it and without '_', zero-terminated; false if it is too long.
static bool digits_of(struct template_text text, char out[512])
{
    text = template_text_strip(text, NULL, true, true);
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++) {
        bool joint = text.data[i] == '_' && i > 0 && i + 1 < text.n && text.data[i - 1] != '_' &&
                     text.data[i + 1] != '_';
        if (joint)
            continue;
        if (n + 1 >= 512 || text.data[i] == '\0' || text.data[i] == '_')
            return false;
        out[n++] = (char)text.data[i];
    }
    out[n] = '\0';
    return n > 0;
}

bool template_parse_int(struct template_text text, int base, int64_t *out)
{
    char digits[512], *end;
    if (!digits_of(text, digits))
        return false;
    char *p = digits + (digits[0] == '+' || digits[0] == '-');
    if (base == 0 && p[0] == '0' && (p[1] | 0x20) == 'o')
        base = 8;
    bool prefixed = p[0] == '0' &&
                    ((base == 16 && (p[1] | 0x20) == 'x') || (base == 8 && (p[1] | 0x20) == 'o') ||
                        (base == 2 && (p[1] | 0x20) == 'b'));
    if (prefixed && base != 16)
        memmove(p, p + 2, strlen(p + 2) + 1);
    if (*p == '+' || *p == '-' || *p == ' ')
        return false;
    errno = 0;
    *out = strtoll(digits, &end, base);
    return errno == 0 && *end == '\0' && end > p;
}

bool template_parse_float(struct template_text text, double *out)
{
    char digits[512], *end;
    if (!digits_of(text, digits) || strpbrk(digits, "xXpP("))
        return false;
    *out = strtod(digits, &end);
    return *end == '\0';
}
