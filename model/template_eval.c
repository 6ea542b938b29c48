// SPDX-License-Identifier: Apache-2.0
// Evaluates expressions.
#include "model/template_internal.h"

#include <string.h>

// ---- names -------------------------------------------------------------------------------------

static enum status name(
    struct template_run *r, const struct template_name *what, struct template_value *out)
{
    for (const struct template_scope *s = r->scope; s; s = s->parent)
        for (const struct template_variable *v = s->first; v; v = v->next)
            if (v->name == what) {
                *out = v->value;
                return STATUS_OK;
            }
    if (template_global_find(what->text, out))
        return STATUS_OK;
    return template_make_undefined(r, out, "'%.*s' is undefined",
        (int)(what->text.n < 64 ? what->text.n : 64), (const char *)what->text.data);
}

// ---- displays ----------------------------------------------------------------------------------

static enum status list(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    size_t count = 0;
    for (const struct template_node *i = n->list; i; i = i->next)
        count++;
    TRY(template_make_list(
        r, count, n->kind == NODE_TUPLE ? TEMPLATE_FORM_TUPLE : TEMPLATE_FORM_LIST, out));
    struct template_value *to = out->list->items;
    for (const struct template_node *i = n->list; i; i = i->next)
        TRY(template_eval(r, i, to++));
    return STATUS_OK;
}

static enum status dict(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    TRY(template_make_dict(r, 0, out));
    for (const struct template_node *i = n->list; i; i = i->next) {
        struct template_value key, value;
        TRY(template_eval(r, i->a, &key));
        TRY(template_eval(r, i->b, &value));
        TRY(template_dict_set(r, out->dict, &key, &value));
    }
    return STATUS_OK;
}

static enum status concat(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_builder b = {0};
    for (const struct template_node *i = n->list; i; i = i->next) {
        struct template_value value;
        TRY(template_eval(r, i, &value));
        TRY(template_put_str(r, &b, &value));
    }
    return template_make_built(r, &b, out);
}

// ---- operators ---------------------------------------------------------------------------------

static enum status compare_one(struct template_run *r, unsigned op, const struct template_value *a,
    const struct template_value *b, bool *out)
{
    int order;
    switch (op) {
    case TEMPLATE_OP2('=', '='):
        return template_equal(r, a, b, out);
    case TEMPLATE_OP2('!', '='):
        TRY(template_equal(r, a, b, out));
        *out = !*out;
        return STATUS_OK;
    case 'i':
        return template_contains(r, b, a, out);
    case 'n':
        TRY(template_contains(r, b, a, out));
        *out = !*out;
        return STATUS_OK;
    default:
        TRY(template_order(r, a, b, &order));
        *out = op == '<'   ? order == -1
               : op == '>' ? order == 1
                           : order == 0 || order == (op == TEMPLATE_OP2('<', '=') ? -1 : 1);
        return STATUS_OK;
    }
}

static enum status compare(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_value a, b;
    bool truth = true;
    TRY(template_eval(r, n->a, &a));
    for (const struct template_node *i = n->list; i && truth; i = i->next) {
        TRY(template_eval(r, i->a, &b));
        TRY(compare_one(r, i->op, &a, &b, &truth));
        a = b;
    }
    *out = template_bool(truth);
    return STATUS_OK;
}

static enum status binary(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_value a, b;
    TRY(template_eval(r, n->a, &a));
    TRY(template_eval(r, n->b, &b));
    return template_binary(r, n->op, &a, &b, out);
}

static enum status and_or(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    TRY(template_eval(r, n->a, out));
    return template_truth(out) == (n->kind == NODE_AND) ? template_eval(r, n->b, out) : STATUS_OK;
}

static enum status sign(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_value a;
    double x;
    TRY(template_eval(r, n->a, &a));
    if (n->kind == NODE_NEG)
        return template_negate(r, &a, out);
    if (!template_as_float(&a, &x))
        return template_type_error(r, &a, "has no sign");
    *out = a.kind == TEMPLATE_BOOL ? template_int(a.truth) : a;
    return STATUS_OK;
}

static enum status conditional(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    bool truth;
    TRY(template_eval_truth(r, n->a, &truth));
    if (truth)
        return template_eval(r, n->b, out);
    if (n->c)
        return template_eval(r, n->c, out);
    return template_make_undefined(r, out,
        "the inline if-expression of line %u evaluated to false and no else section was defined",
        n->line);
}

// ---- items and calls ---------------------------------------------------------------------------

static enum status item(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_value of, key[3];
    const struct template_value *part[3] = {NULL};
    TRY(template_eval(r, n->a, &of));
    if (n->b->kind != NODE_SLICE) {
        TRY(template_eval(r, n->b, &key[0]));
        return template_get_item(r, &of, &key[0], out);
    }
    const struct template_node *parts[] = {n->b->a, n->b->b, n->b->c};
    for (int i = 0; i < 3; i++) {
        if (!parts[i])
            continue;
        TRY(template_eval(r, parts[i], &key[i]));
        part[i] = &key[i];
    }
    return template_get_slice(r, &of, part, out);
}

static enum status call(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_value f;
    struct template_call c = {.name = "a function"};
    TRY(template_eval(r, n->a, &f));
    TRY(template_use_undefined(r, &f));
    TRY(template_call_args(r, n->list, &c));
    return template_call_value(r, &f, &c, out);
}

static enum status unknown(struct template_run *r, const struct template_node *n, const char *kind)
{
    return status_fail(r->err, STATUS_INVALID, "template line %u: no %s named '%.*s'", n->line,
        kind, (int)(n->name->text.n < 64 ? n->name->text.n : 64), (const char *)n->name->text.data);
}

static enum status filter(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_call c = {.self = *out}; // the text of a block, where there is no n->a
    if (n->which == UINT32_MAX)
        return unknown(r, n, "filter");
    if (n->a)
        TRY(template_eval(r, n->a, &c.self));
    TRY(template_call_args(r, n->list, &c));
    return template_filter_apply(r, n->which, &c, out);
}

static enum status test(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_call c = {0};
    bool truth;
    if (n->which == UINT32_MAX)
        return unknown(r, n, "test");
    TRY(template_eval(r, n->a, &c.self));
    TRY(template_call_args(r, n->list, &c));
    TRY(template_test_apply(r, n->which, &c, &truth));
    *out = template_bool(truth);
    return STATUS_OK;
}

static enum status attribute(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    struct template_value of;
    TRY(template_eval(r, n->a, &of));
    return template_get_attr(r, &of, n->name->text, out);
}

static enum status evaluate(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    bool truth;
    switch (n->kind) {
    case NODE_CONST:
        *out = n->value;
        return STATUS_OK;
    case NODE_NAME:
        return name(r, n->name, out);
    case NODE_LIST:
    case NODE_TUPLE:
        return list(r, n, out);
    case NODE_DICT:
        return dict(r, n, out);
    case NODE_ATTR:
        return attribute(r, n, out);
    case NODE_ITEM:
        return item(r, n, out);
    case NODE_CALL:
        return call(r, n, out);
    case NODE_FILTER:
        return filter(r, n, out);
    case NODE_TEST:
        return test(r, n, out);
    case NODE_NOT:
        TRY(template_eval_truth(r, n->a, &truth));
        *out = template_bool(!truth);
        return STATUS_OK;
    case NODE_NEG:
    case NODE_POS:
        return sign(r, n, out);
    case NODE_AND:
    case NODE_OR:
        return and_or(r, n, out);
    case NODE_BINARY:
        return binary(r, n, out);
    case NODE_CONCAT:
        return concat(r, n, out);
    case NODE_COMPARE:
        return compare(r, n, out);
    case NODE_COND:
        return conditional(r, n, out);
    default:
        check(false); // the parser puts no statement into an expression
        return STATUS_INVALID;
    }
}

enum status template_eval(
    struct template_run *r, const struct template_node *n, struct template_value *out)
{
    TRY(template_enter(r));
    TRY(template_step(r, 1));
    TRY(evaluate(r, n, out));
    template_leave(r);
    return STATUS_OK;
}

enum status template_eval_truth(struct template_run *r, const struct template_node *n, bool *out)
{
    struct template_value value;
    TRY(template_eval(r, n, &value));

    *out = template_truth(&value);
    return STATUS_OK;
}
