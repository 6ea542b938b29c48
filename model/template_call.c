// SPDX-License-Identifier: Apache-2.0
// Calls: arguments, macros, and whatever else can be called.
#include "model/template_internal.h"

#include <string.h>

// ---- arguments ---------------------------------------------------------------------------------

// How many arguments and keywords there are at most, and the values behind * and **.
static enum status spread(struct template_run *r, const struct template_node *arg,
    struct template_value *value, size_t *n_args, size_t *n_keywords)
{
    TRY(template_eval(r, arg->a, value));
    struct template_list *items;
    switch (arg->op) {
    case '*':
        TRY(template_items(r, value, &items));
        *value = (struct template_value){.kind = TEMPLATE_LIST, .list = items};
        *n_args += items->n;
        break;
    case 's':
        if (value->kind != TEMPLATE_DICT)
            return template_type_error(r, value, "stands behind **, expected a dict");
        *n_keywords += value->dict->n;
        break;
    case '=':
        ++*n_keywords;
        break;
    default:
        ++*n_args;
        break;
    }
    return STATUS_OK;
}

static enum status add_keyword(struct template_run *r, struct template_call *call,
    struct template_text name, const struct template_value *value)
{
    TRY(template_step(r, 1 + call->n_keywords / 8));
    for (size_t i = 0; i < call->n_keywords; i++)
        if (template_text_equal(call->keywords[i].name, name))
            return status_fail(r->err, STATUS_INVALID,
                "the template calls something with two values for '%.*s'",
                (int)(name.n < 64 ? name.n : 64), (const char *)name.data);
    call->keywords[call->n_keywords++] = (struct template_keyword){name, *value};
    return STATUS_OK;
}

static enum status add(struct template_run *r, struct template_call *call,
    const struct template_node *arg, const struct template_value *value)
{
    if (arg->op == '*') {
        for (size_t i = 0; i < value->list->n; i++)
            call->args[call->n_args++] = value->list->items[i];
    } else if (arg->op == 's') {
        for (size_t i = 0; i < value->dict->n; i++) {
            const struct template_pair *p = &value->dict->pairs[i];
            if (p->key.kind != TEMPLATE_TEXT)
                return template_type_error(r, &p->key, "names an argument, expected a text");
            TRY(add_keyword(r, call, *p->key.text, &p->value));
        }
    } else if (arg->op == '=') {
        return add_keyword(r, call, arg->name->text, value);
    } else {
        call->args[call->n_args++] = *value;
    }
    return STATUS_OK;
}

enum status template_call_args(
    struct template_run *r, const struct template_node *list, struct template_call *out)
{
    size_t count = 0, n_args = 0, n_keywords = 0, i = 0;
    for (const struct template_node *n = list; n; n = n->next)
        count++;
    if (count == 0)
        return STATUS_OK;
    struct template_value *values = arena_array(&r->arena, count, sizeof *values);
    if (!values)
        return template_no_memory(r);
    for (const struct template_node *n = list; n; n = n->next)
        TRY(spread(r, n, &values[i++], &n_args, &n_keywords));
    TRY(template_step(r, n_args + n_keywords));
    out->args = arena_array(&r->arena, n_args, sizeof *out->args);
    out->keywords = arena_array(&r->arena, n_keywords, sizeof *out->keywords);
    if (!out->args || !out->keywords)
        return template_no_memory(r);
    i = 0;
    for (const struct template_node *n = list; n; n = n->next)
        TRY(add(r, out, n, &values[i++]));
    return STATUS_OK;
}

// The slot named `name` among the words of `names`, or -1.
static int slot_of(const char *names, struct template_text name)
{
    for (int i = 0; *names; i++) {
        size_t n = strcspn(names, " ");
        if (name.n == n && memcmp(names, name.data, n) == 0)
            return i;
        names += n + (names[n] == ' ');
    }
    return -1;
}

enum status template_call_bind(struct template_run *r, const struct template_call *call,
    const char *names, const struct template_value *slots[TEMPLATE_SLOTS_MAX])
{
    size_t n = *names != '\0';
    for (const char *p = names; *p; p++)
        n += *p == ' ';
    check(n <= TEMPLATE_SLOTS_MAX);
    for (size_t i = 0; i < TEMPLATE_SLOTS_MAX; i++)
        slots[i] = NULL;
    if (call->n_args > n)
        return status_fail(r->err, STATUS_INVALID,
            "in the template %s takes at most %zu arguments, got %zu", call->name, n, call->n_args);
    for (size_t i = 0; i < call->n_args; i++)
        slots[i] = &call->args[i];
    for (size_t i = 0; i < call->n_keywords; i++) {
        struct template_text name = call->keywords[i].name;
        int slot = slot_of(names, name);
        if (slot < 0 || slots[slot])
            return status_fail(r->err, STATUS_INVALID, "in the template %s got %s argument '%.*s'",
                call->name, slot < 0 ? "an unexpected" : "two values for",
                (int)(name.n < 64 ? name.n : 64), (const char *)name.data);
        slots[slot] = &call->keywords[i].value;
    }
    return STATUS_OK;
}

enum status template_slot_int(struct template_run *r, const struct template_call *call,
    const struct template_value *slot, int64_t missing, int64_t *out)
{
    *out = missing;
    if (!slot || template_as_int(slot, out))
        return STATUS_OK;
    TRY(template_use_undefined(r, slot));
    return status_fail(r->err, STATUS_INVALID,
        "in the template %s is given a %s, expected an integer", call->name,
        template_type_name(slot));
}

enum status template_slot_text(struct template_run *r, const struct template_call *call,
    const struct template_value *slot, const char *missing, struct template_text *out)
{
    if (!slot && missing) {
        *out = (struct template_text){.data = (const uint8_t *)missing, .n = strlen(missing)};
        return STATUS_OK;
    }
    if (slot && slot->kind == TEMPLATE_TEXT) {
        *out = *slot->text;
        return STATUS_OK;
    }
    if (slot)
        TRY(template_use_undefined(r, slot));
    return status_fail(r->err, STATUS_INVALID, "in the template %s is given %s, expected a text",
        call->name, slot ? template_type_name(slot) : "nothing");
}

bool template_slot_truth(const struct template_value *slot, bool missing)
{
    return slot ? template_truth(slot) : missing;
}

// ---- macros ------------------------------------------------------------------------------------

static const struct template_keyword *keyword(
    const struct template_call *call, struct template_text name)
{
    for (size_t i = 0; i < call->n_keywords; i++)
        if (template_text_equal(call->keywords[i].name, name))
            return &call->keywords[i];
    return NULL;
}

// Sets the parameter number `i`; a default is evaluated where the macro runs.
static enum status set_parameter(struct template_run *r, const struct template_node *param,
    const struct template_call *call, size_t i)
{
    struct template_value value;
    const struct template_keyword *named = keyword(call, param->name->text);
    if (named && i < call->n_args)
        return status_fail(r->err, STATUS_INVALID,
            "the template calls a macro with two values for '%.*s'",
            (int)(param->name->text.n < 64 ? param->name->text.n : 64),
            (const char *)param->name->text.data);
    if (i < call->n_args)
        value = call->args[i];
    else if (named)
        value = named->value;
    else if (param->a)
        TRY(template_eval(r, param->a, &value));
    else
        TRY(template_make_undefined(r, &value, "parameter '%.*s' was not provided",
            (int)(param->name->text.n < 64 ? param->name->text.n : 64),
            (const char *)param->name->text.data));
    return template_exec_set(r, param->name, &value);
}

static enum status too_many(struct template_run *r, const struct template_node *n,
    struct template_text what, const char *why)
{
    return status_fail(r->err, STATUS_INVALID, "the template calls macro '%.*s' with %s%.*s",
        (int)(n->name->text.n < 64 ? n->name->text.n : 64), (const char *)n->name->text.data, why,
        (int)(what.n < 64 ? what.n : 64), (const char *)what.data);
}

static bool is_parameter(const struct template_node *n, struct template_text name)
{
    for (const struct template_node *p = n->params; p; p = p->next)
        if (template_text_equal(p->name->text, name))
            return true;
    return false;
}

// What the parameters did not take: varargs, kwargs, caller; an error where the body has no use of
// them.
static enum status set_rest(struct template_run *r, const struct template_node *n,
    const struct template_call *call, size_t n_params)
{
    struct template_value rest, caller;
    size_t extra = call->n_args > n_params ? call->n_args - n_params : 0;
    if (extra && !n->uses_varargs)
        return too_many(r, n, TEMPLATE_LITERAL(""), "more arguments than it takes");
    TRY(template_make_list(r, extra, TEMPLATE_FORM_TUPLE, &rest));
    for (size_t i = 0; i < extra; i++)
        rest.list->items[i] = call->args[n_params + i];
    if (n->uses_varargs)
        TRY(template_exec_set(r, r->t->names.varargs, &rest));
    TRY(template_make_undefined(r, &caller, "No caller defined"));
    TRY(template_make_dict(r, 0, &rest));
    for (size_t i = 0; i < call->n_keywords; i++) {
        struct template_value key;
        struct template_text name = call->keywords[i].name;
        if (is_parameter(n, name))
            continue;
        if (n->uses_caller && template_text_equal(name, r->t->names.caller->text)) {
            caller = call->keywords[i].value;
            continue;
        }
        if (!n->uses_kwargs)
            return too_many(r, n, name, "a keyword argument that it does not take: ");
        TRY(template_make_text(r, name, &key));
        TRY(template_dict_set(r, rest.dict, &key, &call->keywords[i].value));
    }
    if (n->uses_kwargs)
        TRY(template_exec_set(r, r->t->names.kwargs, &rest));
    if (n->uses_caller && !is_parameter(n, r->t->names.caller->text) && n->kind == NODE_MACRO)
        TRY(template_exec_set(r, r->t->names.caller, &caller));
    return STATUS_OK;
}

static enum status call_macro(struct template_run *r, const struct template_macro *macro,
    const struct template_call *call, struct template_value *out)
{
    struct template_scope *outer = r->scope;
    const struct template_node *n = macro->node;
    size_t i = 0;
    TRY(template_enter(r));
    TRY(template_scope_push(r, macro->scope));
    for (const struct template_node *p = n->params; p; p = p->next)
        TRY(set_parameter(r, p, call, i++));
    TRY(set_rest(r, n, call, i));
    TRY(template_exec_capture(r, n->list, out));
    r->scope = outer;
    template_leave(r);
    return STATUS_OK;
}

enum status template_call_value(struct template_run *r, const struct template_value *f,
    struct template_call *call, struct template_value *out)
{
    switch (f->kind) {
    case TEMPLATE_MACRO:
        return call_macro(r, f->macro, call, out);
    case TEMPLATE_GLOBAL:
        call->name = template_global_name(f->global);
        return template_global_call(r, f->global, call, out);
    case TEMPLATE_METHOD:
        call->self = f->method->self;
        return template_method_call(r, f->method, call, out);
    case TEMPLATE_COUNTER:
        return template_counter_call(r, f->counter, out);
    default:
        return template_type_error(r, f, "is called, expected a function");
    }
}
