// SPDX-License-Identifier: Apache-2.0
// JSON documents to values, and the filter tojson, which prints as Python's json.dumps.
#include "model/template_internal.h"
#include "model/unicode.h"

#include <stdio.h>
#include <string.h>

// ---- in ----------------------------------------------------------------------------------------

static enum status from_text(
    struct template_run *r, const char *data, size_t n, bool taint, struct template_value *out)
{
    // The document may go before the values do.
    uint8_t *copy = arena_take(&r->arena, n);
    if (!copy)
        return template_no_memory(r);
    if (n)
        memcpy(copy, data, n);
    check(!taint || n <= r->n_ones); // no text is longer than the document that it comes from
    return template_make_text(
        r, (struct template_text){.data = copy, .n = n, .taint = taint ? r->ones : NULL}, out);
}

static enum status from_array(
    struct template_run *r, const json_t *json, bool taint, struct template_value *out)
{
    size_t n = json_array_size(json);
    TRY(template_make_list(r, n, TEMPLATE_FORM_LIST, out));
    for (size_t i = 0; i < n; i++)
        TRY(template_from_json(r, json_array_get(json, i), taint, &out->list->items[i]));
    return STATUS_OK;
}

// Keys of a document differ, so nothing is looked up.
static enum status from_object(
    struct template_run *r, const json_t *json, bool taint, struct template_value *out)
{
    TRY(template_make_dict(r, json_object_size(json), out));
    for (void *i = json_object_iter((json_t *)(uintptr_t)json); i;
         i = json_object_iter_next((json_t *)(uintptr_t)json, i)) {
        struct template_pair *pair = &out->dict->pairs[out->dict->n];
        TRY(from_text(r, json_object_iter_key(i), json_object_iter_key_len(i), taint, &pair->key));
        TRY(template_from_json(r, json_object_iter_value(i), taint, &pair->value));
        out->dict->n++;
    }
    return STATUS_OK;
}

enum status template_from_json(
    struct template_run *r, const json_t *json, bool taint, struct template_value *out)
{
    TRY(template_enter(r));
    TRY(template_step(r, 1));
    enum status st = STATUS_OK;
    switch (json_typeof(json)) {
    case JSON_NULL:
        *out = template_none();
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = template_bool(json_is_true(json));
        break;
    case JSON_INTEGER:
        *out = template_int(json_integer_value(json));
        break;
    case JSON_REAL:
        *out = template_float(json_real_value(json));
        break;
    case JSON_STRING:
        st = from_text(r, json_string_value(json), json_string_length(json), taint, out);
        break;
    case JSON_ARRAY:
        st = from_array(r, json, taint, out);
        break;
    case JSON_OBJECT:
        st = from_object(r, json, taint, out);
        break;
    }
    template_leave(r);
    return st;
}

// ---- out ---------------------------------------------------------------------------------------

struct json_style {
    struct template_text indent; // of one level; only if `lines`
    struct template_text item, key;
    bool lines, ascii, sorted;
    unsigned level;
};

static enum status put(struct template_run *r, struct template_builder *b, const char *text)
{
    return template_put_bytes(r, b, text, strlen(text));
}

static enum status put_value(struct template_run *r, struct template_builder *b,
    struct json_style *s, const struct template_value *v);

// What stands for a character in a JSON text; 0: itself.
static int escaped(uint32_t c, bool ascii, char out[16])
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *simple = c && c < 128 ? strchr(from, (int)c) : NULL;
    if (simple)
        return snprintf(out, 16, "\\%c", to[simple - from]);
    if (c >= 0x20 && (c < 0x7f || !ascii))
        return 0;
    if (c < 0x10000)
        return snprintf(out, 16, "\\u%04x", c);
    c -= 0x10000;
    return snprintf(out, 16, "\\u%04x\\u%04x", 0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff));
}

static enum status put_text(struct template_run *r, struct template_builder *b,
    const struct json_style *s, struct template_text text)
{
    char escape[16];
    size_t done = 0;
    TRY(put(r, b, "\""));
    for (size_t i = 0, k; i < text.n; i += k) {
        uint32_t c = unicode_decode(text.data + i, text.n - i, &k);
        int n = escaped(c, s->ascii, escape);
        if (n == 0)
            continue;
        TRY(template_put(r, b, template_cut(text, done, i)));
        TRY(template_put_bytes(r, b, escape, (size_t)n));
        done = i + k;
    }
    TRY(template_put(r, b, template_cut(text, done, text.n)));
    return put(r, b, "\"");
}

static enum status new_line(
    struct template_run *r, struct template_builder *b, const struct json_style *s)
{
    if (!s->lines)
        return STATUS_OK;
    TRY(put(r, b, "\n"));
    for (unsigned i = 0; i < s->level; i++)
        TRY(template_put(r, b, s->indent));
    return STATUS_OK;
}

static enum status separate(
    struct template_run *r, struct template_builder *b, const struct json_style *s, size_t i)
{
    if (i > 0)
        TRY(template_put(r, b, s->item));
    return new_line(r, b, s);
}

static enum status put_list(struct template_run *r, struct template_builder *b,
    struct json_style *s, const struct template_list *list)
{
    if (list->n == 0)
        return put(r, b, "[]");
    TRY(put(r, b, "["));
    s->level++;
    for (size_t i = 0; i < list->n; i++) {
        TRY(separate(r, b, s, i));
        TRY(put_value(r, b, s, &list->items[i]));
    }
    s->level--;
    TRY(new_line(r, b, s));
    return put(r, b, "]");
}

static enum status put_number(
    struct template_run *r, struct template_builder *b, const struct template_value *v)
{
    char text[TEMPLATE_FLOAT_CHARS];
    if (v->kind == TEMPLATE_INT)
        snprintf(text, sizeof text, "%lld", (long long)v->i);
    else if (v->f != v->f)
        return put(r, b, "NaN");
    else if (v->f - v->f != 0)
        return put(r, b, v->f > 0 ? "Infinity" : "-Infinity");
    else
        template_float_repr(v->f, text);
    return put(r, b, text);
}

static enum status put_key(struct template_run *r, struct template_builder *b,
    const struct json_style *s, const struct template_value *key)
{
    switch (key->kind) {
    case TEMPLATE_TEXT:
        return put_text(r, b, s, *key->text);
    case TEMPLATE_INT:
    case TEMPLATE_FLOAT:
        TRY(put(r, b, "\""));
        TRY(put_number(r, b, key));
        return put(r, b, "\"");
    case TEMPLATE_BOOL:
        return put(r, b, key->truth ? "\"true\"" : "\"false\"");
    case TEMPLATE_NONE:
        return put(r, b, "\"null\"");
    default:
        return template_type_error(r, key, "is a key, which JSON does not have");
    }
}

// An order of the pairs by key; by selection, since dicts are small and every step is counted.
static enum status sort_keys(struct template_run *r, struct template_pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t least = i;
        TRY(template_step(r, n - i));
        for (size_t k = i + 1; k < n; k++) {
            int order;
            TRY(template_order(r, &pairs[k].key, &pairs[least].key, &order));
            least = order < 0 ? k : least;
        }
        struct template_pair pair = pairs[least];
        pairs[least] = pairs[i];
        pairs[i] = pair;
    }
    return STATUS_OK;
}

static enum status put_dict(struct template_run *r, struct template_builder *b,
    struct json_style *s, const struct template_dict *dict)
{
    if (dict->n == 0)
        return put(r, b, "{}");
    struct template_pair *pairs = dict->pairs;
    if (s->sorted) {
        pairs = arena_array(&r->arena, dict->n, sizeof *pairs);
        if (!pairs)
            return template_no_memory(r);
        memcpy(pairs, dict->pairs, dict->n * sizeof *pairs);
        TRY(sort_keys(r, pairs, dict->n));
    }
    TRY(put(r, b, "{"));
    s->level++;
    for (size_t i = 0; i < dict->n; i++) {
        TRY(separate(r, b, s, i));
        TRY(put_key(r, b, s, &pairs[i].key));
        TRY(template_put(r, b, s->key));
        TRY(put_value(r, b, s, &pairs[i].value));
    }
    s->level--;
    TRY(new_line(r, b, s));
    return put(r, b, "}");
}

static enum status put_some(struct template_run *r, struct template_builder *b,
    struct json_style *s, const struct template_value *v)
{
    switch (v->kind) {
    case TEMPLATE_NONE:
        return put(r, b, "null");
    case TEMPLATE_BOOL:
        return put(r, b, v->truth ? "true" : "false");
    case TEMPLATE_INT:
    case TEMPLATE_FLOAT:
        return put_number(r, b, v);
    case TEMPLATE_TEXT:
        return put_text(r, b, s, *v->text);
    case TEMPLATE_DICT:
        return put_dict(r, b, s, v->dict);
    case TEMPLATE_LIST:
        if (v->list->form <= TEMPLATE_FORM_TUPLE)
            return put_list(r, b, s, v->list);
        break;
    case TEMPLATE_UNDEFINED:
        return status_fail(r->err, STATUS_INVALID,
            "the template makes JSON of something that is not there: %s", v->undefined->text);
    default:
        break;
    }
    return template_type_error(r, v, "is not JSON serializable");
}

static enum status put_value(struct template_run *r, struct template_builder *b,
    struct json_style *s, const struct template_value *v)
{
    TRY(template_enter(r));
    TRY(template_step(r, 1));
    TRY(put_some(r, b, s, v));
    template_leave(r);
    return STATUS_OK;
}

static enum status set_separators(
    struct template_run *r, struct json_style *s, const struct template_value *v)
{
    s->item = s->lines ? TEMPLATE_LITERAL(",") : TEMPLATE_LITERAL(", ");
    s->key = TEMPLATE_LITERAL(": ");
    if (!v || v->kind == TEMPLATE_NONE)
        return STATUS_OK;
    struct template_list *items;
    TRY(template_items(r, v, &items));
    if (items->n != 2 || items->items[0].kind != TEMPLATE_TEXT ||
        items->items[1].kind != TEMPLATE_TEXT)
        return template_type_error(r, v, "gives separators to tojson, expected two texts");
    s->item = *items->items[0].text;
    s->key = *items->items[1].text;
    return STATUS_OK;
}

enum status template_filter_tojson(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_builder b = {0}, spaces = {0};
    TRY(template_call_bind(r, call, "ensure_ascii indent separators sort_keys", slots));
    struct json_style s = {.ascii = template_slot_truth(slots[0], false),
        .sorted = template_slot_truth(slots[3], false)};
    const struct template_value *indent = slots[1];
    int64_t width;
    if (indent && indent->kind == TEMPLATE_TEXT) {
        s.lines = true;
        s.indent = *indent->text;
    } else if (indent && indent->kind != TEMPLATE_NONE) {
        s.lines = true;
        TRY(template_slot_int(r, call, indent, 0, &width));
        TRY(template_put_repeat(r, &spaces, ' ', width));
        s.indent = template_built(&spaces);
    }
    TRY(set_separators(r, &s, slots[2]));
    TRY(put_value(r, &b, &s, &call->self));
    return template_make_built(r, &b, out);
}
