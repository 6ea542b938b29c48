// SPDX-License-Identifier: Apache-2.0
// Methods of values: those of Python's str, dict and list that the sandbox of Jinja lets templates
// call, and those of `loop`.
#include "model/template_internal.h"
#include "model/unicode.h"

#include <string.h>
#include <utf8proc.h>

typedef enum status (*method_function)(
    struct template_run *r, const struct template_call *call, struct template_value *out);

static struct template_text self_text(const struct template_call *call)
{
    return *call->self.text;
}

static bool given(const struct template_value *slot)
{
    return slot && slot->kind != TEMPLATE_NONE;
}

// ---- case and white space ----------------------------------------------------------------------

static enum status in_case(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    static const char which[] = "ulcts";
    static const enum template_case how[] = {
        TEMPLATE_UPPER, TEMPLATE_LOWER, TEMPLATE_CAPITALIZE, TEMPLATE_TITLE, TEMPLATE_SWAP};
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_builder b = {0};
    TRY(template_call_bind(r, call, "", slots));
    bool fold = strcmp(call->name, "casefold") == 0;
    TRY(template_put_case(
        r, &b, self_text(call), fold ? TEMPLATE_LOWER : how[strchr(which, call->name[0]) - which]));
    return template_make_built(r, &b, out);
}

static enum status strip(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text chars;
    TRY(template_call_bind(r, call, "chars", slots));
    if (given(slots[0]))
        TRY(template_slot_text(r, call, slots[0], NULL, &chars));
    return template_make_text(r,
        template_text_strip(self_text(call), given(slots[0]) ? &chars : NULL, call->name[0] != 'r',
            call->name[0] != 'l'),
        out);
}

// isalpha, isdigit, ...: there is a character, and all are of the class.
static bool in_class(uint32_t c, const char *name)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    bool alpha = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
    bool digit = k == UTF8PROC_CATEGORY_ND;
    if (strcmp(name, "isalpha") == 0)
        return alpha;
    if (strcmp(name, "isalnum") == 0)
        return alpha || unicode_is_numeric(c);
    if (strcmp(name, "isspace") == 0)
        return template_text_is_space(c);
    if (strcmp(name, "isnumeric") == 0)
        return unicode_is_numeric(c);
    if (strcmp(name, "isascii") == 0)
        return c < 128;
    return digit; // isdigit, isdecimal
}

static enum status is_class(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_text text = self_text(call);
    bool all = text.n > 0 || strcmp(call->name, "isascii") == 0;
    TRY(template_step(r, text.n / 64));
    for (size_t i = 0, k; i < text.n && all; i += k)
        all = in_class(unicode_decode(text.data + i, text.n - i, &k), call->name);
    *out = template_bool(all);
    return STATUS_OK;
}

static enum status is_case(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    bool truth;
    struct template_call test = {.self = call->self};
    bool upper = call->name[2] == 'u';
    TRY(template_test_apply(r,
        template_test_find(upper ? TEMPLATE_LITERAL("upper") : TEMPLATE_LITERAL("lower")), &test,
        &truth));
    *out = template_bool(truth);
    return STATUS_OK;
}

// ---- finding -----------------------------------------------------------------------------------

// The part of a text that start and end (in characters, as in slices) leave; *begin is its first
// byte.
static enum status window(struct template_run *r, const struct template_call *call,
    const struct template_value *const slots[], struct template_text *out, size_t *begin)
{
    struct template_value part;
    const struct template_value *const bounds[3] = {slots[0], slots[1], NULL};
    *out = self_text(call);
    *begin = 0;
    if (!given(slots[0]) && !given(slots[1]))
        return STATUS_OK;
    TRY(template_get_slice(r, &call->self, bounds, &part));
    *begin = part.text->n ? (size_t)(part.text->data - out->data) : out->n;
    *out = *part.text;
    return STATUS_OK;
}

static enum status starts_ends(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text;
    size_t begin;
    TRY(template_call_bind(r, call, "prefix start end", slots));
    TRY(window(r, call, slots + 1, &text, &begin));
    if (!slots[0])
        return status_fail(
            r->err, STATUS_INVALID, "in the template %s has no argument", call->name);
    struct template_value one = *slots[0];
    struct template_list single = {.items = &one, .n = 1}, *list = &single;
    if (one.kind == TEMPLATE_LIST && one.list->form == TEMPLATE_FORM_TUPLE)
        list = one.list;
    bool truth = false;
    for (size_t i = 0; i < list->n && !truth; i++) {
        struct template_text what;
        TRY(template_slot_text(r, call, &list->items[i], NULL, &what));
        size_t at = call->name[0] == 's' ? 0 : text.n - what.n;
        truth = what.n <= text.n && template_text_equal(template_cut(text, at, at + what.n), what);
    }
    *out = template_bool(truth);
    return STATUS_OK;
}

static enum status find(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text, what;
    size_t begin;
    TRY(template_call_bind(r, call, "sub start end", slots));
    TRY(window(r, call, slots + 1, &text, &begin));
    TRY(template_slot_text(r, call, slots[0], NULL, &what));
    TRY(template_step(r, text.n / 16));
    bool last = call->name[0] == 'r';
    size_t at = last ? template_text_find_last(text, what) : template_text_find(text, what, 0);
    bool must = strstr(call->name, "index") != NULL;
    if (at == SIZE_MAX && must)
        return status_fail(r->err, STATUS_INVALID, "in the template a text is not found");
    *out = template_int(-1);
    if (at != SIZE_MAX)
        *out = template_int(
            (int64_t)template_text_chars(template_cut(self_text(call), 0, begin + at)));
    return STATUS_OK;
}

static enum status count_text(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text, what;
    size_t begin;
    int64_t n = 0;
    TRY(template_call_bind(r, call, "sub start end", slots));
    TRY(window(r, call, slots + 1, &text, &begin));
    TRY(template_slot_text(r, call, slots[0], NULL, &what));
    TRY(template_step(r, text.n / 16));
    if (what.n == 0)
        n = (int64_t)template_text_chars(text) + 1;
    else
        for (size_t at = 0; (at = template_text_find(text, what, at)) != SIZE_MAX; at += what.n)
            n++;
    *out = template_int(n);
    return STATUS_OK;
}

// ---- replacing ---------------------------------------------------------------------------------

static enum status replace(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text from_to[2];
    struct template_builder b = {0};
    int64_t count;
    TRY(template_call_bind(r, call, "old new count", slots));
    TRY(template_slot_text(r, call, slots[0], NULL, &from_to[0]));
    TRY(template_slot_text(r, call, slots[1], NULL, &from_to[1]));
    TRY(template_slot_int(r, call, slots[2], -1, &count));
    TRY(template_put_replaced(r, &b, self_text(call), from_to, count));
    return template_make_built(r, &b, out);
}

static enum status remove_affix(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text = self_text(call), what;
    bool prefix = strcmp(call->name, "removeprefix") == 0;
    TRY(template_call_bind(r, call, "affix", slots));
    TRY(template_slot_text(r, call, slots[0], NULL, &what));
    if (what.n && what.n <= text.n) {
        size_t at = prefix ? 0 : text.n - what.n;
        if (template_text_equal(template_cut(text, at, at + what.n), what))
            text = template_cut(text, prefix ? what.n : 0, prefix ? text.n : at);
    }
    return template_make_text(r, text, out);
}

static enum status justify(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text = self_text(call), fill;
    struct template_builder b = {0};
    int64_t width;
    TRY(template_call_bind(r, call, "width fillchar", slots));
    TRY(template_slot_int(r, call, slots[0], 0, &width));
    TRY(template_slot_text(r, call, slots[1], call->name[0] == 'z' ? "0" : " ", &fill));
    int64_t n = (int64_t)template_text_chars(text), pad = width > n ? width - n : 0;
    if (template_text_chars(fill) != 1 || pad > (int64_t)TEMPLATE_OUTPUT_BYTES_MAX)
        return status_fail(r->err, STATUS_INVALID,
            "in the template %s has a width or a fill character that cannot be", call->name);
    int64_t left = call->name[0] == 'l'   ? 0
                   : call->name[0] == 'c' ? pad / 2 + (pad & width & 1)
                                          : pad;
    if (call->name[0] == 'z' && text.n && (text.data[0] == '-' || text.data[0] == '+')) {
        TRY(template_put(r, &b, template_cut(text, 0, 1)));
        text = template_cut(text, 1, text.n);
    }
    for (int64_t i = 0; i < left; i++)
        TRY(template_put(r, &b, fill));
    TRY(template_put(r, &b, text));
    for (int64_t i = left; i < pad; i++)
        TRY(template_put(r, &b, fill));
    return template_make_built(r, &b, out);
}

// ---- splitting ---------------------------------------------------------------------------------

// Collects pieces; at most one per byte and one more.
struct pieces {
    struct template_value *items;
    size_t n, capacity;
};

static enum status add_piece(struct template_run *r, struct pieces *p, struct template_text text)
{
    if (p->n == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 8;
        struct template_value *items = arena_array(&r->arena, capacity, sizeof *items);
        if (!items)
            return template_no_memory(r);
        if (p->n)
            memcpy(items, p->items, p->n * sizeof *items);
        p->items = items;
        p->capacity = capacity;
    }
    TRY(template_step(r, 1));
    return template_make_text(r, text, &p->items[p->n++]);
}

static enum status make_pieces(struct template_run *r, const struct pieces *p,
    enum template_form form, struct template_value *out)
{
    TRY(template_make_list(r, 0, form, out));
    out->list->items = p->items;
    out->list->n = p->n;
    return STATUS_OK;
}

static enum status split_at(struct template_run *r, struct template_text text,
    struct template_text by, int64_t most, struct pieces *p)
{
    size_t at = 0;
    for (size_t next; most != 0 && (next = template_text_find(text, by, at)) != SIZE_MAX; most--) {
        TRY(add_piece(r, p, template_cut(text, at, next)));
        at = next + by.n;
    }
    return add_piece(r, p, template_cut(text, at, text.n));
}

static enum status split_at_last(struct template_run *r, struct template_text text,
    struct template_text by, int64_t most, struct pieces *p)
{
    struct template_text rest = text;
    for (size_t at; most != 0 && (at = template_text_find_last(rest, by)) != SIZE_MAX; most--) {
        TRY(template_step(r, (rest.n - at) / 64));
        TRY(add_piece(r, p, template_cut(rest, at + by.n, rest.n)));
        rest = template_cut(rest, 0, at);
    }
    TRY(add_piece(r, p, rest));
    for (size_t i = 0; i < p->n / 2; i++) {
        struct template_value v = p->items[i];
        p->items[i] = p->items[p->n - 1 - i];
        p->items[p->n - 1 - i] = v;
    }
    return STATUS_OK;
}

static size_t space_run(struct template_text text, size_t at, bool space)
{
    for (size_t k; at < text.n; at += k)
        if (template_text_is_space(unicode_decode(text.data + at, text.n - at, &k)) != space)
            break;
    return at;
}

static enum status split_spaces(
    struct template_run *r, struct template_text text, int64_t most, struct pieces *p)
{
    for (size_t at = space_run(text, 0, true); at < text.n; most--) {
        size_t end = most == 0 ? text.n : space_run(text, at, false);
        TRY(add_piece(r, p, template_cut(text, at, end)));
        at = space_run(text, end, true);
    }
    return STATUS_OK;
}

static enum status split(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct pieces p = {0};
    struct template_text by;
    int64_t most;
    bool last = call->name[0] == 'r';
    TRY(template_call_bind(r, call, "sep maxsplit", slots));
    TRY(template_slot_int(r, call, slots[1], -1, &most));
    TRY(template_step(r, self_text(call).n / 16));
    if (given(slots[0])) {
        TRY(template_slot_text(r, call, slots[0], NULL, &by));
        if (by.n == 0)
            return status_fail(
                r->err, STATUS_INVALID, "in the template split has an empty separator");
        TRY(last ? split_at_last(r, self_text(call), by, most, &p)
                 : split_at(r, self_text(call), by, most, &p));
    } else if (last && most >= 0) {
        return status_fail(r->err, STATUS_UNSUPPORTED,
            "the template calls rsplit with maxsplit and without a separator, which is not "
            "supported");
    } else {
        TRY(split_spaces(r, self_text(call), most, &p));
    }
    return make_pieces(r, &p, TEMPLATE_FORM_LIST, out);
}

static enum status splitlines(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text = self_text(call);
    struct pieces p = {0};
    TRY(template_call_bind(r, call, "keepends", slots));
    bool keep = template_slot_truth(slots[0], false);
    for (size_t at = 0, next; at < text.n; at = next) {
        size_t end = template_text_line(text, at, &next);
        TRY(add_piece(r, &p, template_cut(text, at, keep ? next : end)));
    }
    return make_pieces(r, &p, TEMPLATE_FORM_LIST, out);
}

static enum status partition(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text = self_text(call), by;
    bool last = call->name[0] == 'r';
    struct pieces p = {0};
    TRY(template_call_bind(r, call, "sep", slots));
    TRY(template_slot_text(r, call, slots[0], NULL, &by));
    if (by.n == 0)
        return status_fail(
            r->err, STATUS_INVALID, "in the template partition has an empty separator");
    size_t at = last ? template_text_find_last(text, by) : template_text_find(text, by, 0);
    size_t end = at == SIZE_MAX ? (last ? 0 : text.n) : at;
    size_t rest = at == SIZE_MAX ? end : at + by.n;
    TRY(add_piece(r, &p, template_cut(text, 0, end)));
    TRY(add_piece(r, &p, template_cut(text, end, rest)));
    TRY(add_piece(r, &p, template_cut(text, rest, text.n)));
    return make_pieces(r, &p, TEMPLATE_FORM_TUPLE, out);
}

static enum status join(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_list *items;
    struct template_builder b = {0};
    TRY(template_call_bind(r, call, "iterable", slots));
    if (!slots[0])
        return status_fail(r->err, STATUS_INVALID, "in the template join has no argument");
    TRY(template_items(r, slots[0], &items));
    for (size_t i = 0; i < items->n; i++) {
        struct template_text text;
        TRY(template_slot_text(r, call, &items->items[i], NULL, &text));
        if (i)
            TRY(template_put(r, &b, self_text(call)));
        TRY(template_put(r, &b, text));
        TRY(template_step(r, 1));
    }
    return template_make_built(r, &b, out);
}

// ---- dicts and lists ---------------------------------------------------------------------------

static enum status view(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_dict *dict = call->self.dict;
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    char which = call->name[0]; // items, keys, values
    TRY(template_call_bind(r, call, "", slots));
    TRY(template_make_list(r, dict->n,
        which == 'k'   ? TEMPLATE_FORM_KEYS
        : which == 'v' ? TEMPLATE_FORM_VALUES
                       : TEMPLATE_FORM_ITEMS,
        out));
    for (size_t i = 0; i < dict->n; i++) {
        struct template_value *to = &out->list->items[i];
        *to = which == 'k' ? dict->pairs[i].key : dict->pairs[i].value;
        if (which != 'i')
            continue;
        TRY(template_make_list(r, 2, TEMPLATE_FORM_TUPLE, to));
        to->list->items[0] = dict->pairs[i].key;
        to->list->items[1] = dict->pairs[i].value;
    }
    return STATUS_OK;
}

static enum status get(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX], *found;
    TRY(template_call_bind(r, call, "key default", slots));
    if (!slots[0])
        return status_fail(r->err, STATUS_INVALID, "in the template get has no argument");
    TRY(template_dict_find(r, call->self.dict, slots[0], &found));
    *out = found ? *found : slots[1] ? *slots[1] : template_none();
    return STATUS_OK;
}

static enum status copy(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    *out = call->self; // nothing can change either of them
    return template_call_bind(r, call, "", slots);
}

static enum status count_or_index(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    const struct template_list *list = call->self.list;
    int64_t n = 0, first = -1;
    TRY(template_call_bind(r, call, "value", slots));
    if (!slots[0])
        return status_fail(
            r->err, STATUS_INVALID, "in the template %s has no argument", call->name);
    for (size_t i = 0; i < list->n; i++) {
        bool equal;
        TRY(template_step(r, 1));
        TRY(template_equal(r, &list->items[i], slots[0], &equal));
        if (equal && first < 0)
            first = (int64_t)i;
        n += equal;
    }
    if (call->name[0] == 'i' && first < 0)
        return status_fail(r->err, STATUS_INVALID, "in the template a value is not in a list");
    *out = template_int(call->name[0] == 'i' ? first : n);
    return STATUS_OK;
}

static enum status loop_method(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return template_loop_method(r, call->self.loop, call->name[1] == 'h', call, out);
}

// ---- the table ---------------------------------------------------------------------------------

// A method without a function changes its value: the sandbox hides it.
static const struct {
    enum template_kind kind;
    const char *name;
    method_function run;
} methods[] = {
    {TEMPLATE_TEXT, "upper", in_case},
    {TEMPLATE_TEXT, "lower", in_case},
    {TEMPLATE_TEXT, "capitalize", in_case},
    {TEMPLATE_TEXT, "title", in_case},
    {TEMPLATE_TEXT, "swapcase", in_case},
    {TEMPLATE_TEXT, "casefold", in_case},
    {TEMPLATE_TEXT, "strip", strip},
    {TEMPLATE_TEXT, "lstrip", strip},
    {TEMPLATE_TEXT, "rstrip", strip},
    {TEMPLATE_TEXT, "isalpha", is_class},
    {TEMPLATE_TEXT, "isalnum", is_class},
    {TEMPLATE_TEXT, "isdigit", is_class},
    {TEMPLATE_TEXT, "isdecimal", is_class},
    {TEMPLATE_TEXT, "isnumeric", is_class},
    {TEMPLATE_TEXT, "isspace", is_class},
    {TEMPLATE_TEXT, "isascii", is_class},
    {TEMPLATE_TEXT, "isupper", is_case},
    {TEMPLATE_TEXT, "islower", is_case},
    {TEMPLATE_TEXT, "startswith", starts_ends},
    {TEMPLATE_TEXT, "endswith", starts_ends},
    {TEMPLATE_TEXT, "find", find},
    {TEMPLATE_TEXT, "rfind", find},
    {TEMPLATE_TEXT, "index", find},
    {TEMPLATE_TEXT, "rindex", find},
    {TEMPLATE_TEXT, "count", count_text},
    {TEMPLATE_TEXT, "replace", replace},
    {TEMPLATE_TEXT, "removeprefix", remove_affix},
    {TEMPLATE_TEXT, "removesuffix", remove_affix},
    {TEMPLATE_TEXT, "ljust", justify},
    {TEMPLATE_TEXT, "rjust", justify},
    {TEMPLATE_TEXT, "center", justify},
    {TEMPLATE_TEXT, "zfill", justify},
    {TEMPLATE_TEXT, "split", split},
    {TEMPLATE_TEXT, "rsplit", split},
    {TEMPLATE_TEXT, "splitlines", splitlines},
    {TEMPLATE_TEXT, "partition", partition},
    {TEMPLATE_TEXT, "rpartition", partition},
    {TEMPLATE_TEXT, "join", join},
    {TEMPLATE_TEXT, "format", template_format_braces},
    {TEMPLATE_DICT, "items", view},
    {TEMPLATE_DICT, "keys", view},
    {TEMPLATE_DICT, "values", view},
    {TEMPLATE_DICT, "get", get},
    {TEMPLATE_DICT, "copy", copy},
    {TEMPLATE_DICT, "clear", NULL},
    {TEMPLATE_DICT, "pop", NULL},
    {TEMPLATE_DICT, "popitem", NULL},
    {TEMPLATE_DICT, "setdefault", NULL},
    {TEMPLATE_DICT, "update", NULL},
    {TEMPLATE_LIST, "count", count_or_index},
    {TEMPLATE_LIST, "index", count_or_index},
    {TEMPLATE_LIST, "copy", copy},
    {TEMPLATE_LIST, "append", NULL},
    {TEMPLATE_LIST, "clear", NULL},
    {TEMPLATE_LIST, "extend", NULL},
    {TEMPLATE_LIST, "insert", NULL},
    {TEMPLATE_LIST, "pop", NULL},
    {TEMPLATE_LIST, "remove", NULL},
    {TEMPLATE_LIST, "reverse", NULL},
    {TEMPLATE_LIST, "sort", NULL},
    {TEMPLATE_LOOP, "cycle", loop_method},
    {TEMPLATE_LOOP, "changed", loop_method},
};

bool template_method_find(
    const struct template_value *v, struct template_text name, unsigned *which, bool *unsafe)
{
    bool plain = v->kind != TEMPLATE_LIST || v->list->form == TEMPLATE_FORM_LIST;
    bool tuple = v->kind == TEMPLATE_LIST && v->list->form <= TEMPLATE_FORM_RANGE;
    for (unsigned i = 0; i < COUNT_OF(methods); i++) {
        if (methods[i].kind != v->kind || !template_text_is(name, methods[i].name))
            continue;
        if (!plain && !(tuple && methods[i].run == count_or_index))
            return false;
        *which = i;
        *unsafe = !methods[i].run;
        return true;
    }
    return false;
}

enum status template_method_call(struct template_run *r, const struct template_method *m,
    struct template_call *call, struct template_value *out)
{
    call->name = methods[m->which].name;
    return methods[m->which].run(r, call, out);
}
