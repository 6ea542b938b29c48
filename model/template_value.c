// SPDX-License-Identifier: Apache-2.0
// What values are: truth, equality, order, length.
#include "model/template_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *template_type_name(const struct template_value *v)
{
    static const char *const names[] = {"Undefined", "NoneType", "bool", "int", "float", "str",
        "list", "dict", "Namespace", "Macro", "function", "method", "LoopContext", "function"};
    static const char *const forms[] = {
        "list", "tuple", "range", "dict_keys", "dict_values", "dict_items", "generator"};
    return v->kind == TEMPLATE_LIST ? forms[v->list->form] : names[v->kind];
}

enum status template_type_error(
    struct template_run *r, const struct template_value *v, const char *what)
{
    TRY(template_use_undefined(r, v));
    return status_fail(r->err, STATUS_INVALID, "in the template a value of type '%s' %s",
        template_type_name(v), what);
}

// ---- making ------------------------------------------------------------------------------------

enum status template_make_undefined(
    struct template_run *r, struct template_value *out, const char *format, ...)
{
    struct template_undefined *u = arena_take(&r->arena, sizeof *u);
    if (!u)
        return template_no_memory(r);
    va_list args;
    va_start(args, format);
    vsnprintf(u->text, sizeof u->text, format, args);
    va_end(args);

    *out = (struct template_value){.kind = TEMPLATE_UNDEFINED, .undefined = u};
    return STATUS_OK;
}

enum status template_use_undefined(struct template_run *r, const struct template_value *v)
{
    if (v->kind != TEMPLATE_UNDEFINED)
        return STATUS_OK;
    return status_fail(r->err, STATUS_INVALID, "in the template %s", v->undefined->text);
}

enum status template_make_list(
    struct template_run *r, size_t n, enum template_form form, struct template_value *out)
{
    struct template_list *list = arena_take(&r->arena, sizeof *list);
    struct template_value *items = arena_array(&r->arena, n, sizeof *items);
    if (!list || !items)
        return template_no_memory(r);
    TRY(template_step(r, n / 4));
    *list = (struct template_list){.items = items, .n = n, .form = form};
    *out = (struct template_value){.kind = TEMPLATE_LIST, .list = list};
    return STATUS_OK;
}

enum status template_make_dict(struct template_run *r, size_t capacity, struct template_value *out)
{
    struct template_dict *dict = arena_take(&r->arena, sizeof *dict);
    struct template_pair *pairs = arena_array(&r->arena, capacity, sizeof *pairs);
    if (!dict || !pairs)
        return template_no_memory(r);
    *dict = (struct template_dict){.pairs = pairs, .capacity = capacity};
    *out = (struct template_value){.kind = TEMPLATE_DICT, .dict = dict};
    return STATUS_OK;
}

enum status template_dict_find(struct template_run *r, const struct template_dict *dict,
    const struct template_value *key, const struct template_value **out)
{
    *out = NULL;
    bool hashable = (key->kind != TEMPLATE_LIST || key->list->form == TEMPLATE_FORM_TUPLE) &&
                    key->kind != TEMPLATE_DICT;
    if (!hashable)
        return template_type_error(r, key, "is used as a key of a dict");
    TRY(template_step(r, dict->n / 8));
    for (size_t i = 0; i < dict->n && !*out; i++) {
        bool equal = false;
        const struct template_value *k = &dict->pairs[i].key;
        if (k->kind == TEMPLATE_TEXT && key->kind == TEMPLATE_TEXT)
            equal = template_text_equal(*k->text, *key->text);
        else
            TRY(template_equal(r, k, key, &equal));
        if (equal)
            *out = &dict->pairs[i].value;
    }
    return STATUS_OK;
}

enum status template_dict_set(struct template_run *r, struct template_dict *dict,
    const struct template_value *key, const struct template_value *value)
{
    const struct template_value *there;
    TRY(template_dict_find(r, dict, key, &there));
    if (there) {
        for (size_t i = 0; i < dict->n; i++)
            if (&dict->pairs[i].value == there)
                dict->pairs[i].value = *value;
        return STATUS_OK;
    }
    if (dict->n == dict->capacity) {
        size_t capacity = dict->capacity ? dict->capacity * 2 : 4;
        struct template_pair *pairs = arena_array(&r->arena, capacity, sizeof *pairs);
        if (!pairs)
            return template_no_memory(r);
        if (dict->n)
            memcpy(pairs, dict->pairs, dict->n * sizeof *pairs);
        dict->pairs = pairs;
        dict->capacity = capacity;
    }
    dict->pairs[dict->n++] = (struct template_pair){*key, *value};
    return STATUS_OK;
}

// ---- truth and numbers -------------------------------------------------------------------------

bool template_truth(const struct template_value *v)
{
    switch (v->kind) {
    case TEMPLATE_UNDEFINED:
    case TEMPLATE_NONE:
        return false;
    case TEMPLATE_BOOL:
        return v->truth;
    case TEMPLATE_INT:
        return v->i != 0;
    case TEMPLATE_FLOAT:
        return v->f != 0;
    case TEMPLATE_TEXT:
        return v->text->n > 0;
    case TEMPLATE_LIST:
        return v->list->n > 0 || v->list->form == TEMPLATE_FORM_GENERATOR;
    case TEMPLATE_DICT:
        return v->dict->n > 0;
    default:
        return true;
    }
}

bool template_as_int(const struct template_value *v, int64_t *out)
{
    if (v->kind == TEMPLATE_INT)
        *out = v->i;
    else if (v->kind == TEMPLATE_BOOL)
        *out = v->truth;
    else
        return false;
    return true;
}

bool template_as_float(const struct template_value *v, double *out)
{
    int64_t i;
    if (v->kind == TEMPLATE_FLOAT)
        *out = v->f;
    else if (template_as_int(v, &i))
        *out = (double)i;
    else
        return false;
    return true;
}

bool template_has_length(const struct template_value *v)
{
    return v->kind == TEMPLATE_TEXT || v->kind == TEMPLATE_DICT || v->kind == TEMPLATE_UNDEFINED ||
           (v->kind == TEMPLATE_LIST && v->list->form != TEMPLATE_FORM_GENERATOR);
}

enum status template_length(struct template_run *r, const struct template_value *v, size_t *out)
{
    if (!template_has_length(v))
        return template_type_error(r, v, "has no length");
    switch (v->kind) {
    case TEMPLATE_TEXT:
        TRY(template_step(r, v->text->n / 64));
        *out = template_text_chars(*v->text);
        break;
    case TEMPLATE_LIST:
        *out = v->list->n;
        break;
    case TEMPLATE_DICT:
        *out = v->dict->n;
        break;
    default:

        *out = 0;
        break;
    }
    return STATUS_OK;
}

// ---- equality and order ------------------------------------------------------------------------

static enum status equal_lists(
    struct template_run *r, const struct template_list *a, const struct template_list *b, bool *out)
{
    *out = a == b;
    if (a == b || a->n != b->n || a->form != b->form || a->form > TEMPLATE_FORM_RANGE)
        return STATUS_OK;
    TRY(template_enter(r));
    *out = true;
    for (size_t i = 0; i < a->n && *out; i++) {
        TRY(template_step(r, 1));
        TRY(template_equal(r, &a->items[i], &b->items[i], out));
    }
    template_leave(r);
    return STATUS_OK;
}

static enum status equal_dicts(
    struct template_run *r, const struct template_dict *a, const struct template_dict *b, bool *out)
{
    *out = a == b;
    if (a == b || a->n != b->n)
        return STATUS_OK;
    TRY(template_enter(r));
    *out = true;
    for (size_t i = 0; i < a->n && *out; i++) {
        const struct template_value *other;
        TRY(template_dict_find(r, b, &a->pairs[i].key, &other));
        *out = other != NULL;
        if (other)
            TRY(template_equal(r, &a->pairs[i].value, other, out));
    }
    template_leave(r);
    return STATUS_OK;
}

enum status template_equal(struct template_run *r, const struct template_value *a,
    const struct template_value *b, bool *out)
{
    double x, y;
    int64_t i, k;
    if (template_as_int(a, &i) && template_as_int(b, &k)) {
        *out = i == k;
        return STATUS_OK;
    }
    if (template_as_float(a, &x) && template_as_float(b, &y)) {
        *out = x == y;
        return STATUS_OK;
    }
    *out = false;
    if (a->kind != b->kind)
        return STATUS_OK;
    switch (a->kind) {
    case TEMPLATE_UNDEFINED:
    case TEMPLATE_NONE:
        *out = true;
        return STATUS_OK;
    case TEMPLATE_TEXT:
        TRY(template_step(r, a->text->n / 64));
        *out = template_text_equal(*a->text, *b->text);
        return STATUS_OK;
    case TEMPLATE_LIST:
        return equal_lists(r, a->list, b->list, out);
    case TEMPLATE_DICT:
        return equal_dicts(r, a->dict, b->dict, out);
    case TEMPLATE_GLOBAL:
        *out = a->global == b->global;
        return STATUS_OK;
    default:
        *out = a->macro == b->macro; // what these are is where they are
        return STATUS_OK;
    }
}

static enum status order_lists(
    struct template_run *r, const struct template_list *a, const struct template_list *b, int *out)
{
    TRY(template_enter(r));
    size_t n = a->n < b->n ? a->n : b->n;
    *out = (a->n > b->n) - (a->n < b->n);
    for (size_t i = 0; i < n; i++) {
        bool equal;
        TRY(template_step(r, 1));
        TRY(template_equal(r, &a->items[i], &b->items[i], &equal));
        if (equal)
            continue;
        TRY(template_order(r, &a->items[i], &b->items[i], out));
        break;
    }
    template_leave(r);
    return STATUS_OK;
}

enum status template_order(struct template_run *r, const struct template_value *a,
    const struct template_value *b, int *out)
{
    double x, y;
    int64_t i, k;
    if (template_as_int(a, &i) && template_as_int(b, &k)) {
        *out = (i > k) - (i < k);
        return STATUS_OK;
    }
    if (template_as_float(a, &x) && template_as_float(b, &y)) {
        *out = isnan(x) || isnan(y) ? 2 : (x > y) - (x < y);
        return STATUS_OK;
    }
    if (a->kind == TEMPLATE_TEXT && b->kind == TEMPLATE_TEXT) {
        int c = template_text_compare(*a->text, *b->text);
        *out = (c > 0) - (c < 0);
        return STATUS_OK;
    }
    if (a->kind == TEMPLATE_LIST && b->kind == TEMPLATE_LIST && a->list->form == b->list->form &&
        a->list->form <= TEMPLATE_FORM_TUPLE)
        return order_lists(r, a->list, b->list, out);
    TRY(template_use_undefined(r, a));
    TRY(template_use_undefined(r, b));
    return status_fail(r->err, STATUS_INVALID,
        "the template compares values of the types '%s' and '%s', which have no order",
        template_type_name(a), template_type_name(b));
}

enum status template_contains(struct template_run *r, const struct template_value *in,
    const struct template_value *what, bool *out)
{
    *out = false;
    if (in->kind == TEMPLATE_TEXT) {
        if (what->kind != TEMPLATE_TEXT)
            return template_type_error(r, what, "is looked for in a text, expected a text");
        TRY(template_step(r, in->text->n / 64));
        *out = template_text_find(*in->text, *what->text, 0) != SIZE_MAX;
        return STATUS_OK;
    }
    if (in->kind == TEMPLATE_DICT) {
        const struct template_value *found;
        TRY(template_dict_find(r, in->dict, what, &found));
        *out = found != NULL;
        return STATUS_OK;
    }
    struct template_list *items;
    TRY(template_items(r, in, &items));
    for (size_t i = 0; i < items->n && !*out; i++) {
        TRY(template_step(r, 1));
        TRY(template_equal(r, &items->items[i], what, out));
    }
    return STATUS_OK;
}
