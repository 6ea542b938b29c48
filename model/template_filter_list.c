// SPDX-License-Identifier: Apache-2.0
// Filters of lists: items, order, sums.
#include "model/template_internal.h"

#include <string.h>

// ---- attributes --------------------------------------------------------------------------------

// x["a"]["b"] for "a.b"; digits are numbers. `missing` (may be NULL) stands for what is not there.
static enum status get_path(struct template_run *r, const struct template_value *of,
    const struct template_value *path, const struct template_value *missing,
    struct template_value *out)
{
    *out = *of;
    if (path->kind == TEMPLATE_INT)
        return template_get_item(r, of, path, out);
    if (path->kind != TEMPLATE_TEXT)
        return template_type_error(r, path, "names an attribute, expected a text");
    struct template_text rest = *path->text;
    for (bool more = true; more;) {
        size_t dot = template_text_find(rest, TEMPLATE_LITERAL("."), 0);
        more = dot != SIZE_MAX;
        struct template_text part = template_cut(rest, 0, more ? dot : rest.n);
        struct template_value key = {.kind = TEMPLATE_TEXT, .text = &part}, of_key = *out;
        int64_t number;
        if (part.n && part.data[0] >= '0' && part.data[0] <= '9' &&
            template_parse_int(part, 10, &number))
            key = template_int(number);
        TRY(template_step(r, 1));
        TRY(template_get_item(r, &of_key, &key, out));
        if (out->kind == TEMPLATE_UNDEFINED && missing)
            *out = *missing;
        if (more)
            rest = template_cut(rest, dot + 1, rest.n);
    }
    return STATUS_OK;
}

// What an item is compared by: an attribute of it, and texts in lower case unless case counts.
struct key_rule {
    const struct template_value *path; // NULL: the item
    bool case_sensitive;
};

static bool given(const struct template_value *slot)
{
    return slot && slot->kind != TEMPLATE_NONE;
}

static enum status fold(struct template_run *r, struct template_value *value)
{
    if (value->kind != TEMPLATE_TEXT)
        return STATUS_OK;
    struct template_builder b = {0};
    TRY(template_put_case(r, &b, *value->text, TEMPLATE_LOWER));
    return template_make_built(r, &b, value);
}

// "a,b" gives a list of both.
static enum status key_of(struct template_run *r, const struct key_rule *rule,
    const struct template_value *item, struct template_value *out)
{
    *out = *item;
    if (!rule->path || rule->path->kind != TEMPLATE_TEXT) {
        if (rule->path)
            TRY(get_path(r, item, rule->path, NULL, out));
        return rule->case_sensitive ? STATUS_OK : fold(r, out);
    }
    struct template_text rest = *rule->path->text;
    struct template_value parts[TEMPLATE_SLOTS_MAX];
    size_t n = 0;
    for (bool more = true; more; n++) {
        if (n == COUNT_OF(parts))
            return status_fail(r->err, STATUS_INVALID, "in the template sort has too many keys");
        size_t comma = template_text_find(rest, TEMPLATE_LITERAL(","), 0);
        more = comma != SIZE_MAX;
        struct template_text part = template_cut(rest, 0, more ? comma : rest.n);
        struct template_value path = {.kind = TEMPLATE_TEXT, .text = &part};
        TRY(get_path(r, item, &path, NULL, &parts[n]));
        if (!rule->case_sensitive)
            TRY(fold(r, &parts[n]));
        if (more)
            rest = template_cut(rest, comma + 1, rest.n);
    }
    if (n == 1) {
        *out = parts[0];
        return STATUS_OK;
    }
    TRY(template_make_list(r, n, TEMPLATE_FORM_LIST, out));
    memcpy(out->list->items, parts, n * sizeof *parts);
    return STATUS_OK;
}

static enum status key_list(struct template_run *r, const struct key_rule *rule,
    const struct template_list *items, struct template_value *out)
{
    TRY(template_make_list(r, items->n, TEMPLATE_FORM_LIST, out));
    for (size_t i = 0; i < items->n; i++)
        TRY(key_of(r, rule, &items->items[i], &out->list->items[i]));
    return STATUS_OK;
}

// ---- order -------------------------------------------------------------------------------------

// A stable merge sort of `items` by `keys`, both of n values.
struct sorter {
    struct template_run *r;
    struct template_value *items, *keys, *item_room, *key_room;
    bool reverse;
};

static enum status merge(struct sorter *s, size_t begin, size_t middle, size_t end)
{
    size_t a = begin, b = middle;
    TRY(template_step(s->r, end - begin));
    for (size_t to = begin; to < end; to++) {
        int order = a == middle ? 1 : b == end ? -1 : 0;
        if (order == 0) {
            TRY(template_order(s->r, &s->keys[a], &s->keys[b], &order));
            order = s->reverse ? (order == -1 ? 1 : -1) : order == 1 ? 1 : -1;
        }
        size_t from = order > 0 ? b++ : a++;
        s->item_room[to] = s->items[from];
        s->key_room[to] = s->keys[from];
    }
    memcpy(s->items + begin, s->item_room + begin, (end - begin) * sizeof *s->items);
    memcpy(s->keys + begin, s->key_room + begin, (end - begin) * sizeof *s->keys);
    return STATUS_OK;
}

static enum status sort(struct sorter *s, size_t begin, size_t end)
{
    if (end - begin < 2)
        return STATUS_OK;
    size_t middle = begin + (end - begin) / 2;
    TRY(sort(s, begin, middle));
    TRY(sort(s, middle, end));
    return merge(s, begin, middle, end);
}

static enum status sorted(struct template_run *r, const struct key_rule *rule, bool reverse,
    const struct template_list *from, struct template_value *out)
{
    struct template_value keys, item_room, key_room;
    TRY(template_make_list(r, from->n, TEMPLATE_FORM_LIST, out));
    if (from->n)
        memcpy(out->list->items, from->items, from->n * sizeof *from->items);
    TRY(key_list(r, rule, from, &keys));
    TRY(template_make_list(r, from->n, TEMPLATE_FORM_LIST, &item_room));
    TRY(template_make_list(r, from->n, TEMPLATE_FORM_LIST, &key_room));
    struct sorter s = {r, out->list->items, keys.list->items, item_room.list->items,
        key_room.list->items, reverse};
    return sort(&s, 0, from->n);
}

enum status template_filter_sort(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_list *items;
    TRY(template_call_bind(r, call, "reverse case_sensitive attribute", slots));
    TRY(template_items(r, &call->self, &items));
    struct key_rule rule = {.path = given(slots[2]) ? slots[2] : NULL,
        .case_sensitive = template_slot_truth(slots[1], false)};
    return sorted(r, &rule, template_slot_truth(slots[0], false), items, out);
}

enum status template_filter_dictsort(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text by;
    struct template_value pairs, which;
    TRY(template_call_bind(r, call, "case_sensitive by reverse", slots));
    TRY(template_slot_text(r, call, slots[1], "key", &by));
    if (!template_text_is(by, "key") && !template_text_is(by, "value"))
        return status_fail(r->err, STATUS_INVALID,
            "in the template dictsort sorts by something else than key and value");
    TRY(template_use_undefined(r, &call->self));
    TRY(template_filter_items(
        r, &(struct template_call){.name = "items", .self = call->self}, &pairs));
    which = template_int(template_text_is(by, "value"));
    struct key_rule rule = {.path = &which, .case_sensitive = template_slot_truth(slots[0], false)};
    return sorted(r, &rule, template_slot_truth(slots[2], false), pairs.list, out);
}

enum status template_filter_unique(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_list *items;
    struct template_value keys, seen, none = template_none();
    const struct template_value *there;
    TRY(template_call_bind(r, call, "case_sensitive attribute", slots));
    TRY(template_items(r, &call->self, &items));
    struct key_rule rule = {.path = given(slots[1]) ? slots[1] : NULL,
        .case_sensitive = template_slot_truth(slots[0], false)};
    TRY(key_list(r, &rule, items, &keys));
    TRY(template_make_dict(r, 0, &seen));
    TRY(template_make_list(r, items->n, TEMPLATE_FORM_GENERATOR, out));
    out->list->n = 0;
    for (size_t i = 0; i < items->n; i++) {
        TRY(template_dict_find(r, seen.dict, &keys.list->items[i], &there));
        if (there)
            continue;
        TRY(template_dict_set(r, seen.dict, &keys.list->items[i], &none));
        out->list->items[out->list->n++] = items->items[i];
    }
    return STATUS_OK;
}

static enum status extreme(struct template_run *r, const struct template_call *call, int wanted,
    struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_list *items;
    struct template_value keys;
    TRY(template_call_bind(r, call, "case_sensitive attribute", slots));
    TRY(template_items(r, &call->self, &items));
    struct key_rule rule = {.path = given(slots[1]) ? slots[1] : NULL,
        .case_sensitive = template_slot_truth(slots[0], false)};
    if (items->n == 0)
        return template_make_undefined(r, out, "No aggregated item, sequence was empty.");
    TRY(key_list(r, &rule, items, &keys));
    size_t best = 0;
    for (size_t i = 1; i < items->n; i++) {
        int order;
        TRY(template_order(r, &keys.list->items[i], &keys.list->items[best], &order));
        best = order == wanted ? i : best;
    }
    *out = items->items[best];
    return STATUS_OK;
}

enum status template_filter_max(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return extreme(r, call, 1, out);
}

enum status template_filter_min(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return extreme(r, call, -1, out);
}

// Pairs (grouper, list) with names for both.
enum status template_filter_groupby(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_list *items;
    struct template_value all, group = {0}, last = {0};
    TRY(template_call_bind(r, call, "attribute default case_sensitive", slots));
    if (!given(slots[0]))
        return status_fail(r->err, STATUS_INVALID, "in the template groupby has no attribute");
    TRY(template_items(r, &call->self, &items));
    struct key_rule rule = {
        .path = slots[0], .case_sensitive = template_slot_truth(slots[2], false)};
    TRY(sorted(r, &rule, false, items, &all));
    TRY(template_make_list(r, items->n, TEMPLATE_FORM_LIST, out));
    out->list->n = 0;
    for (size_t i = 0; i < all.list->n; i++) {
        struct template_value key, name;
        bool same = false;
        TRY(key_of(r, &rule, &all.list->items[i], &key));
        if (i > 0)
            TRY(template_equal(r, &key, &last, &same));
        if (!same) {
            struct template_value pair;
            TRY(template_make_list(r, 2, TEMPLATE_FORM_TUPLE, &pair));
            TRY(get_path(r, &all.list->items[i], slots[0], slots[1], &name));
            TRY(template_make_list(r, all.list->n - i, TEMPLATE_FORM_LIST, &group));
            group.list->n = 0;
            pair.list->items[0] = name;
            pair.list->items[1] = group;
            out->list->items[out->list->n++] = pair;
        }
        group.list->items[group.list->n++] = all.list->items[i];
        last = key;
    }
    return STATUS_OK;
}

// ---- mapping and selecting ---------------------------------------------------------------------

// The items of what is mapped or selected: none of what is not there, be it undefined, none or 0.
static enum status some_items(
    struct template_run *r, const struct template_value *v, struct template_list **out)
{
    struct template_value none;
    if (template_truth(v))
        return template_items(r, v, out);
    TRY(template_make_list(r, 0, TEMPLATE_FORM_LIST, &none));
    *out = none.list;
    return STATUS_OK;
}

// A filter or test by name with the arguments from number `from` on.
static enum status rest_of_call(struct template_run *r, const struct template_call *call,
    size_t from, struct template_call *out)
{
    *out = *call;
    if (call->n_args < from)
        return status_fail(
            r->err, STATUS_INVALID, "in the template %s has too few arguments", call->name);
    out->args = call->args ? call->args + from : NULL;
    out->n_args = call->n_args - from;
    return STATUS_OK;
}

static enum status map_attribute(struct template_run *r, const struct template_call *call,
    const struct template_list *items, struct template_list *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    TRY(template_call_bind(r, call, "attribute default", slots));
    for (size_t i = 0; i < items->n; i++)
        TRY(get_path(r, &items->items[i], slots[0], slots[1], &out->items[i]));
    return STATUS_OK;
}

enum status template_filter_map(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_list *items;
    struct template_call inner;
    struct template_text name;
    TRY(some_items(r, &call->self, &items));
    TRY(template_make_list(r, items->n, TEMPLATE_FORM_GENERATOR, out));
    if (call->n_args == 0 && call->n_keywords > 0)
        return map_attribute(r, call, items, out->list);
    TRY(rest_of_call(r, call, 1, &inner));
    TRY(template_slot_text(r, call, &call->args[0], NULL, &name));
    unsigned which = template_filter_find(name);
    if (which == UINT32_MAX)
        return status_fail(r->err, STATUS_INVALID, "in the template no filter is named '%.*s'",
            (int)(name.n < 64 ? name.n : 64), (const char *)name.data);
    for (size_t i = 0; i < items->n; i++) {
        inner.self = items->items[i];
        TRY(template_step(r, 1));
        TRY(template_filter_apply(r, which, &inner, &out->list->items[i]));
    }
    return STATUS_OK;
}

// Keeps the items whose test (of an attribute) is `wanted`. Without a test their truth counts.
static enum status choose(struct template_run *r, const struct template_call *call, bool attribute,
    bool wanted, struct template_value *out)
{
    struct template_list *items;
    struct template_call inner;
    struct template_text name;
    unsigned which = 0;
    size_t from = attribute;
    TRY(some_items(r, &call->self, &items));
    TRY(rest_of_call(r, call, from, &inner));
    bool tested = inner.n_args > 0;
    if (tested) {
        TRY(template_slot_text(r, call, &inner.args[0], NULL, &name));
        which = template_test_find(name);
        if (which == UINT32_MAX)
            return status_fail(r->err, STATUS_INVALID, "in the template no test is named '%.*s'",
                (int)(name.n < 64 ? name.n : 64), (const char *)name.data);
        TRY(rest_of_call(r, call, from + 1, &inner));
    }
    TRY(template_make_list(r, items->n, TEMPLATE_FORM_GENERATOR, out));
    out->list->n = 0;
    for (size_t i = 0; i < items->n; i++) {
        bool truth;
        TRY(template_step(r, 1));
        inner.self = items->items[i];
        if (attribute)
            TRY(get_path(r, &items->items[i], &call->args[0], NULL, &inner.self));
        if (tested)
            TRY(template_test_apply(r, which, &inner, &truth));
        else
            truth = template_truth(&inner.self);
        if (truth == wanted)
            out->list->items[out->list->n++] = items->items[i];
    }
    return STATUS_OK;
}

enum status template_filter_select(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return choose(r, call, false, true, out);
}

enum status template_filter_reject(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return choose(r, call, false, false, out);
}

enum status template_filter_selectattr(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return choose(r, call, true, true, out);
}

enum status template_filter_rejectattr(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return choose(r, call, true, false, out);
}

// ---- items -------------------------------------------------------------------------------------

enum status template_filter_list(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_list *items;
    TRY(template_items(r, &call->self, &items));
    TRY(template_make_list(r, items->n, TEMPLATE_FORM_LIST, out));
    if (items->n)
        memcpy(out->list->items, items->items, items->n * sizeof *items->items);
    return STATUS_OK;
}

enum status template_filter_first(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_list *items;
    TRY(template_items(r, &call->self, &items));
    if (items->n == 0)
        return template_make_undefined(r, out, "No first item, sequence was empty.");
    *out = items->items[0];
    return STATUS_OK;
}

enum status template_filter_last(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_list *items;
    if (call->self.kind == TEMPLATE_LIST && call->self.list->form == TEMPLATE_FORM_GENERATOR)
        return template_type_error(r, &call->self, "is not reversible");
    TRY(template_items(r, &call->self, &items));
    if (items->n == 0)
        return template_make_undefined(r, out, "No last item, sequence was empty.");
    *out = items->items[items->n - 1];
    return STATUS_OK;
}

enum status template_filter_reverse(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_list *items;
    struct template_builder b = {0};
    TRY(template_items(r, &call->self, &items));
    if (call->self.kind == TEMPLATE_TEXT) {
        for (size_t i = items->n; i-- > 0;)
            TRY(template_put(r, &b, *items->items[i].text));
        return template_make_built(r, &b, out);
    }
    TRY(template_make_list(r, items->n, TEMPLATE_FORM_GENERATOR, out));
    for (size_t i = 0; i < items->n; i++)
        out->list->items[i] = items->items[items->n - 1 - i];
    return STATUS_OK;
}

enum status template_filter_join(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_list *items;
    struct template_text between = TEMPLATE_LITERAL("");
    struct template_builder b = {0};
    TRY(template_call_bind(r, call, "d attribute", slots));
    TRY(template_items(r, &call->self, &items));
    if (slots[0])
        TRY(template_str(r, slots[0], &between));
    for (size_t i = 0; i < items->n; i++) {
        struct template_value item = items->items[i];
        if (given(slots[1]))
            TRY(get_path(r, &items->items[i], slots[1], NULL, &item));
        if (i)
            TRY(template_put(r, &b, between));
        TRY(template_step(r, 1));
        TRY(template_put_str(r, &b, &item));
    }
    return template_make_built(r, &b, out);
}

enum status template_filter_sum(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_list *items;
    TRY(template_call_bind(r, call, "attribute start", slots));
    TRY(template_items(r, &call->self, &items));
    *out = slots[1] ? *slots[1] : template_int(0);
    for (size_t i = 0; i < items->n; i++) {
        struct template_value item = items->items[i], so_far = *out;
        if (given(slots[0]))
            TRY(get_path(r, &items->items[i], slots[0], NULL, &item));
        TRY(template_step(r, 1));
        TRY(template_binary(r, '+', &so_far, &item, out));
    }
    return STATUS_OK;
}

static enum status piece(struct template_run *r, const struct template_list *items, size_t begin,
    size_t end, struct template_value *out)
{
    TRY(template_make_list(r, end - begin, TEMPLATE_FORM_LIST, out));
    if (end > begin)
        memcpy(out->list->items, items->items + begin, (end - begin) * sizeof *items->items);
    return STATUS_OK;
}

// A piece with one more item, or with as many as are missing.
static enum status fill(struct template_run *r, struct template_value *list, size_t n,
    const struct template_value *with)
{
    struct template_value longer;
    TRY(template_make_list(r, list->list->n + n, TEMPLATE_FORM_LIST, &longer));
    if (list->list->n)
        memcpy(longer.list->items, list->list->items, list->list->n * sizeof longer);
    for (size_t i = 0; i < n; i++)
        longer.list->items[list->list->n + i] = *with;
    *list = longer;
    return STATUS_OK;
}

enum status template_filter_batch(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_list *items;
    int64_t size;
    TRY(template_call_bind(r, call, "linecount fill_with", slots));
    TRY(template_slot_int(r, call, slots[0], 0, &size));
    TRY(template_items(r, &call->self, &items));
    if (size < 1 || size > TEMPLATE_RANGE_MAX)
        return status_fail(
            r->err, STATUS_INVALID, "in the template batch has size %lld", (long long)size);
    size_t n = (items->n + (size_t)size - 1) / (size_t)size, at = 0;
    TRY(template_make_list(r, n, TEMPLATE_FORM_GENERATOR, out));
    for (size_t i = 0; i < n; i++, at += (size_t)size) {
        size_t end = at + (size_t)size < items->n ? at + (size_t)size : items->n;
        TRY(piece(r, items, at, end, &out->list->items[i]));
        if (given(slots[1]))
            TRY(fill(r, &out->list->items[i], at + (size_t)size - end, slots[1]));
    }
    return STATUS_OK;
}

enum status template_filter_slice(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_list *items;
    int64_t count;
    TRY(template_call_bind(r, call, "slices fill_with", slots));
    TRY(template_slot_int(r, call, slots[0], 0, &count));
    TRY(template_items(r, &call->self, &items));
    if (count < 1 || count > TEMPLATE_RANGE_MAX)
        return status_fail(
            r->err, STATUS_INVALID, "in the template slice makes %lld slices", (long long)count);
    size_t n = (size_t)count, at = 0;
    TRY(template_make_list(r, n, TEMPLATE_FORM_GENERATOR, out));
    for (size_t i = 0; i < n; i++) {
        bool more = i < items->n % n;
        size_t end = at + items->n / n + more;
        TRY(piece(r, items, at, end, &out->list->items[i]));
        if (given(slots[1]) && !more && items->n % n)
            TRY(fill(r, &out->list->items[i], 1, slots[1]));
        at = end;
    }
    return STATUS_OK;
}
