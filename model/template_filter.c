// SPDX-License-Identifier: Apache-2.0
// The table of filters, and those that make one value of one value.
#include "model/template_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    template_function run;
} filters[] = {
#define X(name) {#name, template_filter_##name},
    TEMPLATE_FILTERS(X)
#undef X
        {"d", template_filter_default},
    {"e", template_filter_escape},
    {"count", template_filter_length},
};

static const char *const without_arguments[] = {"abs", "capitalize", "escape", "e", "first",
    "forceescape", "items", "last", "length", "count", "list", "lower", "pprint", "reverse", "safe",
    "string", "title", "upper", "urlencode", "wordcount"};

unsigned template_filter_find(struct template_text name)
{
    for (unsigned i = 0; i < COUNT_OF(filters); i++)
        if (template_text_is(name, filters[i].name))
            return i;
    return UINT32_MAX;
}

enum status template_filter_apply(
    struct template_run *r, unsigned which, struct template_call *call, struct template_value *out)
{
    call->name = filters[which].name;
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    for (size_t i = 0; i < COUNT_OF(without_arguments); i++)
        if (strcmp(call->name, without_arguments[i]) == 0)
            TRY(template_call_bind(r, call, "", slots));
    TRY(template_enter(r));
    TRY(filters[which].run(r, call, out));
    template_leave(r);
    return STATUS_OK;
}

// ---- choosing ----------------------------------------------------------------------------------

enum status template_filter_default(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    TRY(template_call_bind(r, call, "default_value boolean", slots));
    bool missing = call->self.kind == TEMPLATE_UNDEFINED ||
                   (template_slot_truth(slots[1], false) && !template_truth(&call->self));
    if (!missing)
        *out = call->self;
    else if (slots[0])
        *out = *slots[0];
    else
        return template_make_text(r, TEMPLATE_LITERAL(""), out);
    return STATUS_OK;
}

enum status template_filter_attr(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text name;
    TRY(template_call_bind(r, call, "name", slots));
    TRY(template_slot_text(r, call, slots[0], NULL, &name));
    TRY(template_use_undefined(r, &call->self));
    if (call->self.kind != TEMPLATE_DICT)
        return template_get_attr(r, &call->self, name, out);
    // Fields of a dict are items, not attributes: only its methods are found.
    struct template_value bare = {.kind = TEMPLATE_DICT, .dict = &(struct template_dict){0}};
    TRY(template_get_attr(r, &bare, name, out));
    if (out->kind == TEMPLATE_METHOD)
        return template_get_attr(r, &call->self, name, out);
    return STATUS_OK;
}

// ---- numbers -----------------------------------------------------------------------------------

enum status template_filter_abs(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    double x;
    if (!template_as_float(&call->self, &x))
        return template_type_error(r, &call->self, "is given to abs, expected a number");
    if (x < 0)
        return template_negate(r, &call->self, out);
    *out = call->self.kind == TEMPLATE_BOOL ? template_int(call->self.truth) : call->self;
    return STATUS_OK;
}

static bool whole(double x, int64_t *out)
{
    if (!(fabs(x) < 9.2e18))
        return false;
    *out = (int64_t)x;
    return true;
}

enum status template_filter_int(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    int64_t base, i;
    double x;
    TRY(template_call_bind(r, call, "default base", slots));
    TRY(template_slot_int(r, call, slots[1], 10, &base));
    TRY(template_use_undefined(r, &call->self));
    if (base != 0 && (base < 2 || base > 36))
        return status_fail(
            r->err, STATUS_INVALID, "in the template int has base %lld", (long long)base);
    bool text = call->self.kind == TEMPLATE_TEXT;
    if (text && template_parse_int(*call->self.text, (int)base, &i))
        *out = template_int(i);
    else if (text && template_parse_float(*call->self.text, &x) && whole(x, &i))
        *out = template_int(i);
    else if (template_as_int(&call->self, &i))
        *out = template_int(i);
    else if (call->self.kind == TEMPLATE_FLOAT && whole(call->self.f, &i))
        *out = template_int(i);
    else
        *out = slots[0] ? *slots[0] : template_int(0);
    return STATUS_OK;
}

enum status template_filter_float(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    double x;
    TRY(template_call_bind(r, call, "default", slots));
    TRY(template_use_undefined(r, &call->self));
    bool read = call->self.kind == TEMPLATE_TEXT ? template_parse_float(*call->self.text, &x)
                                                 : template_as_float(&call->self, &x);
    *out = read ? template_float(x) : slots[0] ? *slots[0] : template_float(0);
    return STATUS_OK;
}

enum status template_filter_round(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text method;
    int64_t precision;
    double x;
    TRY(template_call_bind(r, call, "precision method", slots));
    TRY(template_slot_int(r, call, slots[0], 0, &precision));
    TRY(template_slot_text(r, call, slots[1], "common", &method));
    if (!template_as_float(&call->self, &x) || precision < -300 || precision > 300)
        return template_type_error(r, &call->self, "cannot be rounded");
    bool ceiling = template_text_is(method, "ceil");
    if (ceiling || template_text_is(method, "floor")) {
        double scale = pow(10, (double)precision);
        *out = template_float((ceiling ? ceil(x * scale) : floor(x * scale)) / scale);
        return STATUS_OK;
    }
    if (!template_text_is(method, "common"))
        return status_fail(
            r->err, STATUS_INVALID, "in the template round has a method that is not known");
    if (call->self.kind != TEMPLATE_FLOAT && precision >= 0) {
        *out = template_int((int64_t)x);
        return STATUS_OK;
    }
    if (precision < 0) {
        double scale = pow(10, (double)-precision);
        double y = nearbyint(x / scale) * scale;
        *out = call->self.kind == TEMPLATE_FLOAT ? template_float(y) : template_int((int64_t)y);
        return STATUS_OK;
    }
    char text[700];
    if (isfinite(x) && snprintf(text, sizeof text, "%.*f", (int)precision, x) < (int)sizeof text)
        x = strtod(text, NULL);
    *out = template_float(x);
    return STATUS_OK;
}

// ---- lengths and kinds -------------------------------------------------------------------------

enum status template_filter_length(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    size_t n;
    TRY(template_length(r, &call->self, &n));
    *out = template_int((int64_t)n);
    return STATUS_OK;
}

enum status template_filter_string(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_text text;
    TRY(template_str(r, &call->self, &text));
    return template_make_text(r, text, out);
}

enum status template_filter_pprint(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_builder b = {0};
    TRY(template_put_repr(r, &b, &call->self));
    return template_make_built(r, &b, out);
}

enum status template_filter_safe(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_text text;
    TRY(template_str(r, &call->self, &text));
    text.safe = true;
    return template_make_text(r, text, out);
}

static enum status escape(struct template_run *r, const struct template_call *call, bool again,
    struct template_value *out)
{
    struct template_text text;
    struct template_builder b = {0};
    TRY(template_str(r, &call->self, &text));
    if (!text.safe || again) {
        TRY(template_put_escaped(r, &b, text));
        text = template_built(&b);
    }
    text.safe = true;
    return template_make_text(r, text, out);
}

enum status template_filter_escape(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return escape(r, call, false, out);
}

enum status template_filter_forceescape(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return escape(r, call, true, out);
}

enum status template_filter_items(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    if (call->self.kind == TEMPLATE_UNDEFINED)
        return template_make_list(r, 0, TEMPLATE_FORM_GENERATOR, out);
    if (call->self.kind != TEMPLATE_DICT)
        return status_fail(r->err, STATUS_INVALID,
            "in the template items is given a %s, expected a mapping",
            template_type_name(&call->self));
    struct template_value method;
    struct template_call none = {.name = "items"};
    TRY(template_get_attr(r, &call->self, TEMPLATE_LITERAL("items"), &method));
    TRY(template_call_value(r, &method, &none, out));
    out->list->form = TEMPLATE_FORM_GENERATOR;
    return STATUS_OK;
}
