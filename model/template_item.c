// SPDX-License-Identifier: Apache-2.0
// What values have in them: iteration, items, attributes, slices.
#include "model/template_internal.h"
#include "model/unicode.h"

#include <string.h>

// ---- iteration ---------------------------------------------------------------------------------

static enum status characters(
    struct template_run *r, struct template_text text, struct template_value *out)
{
    TRY(template_make_list(r, template_text_chars(text), TEMPLATE_FORM_LIST, out));
    TRY(template_step(r, text.n));
    size_t k, n = 0;
    for (size_t i = 0; i < text.n; i += k) {
        unicode_decode(text.data + i, text.n - i, &k);
        TRY(template_make_text(r, template_cut(text, i, i + k), &out->list->items[n++]));
    }
    return STATUS_OK;
}

static enum status keys(
    struct template_run *r, const struct template_dict *dict, struct template_value *out)
{
    TRY(template_make_list(r, dict->n, TEMPLATE_FORM_LIST, out));
    for (size_t i = 0; i < dict->n; i++)
        out->list->items[i] = dict->pairs[i].key;
    return STATUS_OK;
}

enum status template_items(
    struct template_run *r, const struct template_value *v, struct template_list **out)
{
    struct template_value list;
    switch (v->kind) {
    case TEMPLATE_LIST:
        *out = v->list;
        if (v->list->form == TEMPLATE_FORM_GENERATOR) {
            TRY(template_make_list(r, 0, TEMPLATE_FORM_LIST, &list));
            *list.list = *v->list;
            list.list->form = TEMPLATE_FORM_LIST;
            *out = list.list;
            v->list->n = 0;
        }
        return STATUS_OK;
    case TEMPLATE_TEXT:
        TRY(characters(r, *v->text, &list));
        break;
    case TEMPLATE_DICT:
        TRY(keys(r, v->dict, &list));
        break;
    case TEMPLATE_UNDEFINED:

        TRY(template_make_list(r, 0, TEMPLATE_FORM_LIST, &list));
        break;
    default:
        return template_type_error(r, v, "cannot be iterated over");
    }
    *out = list.list;
    return STATUS_OK;
}

// ---- one item ----------------------------------------------------------------------------------

static bool item_at(int64_t i, size_t n, size_t *out)
{
    if (i < 0)
        i += (int64_t)n;
    *out = (size_t)i;
    return i >= 0 && (uint64_t)i < n;
}

// *found is false where Python raises a LookupError or TypeError.
static enum status find_item(struct template_run *r, const struct template_value *v,
    const struct template_value *key, bool *found, struct template_value *out)
{
    int64_t i;
    size_t at;
    const struct template_value *value = NULL;
    *found = false;
    if (v->kind == TEMPLATE_DICT) {
        if (key->kind == TEMPLATE_DICT ||
            (key->kind == TEMPLATE_LIST && key->list->form != TEMPLATE_FORM_TUPLE))
            return STATUS_OK;
        TRY(template_dict_find(r, v->dict, key, &value));
    } else if (v->kind == TEMPLATE_LIST && v->list->form <= TEMPLATE_FORM_RANGE) {
        if (template_as_int(key, &i) && item_at(i, v->list->n, &at))
            value = &v->list->items[at];
    } else if (v->kind == TEMPLATE_TEXT && template_as_int(key, &i)) {
        struct template_text text = *v->text;
        TRY(template_step(r, text.n / 64));
        if (item_at(i, template_text_chars(text), &at)) {
            *found = true;
            return template_make_text(r,
                template_cut(
                    text, template_text_offset(text, at), template_text_offset(text, at + 1)),
                out);
        }
    }
    if (value) {
        *found = true;
        *out = *value;
    }
    return STATUS_OK;
}

// Fields and methods, as Python's getattr finds them.
static enum status find_attr(struct template_run *r, const struct template_value *v,
    struct template_text name, bool *found, struct template_value *out)
{
    *found = false;
    if (v->kind == TEMPLATE_LOOP) {
        TRY(template_loop_attr(r, v->loop, name, found, out));
        if (*found)
            return STATUS_OK;
    }
    if (v->kind == TEMPLATE_NAMESPACE) {
        struct template_value key = {.kind = TEMPLATE_TEXT, .text = &name};
        const struct template_value *value;
        TRY(template_dict_find(r, v->dict, &key, &value));
        if (value) {
            *found = true;
            *out = *value;
        }
        return STATUS_OK;
    }
    bool hidden = name.n >= 2 && name.data[0] == '_' && name.data[1] == '_';
    unsigned which = 0;
    bool unsafe = false;
    bool method = template_method_find(v, name, &which, &unsafe);
    if (method && !unsafe) {
        struct template_method *m = arena_take(&r->arena, sizeof *m);
        if (!m)
            return template_no_memory(r);
        *m = (struct template_method){.self = *v, .which = which};
        *found = true;
        *out = (struct template_value){.kind = TEMPLATE_METHOD, .method = m};
        return STATUS_OK;
    }
    if (unsafe || (hidden && name.n > 4 && name.data[name.n - 1] == '_')) {
        *found = true;
        return template_make_undefined(r, out,
            "access to attribute '%.*s' of '%s' object is unsafe", (int)(name.n < 40 ? name.n : 40),
            (const char *)name.data, template_type_name(v));
    }
    return STATUS_OK;
}

static enum status nothing(struct template_run *r, const struct template_value *v,
    const struct template_value *key, struct template_value *out)
{
    if (key->kind == TEMPLATE_TEXT)
        return template_make_undefined(r, out, "'%s' object has no attribute '%.*s'",
            template_type_name(v), (int)(key->text->n < 64 ? key->text->n : 64),
            (const char *)key->text->data);
    int64_t i = 0;
    template_as_int(key, &i);
    return template_make_undefined(
        r, out, "'%s' object has no element %lld", template_type_name(v), (long long)i);
}

enum status template_get_attr(struct template_run *r, const struct template_value *v,
    struct template_text name, struct template_value *out)
{
    bool found;
    TRY(template_use_undefined(r, v));
    TRY(find_attr(r, v, name, &found, out));
    if (found)
        return STATUS_OK;
    struct template_value key = {.kind = TEMPLATE_TEXT, .text = &name};
    TRY(find_item(r, v, &key, &found, out));
    return found ? STATUS_OK : nothing(r, v, &key, out);
}

enum status template_get_item(struct template_run *r, const struct template_value *v,
    const struct template_value *key, struct template_value *out)
{
    bool found;
    TRY(template_use_undefined(r, v));
    TRY(find_item(r, v, key, &found, out));
    if (!found && key->kind == TEMPLATE_TEXT)
        TRY(find_attr(r, v, *key->text, &found, out));
    return found ? STATUS_OK : nothing(r, v, key, out);
}

// ---- slices ------------------------------------------------------------------------------------

static enum status bound(
    struct template_run *r, const struct template_value *part, int64_t missing, int64_t *out)
{
    *out = missing;
    if (!part || part->kind == TEMPLATE_NONE || template_as_int(part, out))
        return STATUS_OK;
    return template_type_error(r, part, "bounds a slice, expected an integer");
}

static int64_t clamp(int64_t i, int64_t n, int64_t low, int64_t high)
{
    if (i < 0)
        i += n;
    return i < low ? low : i > high ? high : i;
}

// The indices begin, begin + step, ... of `count` items out of `n`, as PySlice_AdjustIndices.
static enum status slice_range(
    struct template_run *r, const struct template_value *const part[3], int64_t n, int64_t range[3])
{
    int64_t step, begin, end;
    TRY(bound(r, part[2], 1, &step));
    if (step == 0)
        return status_fail(r->err, STATUS_INVALID, "the template slices with a step of zero");
    TRY(bound(r, part[0], step < 0 ? INT64_MAX : 0, &begin));
    TRY(bound(r, part[1], 0, &end));
    bool to_end = !part[1] || part[1]->kind == TEMPLATE_NONE;
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    begin = clamp(begin, n, low, high);
    end = to_end ? (step < 0 ? -1 : n) : clamp(end, n, low, high);
    if (step < -n - 1)
        step = -n - 1;
    if (step > n + 1)
        step = n + 1;
    int64_t way = step > 0 ? end - begin : begin - end, pace = step > 0 ? step : -step;
    range[0] = begin;
    range[1] = step;
    range[2] = way > 0 ? (way - 1) / pace + 1 : 0;
    return STATUS_OK;
}

static enum status slice_text(struct template_run *r, struct template_text text,
    const int64_t range[3], struct template_value *out)
{
    TRY(template_step(r, text.n / 16));
    if (range[1] == 1) {
        size_t begin = template_text_offset(text, (size_t)range[0]);
        struct template_text rest = template_cut(text, begin, text.n);
        return template_make_text(
            r, template_cut(rest, 0, template_text_offset(rest, (size_t)range[2])), out);
    }
    struct template_value list;
    struct template_builder b = {0};
    TRY(characters(r, text, &list));
    for (int64_t i = 0, at = range[0]; i < range[2]; i++, at += range[1])
        TRY(template_put(r, &b, *list.list->items[at].text));
    return template_make_built(r, &b, out);
}

enum status template_get_slice(struct template_run *r, const struct template_value *v,
    const struct template_value *const part[3], struct template_value *out)
{
    int64_t range[3];
    TRY(template_use_undefined(r, v));
    if (v->kind == TEMPLATE_TEXT) {
        TRY(slice_range(r, part, (int64_t)template_text_chars(*v->text), range));
        return slice_text(r, *v->text, range, out);
    }
    if (v->kind != TEMPLATE_LIST || v->list->form > TEMPLATE_FORM_RANGE)
        return template_make_undefined(
            r, out, "'%s' object cannot be sliced", template_type_name(v));
    TRY(slice_range(r, part, (int64_t)v->list->n, range));
    TRY(template_make_list(r, (size_t)range[2], v->list->form, out));
    for (int64_t i = 0, at = range[0]; i < range[2]; i++, at += range[1])
        out->list->items[i] = v->list->items[at];
    if (range[2] > 0) // of a range, if it is one
        out->list->stop = out->list->items[range[2] - 1].i + (range[1] > 0 ? 1 : -1);
    return STATUS_OK;
}
