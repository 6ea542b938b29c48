// SPDX-License-Identifier: Apache-2.0
// The functions that every template has: Jinja's range, namespace, dict, cycler and joiner, and
// what transformers adds, raise_exception and strftime_now. lipsum is refused by not being there.
#include "model/template_internal.h"

#include <string.h>
#include <time.h>

enum { RANGE, NAMESPACE, DICT, CYCLER, JOINER, RAISE, STRFTIME, GLOBALS };

static const char *const names[GLOBALS] = {
    "range", "namespace", "dict", "cycler", "joiner", "raise_exception", "strftime_now"};

bool template_global_find(struct template_text name, struct template_value *out)
{
    for (unsigned i = 0; i < GLOBALS; i++)
        if (template_text_is(name, names[i])) {
            *out = (struct template_value){.kind = TEMPLATE_GLOBAL, .global = i};
            return true;
        }
    return false;
}

const char *template_global_name(unsigned which)
{
    return names[which];
}

static enum status range(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    int64_t begin = 0, end, step;
    TRY(template_call_bind(r, call, "start stop step", slots));
    if (!slots[0])
        return status_fail(r->err, STATUS_INVALID, "in the template range has no argument");
    TRY(template_slot_int(r, call, slots[0], 0, &end));
    if (slots[1]) {
        begin = end;
        TRY(template_slot_int(r, call, slots[1], 0, &end));
    }
    TRY(template_slot_int(r, call, slots[2], 1, &step));
    if (step == 0)
        return status_fail(r->err, STATUS_INVALID, "in the template range has a step of zero");
    uint64_t way = step > 0 ? (end > begin ? (uint64_t)end - (uint64_t)begin : 0)
                            : (begin > end ? (uint64_t)begin - (uint64_t)end : 0);
    uint64_t pace = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    uint64_t n = way ? (way - 1) / pace + 1 : 0;
    if (n > TEMPLATE_RANGE_MAX)
        return status_fail(r->err, STATUS_TOO_LARGE,
            "in the template range has more than %d numbers", TEMPLATE_RANGE_MAX);
    TRY(template_make_list(r, (size_t)n, TEMPLATE_FORM_RANGE, out));
    for (uint64_t i = 0; i < n; i++)
        out->list->items[i] = template_int((int64_t)((uint64_t)begin + i * (uint64_t)step));
    out->list->stop = end;
    return STATUS_OK;
}

// dict(mapping or pairs, name=value...), which namespace() is as well.
static enum status dict(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    TRY(template_make_dict(r, 0, out));
    struct template_list *items;
    if (call->n_args > 1)
        return status_fail(r->err, STATUS_INVALID,
            "in the template %s takes at most 1 argument, got %zu", call->name, call->n_args);
    if (call->n_args && call->args[0].kind == TEMPLATE_DICT) {
        const struct template_dict *from = call->args[0].dict;
        for (size_t i = 0; i < from->n; i++)
            TRY(template_dict_set(r, out->dict, &from->pairs[i].key, &from->pairs[i].value));
    } else if (call->n_args) {
        TRY(template_items(r, &call->args[0], &items));
        for (size_t i = 0; i < items->n; i++) {
            struct template_list *pair;
            TRY(template_items(r, &items->items[i], &pair));
            if (pair->n != 2)
                return status_fail(r->err, STATUS_INVALID,
                    "in the template %s is given %zu values, expected pairs", call->name, pair->n);
            TRY(template_dict_set(r, out->dict, &pair->items[0], &pair->items[1]));
        }
    }
    for (size_t i = 0; i < call->n_keywords; i++) {
        struct template_value key;
        TRY(template_make_text(r, call->keywords[i].name, &key));
        TRY(template_dict_set(r, out->dict, &key, &call->keywords[i].value));
    }
    return STATUS_OK;
}

static enum status counter(struct template_run *r, const struct template_call *call, bool joins,
    struct template_value *out)
{
    struct template_counter *c = arena_take(&r->arena, sizeof *c);
    if (!c)
        return template_no_memory(r);
    if (call->n_args == 0 && !joins)
        return status_fail(r->err, STATUS_INVALID, "in the template cycler has no items");
    *c = (struct template_counter){.items = call->args, .n = call->n_args, .joins = joins};
    if (joins && c->n == 0) {
        c->items = arena_take(&r->arena, sizeof *c->items);
        if (!c->items)
            return template_no_memory(r);
        TRY(template_make_text(r, TEMPLATE_LITERAL(", "), c->items));
    }
    *out = (struct template_value){.kind = TEMPLATE_COUNTER, .counter = c};
    return STATUS_OK;
}

enum status template_counter_call(
    struct template_run *r, struct template_counter *counter, struct template_value *out)
{
    if (!counter->joins) {
        *out = counter->items[counter->at++ % counter->n];
        return STATUS_OK;
    }
    if (counter->at++ == 0)
        return template_make_text(r, TEMPLATE_LITERAL(""), out);
    *out = counter->items[0];
    return STATUS_OK;
}

static enum status raise(struct template_run *r, const struct template_call *call)
{
    struct template_text text = TEMPLATE_LITERAL("");
    if (call->n_args)
        TRY(template_str(r, &call->args[0], &text));
    else if (call->n_keywords)
        TRY(template_str(r, &call->keywords[0].value, &text));
    size_t n = text.n < 400 ? text.n : 400;
    while (n > 0 && n < text.n && (text.data[n] & 0xc0) == 0x80)
        n--;
    return status_fail(r->err, STATUS_INVALID, "the chat template refuses the conversation: %.*s",
        (int)n, text.n ? (const char *)text.data : "");
}

static enum status format_time(
    struct template_run *r, const struct template_call *call, struct template_value *out)
{
    const struct template_value *slots[TEMPLATE_SLOTS_MAX];
    struct template_text format;
    char pattern[256], text[1024];
    struct tm tm;
    time_t now = (time_t)r->now_s;
    TRY(template_call_bind(r, call, "format", slots));
    TRY(template_slot_text(r, call, slots[0], NULL, &format));
    // One character more, so that an empty result differs from one that does not fit.
    if (format.n + 2 > sizeof pattern ||
        memchr(format.data ? format.data : (const uint8_t *)"", '\0', format.n) ||
        !localtime_r(&now, &tm))
        return status_fail(
            r->err, STATUS_INVALID, "in the template strftime_now has a format that is too long");
    if (format.n)
        memcpy(pattern, format.data, format.n);
    pattern[format.n] = '.';
    pattern[format.n + 1] = '\0';
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(text, sizeof text, pattern, &tm);
#pragma GCC diagnostic pop
    struct template_builder b = {0};
    TRY(template_put_bytes(r, &b, text, n ? n - 1 : 0));
    return template_make_built(r, &b, out);
}

enum status template_global_call(struct template_run *r, unsigned which,
    const struct template_call *call, struct template_value *out)
{
    switch (which) {
    case RANGE:
        return range(r, call, out);
    case NAMESPACE:
    case DICT:
        TRY(dict(r, call, out));
        out->kind = which == DICT ? TEMPLATE_DICT : TEMPLATE_NAMESPACE;
        return STATUS_OK;
    case CYCLER:
    case JOINER:
        return counter(r, call, which == JOINER, out);
    case RAISE:
        return raise(r, call);
    default:
        return format_time(r, call, out);
    }
}
