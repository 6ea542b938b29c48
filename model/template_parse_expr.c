// SPDX-License-Identifier: Apache-2.0
// Tokens to a tree: expressions, from the weakest operator to the strongest.
#include "model/template_internal.h"

#include <string.h>

static enum status unary(struct template_parser *p, bool filters, struct template_node **out);

static enum status enter(struct template_parser *p)
{
    return ++p->depth > TEMPLATE_NESTING_MAX ? template_parse_expected(p, "less nesting")
                                             : STATUS_OK;
}

static enum status expect(struct template_parser *p, char op)
{
    char what[4] = {'"', op, '"', '\0'};
    return template_parse_skip_op(p, (unsigned char)op) ? STATUS_OK
                                                        : template_parse_expected(p, what);
}

// ---- names and constants -----------------------------------------------------------------------

static bool constant_word(const struct template_parser *p, struct template_value *out)
{
    if (template_parse_is_name(p, "true") || template_parse_is_name(p, "True"))
        *out = template_bool(true);
    else if (template_parse_is_name(p, "false") || template_parse_is_name(p, "False"))
        *out = template_bool(false);
    else if (template_parse_is_name(p, "none") || template_parse_is_name(p, "None"))
        *out = template_none();
    else
        return false;
    return true;
}

// Whether macros take keyword arguments and more than they name follows from the names in them.
static void mark_name(struct template_parser *p, const struct template_name *name)
{
    const struct template_names *names = &p->t->names;
    for (struct template_node *m = p->macro; m; m = m->orelse) {
        m->uses_caller |= name == names->caller;
        m->uses_kwargs |= name == names->kwargs;
        m->uses_varargs |= name == names->varargs;
    }
}

static enum status name(struct template_parser *p, struct template_node **out)
{
    struct template_value value;
    if (constant_word(p, &value)) {
        TRY(template_parse_node(p, NODE_CONST, out));
        (*out)->value = value;
        p->token++;
        return STATUS_OK;
    }
    TRY(template_parse_node(p, NODE_NAME, out));
    TRY(template_parse_name(p, &(*out)->name));
    mark_name(p, (*out)->name);
    return STATUS_OK;
}

// Strings that follow each other are one.
static enum status strings(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_CONST, out));
    const struct template_token *end = p->token;
    size_t n = 0;
    for (; end->kind == TOKEN_STRING; end++)
        n += end->n;
    struct template_text *text = arena_take(&p->t->arena, sizeof *text);
    uint8_t *to = arena_take(&p->t->arena, n);
    if (!text || !to)
        return status_fail(p->err, STATUS_TOO_LARGE, "the template is too large");
    *text = (struct template_text){.data = to, .n = n};
    for (; p->token < end; p->token++) {
        if (p->token->n)
            memcpy(to, p->token->data, p->token->n);
        to += p->token->n;
    }
    (*out)->value = (struct template_value){.kind = TEMPLATE_TEXT, .text = text};
    return STATUS_OK;
}

static enum status number(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_CONST, out));
    (*out)->value =
        p->token->kind == TOKEN_INT ? template_int(p->token->i) : template_float(p->token->f);
    p->token++;
    return STATUS_OK;
}

static enum status list(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_LIST, out));
    struct template_node **next = &(*out)->list;
    p->token++;
    while (!template_parse_is_op(p, ']')) {
        if ((*out)->list)
            TRY(expect(p, ','));
        if (template_parse_is_op(p, ']'))
            break;
        TRY(template_parse_expression(p, true, next));
        next = &(*next)->next;
    }
    p->token++;
    return STATUS_OK;
}

static enum status dict(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_DICT, out));
    struct template_node **next = &(*out)->list;
    p->token++;
    while (!template_parse_is_op(p, '}')) {
        if ((*out)->list)
            TRY(expect(p, ','));
        if (template_parse_is_op(p, '}'))
            break;
        TRY(template_parse_node(p, NODE_PAIR, next));
        TRY(template_parse_expression(p, true, &(*next)->a));
        TRY(expect(p, ':'));
        TRY(template_parse_expression(p, true, &(*next)->b));
        next = &(*next)->next;
    }
    p->token++;
    return STATUS_OK;
}

static enum status tuple(
    struct template_parser *p, bool conditional, bool parentheses, struct template_node **out)
{
    TRY(enter(p));
    struct template_node *first = NULL, **next = &first;
    bool comma = false;
    for (;;) {
        enum template_token_kind kind = p->token->kind;
        if (kind == TOKEN_OUTPUT_END || kind == TOKEN_BLOCK_END || template_parse_is_op(p, ')'))
            break;
        TRY(template_parse_expression(p, conditional, next));
        next = &(*next)->next;
        if (!template_parse_skip_op(p, ','))
            break;
        comma = true;
    }
    p->depth--;
    if (!comma && first) {
        *out = first;
        return STATUS_OK;
    }
    if (!comma && !parentheses)
        return template_parse_expected(p, "an expression");
    TRY(template_parse_node(p, NODE_TUPLE, out));
    (*out)->list = first;
    return STATUS_OK;
}

enum status template_parse_tuple(
    struct template_parser *p, bool conditional, struct template_node **out)
{
    return tuple(p, conditional, false, out);
}

static enum status primary(struct template_parser *p, struct template_node **out)
{
    switch (p->token->kind) {
    case TOKEN_NAME:
        return name(p, out);
    case TOKEN_STRING:
        return strings(p, out);
    case TOKEN_INT:
    case TOKEN_FLOAT:
        return number(p, out);
    default:
        break;
    }
    if (template_parse_skip_op(p, '(')) {
        TRY(tuple(p, true, true, out));
        return expect(p, ')');
    }
    if (template_parse_is_op(p, '['))
        return list(p, out);
    if (template_parse_is_op(p, '{'))
        return dict(p, out);
    return template_parse_expected(p, "an expression");
}

// ---- what follows a value ----------------------------------------------------------------------

static enum status arguments(struct template_parser *p, struct template_node **next)
{
    bool first = true;
    p->token++;
    while (!template_parse_is_op(p, ')')) {
        if (!first)
            TRY(expect(p, ','));
        first = false;
        if (template_parse_is_op(p, ')'))
            break;
        TRY(template_parse_node(p, NODE_ARG, next));
        struct template_node *arg = *next;
        const struct template_token *after = p->token + 1;
        if (template_parse_skip_op(p, '*')) {
            arg->op = '*';
        } else if (template_parse_skip_op(p, TEMPLATE_OP2('*', '*'))) {
            arg->op = 's';
        } else if (p->token->kind == TOKEN_NAME && after->kind == TOKEN_OP && after->op == '=') {
            arg->op = '=';
            TRY(template_parse_name(p, &arg->name));
            p->token++;
        }
        TRY(template_parse_expression(p, true, &arg->a));
        next = &arg->next;
    }
    p->token++;
    return STATUS_OK;
}

static enum status wrap(
    struct template_parser *p, enum template_node_kind kind, struct template_node **inout)
{
    struct template_node *inner = *inout;
    TRY(template_parse_node(p, kind, inout));
    (*inout)->a = inner;
    return STATUS_OK;
}

static enum status attribute(struct template_parser *p, struct template_node **inout)
{
    p->token++;
    if (p->token->kind == TOKEN_INT) {
        TRY(wrap(p, NODE_ITEM, inout));
        return number(p, &(*inout)->b);
    }
    TRY(wrap(p, NODE_ATTR, inout));
    return template_parse_name(p, &(*inout)->name);
}

// a[x], a[x:y:z]
static enum status item(struct template_parser *p, struct template_node **inout)
{
    p->token++;
    TRY(wrap(p, NODE_ITEM, inout));
    struct template_node *part[3] = {NULL};
    unsigned i = 0;
    while (!template_parse_is_op(p, ']')) {
        if (template_parse_skip_op(p, ':')) {
            if (++i > 2)
                return template_parse_expected(p, "\"]\"");
            continue;
        }
        if (part[i])
            return template_parse_expected(p, "\"]\"");
        TRY(template_parse_expression(p, true, &part[i]));
    }
    p->token++;
    (*inout)->b = part[0];
    if (i == 0)
        return part[0] ? STATUS_OK : template_parse_expected(p, "an index before it");
    TRY(template_parse_node(p, NODE_SLICE, &(*inout)->b));
    (*inout)->b->a = part[0];
    (*inout)->b->b = part[1];
    (*inout)->b->c = part[2];
    return STATUS_OK;
}

static enum status call(struct template_parser *p, struct template_node **inout)
{
    TRY(wrap(p, NODE_CALL, inout));
    return arguments(p, &(*inout)->list);
}

static enum status postfix(struct template_parser *p, struct template_node **inout)
{
    for (unsigned chain = 0;; chain++) {
        if (chain > TEMPLATE_NESTING_MAX) // the tree is as deep as the chain is long
            return template_parse_expected(p, "fewer calls and items in a row");
        if (template_parse_is_op(p, '.'))
            TRY(attribute(p, inout));
        else if (template_parse_is_op(p, '['))
            TRY(item(p, inout));
        else if (template_parse_is_op(p, '('))
            TRY(call(p, inout));
        else
            return STATUS_OK;
    }
}

// The name of a filter or test. None of ours has a dot in it, so names that have are found nowhere.
static enum status dotted(struct template_parser *p, const struct template_name **out)
{
    TRY(template_parse_name(p, out));
    while (template_parse_skip_op(p, '.')) {
        TRY(template_parse_name(p, out));
        *out = template_parse_intern(p->t, "", 0);
    }
    return *out ? STATUS_OK : status_fail(p->err, STATUS_TOO_LARGE, "the template is too large");
}

static enum status filter(struct template_parser *p, struct template_node **inout)
{
    TRY(wrap(p, NODE_FILTER, inout));
    TRY(dotted(p, &(*inout)->name));
    (*inout)->which = template_filter_find((*inout)->name->text);
    return template_parse_is_op(p, '(') ? arguments(p, &(*inout)->list) : STATUS_OK;
}

static enum status test(struct template_parser *p, struct template_node **inout)
{
    p->token++;
    bool negated = template_parse_skip_name(p, "not");
    TRY(wrap(p, NODE_TEST, inout));
    struct template_node *n = *inout;
    TRY(dotted(p, &n->name));
    n->which = template_test_find(n->name->text);
    enum template_token_kind kind = p->token->kind;
    bool follows = kind == TOKEN_STRING || kind == TOKEN_INT || kind == TOKEN_FLOAT ||
                   template_parse_is_op(p, '[') || template_parse_is_op(p, '{');
    follows |= kind == TOKEN_NAME && !template_parse_is_name(p, "else") &&
               !template_parse_is_name(p, "or") && !template_parse_is_name(p, "and");
    if (template_parse_is_op(p, '(')) {
        TRY(arguments(p, &n->list));
    } else if (follows) {
        if (template_parse_is_name(p, "is"))
            return template_parse_expected(p, "no second test in a row");
        TRY(template_parse_node(p, NODE_ARG, &n->list));
        TRY(primary(p, &n->list->a));
        TRY(postfix(p, &n->list->a));
    }
    return negated ? wrap(p, NODE_NOT, inout) : STATUS_OK;
}

static enum status filters_and_tests(struct template_parser *p, struct template_node **inout)
{
    for (unsigned chain = 0;; chain++) {
        if (chain > TEMPLATE_NESTING_MAX)
            return template_parse_expected(p, "fewer filters in a row");
        if (template_parse_skip_op(p, '|'))
            TRY(filter(p, inout));
        else if (template_parse_is_name(p, "is"))
            TRY(test(p, inout));
        else if (template_parse_is_op(p, '('))
            TRY(call(p, inout));
        else
            return STATUS_OK;
    }
}

enum status template_parse_filters(
    struct template_parser *p, struct template_node *in, struct template_node **out)
{
    *out = in;
    template_parse_skip_op(p, '|');
    do
        TRY(filter(p, out));
    while (template_parse_skip_op(p, '|'));
    return STATUS_OK;
}

// ---- operators ---------------------------------------------------------------------------------

static enum status unary(struct template_parser *p, bool filters, struct template_node **out)
{
    TRY(enter(p));
    enum template_node_kind kind = template_parse_is_op(p, '-') ? NODE_NEG : NODE_POS;
    if (template_parse_is_op(p, '-') || template_parse_is_op(p, '+')) {
        TRY(template_parse_node(p, kind, out));
        p->token++;
        TRY(unary(p, false, &(*out)->a));
    } else {
        TRY(primary(p, out));
    }
    TRY(postfix(p, out));
    if (filters)
        TRY(filters_and_tests(p, out));
    p->depth--;
    return STATUS_OK;
}

// The operators of one level, and the level above.
struct level {
    unsigned ops[4];
};
static const struct level levels[] = {
    {{'+', '-'}}, {{'~'}}, {{'*', '/', TEMPLATE_OP2('/', '/'), '%'}}, {{TEMPLATE_OP2('*', '*')}}};

static unsigned op_of(const struct template_parser *p, const struct level *level)
{
    for (size_t i = 0; i < COUNT_OF(level->ops); i++)
        if (level->ops[i] && template_parse_is_op(p, level->ops[i]))
            return level->ops[i];
    return 0;
}

// All of the operators associate to the left.
static enum status binary(struct template_parser *p, size_t level, struct template_node **out)
{
    if (level == COUNT_OF(levels))
        return unary(p, true, out);
    TRY(binary(p, level + 1, out));
    struct template_node *last = *out;
    unsigned op;
    for (unsigned chain = 0; (op = op_of(p, &levels[level])) != 0; chain++) {
        if (op == '~') {
            if ((*out)->kind != NODE_CONCAT || chain == 0) {
                struct template_node *first = *out;
                TRY(template_parse_node(p, NODE_CONCAT, out));
                (*out)->list = last = first;
            }
            p->token++;
            TRY(binary(p, level + 1, &last->next));
            last = last->next;
            continue;
        }
        if (chain > 2 * TEMPLATE_NESTING_MAX)
            return template_parse_expected(p, "fewer operators in a row");
        TRY(wrap(p, NODE_BINARY, out));
        (*out)->op = op;
        p->token++;
        TRY(binary(p, level + 1, &(*out)->b));
    }
    return STATUS_OK;
}

// 'i': in, 'n': not in; 0: no comparison follows.
static unsigned comparison(struct template_parser *p)
{
    static const unsigned ops[] = {TEMPLATE_OP2('=', '='), TEMPLATE_OP2('!', '='),
        TEMPLATE_OP2('<', '='), TEMPLATE_OP2('>', '='), '<', '>'};
    for (size_t i = 0; i < COUNT_OF(ops); i++)
        if (template_parse_skip_op(p, ops[i]))
            return ops[i];
    if (template_parse_skip_name(p, "in"))
        return 'i';
    const struct template_token *after = p->token + 1;
    if (template_parse_is_name(p, "not") && after->kind == TOKEN_NAME && after->n == 2 &&
        memcmp(after->data, "in", 2) == 0) {
        p->token += 2;
        return 'n';
    }
    return 0;
}

static enum status compare(struct template_parser *p, struct template_node **out)
{
    TRY(binary(p, 0, out));
    struct template_node **next = NULL;
    unsigned op;
    while ((op = comparison(p)) != 0) {
        if (!next) {
            TRY(wrap(p, NODE_COMPARE, out));
            next = &(*out)->list;
        }
        TRY(template_parse_node(p, NODE_ARG, next));
        (*next)->op = op;
        TRY(binary(p, 0, &(*next)->a));
        next = &(*next)->next;
    }
    return STATUS_OK;
}

static enum status not_(struct template_parser *p, struct template_node **out)
{
    if (!template_parse_is_name(p, "not"))
        return compare(p, out);
    TRY(enter(p));
    TRY(template_parse_node(p, NODE_NOT, out));
    p->token++;
    TRY(not_(p, &(*out)->a));
    p->depth--;
    return STATUS_OK;
}

static enum status and_(struct template_parser *p, struct template_node **out)
{
    TRY(not_(p, out));
    for (unsigned chain = 0; template_parse_skip_name(p, "and"); chain++) {
        if (chain > 2 * TEMPLATE_NESTING_MAX)
            return template_parse_expected(p, "fewer operators in a row");
        TRY(wrap(p, NODE_AND, out));
        TRY(not_(p, &(*out)->b));
    }
    return STATUS_OK;
}

static enum status or_(struct template_parser *p, struct template_node **out)
{
    TRY(and_(p, out));
    for (unsigned chain = 0; template_parse_skip_name(p, "or"); chain++) {
        if (chain > 2 * TEMPLATE_NESTING_MAX)
            return template_parse_expected(p, "fewer operators in a row");
        TRY(wrap(p, NODE_OR, out));
        TRY(and_(p, &(*out)->b));
    }
    return STATUS_OK;
}

enum status template_parse_expression(
    struct template_parser *p, bool conditional, struct template_node **out)
{
    TRY(enter(p));
    TRY(or_(p, out));
    while (conditional && template_parse_skip_name(p, "if")) {
        struct template_node *then = *out;
        TRY(template_parse_node(p, NODE_COND, out));
        (*out)->b = then;
        TRY(or_(p, &(*out)->a));
        if (!template_parse_skip_name(p, "else"))
            continue;
        TRY(template_parse_expression(p, true, &(*out)->c));
    }
    p->depth--;
    return STATUS_OK;
}
