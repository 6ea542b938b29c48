// SPDX-License-Identifier: Apache-2.0
// Runs statements. What is set inside a for, macro, with or block stays in it.
#include "model/template_internal.h"

#include <string.h>

enum status template_scope_push(struct template_run *r, struct template_scope *parent)
{
    struct template_scope *scope = arena_take(&r->arena, sizeof *scope);
    if (!scope)
        return template_no_memory(r);
    scope->parent = parent;
    r->scope = scope;
    return STATUS_OK;
}

// ---- assignment --------------------------------------------------------------------------------

enum status template_exec_set(
    struct template_run *r, const struct template_name *name, const struct template_value *value)
{
    struct template_variable **at = &r->scope->first;
    while (*at && (*at)->name != name)
        at = &(*at)->next;
    if (!*at) {
        *at = arena_take(&r->arena, sizeof **at);
        if (!*at)
            return template_no_memory(r);
        (*at)->name = name;
    }
    (*at)->value = *value;
    return STATUS_OK;
}

static enum status set_field(
    struct template_run *r, const struct template_node *target, const struct template_value *value)
{
    struct template_value of, key;
    TRY(template_eval(r, target->a, &of));
    if (of.kind != TEMPLATE_NAMESPACE)
        return status_fail(r->err, STATUS_INVALID,
            "template line %u: cannot assign attribute on non-namespace object", target->line);
    TRY(template_make_text(r, target->name->text, &key));
    return template_dict_set(r, of.dict, &key, value);
}

static enum status unpack(
    struct template_run *r, const struct template_node *target, const struct template_value *value)
{
    struct template_list *items;
    TRY(template_items(r, value, &items));
    size_t i = 0;
    for (const struct template_node *t = target->list; t; t = t->next, i++) {
        if (i >= items->n)
            return status_fail(r->err, STATUS_INVALID,
                "template line %u: not enough values to unpack, got %zu", target->line, items->n);
        TRY(template_exec_assign(r, t, &items->items[i]));
    }
    return i == items->n
               ? STATUS_OK
               : status_fail(r->err, STATUS_INVALID,
                     "template line %u: too many values to unpack, expected %zu", target->line, i);
}

enum status template_exec_assign(
    struct template_run *r, const struct template_node *target, const struct template_value *value)
{
    if (target->kind == NODE_NAME)
        return template_exec_set(r, target->name, value);
    return target->kind == NODE_ATTR ? set_field(r, target, value) : unpack(r, target, value);
}

// ---- blocks ------------------------------------------------------------------------------------

// Runs a body in a scope of its own below `parent`.
static enum status scoped(struct template_run *r, const struct template_node *list)
{
    struct template_scope *outer = r->scope;
    TRY(template_scope_push(r, outer));
    TRY(template_exec(r, list));
    r->scope = outer;
    return STATUS_OK;
}

enum status template_exec_capture(
    struct template_run *r, const struct template_node *list, struct template_value *out)
{
    struct template_builder b = {0}, *outer = r->out;
    r->out = &b;
    TRY(template_exec(r, list));
    r->out = outer;
    return template_make_built(r, &b, out);
}

static enum status captured_scoped(
    struct template_run *r, const struct template_node *list, struct template_value *out)
{
    struct template_scope *outer = r->scope;
    TRY(template_scope_push(r, outer));
    TRY(template_exec_capture(r, list, out));
    r->scope = outer;
    return STATUS_OK;
}

static enum status set_block(struct template_run *r, const struct template_node *n)
{
    struct template_value value;
    TRY(captured_scoped(r, n->list, &value));
    if (n->b)
        TRY(template_eval(r, n->b, &value));
    return template_exec_assign(r, n->a, &value);
}

static enum status filter_block(struct template_run *r, const struct template_node *n)
{
    struct template_value value;
    TRY(captured_scoped(r, n->list, &value));
    TRY(template_eval(r, n->a, &value));
    return template_put_str(r, r->out, &value);
}

static enum status with(struct template_run *r, const struct template_node *n)
{
    struct template_scope *outer = r->scope, *inner;
    TRY(template_scope_push(r, outer));
    inner = r->scope;
    for (const struct template_node *i = n->params; i; i = i->next) {
        struct template_value value;
        r->scope = outer; // values do not see the names beside them
        TRY(template_eval(r, i->b, &value));
        r->scope = inner;
        TRY(template_exec_assign(r, i->a, &value));
    }
    r->scope = inner;
    TRY(template_exec(r, n->list));
    r->scope = outer;
    return STATUS_OK;
}

// ---- macros ------------------------------------------------------------------------------------

static enum status make_macro(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_macro *macro = arena_take(&r->arena, sizeof *macro);
    if (!macro)
        return template_no_memory(r);
    *macro = (struct template_macro){.node = n, .scope = r->scope};
    *out = (struct template_value){.kind = TEMPLATE_MACRO, .macro = macro};
    return STATUS_OK;
}

static enum status call_block(struct template_run *r, const struct template_node *n)
{
    struct template_value f, value;
    struct template_call c = {.name = "a function"};
    TRY(template_eval(r, n->a->a, &f));
    TRY(template_use_undefined(r, &f));
    TRY(template_call_args(r, n->a->list, &c));
    struct template_keyword *more = arena_array(&r->arena, c.n_keywords + 1, sizeof *more);
    if (!more)
        return template_no_memory(r);
    if (c.n_keywords)
        memcpy(more, c.keywords, c.n_keywords * sizeof *more);
    more[c.n_keywords].name = r->t->names.caller->text;
    TRY(make_macro(r, n, &more[c.n_keywords].value));
    c.keywords = more;
    c.n_keywords++;
    TRY(template_call_value(r, &f, &c, &value));
    return template_put_str(r, r->out, &value);
}

// ---- statements --------------------------------------------------------------------------------

static enum status output(struct template_run *r, const struct template_node *n)
{
    struct template_value value;
    TRY(template_eval(r, n->a, &value));
    return template_put_str(r, r->out, &value);
}

static enum status if_(struct template_run *r, const struct template_node *n)
{
    for (;;) {
        bool truth;
        TRY(template_eval_truth(r, n->a, &truth));
        if (truth)
            return template_exec(r, n->list);
        // An elif is an if alone in the else.
        if (!n->orelse || n->orelse->kind != NODE_IF || n->orelse->next)
            return template_exec(r, n->orelse);
        n = n->orelse;
    }
}

static enum status assign(struct template_run *r, const struct template_node *n)
{
    struct template_value value;
    TRY(template_eval(r, n->b, &value));
    return template_exec_assign(r, n->a, &value);
}

static enum status define(struct template_run *r, const struct template_node *n)
{
    struct template_value value;
    TRY(make_macro(r, n, &value));
    return template_exec_set(r, n->name, &value);
}

static enum status statement(struct template_run *r, const struct template_node *n)
{
    switch (n->kind) {
    case NODE_DATA:
        return template_put(r, r->out, *n->value.text);
    case NODE_OUTPUT:
        return output(r, n);
    case NODE_IF:
        return if_(r, n);
    case NODE_FOR:
        return template_loop_run(r, n);
    case NODE_SET:
        return assign(r, n);
    case NODE_SET_BLOCK:
        return set_block(r, n);
    case NODE_MACRO:
        return define(r, n);
    case NODE_CALL_BLOCK:
        return call_block(r, n);
    case NODE_FILTER_BLOCK:
        return filter_block(r, n);
    case NODE_WITH:
        return with(r, n);
    case NODE_SCOPE:
        return scoped(r, n->list);
    case NODE_BREAK:
        r->flow = TEMPLATE_FLOW_BREAK;
        return STATUS_OK;
    case NODE_CONTINUE:
        r->flow = TEMPLATE_FLOW_CONTINUE;
        return STATUS_OK;
    default:
        check(false); // the parser puts no expression among statements
        return STATUS_INVALID;
    }
}

enum status template_exec(struct template_run *r, const struct template_node *list)
{
    TRY(template_enter(r));
    for (; list && r->flow == TEMPLATE_FLOW_ON; list = list->next) {
        TRY(template_step(r, 1));
        TRY(statement(r, list));
    }
    template_leave(r);
    return STATUS_OK;
}
