// SPDX-License-Identifier: Apache-2.0
// What the files of the template interpreter share; nobody else includes this.
//
//   template.c            life cycle, template_render: conversation -> names -> text
//   template_load.c       files of a model directory -> struct template_set
//   template_lex.c        source -> tokens, with Jinja's control of white space
//   template_parse.c      tokens -> statements; template_parse_expr.c: expressions
//   template_exec.c       runs statements; template_loop.c: for; template_call.c: macros, arguments
//   template_eval.c       evaluates expressions; template_number.c: arithmetic
//   template_value.c      truth, equality, order, iteration, items
//   template_text.c       texts and their builder; template_print.c: str() and repr()
//   template_json.c       JSON in, tojson out
//   template_globals.c    range, namespace, raise_exception, ...
//   template_filter.c     the table of filters; template_filter_text.c, template_filter_list.c
//   template_test.c       tests; template_method.c: methods of values
//   template_format.c     "%s" % x and "{}".format(x)
//
// Memory: a tree lies in its template's arena, all that a rendering makes in the arena of its
// `struct template_run`; nothing is freed in between. Values are immutable, but for the fields of
// namespaces and the variables of scopes.
#ifndef PHALANX_MODEL_TEMPLATE_INTERNAL_H
#define PHALANX_MODEL_TEMPLATE_INTERNAL_H

#include "base/arena.h"
#include "base/check.h"
#include "model/template.h"

#include <jansson.h>

// ---- values ------------------------------------------------------------------------------------

enum template_kind {
    TEMPLATE_UNDEFINED,
    TEMPLATE_NONE,
    TEMPLATE_BOOL,
    TEMPLATE_INT,
    TEMPLATE_FLOAT,
    TEMPLATE_TEXT,
    TEMPLATE_LIST, // and tuples, ranges, views of dicts, generators: see template_form
    TEMPLATE_DICT,
    TEMPLATE_NAMESPACE,
    TEMPLATE_MACRO,
    TEMPLATE_GLOBAL, // a function that every template has
    TEMPLATE_METHOD, // of a value
    TEMPLATE_LOOP,
    TEMPLATE_COUNTER, // what cycler() and joiner() make
};

// Valid UTF-8 that does not move. `taint` has a byte per byte, not zero where a client wrote it;
// NULL: nowhere.
struct template_text {
    const uint8_t *data;
    size_t n;
    const uint8_t *taint;
    bool safe; // escaped already: what "+" joins to it is escaped
};

enum template_form {
    TEMPLATE_FORM_LIST,
    TEMPLATE_FORM_TUPLE,
    TEMPLATE_FORM_RANGE,
    TEMPLATE_FORM_KEYS, // views have a length, but no items by number
    TEMPLATE_FORM_VALUES,
    TEMPLATE_FORM_ITEMS,
    TEMPLATE_FORM_GENERATOR, // no length either; can be read once
};

struct template_value {
    enum template_kind kind;
    union {
        bool truth;
        int64_t i;
        double f;
        const struct template_text *text;
        struct template_list *list;
        struct template_dict *dict; // DICT, NAMESPACE
        const struct template_undefined *undefined;
        const struct template_macro *macro;
        const struct template_method *method;
        struct template_loop *loop;
        struct template_counter *counter;
        unsigned global; // enum of template_globals.c
    };
};

struct template_list {
    struct template_value *items;
    size_t n;
    enum template_form form;
    int64_t stop; // RANGE
};

struct template_pair {
    struct template_value key, value;
};

struct template_dict {
    struct template_pair *pairs; // in order of insertion
    size_t n, capacity;
};

// Why a value is undefined: the sentence of whoever uses it.
struct template_undefined {

    char text[160];
};

struct template_method {
    struct template_value self;
    unsigned which; // index into the table of template_method.c
};

struct template_counter {
    struct template_value *items; // cycler
    size_t n, at;
    bool joins; // joiner: items[0] from the second call on
};

// ---- the tree ----------------------------------------------------------------------------------

enum template_node_kind {
    // Expressions. `list` is a chain of nodes by `next`.
    NODE_CONST,   // value
    NODE_NAME,    // name
    NODE_LIST,    // list
    NODE_TUPLE,   // list
    NODE_DICT,    // list of NODE_PAIR
    NODE_PAIR,    // a: b
    NODE_ATTR,    // a.name
    NODE_ITEM,    // a[b]
    NODE_SLICE,   // a:b:c, each may be NULL; only as b of NODE_ITEM
    NODE_CALL,    // a(list of NODE_ARG)
    NODE_ARG,     // op '=': name=a; '*': *a; 's': **a; 0: a
    NODE_FILTER,  // a|which(list); a is NULL in a block
    NODE_TEST,    // a is which(list)
    NODE_NOT,     // not a
    NODE_NEG,     // -a
    NODE_POS,     // +a
    NODE_AND,     // a and b
    NODE_OR,      // a or b
    NODE_BINARY,  // a op b
    NODE_CONCAT,  // list joined by ~
    NODE_COMPARE, // a, list of NODE_ARG with op
    NODE_COND,    // b if a else c; c may be NULL
    // Statements.
    NODE_DATA,         // value
    NODE_OUTPUT,       // a
    NODE_IF,           // a, list, orelse
    NODE_FOR,          // for a in b if c: list, orelse
    NODE_SET,          // a = b
    NODE_SET_BLOCK,    // a, list, b: filters around a NULL, or NULL
    NODE_MACRO,        // name, params, list
    NODE_CALL_BLOCK,   // a: the call, params, list
    NODE_FILTER_BLOCK, // a: the filters, list
    NODE_WITH,         // params: chain of NODE_SET, list
    NODE_SCOPE,        // list, with variables of its own
    NODE_BREAK,
    NODE_CONTINUE,
};

// Names are interned: equal names are one pointer.
struct template_name {
    struct template_name *next;
    struct template_text text;
};

struct template_node {
    enum template_node_kind kind;
    uint32_t line;
    unsigned op;
    unsigned which; // filter or test: index into its table; UINT32_MAX: there is none of that name
    bool uses_caller, uses_kwargs, uses_varargs; // MACRO, CALL_BLOCK
    struct template_node *a, *b, *c, *list, *orelse, *params, *next;
    const struct template_name *name;
    struct template_value value;
};

enum { TEMPLATE_BUCKETS = 256 };

struct template_names {
    struct template_name *bucket[TEMPLATE_BUCKETS];
    // Names that the interpreter knows itself.
    const struct template_name *loop, *caller, *varargs, *kwargs;
};

struct template
{
    struct arena arena;
    struct template_names names;
    struct template_node *body;
};

// ---- lexer -------------------------------------------------------------------------------------

enum template_token_kind {
    TOKEN_DATA,
    TOKEN_OUTPUT_BEGIN,
    TOKEN_OUTPUT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INT,
    TOKEN_FLOAT,
    TOKEN_OP, // op: a character, or two as TEMPLATE_OP2
    TOKEN_END,
};
#define TEMPLATE_OP2(a, b) ((unsigned)(a) << 8 | (unsigned)(b))

struct template_token {
    enum template_token_kind kind;
    uint32_t line;
    unsigned op;
    const uint8_t *data; // DATA, NAME, STRING (escapes resolved)
    size_t n;
    int64_t i;
    double f;
};

// Tokens of a whole source, in the arena, ended by TOKEN_END.
enum status template_lex(struct arena *arena, const uint8_t *source, size_t n,
    struct template_token **out, struct error *err);

// ---- parser ------------------------------------------------------------------------------------

struct template_parser {
    struct template *t;
    const struct template_token *token; // the one at hand
    unsigned depth;
    struct template_node *macro; // innermost macro or call block, its outer ones by `orelse`
    struct template_node *loop;  // innermost loop in the macro, its outer ones by `orelse`
    struct error *err;
};

enum status template_parse_program(
    struct template *t, const uint8_t *source, size_t n, struct error *err);
const struct template_name *template_parse_intern(struct template *t, const void *text, size_t n);
// The same, NULL for a name that the template does not have.
const struct template_name *template_parse_find(
    const struct template *t, const void *text, size_t n);
// "line N: expected X, found Y".
enum status template_parse_expected(struct template_parser *p, const char *what);
enum status template_parse_node(
    struct template_parser *p, enum template_node_kind kind, struct template_node **out);
bool template_parse_is_op(const struct template_parser *p, unsigned op);
bool template_parse_is_name(const struct template_parser *p, const char *name);
bool template_parse_skip_op(struct template_parser *p, unsigned op);
bool template_parse_skip_name(struct template_parser *p, const char *name);
enum status template_parse_name(struct template_parser *p, const struct template_name **out);

// template_parse_expr.c. `conditional`: "a if b else c" is taken too.
enum status template_parse_expression(
    struct template_parser *p, bool conditional, struct template_node **out);
// One expression, or several with commas as a tuple.
enum status template_parse_tuple(
    struct template_parser *p, bool conditional, struct template_node **out);
// "name(args)|name(args)" around `in`.
enum status template_parse_filters(
    struct template_parser *p, struct template_node *in, struct template_node **out);

// ---- a rendering -------------------------------------------------------------------------------

struct template_variable {
    const struct template_name *name;
    struct template_value value;
    struct template_variable *next;
};

struct template_scope {
    struct template_scope *parent;
    struct template_variable *first;
};

struct template_builder {
    uint8_t *data, *taint; // taint is NULL while nothing is
    size_t n, capacity;
};

enum template_flow { TEMPLATE_FLOW_ON, TEMPLATE_FLOW_BREAK, TEMPLATE_FLOW_CONTINUE };

struct template_run {
    const struct template *t;
    struct arena arena;
    struct error *err;
    uint64_t steps, steps_max;
    unsigned depth;
    int64_t now_s;
    struct template_scope *scope;
    struct template_builder *out;
    enum template_flow flow;
    const uint8_t *ones; // taint of texts that a client wrote
    size_t n_ones;
};

struct template_macro {
    const struct template_node *node;
    struct template_scope *scope; // where it was defined
};

// Counts work; TOO_LARGE beyond TEMPLATE_STEPS_MAX.
enum status template_step(struct template_run *r, uint64_t steps);
enum status template_no_memory(struct template_run *r);
// Nesting of evaluations; every enter that succeeds has its leave.
enum status template_enter(struct template_run *r);
void template_leave(struct template_run *r);

// A failure at a value, as Python names its type: "'int' object is not iterable".
enum status template_type_error(
    struct template_run *r, const struct template_value *v, const char *what);
const char *template_type_name(const struct template_value *v);

// ---- texts -------------------------------------------------------------------------------------

#define TEMPLATE_LITERAL(s)                                                                        \
    ((struct template_text){.data = (const uint8_t *)(s), .n = sizeof(s) - 1})

enum status template_put(
    struct template_run *r, struct template_builder *b, struct template_text text);
enum status template_put_bytes(
    struct template_run *r, struct template_builder *b, const void *data, size_t n);
enum status template_put_repeat(
    struct template_run *r, struct template_builder *b, char c, int64_t count);
struct template_text template_built(const struct template_builder *b);

struct template_text template_cut(struct template_text text, size_t begin, size_t end);
enum status template_make_text(
    struct template_run *r, struct template_text text, struct template_value *out);
enum status template_make_built(
    struct template_run *r, const struct template_builder *b, struct template_value *out);
bool template_text_is(struct template_text text, const char *what);
bool template_text_equal(struct template_text a, struct template_text b);
int template_text_compare(struct template_text a, struct template_text b);
// Where `what` begins in `in` from byte `from` on, or SIZE_MAX.
size_t template_text_find(struct template_text in, struct template_text what, size_t from);
size_t template_text_find_last(struct template_text in, struct template_text what);
size_t template_text_chars(struct template_text text);
// Byte at which character number `i` begins, or n.
size_t template_text_offset(struct template_text text, size_t i);
bool template_text_is_space(uint32_t c); // as Python's str.isspace
// `chars` NULL: white space.
struct template_text template_text_strip(
    struct template_text text, const struct template_text *chars, bool left, bool right);
// Case; `title` of the first character only where the word says so.
enum template_case {
    TEMPLATE_UPPER,
    TEMPLATE_LOWER,
    TEMPLATE_TITLE,
    TEMPLATE_CAPITALIZE,
    TEMPLATE_SWAP
};
enum status template_put_case(struct template_run *r, struct template_builder *b,
    struct template_text text, enum template_case how);
enum status template_put_replaced(struct template_run *r, struct template_builder *b,
    struct template_text text, const struct template_text from_to[2], int64_t count);
// &, <, >, ", '
enum status template_put_escaped(
    struct template_run *r, struct template_builder *b, struct template_text text);
// The end of the line that begins at `at`, and where the next one begins (str.splitlines).
size_t template_text_line(struct template_text text, size_t at, size_t *next);

// ---- values ------------------------------------------------------------------------------------

static inline struct template_value template_none(void)
{
    return (struct template_value){.kind = TEMPLATE_NONE};
}
static inline struct template_value template_bool(bool truth)
{
    return (struct template_value){.kind = TEMPLATE_BOOL, .truth = truth};
}
static inline struct template_value template_int(int64_t i)
{
    return (struct template_value){.kind = TEMPLATE_INT, .i = i};
}
static inline struct template_value template_float(double f)
{
    return (struct template_value){.kind = TEMPLATE_FLOAT, .f = f};
}
static inline bool template_is_text(const struct template_value *v)
{
    return v->kind == TEMPLATE_TEXT;
}
// An undefined value with a sentence.
enum status template_make_undefined(struct template_run *r, struct template_value *out,
    const char *format, ...) __attribute__((format(printf, 3, 4)));
// Fails with the sentence of an undefined value.
enum status template_use_undefined(struct template_run *r, const struct template_value *v);
enum status template_make_list(
    struct template_run *r, size_t n, enum template_form form, struct template_value *out);
enum status template_make_dict(struct template_run *r, size_t capacity, struct template_value *out);
// Adds or replaces. Only for dicts that nobody else has yet, and namespaces.
enum status template_dict_set(struct template_run *r, struct template_dict *dict,
    const struct template_value *key, const struct template_value *value);
enum status template_dict_find(struct template_run *r, const struct template_dict *dict,
    const struct template_value *key, const struct template_value **out); // NULL: none

bool template_truth(const struct template_value *v);
enum status template_equal(struct template_run *r, const struct template_value *a,
    const struct template_value *b, bool *out);
// *out is -1, 0, 1, or 2 where a NaN has no order; INVALID for what Python does not order.
enum status template_order(struct template_run *r, const struct template_value *a,
    const struct template_value *b, int *out);
enum status template_contains(struct template_run *r, const struct template_value *in,
    const struct template_value *what, bool *out);
// All items that iterating gives; a generator is used up.
enum status template_items(
    struct template_run *r, const struct template_value *v, struct template_list **out);
// len(); INVALID for what has none.
enum status template_length(struct template_run *r, const struct template_value *v, size_t *out);
bool template_has_length(const struct template_value *v);
// a.name and a[key], as the sandbox of Jinja finds them: undefined where there is nothing.
enum status template_get_attr(struct template_run *r, const struct template_value *v,
    struct template_text name, struct template_value *out);
enum status template_get_item(struct template_run *r, const struct template_value *v,
    const struct template_value *key, struct template_value *out);
// a[begin:end:step]; NULL where one is not given.
enum status template_get_slice(struct template_run *r, const struct template_value *v,
    const struct template_value *const part[3], struct template_value *out);
// True for INT and BOOL, which counts as 0 or 1.
bool template_as_int(const struct template_value *v, int64_t *out);
bool template_as_float(const struct template_value *v, double *out);

// str() and repr().
enum status template_put_str(
    struct template_run *r, struct template_builder *b, const struct template_value *v);
enum status template_put_repr(
    struct template_run *r, struct template_builder *b, const struct template_value *v);
// str() as a text; a text is returned as it is.
enum status template_str(
    struct template_run *r, const struct template_value *v, struct template_text *out);
enum { TEMPLATE_FLOAT_CHARS = 40 };
size_t template_float_repr(double f, char out[TEMPLATE_FLOAT_CHARS]);

// ---- arithmetic --------------------------------------------------------------------------------

enum status template_binary(struct template_run *r, unsigned op, const struct template_value *a,
    const struct template_value *b, struct template_value *out);
enum status template_negate(
    struct template_run *r, const struct template_value *a, struct template_value *out);
// As int() and float() read texts; false where they do not.
bool template_parse_int(struct template_text text, int base, int64_t *out);
bool template_parse_float(struct template_text text, double *out);

// ---- calls -------------------------------------------------------------------------------------

struct template_keyword {
    struct template_text name;
    struct template_value value;
};

struct template_call {
    const char *name;           // of the function, for sentences
    struct template_value self; // what is filtered, tested, or whose method it is
    struct template_value *args;
    size_t n_args;
    struct template_keyword *keywords;
    size_t n_keywords;
};

// Evaluates a chain of NODE_ARG.
enum status template_call_args(
    struct template_run *r, const struct template_node *list, struct template_call *out);
// Sorts arguments into the slots named in `names` ("width first blank"); *slots[i] is NULL where
// one is not given. INVALID for one too many, twice, or of another name.
enum { TEMPLATE_SLOTS_MAX = 6 };
enum status template_call_bind(struct template_run *r, const struct template_call *call,
    const char *names, const struct template_value *slots[TEMPLATE_SLOTS_MAX]);
enum status template_call_value(struct template_run *r, const struct template_value *f,
    struct template_call *call, struct template_value *out);
// Slots of the usual kinds; the default where the slot is NULL.
enum status template_slot_int(struct template_run *r, const struct template_call *call,
    const struct template_value *slot, int64_t missing, int64_t *out);
enum status template_slot_text(struct template_run *r, const struct template_call *call,
    const struct template_value *slot, const char *missing, struct template_text *out);
bool template_slot_truth(const struct template_value *slot, bool missing);

// ---- functions ---------------------------------------------------------------------------------

typedef enum status (*template_function)(
    struct template_run *r, const struct template_call *call, struct template_value *out);

unsigned template_filter_find(struct template_text name); // UINT32_MAX: none
enum status template_filter_apply(
    struct template_run *r, unsigned which, struct template_call *call, struct template_value *out);
unsigned template_test_find(struct template_text name);
enum status template_test_apply(
    struct template_run *r, unsigned which, struct template_call *call, bool *out);
// The method of a value by its name; false if the type has none. `*unsafe`: the sandbox hides it.
bool template_method_find(
    const struct template_value *v, struct template_text name, unsigned *which, bool *unsafe);
enum status template_method_call(struct template_run *r, const struct template_method *m,
    struct template_call *call, struct template_value *out);
bool template_global_find(struct template_text name, struct template_value *out);
enum status template_global_call(struct template_run *r, unsigned which,
    const struct template_call *call, struct template_value *out);
const char *template_global_name(unsigned which);
enum status template_counter_call(
    struct template_run *r, struct template_counter *counter, struct template_value *out);

// clang-format off
#define TEMPLATE_FILTERS(X)                                                                      \
    X(abs) X(attr) X(batch) X(capitalize) X(center) X(default) X(dictsort) X(escape) X(first)    \
    X(float) X(forceescape) X(format) X(groupby) X(indent) X(int) X(items) X(join) X(last)       \
    X(length) X(list) X(lower) X(map) X(max) X(min) X(pprint) X(reject) X(rejectattr) X(replace) \
    X(reverse) X(round) X(safe) X(select) X(selectattr) X(slice) X(sort) X(string) X(sum)        \
    X(title) X(tojson) X(trim) X(truncate) X(unique) X(upper) X(urlencode) X(wordcount)
// clang-format on
#define X(name)                                                                                    \
    enum status template_filter_##name(                                                            \
        struct template_run *r, const struct template_call *call, struct template_value *out);
TEMPLATE_FILTERS(X)
#undef X

// "%d items" % x; "{:>8}".format(x)
enum status template_format_percent(struct template_run *r, struct template_text format,
    const struct template_value *args, struct template_value *out);
enum status template_format_braces(
    struct template_run *r, const struct template_call *call, struct template_value *out);

// ---- JSON --------------------------------------------------------------------------------------

// Converts a document. Texts are tainted if `taint`; of a list of messages the roles that are one
// word are not.
enum status template_from_json(
    struct template_run *r, const json_t *json, bool taint, struct template_value *out);

// ---- running -----------------------------------------------------------------------------------

enum status template_eval(
    struct template_run *r, const struct template_node *n, struct template_value *out);
enum status template_eval_truth(struct template_run *r, const struct template_node *n, bool *out);
enum status template_exec(struct template_run *r, const struct template_node *list);
// Runs a body into a text of its own.
enum status template_exec_capture(
    struct template_run *r, const struct template_node *list, struct template_value *out);
enum status template_exec_assign(
    struct template_run *r, const struct template_node *target, const struct template_value *value);
enum status template_exec_set(
    struct template_run *r, const struct template_name *name, const struct template_value *value);
enum status template_loop_run(struct template_run *r, const struct template_node *n);
// A field of `loop`; false if it has none of that name.
enum status template_loop_attr(struct template_run *r, struct template_loop *loop,
    struct template_text name, bool *found, struct template_value *out);
enum status template_loop_method(struct template_run *r, struct template_loop *loop, bool changed,
    const struct template_call *call, struct template_value *out);
enum status template_scope_push(struct template_run *r, struct template_scope *parent);

#endif
