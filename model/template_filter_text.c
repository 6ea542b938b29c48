// SPDX-License-Identifier: Apache-2.0
// Filters of texts. Each takes str() of what it is given.
#include "model/template_internal.h"
#include "model/unicode.h"

#include <string.h>

static enum status in_case(struct template_run *r, const struct template_call *call,
    enum template_case how, struct template_value *out)
{
    struct template_text text;
    struct template_builder b = {0};
    TRY(template_str(r, &call->self, &text));
    TRY(template_put_case(r, &b, text, how));
    return template_make_built(r, &b, out);
}

enum status template_filter_upper(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return in_case(r, call, TEMPLATE_UPPER, out);
}

enum status template_filter_lower(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return in_case(r, call, TEMPLATE_LOWER, out);
}

enum status template_filter_capitalize(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    return in_case(r, call, TEMPLATE_CAPITALIZE, out);
}

// Words begin after white space, '-', '(', '{', '[' and '<'.
enum status template_filter_title(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_text text;
    struct template_builder b = {0};
    size_t word = 0;
    TRY(template_str(r, &call->self, &text));
    for (size_t i = 0, k; i < text.n; i += k) {
        uint32_t c = unicode_decode(text.data + i, text.n - i, &k);
        if (!template_text_is_space(c) && !(c && c < 128 && strchr("-({[<", (int)c)))
            continue;
        TRY(template_put_case(r, &b, template_cut(text, word, i), TEMPLATE_CAPITALIZE));
        TRY(template_put(r, &b, template_cut(text, i, i + k)));
        word = i + k;
    }
    TRY(template_put_case(r, &b, template_cut(text, word, text.n), TEMPLATE_CAPITALIZE));
    return template_make_built(r, &b, out);
}

enum status template_filter_trim(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text, chars;
    TRY(template_call_bind(r, call, "chars", slots));
    TRY(template_str(r, &call->self, &text));
    bool given = slots[0] && slots[0]->kind != TEMPLATE_NONE;
    if (given)
        TRY(template_slot_text(r, call, slots[0], NULL, &chars));
    return template_make_text(r, template_text_strip(text, given ? &chars : NULL, true, true), out);
}

enum status template_filter_replace(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text, from_to[2];
    struct template_builder b = {0};
    int64_t count = -1;
    TRY(template_call_bind(r, call, "old new count", slots));
    if (!slots[0] || !slots[1])
        return status_fail(
            r->err, STATUS_INVALID, "in the template replace takes two texts at least");
    TRY(template_str(r, &call->self, &text));
    TRY(template_str(r, slots[0], &from_to[0]));
    TRY(template_str(r, slots[1], &from_to[1]));
    if (slots[2] && slots[2]->kind != TEMPLATE_NONE)
        TRY(template_slot_int(r, call, slots[2], -1, &count));
    TRY(template_put_replaced(r, &b, text, from_to, count));
    return template_make_built(r, &b, out);
}

enum status template_filter_format(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_text text;
    struct template_value args;
    TRY(template_str(r, &call->self, &text));
    if (call->n_keywords) {
        TRY(template_make_dict(r, call->n_keywords, &args));
        for (size_t i = 0; i < call->n_keywords; i++) {
            struct template_value key;
            TRY(template_make_text(r, call->keywords[i].name, &key));
            TRY(template_dict_set(r, args.dict, &key, &call->keywords[i].value));
        }
    } else {
        TRY(template_make_list(r, call->n_args, TEMPLATE_FORM_TUPLE, &args));
        if (call->n_args)
            memcpy(args.list->items, call->args, call->n_args * sizeof args);
    }
    return template_format_percent(r, text, &args, out);
}

// ---- lines -------------------------------------------------------------------------------------

struct indentation {
    struct template_text by;
    bool blank;
};

// As Jinja does it: lines are split at every kind of line end and joined with "\n".
static enum status put_indented(struct template_run *r, struct template_builder *b,
    struct template_text text, const struct indentation *in)
{
    bool first = true;
    for (size_t at = 0, next; at < text.n || first; at = next) {
        size_t end = template_text_line(text, at, &next);
        struct template_text line = template_cut(text, at, end);
        if (!first)
            TRY(template_put_bytes(r, b, "\n", 1));
        if (!first && (line.n || in->blank))
            TRY(template_put(r, b, in->by));
        TRY(template_put(r, b, line));
        first = false;
        bool line_end = next > end;
        if (next >= text.n && line_end) { // the newline that Jinja appends makes one line more
            TRY(template_put_bytes(r, b, "\n", 1));
            if (in->blank)
                TRY(template_put(r, b, in->by));
            break;
        }
    }
    return STATUS_OK;
}

enum status template_filter_indent(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text;
    struct template_builder b = {0}, spaces = {0};
    struct indentation in = {0};
    int64_t width;
    TRY(template_call_bind(r, call, "width first blank", slots));
    TRY(template_str(r, &call->self, &text));
    if (slots[0] && slots[0]->kind == TEMPLATE_TEXT) {
        in.by = *slots[0]->text;
    } else {
        TRY(template_slot_int(r, call, slots[0], 4, &width));
        TRY(template_put_repeat(r, &spaces, ' ', width));
        in.by = template_built(&spaces);
    }
    in.blank = template_slot_truth(slots[2], false);
    if (template_slot_truth(slots[1], false))
        TRY(template_put(r, &b, in.by));
    TRY(put_indented(r, &b, text, &in));
    return template_make_built(r, &b, out);
}

enum status template_filter_center(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text;
    struct template_builder b = {0};
    int64_t width;
    TRY(template_call_bind(r, call, "width", slots));
    TRY(template_str(r, &call->self, &text));
    TRY(template_slot_int(r, call, slots[0], 80, &width));
    int64_t n = (int64_t)template_text_chars(text), pad = width > n ? width - n : 0;
    int64_t left = pad / 2 + (pad & width & 1);
    TRY(template_put_repeat(r, &b, ' ', left));
    TRY(template_put(r, &b, text));
    TRY(template_put_repeat(r, &b, ' ', pad - left));
    return template_make_built(r, &b, out);
}

enum status template_filter_truncate(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text text, end;
    struct template_builder b = {0};
    int64_t length, leeway;
    TRY(template_call_bind(r, call, "length killwords end leeway", slots));
    TRY(template_str(r, &call->self, &text));
    TRY(template_slot_int(r, call, slots[0], 255, &length));
    TRY(template_slot_text(r, call, slots[2], "...", &end));
    TRY(template_slot_int(r, call, slots[3], 5, &leeway));
    int64_t n_end = (int64_t)template_text_chars(end);
    if (length < n_end || leeway < 0)
        return status_fail(r->err, STATUS_INVALID,
            "in the template truncate has length %lld, expected at least that of its end",
            (long long)length);
    int64_t n = (int64_t)template_text_chars(text);
    if (leeway >= n || n <= length + leeway || length >= n)
        return template_make_text(r, text, out);
    struct template_text cut =
        template_cut(text, 0, template_text_offset(text, (size_t)(length - n_end)));
    size_t space = template_text_find_last(cut, TEMPLATE_LITERAL(" "));
    if (!template_slot_truth(slots[1], false) && space != SIZE_MAX)
        cut = template_cut(cut, 0, space);
    TRY(template_put(r, &b, cut));
    TRY(template_put(r, &b, end));
    return template_make_built(r, &b, out);
}

enum status template_filter_wordcount(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    struct template_text text;
    int64_t n = 0;
    bool inside = false;
    TRY(template_str(r, &call->self, &text));
    for (size_t i = 0, k; i < text.n; i += k) {
        bool word = unicode_is_word(unicode_decode(text.data + i, text.n - i, &k));
        n += word && !inside;
        inside = word;
    }
    *out = template_int(n);
    return STATUS_OK;
}

// Of a text; Jinja's takes dicts as well, which no template of a model needs.
enum status template_filter_urlencode(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    static const char hex[] = "0123456789ABCDEF", plain[] = "-_.~/";
    struct template_text text;
    struct template_builder b = {0};
    if (call->self.kind == TEMPLATE_DICT || call->self.kind == TEMPLATE_LIST)
        return template_type_error(r, &call->self, "is given to urlencode, expected a text");
    TRY(template_str(r, &call->self, &text));
    for (size_t i = 0; i < text.n; i++) {
        uint8_t c = text.data[i];
        bool stays = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
                     (c && strchr(plain, c));
        char escape[3] = {'%', hex[c >> 4], hex[c & 15]};
        TRY(stays ? template_put(r, &b, template_cut(text, i, i + 1))
                  : template_put_bytes(r, &b, escape, 3));
    }
    return template_make_built(r, &b, out);
}
