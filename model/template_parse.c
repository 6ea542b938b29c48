// SPDX-License-Identifier: Apache-2.0
// Tokens to a tree: statements. The grammar is that of jinja2/parser.py.
#include "base/hash.h"
#include "model/template_internal.h"

#include <stdio.h>
#include <string.h>

// ---- nodes and names ---------------------------------------------------------------------------

static struct template_name **bucket_of(const struct template *t, const void *text, size_t n)
{
    struct hash128 h = hash_128((struct hash_key){0}, text, n);
    return &((struct template *)(uintptr_t)t)->names.bucket[h.lo % TEMPLATE_BUCKETS];
}

const struct template_name *template_parse_find(
    const struct template *t, const void *text, size_t n)
{
    for (const struct template_name *i = *bucket_of(t, text, n); i; i = i->next)
        if (i->text.n == n && memcmp(i->text.data, text, n) == 0)
            return i;
    return NULL;
}

const struct template_name *template_parse_intern(struct template *t, const void *text, size_t n)
{
    const struct template_name *there = template_parse_find(t, text, n);
    if (there)
        return there;
    struct template_name **bucket = bucket_of(t, text, n);
    struct template_name *name = arena_take(&t->arena, sizeof *name);
    char *copy = arena_text(&t->arena, text, n);
    if (!name || !copy)
        return NULL;
    *name = (struct template_name){.next = *bucket, .text = {.data = (uint8_t *)copy, .n = n}};
    *bucket = name;
    return name;
}

enum status template_parse_node(
    struct template_parser *p, enum template_node_kind kind, struct template_node **out)
{
    struct template_node *node = arena_take(&p->t->arena, sizeof *node);
    if (!node)
        return status_fail(p->err, STATUS_TOO_LARGE, "the template is too large");
    node->kind = kind;
    node->line = p->token->line;
    *out = node;
    return STATUS_OK;
}

static const char *token_text(const struct template_token *t, char text[48])
{
    static const char *const names[] = {"text", "{{", "}}", "{%", "%}", NULL, "a string",
        "a number", "a number", NULL, "the end of the template"};
    if (names[t->kind])
        return names[t->kind];
    if (t->kind == TOKEN_NAME)
        snprintf(text, 48, "\"%.*s\"", t->n < 40 ? (int)t->n : 40, (const char *)t->data);
    else if (t->op > 255)
        snprintf(text, 48, "\"%c%c\"", (int)(t->op >> 8), (int)(t->op & 255));
    else
        snprintf(text, 48, "\"%c\"", (int)t->op);
    return text;
}

enum status template_parse_expected(struct template_parser *p, const char *what)
{
    char text[48];
    return status_fail(p->err, STATUS_INVALID, "template line %u: found %s, expected %s",
        p->token->line, token_text(p->token, text), what);
}

bool template_parse_is_op(const struct template_parser *p, unsigned op)
{
    return p->token->kind == TOKEN_OP && p->token->op == op;
}

bool template_parse_is_name(const struct template_parser *p, const char *name)
{
    return p->token->kind == TOKEN_NAME && p->token->n == strlen(name) &&
           memcmp(p->token->data, name, p->token->n) == 0;
}

bool template_parse_skip_op(struct template_parser *p, unsigned op)
{
    if (!template_parse_is_op(p, op))
        return false;
    p->token++;
    return true;
}

bool template_parse_skip_name(struct template_parser *p, const char *name)
{
    if (!template_parse_is_name(p, name))
        return false;
    p->token++;
    return true;
}

enum status template_parse_name(struct template_parser *p, const struct template_name **out)
{
    if (p->token->kind != TOKEN_NAME)
        return template_parse_expected(p, "a name");
    const struct template_name *name = template_parse_intern(p->t, p->token->data, p->token->n);
    if (!name)
        return status_fail(p->err, STATUS_TOO_LARGE, "the template is too large");
    p->token++;
    *out = name;
    return STATUS_OK;
}

static enum status expect_op(struct template_parser *p, unsigned op, const char *what)
{
    return template_parse_skip_op(p, op) ? STATUS_OK : template_parse_expected(p, what);
}

static enum status block_end(struct template_parser *p)
{
    if (p->token->kind != TOKEN_BLOCK_END)
        return template_parse_expected(p, "\"%}\"");
    p->token++;
    return STATUS_OK;
}

// ---- bodies ------------------------------------------------------------------------------------

static enum status statement(struct template_parser *p, struct template_node **out);

// The word after "{%" is one of those in `ends` ("else endfor").
static bool at_end(const struct template_parser *p, const char *ends)
{
    while (ends && *ends) {
        size_t n = strcspn(ends, " ");
        if (p->token->kind == TOKEN_NAME && p->token->n == n &&
            memcmp(p->token->data, ends, n) == 0)
            return true;
        ends += n + (ends[n] == ' ');
    }
    return false;
}

static enum status output(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_OUTPUT, out));
    p->token++;
    TRY(template_parse_tuple(p, true, &(*out)->a));
    if (p->token->kind != TOKEN_OUTPUT_END)
        return template_parse_expected(p, "\"}}\"");
    p->token++;
    return STATUS_OK;
}

static enum status data(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_DATA, out));
    struct template_text *text = arena_take(&p->t->arena, sizeof *text);
    if (!text)
        return status_fail(p->err, STATUS_TOO_LARGE, "the template is too large");
    *text = (struct template_text){.data = p->token->data, .n = p->token->n};
    (*out)->value = (struct template_value){.kind = TEMPLATE_TEXT, .text = text};
    p->token++;
    return STATUS_OK;
}

// Statements up to a tag whose word is one of `ends`; the word is then at hand. NULL: to the end.
static enum status body(struct template_parser *p, const char *ends, struct template_node **out)
{
    *out = NULL;
    for (;;) {
        struct template_node *node = NULL;
        if (p->token->kind == TOKEN_DATA) {
            TRY(data(p, &node));
        } else if (p->token->kind == TOKEN_OUTPUT_BEGIN) {
            TRY(output(p, &node));
        } else if (p->token->kind == TOKEN_BLOCK_BEGIN) {
            p->token++;
            if (at_end(p, ends))
                return STATUS_OK;
            TRY(statement(p, &node));
            TRY(block_end(p));
        } else {
            return ends ? template_parse_expected(p, ends) : STATUS_OK;
        }
        *out = node;
        out = &node->next;
    }
}

// "%}", a body, and the word that ends it.
static enum status body_to(struct template_parser *p, const char *end, struct template_node **out)
{
    TRY(block_end(p));
    TRY(body(p, end, out));
    p->token++;
    return STATUS_OK;
}

// ---- statements; the word itself has been read --------------------------------------------------

static enum status if_(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_IF, out));
    struct template_node *n = *out;
    for (;;) {
        TRY(template_parse_tuple(p, false, &n->a));
        TRY(block_end(p));
        TRY(body(p, "elif else endif", &n->list));
        if (!template_parse_skip_name(p, "elif"))
            break;
        TRY(template_parse_node(p, NODE_IF, &n->orelse));
        n = n->orelse;
    }
    if (template_parse_skip_name(p, "else"))
        return body_to(p, "endif", &n->orelse);
    p->token++;
    return STATUS_OK;
}

// One name, name.attr (`fields`), or several in parentheses.
static enum status target(struct template_parser *p, bool fields, struct template_node **out);

static enum status target_one(struct template_parser *p, bool fields, struct template_node **out)
{
    if (template_parse_skip_op(p, '(')) {
        TRY(target(p, fields, out));
        return expect_op(p, ')', "\")\"");
    }
    static const char *const words[] = {
        "true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if"};
    for (size_t i = 0; i < COUNT_OF(words); i++)
        if (template_parse_is_name(p, words[i]))
            return template_parse_expected(p, "a name to assign to");
    TRY(template_parse_node(p, NODE_NAME, out));
    TRY(template_parse_name(p, &(*out)->name));
    if (!fields || !template_parse_skip_op(p, '.'))
        return STATUS_OK;
    struct template_node *of = *out;
    TRY(template_parse_node(p, NODE_ATTR, out));
    (*out)->a = of;
    return template_parse_name(p, &(*out)->name);
}

static enum status target(struct template_parser *p, bool fields, struct template_node **out)
{
    if (++p->depth > TEMPLATE_NESTING_MAX)
        return template_parse_expected(p, "less nesting");
    struct template_node *first;
    TRY(target_one(p, fields, &first));
    *out = first;
    if (template_parse_is_op(p, ',')) {
        TRY(template_parse_node(p, NODE_TUPLE, out));
        (*out)->list = first;
        while (template_parse_skip_op(p, ',')) {
            if (template_parse_is_name(p, "in") || template_parse_is_op(p, '=') ||
                template_parse_is_op(p, ')'))
                break;
            TRY(target_one(p, fields, &first->next));
            first = first->next;
        }
    }
    p->depth--;
    return STATUS_OK;
}

static enum status for_(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_FOR, out));
    struct template_node *n = *out, *loop = p->loop;
    TRY(target(p, false, &n->a));
    if (!template_parse_skip_name(p, "in"))
        return template_parse_expected(p, "\"in\"");
    TRY(template_parse_tuple(p, false, &n->b));
    p->loop = n;
    if (template_parse_skip_name(p, "if"))
        TRY(template_parse_expression(p, true, &n->c));
    if (template_parse_is_name(p, "recursive"))
        return status_fail(p->err, STATUS_UNSUPPORTED,
            "template line %u: a recursive for is not supported", p->token->line);
    TRY(block_end(p));
    TRY(body(p, "else endfor", &n->list));
    p->loop = loop;
    if (template_parse_skip_name(p, "else"))
        return body_to(p, "endfor", &n->orelse);
    p->token++;
    return STATUS_OK;
}

static enum status set(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_SET, out));
    TRY(target(p, true, &(*out)->a));
    if (template_parse_skip_op(p, '='))
        return template_parse_tuple(p, true, &(*out)->b);
    (*out)->kind = NODE_SET_BLOCK;
    if (template_parse_is_op(p, '|'))
        TRY(template_parse_filters(p, NULL, &(*out)->b));
    return body_to(p, "endset", &(*out)->list);
}

// "(a, b=1)": a chain of NODE_ARG with names and defaults.
static enum status signature(struct template_parser *p, struct template_node **out)
{
    struct template_node **next = out;
    *out = NULL;
    TRY(expect_op(p, '(', "\"(\""));
    while (!template_parse_is_op(p, ')')) {
        if (*out)
            TRY(expect_op(p, ',', "\",\" or \")\""));
        if (*out && template_parse_is_op(p, ')'))
            break;
        TRY(template_parse_node(p, NODE_ARG, next));
        TRY(template_parse_name(p, &(*next)->name));
        if (template_parse_skip_op(p, '='))
            TRY(template_parse_expression(p, true, &(*next)->a));
        next = &(*next)->next;
    }
    p->token++;
    return STATUS_OK;
}

static enum status macro_body(
    struct template_parser *p, struct template_node *macro, const char *end)
{
    struct template_node *outer = p->macro, *loop = p->loop;
    macro->orelse = outer; // a chain for the marks of template_parse_expr.c
    p->macro = macro;
    p->loop = NULL;
    TRY(body_to(p, end, &macro->list));
    p->macro = outer;
    p->loop = loop;
    macro->orelse = NULL;
    return STATUS_OK;
}

static enum status macro(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_MACRO, out));
    TRY(template_parse_name(p, &(*out)->name));
    TRY(signature(p, &(*out)->params));
    return macro_body(p, *out, "endmacro");
}

static enum status call(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_CALL_BLOCK, out));
    (*out)->name = p->t->names.caller;
    if (template_parse_is_op(p, '('))
        TRY(signature(p, &(*out)->params));
    TRY(template_parse_expression(p, true, &(*out)->a));
    if ((*out)->a->kind != NODE_CALL)
        return template_parse_expected(p, "a call before it");
    return macro_body(p, *out, "endcall");
}

static enum status filter(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_FILTER_BLOCK, out));
    TRY(template_parse_filters(p, NULL, &(*out)->a));
    return body_to(p, "endfilter", &(*out)->list);
}

static enum status with(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_WITH, out));
    struct template_node **next = &(*out)->params;
    while (p->token->kind != TOKEN_BLOCK_END) {
        if ((*out)->params)
            TRY(expect_op(p, ',', "\",\""));
        TRY(template_parse_node(p, NODE_SET, next));
        TRY(target(p, false, &(*next)->a));
        TRY(expect_op(p, '=', "\"=\""));
        TRY(template_parse_expression(p, true, &(*next)->b));
        next = &(*next)->next;
    }
    return body_to(p, "endwith", &(*out)->list);
}

// The body counts as a macro of its own: what is set in it stays in it, and no loop is left by it.
static enum status generation(struct template_parser *p, struct template_node **out)
{
    TRY(template_parse_node(p, NODE_SCOPE, out));
    struct template_node *loop = p->loop;
    p->loop = NULL;
    TRY(body_to(p, "endgeneration", &(*out)->list));
    p->loop = loop;
    return STATUS_OK;
}

static enum status leave(
    struct template_parser *p, enum template_node_kind kind, struct template_node **out)
{
    if (!p->loop)
        return template_parse_expected(p, "\"break\" and \"continue\" only inside a for");
    return template_parse_node(p, kind, out);
}

static enum status break_(struct template_parser *p, struct template_node **out)
{
    return leave(p, NODE_BREAK, out);
}

static enum status continue_(struct template_parser *p, struct template_node **out)
{
    return leave(p, NODE_CONTINUE, out);
}

static const struct {
    const char *word;
    enum status (*parse)(struct template_parser *p, struct template_node **out);
} statements[] = {
    {"if", if_},
    {"for", for_},
    {"set", set},
    {"macro", macro},
    {"call", call},
    {"filter", filter},
    {"with", with},
    {"generation", generation},
    {"break", break_},
    {"continue", continue_},
};

static enum status statement(struct template_parser *p, struct template_node **out)
{
    static const char *const beyond[] = {
        "include", "import", "from", "extends", "block", "autoescape", "print"};
    if (++p->depth > TEMPLATE_NESTING_MAX)
        return template_parse_expected(p, "less nesting");
    for (size_t i = 0; i < COUNT_OF(statements); i++) {
        if (template_parse_skip_name(p, statements[i].word)) {
            TRY(statements[i].parse(p, out));
            p->depth--;
            return STATUS_OK;
        }
    }
    for (size_t i = 0; i < COUNT_OF(beyond); i++)
        if (template_parse_is_name(p, beyond[i]))
            return status_fail(p->err, STATUS_UNSUPPORTED,
                "template line %u: {%% %s %%} is not supported", p->token->line, beyond[i]);
    return template_parse_expected(p, "the word of a tag that is open or exists");
}

enum status template_parse_program(
    struct template *t, const uint8_t *source, size_t n, struct error *err)
{
    struct template_token *tokens;
    TRY(template_lex(&t->arena, source, n, &tokens, err));
    struct template_parser p = {.t = t, .token = tokens, .err = err};
    t->names.loop = template_parse_intern(t, "loop", 4);
    t->names.caller = template_parse_intern(t, "caller", 6);
    t->names.varargs = template_parse_intern(t, "varargs", 7);
    t->names.kwargs = template_parse_intern(t, "kwargs", 6);
    if (!t->names.loop || !t->names.caller || !t->names.varargs || !t->names.kwargs)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the template");
    TRY(body(&p, NULL, &t->body));
    return p.token->kind == TOKEN_END ? STATUS_OK : template_parse_expected(&p, "a tag or text");
}
