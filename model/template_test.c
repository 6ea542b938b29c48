// SPDX-License-Identifier: Apache-2.0
// Tests: "x is defined". The table has Jinja's, but for `filter` and `test`.
#include "model/template_internal.h"
#include "model/unicode.h"

#include <string.h>
#include <utf8proc.h>

typedef enum status (*test_function)(
    struct template_run *r, const struct template_call *call, bool *out);

static enum status one_argument(
    struct template_run *r, const struct template_call *call, const struct template_value **out)
{
    *out = &call->self;
    if (call->n_args + call->n_keywords != 1)
        return status_fail(
            r->err, STATUS_INVALID, "in the template the test %s takes 1 argument", call->name);
    *out = call->n_args ? &call->args[0] : &call->keywords[0].value;
    return STATUS_OK;
}

// ---- kinds -------------------------------------------------------------------------------------

static enum status kind(struct template_run *r, const struct template_call *call, bool *out)
{
    const struct template_value *v = &call->self;
    (void)r;
    bool safe = v->kind == TEMPLATE_TEXT && v->text->safe;
    switch (call->name[0]) {
    case 'b': // boolean
        *out = v->kind == TEMPLATE_BOOL;
        break;
    case 'c': // callable
        *out = v->kind >= TEMPLATE_MACRO && v->kind != TEMPLATE_LOOP;
        break;
    case 'd': // defined
        *out = v->kind != TEMPLATE_UNDEFINED;
        break;
    case 'e': // escaped
        *out = safe;
        break;
    case 'f': // float, or false
        *out = call->name[1] == 'l' ? v->kind == TEMPLATE_FLOAT
                                    : v->kind == TEMPLATE_BOOL && !v->truth;
        break;
    case 'm': // mapping
        *out = v->kind == TEMPLATE_DICT;
        break;
    case 's': // string, or sequence
        *out = call->name[1] == 't'
                   ? v->kind == TEMPLATE_TEXT
                   : template_has_length(v) &&
                         (v->kind != TEMPLATE_LIST || v->list->form <= TEMPLATE_FORM_RANGE);
        break;
    case 't': // true
        *out = v->kind == TEMPLATE_BOOL && v->truth;
        break;
    default: // undefined
        *out = v->kind == TEMPLATE_UNDEFINED;
        break;
    }
    return STATUS_OK;
}

static enum status none(struct template_run *r, const struct template_call *call, bool *out)
{
    (void)r;
    *out = call->self.kind == TEMPLATE_NONE;
    return STATUS_OK;
}

static enum status number(struct template_run *r, const struct template_call *call, bool *out)
{
    double x;
    (void)r;
    *out = template_as_float(&call->self, &x);
    return STATUS_OK;
}

static enum status integer(struct template_run *r, const struct template_call *call, bool *out)
{
    (void)r;
    *out = call->self.kind == TEMPLATE_INT;
    return STATUS_OK;
}

static enum status iterable(struct template_run *r, const struct template_call *call, bool *out)
{
    (void)r;
    *out = call->self.kind == TEMPLATE_LIST || call->self.kind == TEMPLATE_LOOP ||
           template_has_length(&call->self);
    return STATUS_OK;
}

// str.isupper, str.islower: there is a letter with a case, and all have this one.
static enum status is_case(struct template_run *r, const struct template_call *call, bool *out)
{
    struct template_text text;
    bool upper = call->name[0] == 'u', other = false;
    *out = false;
    TRY(template_str(r, &call->self, &text));
    TRY(template_step(r, text.n / 64));
    for (size_t i = 0, k; i < text.n; i += k) {
        uint32_t c = unicode_decode(text.data + i, text.n - i, &k);
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
        bool is_upper = category == UTF8PROC_CATEGORY_LU,
             is_lower = category == UTF8PROC_CATEGORY_LL;
        *out |= upper ? is_upper : is_lower;
        other |= upper ? is_lower : is_upper;
    }
    *out = *out && !other;
    return STATUS_OK;
}

// ---- numbers -----------------------------------------------------------------------------------

static enum status remainder_is(struct template_run *r, const struct template_call *call,
    const struct template_value *by, int64_t wanted, bool *out)
{
    struct template_value rest, want = template_int(wanted);
    TRY(template_binary(r, '%', &call->self, by, &rest));
    return template_equal(r, &rest, &want, out);
}

static enum status even_odd(struct template_run *r, const struct template_call *call, bool *out)
{
    struct template_value two = template_int(2);
    return remainder_is(r, call, &two, call->name[0] == 'o', out);
}

static enum status divisible(struct template_run *r, const struct template_call *call, bool *out)
{
    const struct template_value *by;
    TRY(one_argument(r, call, &by));
    return remainder_is(r, call, by, 0, out);
}

// ---- comparisons -------------------------------------------------------------------------------

static enum status equal(struct template_run *r, const struct template_call *call, bool *out)
{
    const struct template_value *with;
    TRY(one_argument(r, call, &with));
    return template_equal(r, &call->self, with, out);
}

static enum status not_equal(struct template_run *r, const struct template_call *call, bool *out)
{
    TRY(equal(r, call, out));
    *out = !*out;
    return STATUS_OK;
}

// "lt", "le", "gt", "ge" and their longer names begin with '<' or '>' here.
static enum status order(struct template_run *r, const struct template_call *call, bool *out)
{
    const struct template_value *with;
    int o;
    TRY(one_argument(r, call, &with));
    TRY(template_order(r, &call->self, with, &o));
    bool less = call->name[0] == '<' || call->name[0] == 'l';
    bool or_equal = call->name[1] == '=' || call->name[1] == 'e';
    *out = o == (less ? -1 : 1) || (or_equal && o == 0);
    return STATUS_OK;
}

static enum status in(struct template_run *r, const struct template_call *call, bool *out)
{
    const struct template_value *list;
    TRY(one_argument(r, call, &list));
    return template_contains(r, list, &call->self, out);
}

static enum status same(struct template_run *r, const struct template_call *call, bool *out)
{
    const struct template_value *with;
    TRY(one_argument(r, call, &with));
    *out = call->self.kind == with->kind;
    if (*out && call->self.kind >= TEMPLATE_LIST)
        *out = call->self.macro == with->macro;
    else if (*out)
        return template_equal(r, &call->self, with, out);
    return STATUS_OK;
}

static enum status known_test(struct template_run *r, const struct template_call *call, bool *out)
{
    struct template_text name;
    TRY(template_str(r, &call->self, &name));
    *out = (call->name[0] == 't' ? template_test_find(name) : template_filter_find(name)) !=
           UINT32_MAX;
    return STATUS_OK;
}

// ---- the table ---------------------------------------------------------------------------------

static const struct {
    const char *name;
    test_function run;
} tests[] = {
    {"defined", kind},
    {"undefined", kind},
    {"none", none},
    {"boolean", kind},
    {"true", kind},
    {"false", kind},
    {"string", kind},
    {"mapping", kind},
    {"number", number},
    {"integer", integer},
    {"float", kind},
    {"sequence", kind},
    {"iterable", iterable},
    {"callable", kind},
    {"escaped", kind},
    {"upper", is_case},
    {"lower", is_case},
    {"even", even_odd},
    {"odd", even_odd},
    {"divisibleby", divisible},
    {"==", equal},
    {"eq", equal},
    {"equalto", equal},
    {"!=", not_equal},
    {"ne", not_equal},
    {"<", order},
    {"lt", order},
    {"lessthan", order},
    {"<=", order},
    {"le", order},
    {">", order},
    {"gt", order},
    {"greaterthan", order},
    {">=", order},
    {"ge", order},
    {"in", in},
    {"sameas", same},
    {"test", known_test},
    {"filter", known_test},
};

unsigned template_test_find(struct template_text name)
{
    for (unsigned i = 0; i < COUNT_OF(tests); i++)
        if (template_text_is(name, tests[i].name))
            return i;
    return UINT32_MAX;
}

enum status template_test_apply(
    struct template_run *r, unsigned which, struct template_call *call, bool *out)
{
    call->name = tests[which].name;

    return tests[which].run(r, call, out);
}
